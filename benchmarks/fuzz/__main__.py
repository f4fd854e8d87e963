"""Damaged and odd inputs of every kind, each of which must end in success or in one error line.

  python -m benchmarks.fuzz                              # all targets, 10,000 cases each, about half an hour
  python -m benchmarks.fuzz hdf5 npz --cases 500
  python -m benchmarks.fuzz hdf5 --only 1234             # one case, in this process, with its traceback

No traceback, no crash, no hang, no code run from data or weights, no file read that a data set merely points to. A
case is made of the seed, the target and its number alone. What happened is counted in benchmarks/results/fuzz.json.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy
import torch

from benchmarks.fuzz.arrays import hdf5, npz
from benchmarks.fuzz.commands import captions, command_lines
from benchmarks.fuzz.galleries import galleries, readers
from benchmarks.fuzz.harness import Case, run_case, run_target
from benchmarks.fuzz.runs import logs, run_folder
from benchmarks.fuzz.sources import model_files

TARGETS: dict[str, Callable[[Path], Case]] = {
    "hdf5": hdf5, "npz": npz, "run_folder": run_folder, "logs": logs, "model_files": model_files,
    "command_lines": command_lines, "captions": captions, "galleries": galleries, "readers": readers}
RESULTS = Path(__file__).parents[1] / "results" / "fuzz.json"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="these cases, in this process")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; known: {', '.join(TARGETS)}")
    return args


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    tempfile.tempdir = str(work)  # what children that crash leave behind is removed, too
    os.environ["MPLBACKEND"] = "agg"
    wrong = 0
    try:
        for name in args.targets or TARGETS:
            folder = work / name
            folder.mkdir()
            case = TARGETS[name](folder)
            if args.only:
                for number in args.only:
                    print(f"{name} {number}: {run_case(case, args.seed, name, number)}")
                continue
            result = run_target(case, args.seed, name, list(range(args.cases)), lambda line: print(line, flush=True))
            wrong += len(result.findings)
            print(f"{name:<14}{result.cases:>7,} cases: {result.successes:,} successes, {result.refused:,} refused, "
                  f"{len(result.findings)} others; slowest {result.slowest} ({result.slowest_seconds:.1f} s); "
                  f"{result.seconds:.0f} s", flush=True)
            _keep(name, {"seed": args.seed, "cases": result.cases, "successes": result.successes,
                         "refused": result.refused, "others": len(result.findings), "slowest_case": result.slowest,
                         "slowest_seconds": round(result.slowest_seconds, 2), "seconds": round(result.seconds),
                         "torch": torch.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version,
                         "numpy": numpy.__version__, "python": platform.python_version(),
                         "machine": platform.machine()})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if wrong else 0


def _keep(name: str, result: dict[str, object]) -> None:
    """Writes the counts of a target beside those of the others."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[name] = result
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
