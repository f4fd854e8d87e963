"""Runs compared: evaluated on the same pairs, put into rows, tested."""
from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xmodal.checkpoint import RunFolder
from xmodal.comparison.rows import Row, name_of, open_runs, rows_of
from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError, did_you_mean
from xmodal.evaluator import embed, embedded_moments
from xmodal.metrics import DIRECTIONS, PRIMARY, Ranks, canonical_correlation, rank_metrics, retrieval_ranks
from xmodal.metrics import sum_correlation as sum_correlation_of
from xmodal.metrics.comparison import METRICS, RESAMPLES, compare_rows, holm
from xmodal.runs import load_run


def compare_runs(runs: Sequence[str | Path], data: str | None = None, split: str = "test", *,
                 n_test: int | None = None, directions: Sequence[str] = DIRECTIONS, metric: str = PRIMARY.key,
                 baseline: str | None = None, level: float = 0.95, seed: int = 23, device: str | torch.device = "cpu"
                 ) -> dict[str, Any]:
    """Mean and spread over seeds of experiments, and which of them differ.

    Runs of one experiment that differ in nothing but seed and tag make one row. Rows are tested by a paired bootstrap
    over queries and seeds (:func:`xmodal.metrics.comparison.compare_rows`), p-values corrected by Holm's method.

    Args:
        runs: run folders, trained on the same data.
        data: where these lie now; None where they lay at training.
        split: "test", "valid", "train" or a further test split.
        n_test: only the first so many pairs.
        directions: which are tested.
        metric: what the test is about, a key of ``METRICS``.
        baseline: the row that all others are compared with: its name, or one of its runs; None compares all with all.
        level: of intervals and of the test.
        seed: of the bootstrap.
        device: where the models run.

    Returns:
        What :mod:`xmodal.report.comparison` describes and makes tables of.

    Raises:
        CheckpointError: a folder without a run, without weights, or with a damaged file.
        DataError: other data than at training, two runs that are the same, no such split, metric or row.
    """
    if metric not in METRICS:
        raise DataError(f"metric {metric}: {did_you_mean(metric, METRICS)}")
    if not 0.5 <= level < 1:
        raise DataError(f"level must be from 0.5 to less than 1, such as 0.95; got {level:g}")
    for direction in directions:
        if direction not in DIRECTIONS:
            raise DataError(f"direction {direction}: {did_you_mean(direction, DIRECTIONS)}")
    rows = rows_of(open_runs([Path(run) for run in runs]))
    reference = None if baseline is None else name_of(rows, baseline)
    logs = [[run.log() for run in row.runs] for row in rows]
    loaded = load_run(rows[0].runs[0].path).data(data)
    chosen = loaded.split(split)
    if n_test is not None:
        if not 1 <= n_test <= len(chosen):
            raise DataError(f"n_test must be from 1 to {len(chosen):,} (the {split} pairs), got {n_test:,}")
        chosen = chosen.take(n_test)
    measured = [[_measure(run, log, loaded, chosen, torch.device(device))
                 for run, log in zip(row.runs, row_logs, strict=True)]
                for row, row_logs in zip(rows, logs, strict=True)]
    described = [_row(row, row_runs) for row, row_runs in zip(rows, measured, strict=True)]
    tests = _tests([row.name for row in rows], described, measured, directions, metric, reference, level, seed)
    return {"data": {"name": loaded.name, "title": loaded.title, "fingerprint": loaded.fingerprint,
                     "synthetic": loaded.synthetic, "split": split, "n_pairs": len(chosen)},
            "directions": list(directions), "metric": metric, "level": level, "baseline": reference,
            "correction": "Holm", "resamples": RESAMPLES, "seed": seed, "rows": described,
            "reference": {direction: reference or _best(described, direction, metric) for direction in directions},
            "comparisons": tests, "notes": _notes(rows, measured, len(tests), level)}


# -- what is known of a run --------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """A run, evaluated: ranks of its queries, metrics by direction, and what has no direction (None if unknown)."""

    ranks: Ranks
    by_direction: dict[str, dict[str, float]]
    other: dict[str, float | None]
    dim: int


