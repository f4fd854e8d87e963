"""Linear CCA where few items are paired: pairs alone against all items of both views (docs/closed_form.md).

  python -m benchmarks.semi_paired [--seeds 0 1 2] [--threads N]

Of the training pairs of a data set only some are kept as pairs, drawn by the seed; the other items of both views lose
their partners. Test pairs as always. The ridge, of four, is the one that gives the larger sum of correlations of the
validation pairs, for each of the two ways.
"""
from __future__ import annotations

import argparse
import json
import warnings

import numpy as np
import torch

from benchmarks.trainings import RESULTS, machine, spread
from xmodal import LinearCCA, PairSplit, evaluate, load_data

#: data set -> (components, numbers of pairs)
SIZES = {"digits": (16, (50, 100, 200, 400)), "mnist_halves": (50, (200, 500, 1000, 5000))}
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
DOC = RESULTS.parent.parent / "docs" / "closed_form.md"


def few_pairs(train: PairSplit, n: int, seed: int) -> PairSplit:
    """All items, ``n`` of the pairs."""
    kept = torch.from_numpy(np.random.default_rng(seed).permutation(len(train))[:n].copy())
    return PairSplit("train", train.view1, train.view2, train.pair_table()[kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", UserWarning)  # of views with more columns than pairs
    lines = ["| pairs, of items in each view | components | sum corr., pairs alone | all items "
             "| MRR, pairs alone | all items |",
             "|---|---|---|---|---|---|"]
    results = []
    for name, (dim, sizes) in SIZES.items():
        data = load_data(name)
        valid, test = data.valid, data.test
        for n in sizes:
            cells: dict[str, list[str]] = {"sum": [], "mrr": []}
            for weight in (0, "auto"):
                reports = []
                for seed in args.seeds:
                    split = few_pairs(data.train, n, seed)
                    models = [LinearCCA(dim, r, r, unpaired_weight=weight).fit_split(split) for r in RIDGES]
                    best = max(models, key=lambda model: model.score(valid.view1, valid.view2))
                    report = {"data": name, "pairs": n, "unpaired_weight": weight, "seed": seed, "ridge": best.r1,
                              "sum_correlation": best.score(test.view1, test.view2),
                              "mrr": evaluate(best, data)["V1_to_V2"]["mrr"]}
                    reports.append(report)
                    results.append(report)
                cells["sum"].append(spread((report["sum_correlation"] for report in reports), 2))
                cells["mrr"].append(spread((report["mrr"] for report in reports), 3))
            row = [f"{name}, {n:,} of {len(data.train):,}", str(dim), *cells["sum"], *cells["mrr"]]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    (RESULTS / "semi_paired.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    head, begin, rest = DOC.read_text().partition("<!-- table: semi-paired -->")
    DOC.write_text(head + begin + "\n" + "\n".join(lines) + "\n<!-- end -->" + rest.partition("<!-- end -->")[2])


if __name__ == "__main__":
    main()
