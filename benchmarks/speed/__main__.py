"""Speed, as ratios: training steps, precision, the CCA layer, evaluation, growth with the number of pairs, search.

  python -m benchmarks.speed                        # everything, about half an hour of one core
  python -m benchmarks.speed step layer             # parts of it; the results of the others are kept
  python -m benchmarks.speed --quick                # tiny sizes, to see that it runs; nothing is kept
  python -m benchmarks.speed precision --device cuda

CPU time, one thread; candidates take turns in one run and ratios are medians over rounds. Everything goes into
benchmarks/results/<model of the processor>.json, and one table of all its ratios is printed at the end. Peers (cca-zoo,
sentence-transformers, torchmetrics, ranx) take part where they are installed: pip install -r
benchmarks/requirements.txt, best in an environment of their own with the same torch, whose Python then runs this.
"""
from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterable

import torch

from benchmarks.speed import evaluation, growth, layer, precision, search, step
from benchmarks.speed.common import Row, cpu_name, device_name, merge, results_file, say

PARTS = {"step": step.run, "precision": precision.run, "layer": layer.run, "evaluation": evaluation.run,
         "growth": growth.run, "search": search.run}

ON_REQUEST = ["search_disk"]  # by a command of its own


def table(claims: Iterable[Row], title: str) -> str:
    """Markdown."""
    lines = ["", title, "", "| | | target | |", "|---|---|---|---|"]
    for row in claims:
        met = {True: "met", False: "missed"}.get(row.get("met"), "")
        lines.append(f"| {row['what']} | {row['value']:.4g} | {row.get('target', '')} | {met} |")
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is kept")
    parser.add_argument("--full", action="store_true",
                        help="growth: evaluate 10^6 pairs, too (an hour); search: a second model and "
                             "random vectors (ten minutes)")
    parser.add_argument("--device", default="cpu", help="of the part precision")
    options = parser.parse_args(argv)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.device != "cpu" and options.parts != ["precision"]:
        parser.error("--device is for the part precision alone")
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    claims: list[Row] = []
    for part in options.parts or PARTS:
        wall, cpu = time.perf_counter(), time.process_time()
        found = PARTS[part](options.quick, device=options.device, full=options.full)
        say(f"{part}: {time.perf_counter() - wall:.0f} s ({time.process_time() - cpu:.0f} CPU s in this process)")
        claims += found["claims"]
        if not options.quick:
            merge(part, found, options.device)
    if not options.quick:
        kept = json.loads(results_file(options.device).read_text())["parts"]
        claims = [row for part in [*PARTS, *ON_REQUEST] if part in kept for row in kept[part]["claims"]]
    about = device_name(options.device) if options.device != "cpu" else f"{cpu_name()}, one thread"
    print(table(claims, f"{about}, torch {torch.__version__}"))


if __name__ == "__main__":
    main()