def _measure(run: RunFolder, log: list[dict[str, Any]], data: PairedData, chosen: PairSplit, device: torch.device
             ) -> _Measured:
    opened = load_run(run.path, device=device)
    z1, z2 = embed(opened.model, chosen, device=device, precision=opened.precision)
    ranks = retrieval_ranks(z1, z2, chosen.pairs)
    fit = embedded_moments(opened.model, data.train, device=device, precision=opened.precision)
    kept = [line for line in log if str(line.get("epoch")) == opened.header.get("epoch")]
    seconds = [_number(line.get("seconds")) for line in log]
    return _Measured(ranks, {direction: rank_metrics(ranks, direction) for direction in DIRECTIONS}, {
        "sum_correlation": sum_correlation_of(z1, z2, chosen.pairs),
        "canonical_correlation": canonical_correlation(z1, z2, fit, chosen.pairs),
        "valid_mrr": _number(kept[-1].get(f"{PRIMARY.key}_va")) if kept else None,
        "epochs": len(log) or None,
        "seconds": sum(second or 0.0 for second in seconds) if any(second is not None for second in seconds) else None,
    }, z1.shape[1])


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


# -- what is known of the rows -----------------------------------------------------------------------------------------


def _tests(names: Sequence[str], described: Sequence[Mapping[str, Any]], measured: Sequence[Sequence[_Measured]],
           directions: Sequence[str], metric: str, baseline: str | None, level: float, seed: int
           ) -> list[dict[str, Any]]:
    """The tests between rows; puts the interval of each row into ``described``."""
    tests: list[dict[str, Any]] = []
    pairs = list(_pairs(names, baseline))
    for number, direction in enumerate(directions):
        ranks = [[getattr(run.ranks, direction) for run in runs] for runs in measured]
        found = compare_rows(ranks, pairs, metric, level=level, seed=seed + number)
        for row, interval in zip(described, found.rows, strict=True):
            row["interval"][direction] = [interval.low, interval.high]
        tests += [{"direction": direction, "row": names[i], "other": names[j], "difference": test.value,
                   "low": test.low, "high": test.high, "p": test.p}
                  for (i, j), test in zip(pairs, found.differences, strict=True)]
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test |= {"p_holm": corrected, "significant": corrected <= 1 - level}
    return tests


def _pairs(names: Sequence[str], baseline: str | None) -> Iterator[tuple[int, int]]:
    """Which rows are compared: each with the baseline, or all with all. To correct over comparisons with the best row
    alone would not do, since looking for the best is looking at all."""
    if baseline is None:
        yield from itertools.combinations(range(len(names)), 2)
    else:
        yield from ((i, names.index(baseline)) for i, name in enumerate(names) if name != baseline)


def _best(rows: Sequence[Mapping[str, Any]], direction: str, metric: str) -> str:
    best = (max if METRICS[metric] else min)(rows, key=lambda row: row[direction][metric]["mean"])
    return str(best["name"])


def _row(row: Row, runs: Sequence[_Measured]) -> dict[str, Any]:
    by_direction = {direction: {key: _spread([run.by_direction[direction][key] for run in runs]) for key in METRICS}
                    for direction in DIRECTIONS}
    return {"name": row.name, "experiment": row.experiment, "runs": [str(run.path) for run in row.runs],
            "seeds": row.seeds, **by_direction, "interval": {}, "dim": runs[0].dim,
            **{key: _spread([run.other[key] for run in runs]) for key in runs[0].other}}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of what is known of the values."""
    known = [float(value) for value in values if value is not None]
    return {"mean": statistics.fmean(known) if known else None,
            "std": statistics.stdev(known) if len(known) > 1 else None, "values": list(values)}


def _notes(rows: Sequence[Row], measured: Sequence[Sequence[_Measured]], n_tests: int, level: float) -> list[str]:
    notes = []
    single = [row.name for row in rows if len(row.runs) == 1]
    if single and n_tests:
        who = "Rows of one run each" if len(single) == len(rows) else f"One run only: {', '.join(single)}"
        notes.append(f"{who}; seeds were not resampled there, so that a difference is one of these runs, not of what "
                     "other seeds would give (for a method that no seed changes this is the same).")
    if 2 / (RESAMPLES + 1) * n_tests > 1 - level:
        notes.append(f"{n_tests} comparisons are too many for {RESAMPLES:,} resamples at level {level:g}: none can be "
                     "significant. Compare fewer rows, or all with a --baseline.")
    tied = [row.name for row, runs in zip(rows, measured, strict=True)
            if any(float(flags.float().mean()) > 0.01 for run in runs for flags in (run.ranks.tied1, run.ranks.tied2))]
    if tied:
        notes.append(f"{', '.join(tied)}: more than 1 % of the queries are tied; ties take the average rank.")
    return notes
