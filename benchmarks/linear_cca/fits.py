"""One fit in a process of its own, which prints a line of JSON: what __main__ starts, with a JSON specification.

Memory is the kernel's account of this process (MB of 10⁶ bytes): what is resident after the imports, what is resident
after a fit to 200 tiny pairs (start-up) and with the views in memory, and the peak during the fit; the peak is reset
just before it.
"""
from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.linear_cca.views import coordinate_correlations

#: Weights of both views, and the correlations a method reports itself, if it does.
Fitted = tuple[np.ndarray, np.ndarray, np.ndarray | None]
Fit = Callable[[Any, Any, int, list[float], list[float]], Fitted]  # x, y, components, ridges, mean variances


def xmodal(svd_solver: str) -> Fit:
    from xmodal import LinearCCA

    def fit(x, y, k, ridges, scales):
        model = LinearCCA(k, *(r / s for r, s in zip(ridges, scales, strict=True)), svd_solver=svd_solver).fit(x, y)
        return model.U_, model.V_, model.correlations_
    return fit


def cca_zoo() -> Fit:
    """Shrinks covariances to ``(1−c) S + c I``, which is ``S + c/(1−c) I`` but for scale."""
    from cca_zoo.linear import CCA, RidgeCCA

    def fit(x, y, k, ridges, _):
        shrinkage = [r / (1 + r) for r in ridges]
        model = (RidgeCCA(k, shrinkage=shrinkage) if any(ridges) else CCA(k)).fit([x, y])
        return *model.weights_, None
    return fit


def mvlearn() -> Fit:
    """0.5.0 with libraries of today: plots, which need seaborn, are left out, and so is a check that scikit-learn fails
    for its ``SimpleSplitter``."""
    sys.modules["mvlearn.plotting"] = type(sys)("mvlearn.plotting")
    import mvlearn.compose.split
    from mvlearn.embed import CCA
    mvlearn.compose.split.check_is_fitted = lambda *_: None

    def fit(x, y, k, ridges, _):
        regs = [r * (len(x) - 1) / (1 + r * (len(x) - 1)) for r in ridges]  # of sums of products, not covariances
        model = CCA(k, regs=regs if any(ridges) else None).fit([x, y])
        return *model.loadings_, None if any(ridges) else model.evals_ - 1
    return fit


def sklearn() -> Fit:
    """It has no ridge."""
    from sklearn.cross_decomposition import CCA

    def fit(x, y, k, *_):
        model = CCA(k).fit(x, y)
        return model.x_rotations_ / model._x_std[:, None], model.y_rotations_ / model._y_std[:, None], None
    return fit


METHODS: dict[str, Callable[[], Fit]] = {
    "xmodal": lambda: xmodal("auto"), "xmodal, arrays": lambda: xmodal("auto"),
    "xmodal, exact": lambda: xmodal("exact"), "xmodal, randomized": lambda: xmodal("randomized"),
    "cca-zoo": cca_zoo, "mvlearn": mvlearn, "scikit-learn": sklearn}


def memory(name: str) -> float:
    """``VmRSS`` (resident now) or ``VmHWM`` (the peak) in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:"))


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds and memory of one fit, and how far its correlations are from the closed form's."""
    fit = METHODS[spec["method"]]()
    row: dict[str, Any] = {"mb_imports": memory("VmRSS")}
    small = np.random.default_rng(0).standard_normal((2, 200, 8)).astype(spec["dtype"])
    fit(*small, 2, [1.0, 1.0] if any(spec["ridges"]) else [0.0, 0.0], [1.0, 1.0])
    if spec["address_gb"]:
        resource.setrlimit(resource.RLIMIT_AS, (spec["address_gb"] * 10**9,) * 2)
    folder = Path(spec["folder"])
    with h5py.File(folder / "views.h5") as stored:
        x, y = (stored[key] if spec["datasets"] else stored[key][:] for key in ("x", "y"))
        row["mb_data"] = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        signal.alarm(spec["limit_s"])  # ends the process, wherever it is
        wall, cpu = time.perf_counter(), time.process_time()
        W1, W2, reported = fit(x, y, spec["components"], spec["ridges"], spec["scales"])
        row["wall"], row["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
        signal.alarm(0)
        row["mb_peak"] = memory("VmHWM")
        expected = np.load(folder / "correlations.npy")[:spec["components"]]
        row["deviation"] = float(abs(coordinate_correlations(x, y, W1, W2) - expected).max())
        if reported is not None and not any(spec["ridges"]):
            row["deviation_reported"] = float(abs(reported - expected).max())
    return row


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
