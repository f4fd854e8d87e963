"""Whether rows of runs differ: a paired bootstrap over queries and over the seeds within a row, and Holm's correction.

A row is one experiment trained with several seeds; its value is the mean of a statistic over its runs. All runs have
answered the same queries, so each resample draws queries once, for all rows. Seeds are drawn with replacement within
their row. Three things keep false alarms at about the level where seeds are few:

* A run's value on these queries already varies with the queries, and so do the differences between seeds: counting the
  spread of seeds in full and the queries as well counts that part twice (Owen 2007, The pigeonhole bootstrap). From the
  variance between seeds we take what the resampled queries explain.
* Drawing S values with replacement gives (S − 1)/S of the variance of their mean; drawn deviations are scaled up.
* A variance from three seeds is itself uncertain, so deviations are stretched from normal quantiles to those of
  Student's t with Welch and Satterthwaite's degrees of freedom (Hesterberg 2015 expands percentiles likewise).

Simulated at level 0.05, two rows alike, 2 to 10 seeds each, whether queries or seeds vary more: 0.02 to 0.06 of the
tests reject; plain drawing of queries and seeds gives 0.00 to 0.29. With a single run in a row its seed cannot be
counted, and up to 0.85 reject where seeds vary much: such a test speaks of two runs, not of two experiments.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special
from torch import Tensor

from xmodal.errors import DataError
from xmodal.metrics.bootstrap import GATHERED_VALUES, Interval, rank_statistic

#: What a comparison may be about, and whether high is better.
METRICS = {"r1": True, "r5": True, "r10": True, "r25": True, "median_rank": False, "mrr": True, "mean_rank": False}
RESAMPLES = 10_000  # the smallest p is 2 / 10,001, which lets a test survive the correction over 250 of them at 0.05


class Difference(NamedTuple):
    """Value of one row less that of another, its interval, and the two-sided p that they are the same."""

    value: float
    low: float
    high: float
    p: float


class Comparison(NamedTuple):
    """``rows``: value and interval of each row · ``differences``: of each asked pair, in the order asked."""

    rows: list[Interval]
    differences: list[Difference]


class _Row(NamedTuple):
    """A row's value, its resampled deviations from it (B,), the variance that its seeds give its mean, and S − 1."""

    value: float
    deviations: np.ndarray
    seed_variance: float
    degrees: int


