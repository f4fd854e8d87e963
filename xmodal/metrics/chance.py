"""What somebody finds who draws from the gallery with closed eyes: the line that every figure is read against."""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from xmodal.errors import DataError
from xmodal.metrics.ranks import Ranks
from xmodal.metrics.views import KS, check_pairs


def chance_recall(matches: Any, n_gallery: int, ks: Sequence[int] | np.ndarray) -> np.ndarray:
    """Percent of queries that find a match among ``k`` items drawn from the gallery, expected.

    A query with m matches misses them all with probability C(n − m, k) / C(n, k), so that 1:n pairs raise the line
    above k / n.

    Args:
        matches: how many matches each query has, (q,), each from 1 to ``n_gallery``.
        n_gallery: n.
        ks: cut-offs (c,); those beyond n count as n.

    Returns:
        (c,) float64.

    Raises:
        DataError: no query, or more matches than items.
    """
    m, shares = _numbers_of_matches(matches, n_gallery)
    return _recall(m, shares, n_gallery, ks)


def chance_metrics(matches: Any, n_gallery: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """Hit rates, ranks and MRR of a gallery in random order, expected.

    The best of m matches has rank k with probability C(n − k, m − 1) / C(n, m), hence the mean (n + 1) / (m + 1). One
    match among n has a mean of 1 / rank of (1 + 1/2 + … + 1/n) / n; a model that maps all to one point has the average
    rank and so less, 2 / (n + 1).

    Args:
        matches, n_gallery: as :func:`chance_recall` has them.
        ks: cut-offs of the hit rates.

    Returns:
        ``r<k>`` in percent, ``median_rank`` (of all queries in all orders), ``mean_rank``, ``mrr``.

    Raises:
        DataError: no query, or more matches than items.
    """
    n = n_gallery
    m, shares = _numbers_of_matches(matches, n)
    reciprocal = np.empty(len(m))
    for i, count in enumerate(m):
        k = np.arange(1, n - count + 2)
        logs = _log_choose(n - k, count - 1) - _log_choose(n, count)
        reciprocal[i] = (np.exp(logs) / k).sum()
    low, high = (1 + bisect_left(range(1, n + 1), half, key=lambda k: float(_recall(m, shares, n, [k])[0]))
                 for half in (50.0 - 1e-9, 50.0 + 1e-9))
    return {**{f"r{k}": float(rate) for k, rate in zip(ks, _recall(m, shares, n, ks), strict=True)},
            "median_rank": (low + high) / 2, "mean_rank": float(((n + 1) / (m + 1)) @ shares),
            "mrr": float(reciprocal @ shares)}


def match_counts(pairs: Any, ranks: Ranks, n1: int, n2: int) -> tuple[Tensor, Tensor]:
    """How many matches the queries of either direction have, in the order of their ranks."""
    table = check_pairs(pairs, n1, n2)
    return torch.bincount(table[:, 0])[ranks.queries1], torch.bincount(table[:, 1])[ranks.queries2]


def _numbers_of_matches(matches: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones, ascending, and what share of the queries has each."""
    counts = np.asarray(matches.cpu() if isinstance(matches, Tensor) else matches)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1 or counts.max() > n:
        raise DataError(f"expected numbers of matches from 1 to {n}, one for each query")
    m, queries = np.unique(counts.astype(np.int64), return_counts=True)
    return m, queries / queries.sum()


def _recall(m: np.ndarray, shares: np.ndarray, n: int, ks: Sequence[int] | np.ndarray) -> np.ndarray:
    one_after_the_other = n - np.arange(m.max())     # C(n − m, k) / C(n, k) = Π over i < m of 1 − k / (n − i)
    missed = np.empty((len(ks), len(m)))
    for row, k in enumerate(ks):
        with np.errstate(divide="ignore"):
            logs = np.log1p(-np.minimum(k / one_after_the_other, 1.0))
        missed[row] = np.exp(np.cumsum(logs)[m - 1])
    rates: np.ndarray = 100.0 * (1.0 - missed) @ shares
    return rates


def _log_choose(n: Any, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
