"""Percentile bootstrap over queries: how sure a retrieval metric is, and whether two runs differ."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from xmodal.errors import DataError, did_you_mean

GATHERED_VALUES = 1 << 22   # resampled values held at a time
Statistic = Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A value with the bounds of its interval."""

    value: float
    low: float
    high: float


def rank_statistic(name: str) -> Statistic:
    """The function behind a name: ``mrr``, ``mean_rank``, ``median_rank`` or ``r<k>`` (percent).

    It maps ranks (..., n) to values (...).

    Raises:
        DataError: an unknown name.
    """
    if name == "mrr":
        return lambda ranks: (1.0 / ranks).mean(axis=-1)
    if name == "mean_rank":
        return lambda ranks: ranks.mean(axis=-1)
    if name == "median_rank":
        return lambda ranks: np.median(ranks, axis=-1)
    if name[:1] == "r" and name[1:].isdecimal() and int(name[1:]) > 0:
        k = int(name[1:])
        return lambda ranks: 100.0 * (ranks <= k).mean(axis=-1)
    raise DataError(f"statistic {name!r}: {did_you_mean(name, ('mrr', 'mean_rank', 'median_rank', 'r1', 'r5', 'r10'))}")


def bootstrap_interval(ranks: Tensor | np.ndarray, statistic: str | Statistic = "mrr", n_resamples: int = 1000,
                       level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of a statistic of ``ranks`` (n,), resampling queries (Efron 1979).

    Args:
        ranks: ranks of the queries of one direction, such as ``retrieval_ranks(...).V1_to_V2``.
        statistic: a name (see ``rank_statistic``) or a function from ranks (..., n) to values (...).
        n_resamples: how many resamples.
        level: share of the resamples inside the interval.
        seed: of NumPy's generator; the same seed gives the same interval.

    Raises:
        DataError: no ranks, an unknown statistic, a level outside (0, 1).
    """
    function = rank_statistic(statistic) if isinstance(statistic, str) else statistic
    values = _values(ranks)
    return _interval(function(values), _resample(values[None], function, n_resamples, seed)[0], level)


def paired_bootstrap_difference(ranks_a: Tensor | np.ndarray, ranks_b: Tensor | np.ndarray,
                                statistic: str | Statistic = "mrr", n_resamples: int = 1000, level: float = 0.95,
                                seed: int = 0) -> Interval:
    """Interval of statistic(a) − statistic(b) where both runs answered the same queries in the same order.

    Each resample draws queries once and takes both runs' ranks of them, so that what is hard for both cancels. An
    interval without 0 says that the runs differ on queries like these (one training seed each, though).

    Raises:
        DataError: different numbers of queries, and as ``bootstrap_interval``.
    """
    function = rank_statistic(statistic) if isinstance(statistic, str) else statistic
    a, b = _values(ranks_a), _values(ranks_b)
    if len(a) != len(b):
        raise DataError(f"a paired difference needs the same queries in both runs, got {len(a)} and {len(b)} ranks")
    resampled = _resample(np.stack((a, b)), function, n_resamples, seed)
    return _interval(function(a) - function(b), resampled[0] - resampled[1], level)


def _values(ranks: Tensor | np.ndarray) -> np.ndarray:
    values = np.asarray(ranks.cpu() if isinstance(ranks, Tensor) else ranks, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise DataError(f"expected ranks of shape (n,) with n at least 1, got {values.shape}")
    return values


def _resample(values: np.ndarray, function: Statistic, n_resamples: int, seed: int) -> np.ndarray:
    """Statistics (k, n_resamples) of k series (k, n) on the same resampled queries."""
    if n_resamples < 1:
        raise DataError(f"n_resamples: expected at least 1, got {n_resamples}")
    n = values.shape[1]
    generator = np.random.default_rng(seed)
    step = max(1, GATHERED_VALUES // n)
    parts = []
    for start in range(0, n_resamples, step):
        drawn = generator.integers(n, size=(min(step, n_resamples - start), n))
        parts.append(np.stack([function(series[drawn]) for series in values]))
    return np.concatenate(parts, axis=1)


def _interval(value: Any, resampled: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise DataError(f"level: expected a share between 0 and 1, got {level}")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
