"""What somebody finds who draws from the gallery with closed eyes: the line that every recall is read against."""
from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln
from torch import Tensor

from xmodal.errors import DataError


def chance_recall(matches: Any, n_gallery: int, ks: Any) -> np.ndarray:
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
    m, queries = np.unique(counts, return_counts=True)
    k = np.minimum(np.asarray(ks, dtype=np.float64), n_gallery)[:, None]
    rest = n_gallery - m - k                      # items left when k are drawn and all m are missed
    log_missed = (gammaln(n_gallery - m + 1.0) - gammaln(np.maximum(rest, 0.0) + 1.0)
                  + gammaln(n_gallery - k + 1.0) - gammaln(n_gallery + 1.0))
    missed = np.where(rest < 0, 0.0, np.exp(log_missed))
    return 100.0 * (1.0 - np.clip(missed, 0.0, 1.0)) @ (queries / queries.sum())