def compare_rows(rows: Sequence[Sequence[Tensor | np.ndarray]], pairs: Sequence[tuple[int, int]],
                 statistic: str = "mrr", n_resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
                 ) -> Comparison:
    """Percentile intervals of rows and of differences between them, with p-values.

    p = min(1, 2 · (1 + m) / (B + 1)), where m is how many of the B resampled differences are at most 0, or at least 0,
    whichever are fewer.

    Args:
        rows: for each row its runs, for each run the ranks (n,) of the same n queries in the same order.
        pairs: (i, j) for row i less row j.
        statistic: ``mrr``, ``mean_rank``, ``median_rank`` or ``r<k>``.
        n_resamples: B.
        level: share of the resamples inside an interval.
        seed: of NumPy's generator.

    Raises:
        DataError: no runs, different numbers of queries, an unknown statistic, a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"level: expected a share between 0 and 1, got {level}")
    ranks = _stacked(rows)
    generator = np.random.default_rng(seed)
    resampled = _on_resampled_queries(ranks, statistic, n_resamples, generator)
    values = rank_statistic(statistic)(ranks)
    ends = np.cumsum([len(runs) for runs in rows])[:-1]
    made = [_row(*part, generator) for part in zip(np.split(values, ends), np.split(resampled, ends), strict=True)]
    return Comparison([Interval(row.value, *_bounds(row.value + _stretched(row.deviations, [row]), level))
                       for row in made],
                      [_difference(made[i], made[j], level) for i, j in pairs])


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected over all of them by Holm's step-down method, in the order given (Holm 1979).

    The k-th smallest of m is multiplied by m − k + 1 and never falls below the one before it; at most 1. Rejecting
    those up to α keeps the chance of any false rejection at most α, however the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))).clip(max=1.0)
    return [float(value) for value in corrected]


def _stacked(rows: Sequence[Sequence[Tensor | np.ndarray]]) -> np.ndarray:
    """The ranks of all runs, row after row, (k, n) float64."""
    runs = [np.asarray(ranks.cpu() if isinstance(ranks, Tensor) else ranks, dtype=np.float64)
            for row in rows for ranks in row]
    if not rows or not all(len(row) for row in rows):
        raise DataError("a comparison needs at least one run in each row")
    if len({ranks.shape for ranks in runs}) > 1 or runs[0].ndim != 1 or len(runs[0]) == 0:
        raise DataError("a paired comparison needs the same queries in all runs, got ranks of shapes "
                        f"{', '.join(str(shape) for shape in sorted({ranks.shape for ranks in runs}))}")
    return np.stack(runs)


def _on_resampled_queries(ranks: np.ndarray, statistic: str, n_resamples: int, generator: np.random.Generator
                          ) -> np.ndarray:
    """The statistic of each run on the same resampled queries, (k, n_resamples).

    All statistics but the median are means over queries, so that counts of how often each query was drawn do.
    """
    if n_resamples < 1:
        raise DataError(f"n_resamples: expected at least 1, got {n_resamples}")
    function: Any = rank_statistic(statistic)
    of_each = None if statistic == "median_rank" else function(ranks[:, :, None])
    n = ranks.shape[1]
    step = max(1, GATHERED_VALUES // n)
    parts = []
    for start in range(0, n_resamples, step):
        drawn = generator.integers(n, size=(min(step, n_resamples - start), n))
        if of_each is None:
            parts.append(np.stack([function(series[drawn]) for series in ranks]))
        else:
            places = drawn + n * np.arange(len(drawn))[:, None]
            counts = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
            parts.append(of_each @ counts.T.astype(np.float64) / n)
    return np.concatenate(parts, axis=1)


def _row(values: np.ndarray, resampled: np.ndarray, generator: np.random.Generator) -> _Row:
    """A row from its runs' values on all queries (S,) and on resampled ones (S, B)."""
    count, value = len(values), float(values.mean())
    deviations = resampled.mean(axis=0) - value
    variance = float(values.var(ddof=1)) if count > 1 else 0.0
    if variance == 0.0:     # one run, or a method that no seed changes
        return _Row(value, deviations, 0.0, count - 1)
    by_queries = (resampled - resampled.mean(axis=0)).var(axis=1, ddof=1).sum() / (count - 1)
    share = max(0.0, 1.0 - float(by_queries) / variance)
    drawn = values[generator.integers(count, size=(resampled.shape[1], count))].mean(axis=1) - value
    return _Row(value, deviations + math.sqrt(share * count / (count - 1)) * drawn, variance / count, count - 1)


def _difference(one: _Row, other: _Row, level: float) -> Difference:
    value = one.value - other.value
    resampled = value + _stretched(one.deviations - other.deviations, [one, other])
    fewer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return Difference(value, *_bounds(resampled, level), min(1.0, 2 * (1 + fewer) / (len(resampled) + 1)))


def _stretched(deviations: np.ndarray, rows: Sequence[_Row]) -> np.ndarray:
    """Deviations with Student's tails in place of normal ones, as far as their variance rests on few seeds.

    The degrees of freedom are Welch and Satterthwaite's, V² / Σ v²/(S − 1) with V the variance of the deviations and v
    what seeds give each row's mean; queries are many.
    """
    seeded = [row for row in rows if row.seed_variance > 0]
    scale = float(deviations.std())
    if not seeded or scale == 0:
        return deviations
    degrees = max(scale**4 / sum(row.seed_variance**2 / row.degrees for row in seeded),
                  min(row.degrees for row in seeded))
    z = np.abs(deviations) / scale
    wider: np.ndarray = np.sign(deviations) * -special.stdtrit(degrees, special.ndtr(-z)) * scale
    return wider


def _bounds(resampled: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
