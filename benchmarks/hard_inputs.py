"""What deep-CCA losses and retrieval evaluators make of inputs that are hard: xmodal, the textbook form, and peers.

    python -m benchmarks.hard_inputs

Losses: the named cases of tests/test_layers_hard_inputs.py (duplicated and constant columns, white views, few rows,
rank deficiency, large and small values, …), in float32 and float64, with a ridge of 1e-3 for all. A case fails where
the loss or a gradient is not finite, or where the loss is less than the rank of the case allows (by more than 1 %), so
that training would be rewarded for going there. A loss that refuses a case by an exception passes it.

Evaluators: 200 pairs; all embeddings equal, where the average rank gives an MRR of 2/201 and ranks at random give
(1 + 1/2 + … + 1/200) / 200; and one gallery row that is not a number. Peers: ``pip install -r
benchmarks/requirements.txt``. Figures are written to benchmarks/results/hard_inputs.json.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluation import METHODS, RESULTS

TESTS = Path(__file__).parent.parent / "tests"
RIDGE = 1e-3
DTYPES = {"float32": torch.float32, "float64": torch.float64}
Loss = Callable[[Tensor, Tensor], Tensor]  # minus a sum of correlations, or of their squares: both at most the rank


def losses() -> dict[str, Loss]:
    """By name, where installed: minus the (squared) canonical correlations of a batch."""
    from test_layers import textbook_cca

    from xmodal import CCALayer, TraceNorm

    found: dict[str, Loss] = {
        "xmodal": lambda x, y: TraceNorm()(CCALayer(x.shape[1], RIDGE, RIDGE)(x, y)),
        "textbook form, four eigh": lambda x, y: TraceNorm()(textbook_cca(x, y, RIDGE))}
    place = importlib.util.find_spec("cca_zoo")
    if place is not None and place.origin is not None:  # the file alone: the package wants Lightning
        spec = importlib.util.spec_from_file_location("cca_zoo_objectives",
                                                      Path(place.origin).parent / "deep" / "objectives.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loss = module.CCALoss(reg_covar=RIDGE)
        found[f"cca-zoo {metadata.version('cca_zoo')} CCALoss"] = lambda x, y: loss([x, y])
    return found


def failures(loss: Loss, dtype: torch.dtype) -> dict[str, str]:
    """What goes wrong, by case."""
    from test_layers_hard_inputs import CASES, drawn

    found = {}
    for name, (_, rank) in CASES.items():
        x, y = drawn(name, dtype)
        try:
            value = loss(x, y)
            value.backward()
        except Exception:  # refused, which is honest
            continue
        if not math.isfinite(float(value)):
            found[name] = "loss not finite"
        elif not all(v.grad is not None and bool(v.grad.isfinite().all()) for v in (x, y)):
            found[name] = "gradient not finite"
        elif float(value) < -rank * 1.01 - 1e-2:
            found[name] = f"loss {float(value):.4g}, no less than {-rank} is possible"
    return found


def evaluators(n: int = 200, d: int = 16) -> dict[str, dict[str, Any]]:
    """MRR of the first direction by evaluator: equal embeddings, and one row of the gallery that is NaN."""
    generator = torch.Generator().manual_seed(0)
    z1 = torch.randn(n, d, generator=generator)
    z2 = z1 + 0.1 * torch.randn(n, d, generator=generator)
    damaged = z2.clone()
    damaged[7] = math.nan
    inputs = {"well": (z1, z2), "all equal": (torch.ones(n, d), torch.ones(n, d)), "a NaN row": (z1, damaged)}
    found: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        if name not in ("xmodal", "sort") and importlib.util.find_spec(name) is None:
            continue
        try:
            found[name] = {"well": method(*inputs["well"])["V1_to_V2"]}
        except ImportError as error:  # installed, but not all that it needs
            print(f"{name} is left out: {error}")
            continue
        for what in ("all equal", "a NaN row"):
            try:
                found[name][what] = method(*inputs[what])["V1_to_V2"]
            except Exception as error:
                found[name][what] = f"{type(error).__name__}: {error}"[:100]
    return found


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    return argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS))
    from test_layers_hard_inputs import CASES

    made: dict[str, Any] = {"torch": torch.__version__, "machine": platform.machine(), "cases": len(CASES),
                            "losses": {}, "evaluators": evaluators()}
    for name, loss in losses().items():
        made["losses"][name] = {kind: failures(loss, dtype) for kind, dtype in DTYPES.items()}
        for kind, failed in made["losses"][name].items():
            print(f"{name}, {kind}: {len(CASES) - len(failed)} of {len(CASES)} cases pass")
            for case, what in failed.items():
                print(f"    {case}: {what}")
    for name, values in made["evaluators"].items():
        print(f"{name}: " + ", ".join(f"{what} {value:.4f}" if isinstance(value, float) else f"{what} {value}"
                                      for what, value in values.items()))
    (RESULTS / "hard_inputs.json").write_text(json.dumps(made, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
