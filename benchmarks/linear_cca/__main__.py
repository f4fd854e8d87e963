"""Linear CCA of xmodal, cca-zoo, mvlearn and scikit-learn: seconds, peak memory, and deviation from a closed form.

  python -m benchmarks.linear_cca                       # all cases, about 25 minutes
  python -m benchmarks.linear_cca --only small          # one of them; the results of the others are kept
  python -m benchmarks.linear_cca --quick               # tiny sizes, to see that it runs; nothing is kept

Every fit has a process of its own, one at a time, and the methods take turns (see fits.py for what is measured there).
Rows are medians of the rounds, "× CPU" the ratio of CPU seconds to those of the first row. Deviation is the largest
difference between the correlations of the fitted pairs' coordinates, in float64 from a method's weights, and those of a
float64 QR and SVD of the same data; "as reported" is that of the correlations that a fit itself comes with, which show
its rounding more. Peers are installed as benchmarks/requirements.txt says. Figures are kept in
benchmarks/results/linear_cca.json.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.linear_cca.views import closed_form, gaussian_views, write
from benchmarks.trainings import RESULTS, machine
from xmodal.atomic import replacing

FILE = RESULTS / "linear_cca.json"
PACKAGES = ("torch", "numpy", "scipy", "h5py", "scikit-learn", "cca-zoo", "mvlearn")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is fitted, by which methods and within which limits."""

    n: int
    d1: int
    d2: int
    methods: dict[str, int]  #: how many components each fits; the first method is what the others are compared with
    dtype: str
    strong: int = 20  #: population correlations above 0
    ridge: float = 0.0  #: relative to the mean variance of a view's columns
    threads: int = 1
    rounds: int = 5
    once: tuple[str, ...] = ()  #: methods that only the first round has
    limit_s: int = 600
    address_gb: int = 0  #: limit on the address space; 0 is none
    datasets: tuple[str, ...] = ()  #: methods that get HDF5 datasets in place of arrays


CASES = {
    "small": Case(10_000, 392, 392, {"xmodal": 50, "cca-zoo": 50, "mvlearn": 50, "scikit-learn": 50}, "float64",
                  once=("scikit-learn",)),
    "wide": Case(20_000, 4096, 2048, {"xmodal": 50, "xmodal, randomized": 50, "xmodal, exact": 50, "mvlearn": 50,
                                      "cca-zoo": 50, "scikit-learn": 1},
                 "float32", strong=40, threads=2, rounds=3, once=("mvlearn", "cca-zoo", "scikit-learn"), limit_s=180),
    "file": Case(60_000, 392, 392, {"xmodal": 50, "xmodal, arrays": 50, "cca-zoo": 50, "mvlearn": 50}, "float32",
                 datasets=("xmodal",)),
    "dual": Case(500, 50_000, 20_000, {"xmodal": 50, "cca-zoo": 50, "mvlearn": 50, "scikit-learn": 1}, "float32",
                 ridge=1.0, rounds=3, limit_s=120, address_gb=12),
}
QUICK = {"small": (1000, 40, 40), "wide": (3000, 1200, 1100), "file": (5000, 40, 40), "dual": (100, 2000, 1000)}


def run_case(case: Case) -> dict[str, Row]:
    """A row for each method."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, y = gaussian_views(case.n, case.d1, case.d2, case.strong, case.dtype)
        write(folder / "views.h5", x, y)
        scales = [float(view.var(axis=0, ddof=1, dtype=np.float64).mean()) for view in (x, y)]
        ridges = [case.ridge * scale for scale in scales]
        np.save(folder / "correlations.npy", closed_form(x, y, max(case.methods.values()), (ridges[0], ridges[1])))
        del x, y
        runs: dict[str, list[Row]] = {method: [] for method in case.methods}
        for turn in range(case.rounds):
            for method, components in case.methods.items():
                if not (turn and method in case.once) and not any("failed" in row for row in runs[method]):
                    spec = {"folder": name, "method": method, "components": components, "dtype": case.dtype,
                            "ridges": ridges, "scales": scales, "datasets": method in case.datasets,
                            "limit_s": case.limit_s, "address_gb": case.address_gb}
                    runs[method].append(measured(spec, case.threads))
    return {method: summary(rows, case.methods[method]) for method, rows in runs.items()}


def measured(spec: Row, threads: int) -> Row:
    """What one process found, or how it failed."""
    limited = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run([sys.executable, "-m", "benchmarks.linear_cca.fits", json.dumps(spec)],
                          capture_output=True, text=True, env={**os.environ, **limited})
    if done.returncode == 0:
        row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    elif done.returncode == -14:  # SIGALRM
        row = {"failed": f"not finished in {spec['limit_s']} s"}
    else:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        row = {"failed": last.rsplit("._", 1)[-1][:80]}
    print(f"  {spec['method']}: {row}", file=sys.stderr, flush=True)
    return row


def summary(rows: list[Row], components: int) -> Row:
    """Medians over the rounds; the largest deviations."""
    failed = next((row for row in rows if "failed" in row), None)
    if failed is not None:
        return {**failed, "components": components}
    found: Row = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    found.update({key: max(row[key] for row in rows) for key in rows[0] if key.startswith("deviation")})
    return {**found, "components": components, "rounds": rows}


def table(title: str, case: Case, rows: dict[str, Row]) -> str:
    """Markdown. The ratio of a method that fits fewer components than the first one is that of as many."""
    first = next(iter(rows))
    wanted = case.methods[first]
    lines = [f"{title}: {case.n:,} × ({case.d1:,}, {case.d2:,}), {case.dtype}, {wanted} components, "
             f"{case.threads} thread{'s' * (case.threads > 1)}", "",
             "| | wall s | CPU s | × CPU | MB above data | above imports | deviation | as reported |",
             "|---" * 8 + "|"]
    for method, row in rows.items():
        fewer = row["components"] < wanted
        label = f"{method}, {row['components']} of {wanted}" if fewer else method
        if "failed" in row:
            lines.append(f"| {label} | {row['failed']}" + " |" * 7)
            continue
        above, imports = row["mb_peak"] - row["mb_data"], row["mb_peak"] - row["mb_imports"]
        ratio = row["cpu"] / rows[first].get("cpu", float("nan")) * wanted / row["components"]
        times = f"{row['wall']:.3g} | {row['cpu']:.3g} | {ratio:.3g}{' ¹' * fewer}"
        reported = f"{row['deviation_reported']:.0e}" if "deviation_reported" in row else ""
        lines.append(f"| {label} | {times} | {above:.0f} | {imports:.0f} | {row['deviation']:.0e} | {reported} |")
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round; nothing is kept")
    return parser.parse_args(argv)


def main() -> None:
    options = arguments()
    for name in options.only:
        case = CASES[name]
        if options.quick:
            n, d1, d2 = QUICK[name]
            methods = {method: min(components, 10) for method, components in case.methods.items()}
            case = dataclasses.replace(case, n=n, d1=d1, d2=d2, methods=methods, rounds=1)
        rows = run_case(case)
        print(table(name, case, rows), end="\n\n", flush=True)
        if not options.quick:
            known = json.loads(FILE.read_text()) if FILE.exists() else {}
            versions = {package: importlib.metadata.version(package) for package in PACKAGES}
            about = {"machine": machine(), "versions": versions, **dataclasses.asdict(case), "rows": rows}
            with replacing(FILE) as partial:
                partial.write_text(json.dumps({**known, name: about}, indent=1) + "\n")
    print("¹ for all components, had each cost what the first does: deflation takes one at a time, later ones longer")


if __name__ == "__main__":
    main()
