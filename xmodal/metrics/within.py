"""Retrieval within one view: items look for others of their class, among all but themselves."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.covariance import ViewCovariance
from xmodal.errors import DataError
from xmodal.linalg import leading_svd
from xmodal.metrics.classes import (
    LEVELS,
    Hits,
    average_precision,
    interpolated_precisions,
    precision_at,
    ranked,
    ranked_codes,
)
from xmodal.metrics.views import check_cutoffs, class_codes, make_view

#: Cut-offs of the precision.
KS = (1, 10, 100)


def within_metrics(z: Any, labels: Any, ks: Sequence[int] = KS) -> dict[str, Any]:
    """Every item asks for the others by cosine; those of its class are relevant, and it isn't in its own gallery.

    Means over the items whose class has another one, from 0 to 1: ``map`` · ``p<k>``, the precision among the first k
    (k beyond the gallery counts as its size) · ``r_precision``, that among as many as are relevant · ``precisions``,
    at recalls of 0, 0.1, … 1, interpolated: the greatest at that recall or more (Manning, Raghavan, Schütze 2008,
    Introduction to information retrieval, section 8.4). Ties as in ``class_metrics``; in ``p<k>`` every order of tied
    items counts equally. NaN where every class has one item. ``n_queries`` and ``n_gallery`` are their numbers.

    Args:
        z: embeddings (n, d).
        labels: classes (n,).
        ks: cut-offs.

    Raises:
        DataError: shapes or cut-offs that don't fit, or a single item.
        NumericalError: NaN or infinite embeddings.
    """
    view = make_view(z, "embeddings")
    codes = _codes_of(labels, len(view.raw))
    return _summed(ranked(view, view, codes, codes, own=True), len(codes), ks)


def within_codes(packed: Any, labels: Any, ks: Sequence[int] = KS) -> dict[str, Any]:
    """Likewise by Hamming distance.

    Args:
        packed: bits (n, bytes) uint8; where the last byte isn't full, the rest of it must be the same in all.
        labels: classes (n,).
        ks: cut-offs.

    Raises:
        DataError: shapes, dtype or cut-offs that don't fit, or a single item.
    """
    bits = np.asarray(packed)
    if bits.ndim != 2 or 0 in bits.shape or bits.dtype != np.uint8:
        raise DataError(f"codes: expected packed bits, uint8 of shape (n, bytes), got {bits.dtype} of {bits.shape}")
    codes = _codes_of(labels, len(bits))
    return _summed(ranked_codes(bits, bits, codes, codes, own=True), len(codes), ks)


def _codes_of(labels: Any, n: int) -> np.ndarray:
    codes = class_codes(("labels", labels, n))[0]
    if n < 2:
        raise DataError("retrieval within a view needs at least 2 items, got 1")
    return codes


def _summed(blocks: Iterator[Hits], n: int, ks: Sequence[int]) -> dict[str, Any]:
    check_cutoffs(ks)
    sums, answered = np.zeros(2 + len(ks) + LEVELS), 0
    for hits in blocks:
        sums += [average_precision(hits), precision_at(hits, None), *(precision_at(hits, k) for k in ks),
                 *interpolated_precisions(hits)]
        answered += int((hits.total > 0).sum())
    means = (sums / answered if answered else np.full_like(sums, np.nan)).tolist()
    return {"map": means[0], **{f"p{k}": value for k, value in zip(ks, means[2:], strict=False)},
            "r_precision": means[1], "precisions": means[2 + len(ks):], "n_queries": answered, "n_gallery": n - 1}


class Reductions(NamedTuple):
    """What reduces items (n, d) to k values: ``(items − mean) @ pca``, or ``items @ lsa``. float64, (d,), (d, k) each.

    ``pca``: directions of greatest variance · ``lsa``: of the greatest sum of squares, as a truncated SVD of the items
    as they are has them (latent semantic analysis, Deerwester et al. 1990).
    """

    mean: Tensor
    pca: Tensor
    lsa: Tensor

    def by_pca(self, items: Tensor) -> Tensor:
        """(n, k) float64 of items (n, d) of any float width."""
        return (items.to(self.mean) - self.mean) @ self.pca

    def by_lsa(self, items: Tensor) -> Tensor:
        """Likewise, not centred."""
        return items.to(self.lsa) @ self.lsa


def fit_reductions(batches: Iterable[Tensor], k: int) -> Reductions:
    """Both reductions of items that arrive in batches (b, d), in one pass and O(d²) memory.

    ``k`` beyond d counts as d.

    Raises:
        DataError: no items.
    """
    covariance: ViewCovariance | None = None
    for batch in batches:
        covariance = covariance or ViewCovariance(batch.shape[1], batch.device)
        covariance.update(batch)
    if covariance is None or not covariance.count:
        raise DataError("a reduction needs items to be fitted on, got none")
    S, mean, n = covariance.S, covariance.mean, covariance.count
    k = min(k, len(mean))
    squares = S * ((n - 1) / n) + torch.outer(mean, mean)
    return Reductions(mean, leading_svd(S, k)[0], leading_svd(squares, k)[0])
