"""Retrieval metrics of both directions: xmodal, sorting, and the evaluators of sentence-transformers, torchmetrics and
ranx at the sizes they manage (benchmarks/evaluation.py measures, each in a process of its own).

d = 128, one thread; view 2 is view 1 plus noise. Memory is the peak beyond what the process had in use before, which is
Python, the packages and the embeddings. At 100,000 also embeddings at chance level, where nothing can be skipped.
"""
from __future__ import annotations

import statistics

from benchmarks.evaluation import measure
from benchmarks.speed.common import Row, claim, median_ratio, say

# pairs, noise: how many rounds each method has
SIZES: dict[tuple[int, float], dict[str, int]] = {
    (2000, 2.0): {"xmodal": 5, "sort": 5, "sentence_transformers": 5, "torchmetrics": 3, "ranx": 1},
    (10_000, 2.0): {"xmodal": 3, "sort": 1, "sentence_transformers": 3},
    (100_000, 2.0): {"xmodal": 1},
    (100_000, 1000.0): {"xmodal": 1}}
QUICK: dict[tuple[int, float], dict[str, int]] = {
    (1000, 2.0): {"xmodal": 1, "sort": 1, "sentence_transformers": 1, "torchmetrics": 1}}
ABOVE = 1.0  # MB; below this a peak can't be told from nothing


def run(quick: bool, device: str = "cpu", full: bool = False) -> Row:
    made: Row = {"sizes": {}, "claims": []}
    for (n, noise), rounds in (QUICK if quick else SIZES).items():
        rows: dict[str, list[Row]] = {method: [] for method in rounds}
        for number in range(max(rounds.values())):
            for method, least in rounds.items():
                if number < least and not any("missing" in row for row in rows[method]):
                    rows[method].append(measure(method, n=n, noise=noise))
                    say(f"  evaluation, {n:,} pairs, noise {noise:g}, {method}: {rows[method][-1]}")
        found = {method: [row for row in each if "cpu" in row] for method, each in rows.items()}
        title = f"{n:,} pairs" + (" at chance level" if noise > 100 else "")
        made["sizes"][title] = rows
        for method, each in found.items():
            if method == "xmodal":
                made["claims"].append(claim(f"evaluation: {title}, xmodal, CPU seconds",
                                            statistics.median(row["cpu"] for row in each)))
                made["claims"].append(claim(f"evaluation: {title}, xmodal, peak MB beyond the embeddings",
                                            statistics.median(row["peak"] - row["before"] for row in each)))
            elif each:
                ours = found["xmodal"][:len(each)]
                made["claims"].append(claim(f"evaluation: {title}, {method} to xmodal, time",
                                            median_ratio([row["cpu"] for row in each], [row["cpu"] for row in ours])))
                made["claims"].append(claim(f"evaluation: {title}, {method} to xmodal, peak memory",
                                            median_ratio(*([max(row["peak"] - row["before"], ABOVE) for row in chosen]
                                                           for chosen in (each, ours)))))
    return made
