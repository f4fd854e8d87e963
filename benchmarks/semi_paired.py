"""Linear CCA where few items are paired: how much those without a partner should count (docs/closed_form.md).

  python -m benchmarks.semi_paired [--seeds 0 1 2] [--threads N]

Of the training pairs of a data set only some are kept as pairs, drawn by the seed; the other items of both views lose
their partners. Test pairs as always. The ridge, of four, is the one that gives the larger sum of correlations of the
validation pairs, for each way.
"""
from __future__ import annotations

import argparse
import json
import warnings
from itertools import chain
from typing import Any

import numpy as np
import torch

from benchmarks.trainings import RESULTS, machine, spread, study_parser
from xmodal import LinearCCA, PairedData, PairSplit, embed, load_data, retrieval_metrics

#: data set -> (components, numbers of pairs)
SIZES = {"digits": (16, (50, 100, 200, 400)), "mnist_halves": (50, (200, 500, 1000, 5000))}
#: column -> what an item without a partner counts
WEIGHTS: dict[str, float | str] = {"pairs alone": 0.0, "as many as columns": "auto", "all items": 1.0}
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
DOC = RESULTS.parent.parent / "docs" / "closed_form.md"


def few_pairs(train: PairSplit, n: int, seed: int) -> PairSplit:
    """All items, ``n`` of the pairs."""
    kept = torch.from_numpy(np.random.default_rng(seed).permutation(len(train))[:n].copy())
    return PairSplit("train", train.view1, train.view2, train.pair_table()[kept])


def tested(data: PairedData, dim: int, n: int, weight: float | str, seed: int) -> dict[str, Any]:
    """Sum of correlations and MRR of the test pairs, with the ridge that the validation pairs like best."""
    split = few_pairs(data.train, n, seed)
    models = [LinearCCA(dim, r, r, unpaired_weight=weight).fit_split(split) for r in RIDGES]
    best = max(models, key=lambda model: model.score(data.valid.view1, data.valid.view2))
    return {"data": data.name, "pairs": n, "unpaired_weight": weight, "seed": seed, "ridge": best.r1,
            "sum_correlation": best.score(data.test.view1, data.test.view2),
            "mrr": retrieval_metrics(*embed(best, data.test))["V1_to_V2"]["mrr"]}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    return study_parser(__doc__).parse_args(argv)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", UserWarning)  # of views with more columns than pairs
    lines = ["| pairs, of items in each view | " + " | ".join(f"{figure}, {way}" for figure in ("sum corr.", "MRR")
                                                             for way in WEIGHTS) + " |", "|---" * 7 + "|"]
    results = []
    for name, (dim, sizes) in SIZES.items():
        data = load_data(name)
        for n in sizes:
            reports = {way: [tested(data, dim, n, weight, seed) for seed in args.seeds]
                       for way, weight in WEIGHTS.items()}
            results += chain.from_iterable(reports.values())
            cells = [spread((report[key] for report in reports[way]), digits)
                     for key, digits in (("sum_correlation", 2), ("mrr", 3)) for way in WEIGHTS]
            lines.append(f"| {name}, {n:,} of {len(data.train):,} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    (RESULTS / "semi_paired.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    head, begin, rest = DOC.read_text().partition("<!-- table: semi-paired -->")
    DOC.write_text(head + begin + "\n" + "\n".join(lines) + "\n<!-- end -->" + rest.partition("<!-- end -->")[2])


if __name__ == "__main__":
    main()
