"""Draws docs/results.png from the results that are kept: MRR of the methods on four data sets.

    python -m benchmarks.results_figure
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.evaluation import RESULTS

OUT = Path(__file__).parent.parent / "docs" / "results.png"
NAMES = {"cca": "linear CCA", "kcca": "kernel CCA", "ccal_tno": "deep CCA", "learned_cont": "projection, ranking loss",
         "infonce": "projection, InfoNCE", "ccal_cont": "CCA layer, ranking loss"}
Values = dict[str, list[float]]  # MRR of V1_to_V2 by method, a value per seed


def heads(file: str) -> Values:
    rows = json.loads((RESULTS / file).read_text())["rows"]
    return {method: [run["V1_to_V2"]["mrr"] for run in runs] for method, runs in rows.items()}


def icons() -> Values:
    runs = [json.loads(line) for line in (RESULTS / "image_text.jsonl").read_text().splitlines()]
    found: Values = {}
    for run in runs:
        if run["data"] == "icons" and run["fraction"] == 1.0 and run["row"] in NAMES:
            splits: Mapping[str, Any] = run["splits"]
            found.setdefault(run["row"], []).append(splits["test_tabler"]["V1_to_V2"]["mrr"])
    return found


def audio() -> Values:
    made = json.loads((RESULTS / "audio_score.json").read_text())
    return {"cca": [made["linear CCA"]["test"]["V1_to_V2"]["mrr"]],
            "ccal_cont": [run["test"]["V1_to_V2"]["mrr"] for run in made["best"]]}


def drawn(panels: Mapping[str, Values]) -> Figure:
    """A panel of dots for each data set, methods below each other, with the spread over seeds."""
    figure = Figure(figsize=(9, 2.5), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    methods = [*NAMES][::-1]
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        for place, method in enumerate(methods):
            if method in values:
                mean, spread = statistics.fmean(values[method]), _spread(values[method])
                ax.errorbar(mean, place, xerr=spread, fmt="o", markersize=6, color="#0072b2" if method != "ccal_cont"
                            else "#b34e00", capsize=2)
                ax.annotate(f"{mean:.2f}", (mean, place), (0, 5), textcoords="offset points", ha="center", fontsize=8)
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.6, len(methods) - 0.3)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
        ax.grid(axis="y", color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(methods)), [NAMES[method] for method in methods], fontsize=9)
    figure.supxlabel("MRR of the test pairs (1 is best)", fontsize=9)
    return figure


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    return argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments(argv)
    panels = {"halves of digits\n50,000 pairs, one in 10,000": heads("mnist_heads.json"),
              "halves of digits\n1,197 pairs, one in 400": heads("digits_heads.json"),
              "icons and names\n10,786 pairs, one in 500": icons(),
              "sheet music and sound\n10,000 pairs, one in 2,000": audio()}
    drawn(panels).savefig(OUT, dpi=110, metadata={"Software": None})
    print(f"wrote {OUT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
