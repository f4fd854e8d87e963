"""What somebody finds who draws from the gallery with closed eyes: the line that every recall is read against."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from xmodal.errors import DataError


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
    counts = np.asarray(matches.cpu() if isinstance(matches, Tensor) else matches)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1 or counts.max() > n_gallery:
        raise DataError(f"expected numbers of matches from 1 to {n_gallery}, one for each query")
    m, queries = np.unique(counts.astype(np.int64), return_counts=True)
    one_after_the_other = n_gallery - np.arange(m.max())     # C(n − m, k) / C(n, k) = Π over i < m of 1 − k / (n − i)
    missed = np.empty((len(ks), len(m)))
    for row, k in enumerate(ks):
        with np.errstate(divide="ignore"):
            logs = np.log1p(-np.minimum(k / one_after_the_other, 1.0))
        missed[row] = np.exp(np.cumsum(logs)[m - 1])
    rates: np.ndarray = 100.0 * (1.0 - missed) @ (queries / queries.sum())
    return rates
