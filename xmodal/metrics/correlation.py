"""Correlation of paired embeddings: summed over the given dimensions, or over canonical ones fitted elsewhere."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xmodal.covariance import Moments, PairCovariance, pearson
from xmodal.errors import DataError
from xmodal.linalg import cca_solution
from xmodal.metrics.views import as_matrix, check_pairs, check_views, chunk_rows

DIMENSIONS_AT_A_TIME = 32
NULL_VARIANCE = 1e-3    # canonical variates have variance near 1; below this a direction is ridge and rounding


def sum_correlation(z1: Any, z2: Any, pairs: Any = None) -> float:
    """Sum over dimensions of Pearson's r between the views; at most d. A constant dimension counts 0.

    Easily gamed: one feature copied into every dimension scores nearly d. Show ``canonical_correlation`` beside it.

    Args:
        z1: (n1, d). z2: (n2, d). Tensors or arrays of any float width; sums are float64.
        pairs: int64 (m, 2), each row one observation; None is the identity.

    Raises:
        DataError: shapes or pairs that don't fit. NumericalError: NaN or infinite values.
    """
    return sum((float(block.sum()) for block in _dimension_blocks(z1, z2, pairs)), 0.0)


def dimension_correlations(z1: Any, z2: Any, pairs: Any = None) -> Tensor:
    """Pearson's r of each dimension, (d,) float64 on the CPU: the terms of ``sum_correlation``, arguments and errors
    as there."""
    return torch.cat([block.cpu() for block in _dimension_blocks(z1, z2, pairs)])


def _dimension_blocks(z1: Any, z2: Any, pairs: Any) -> Iterator[Tensor]:
    m1, m2 = check_views(z1, z2)
    table = check_pairs(pairs, len(m1), len(m2), m1.device)
    for start in range(0, m1.shape[1], DIMENSIONS_AT_A_TIME):
        block = slice(start, start + DIMENSIONS_AT_A_TIME)
        yield pearson(m1[:, block][table[:, 0]], m2[:, block][table[:, 1]])


def canonical_correlation(z1: Any, z2: Any, fit: Moments | tuple[Any, Any], pairs: Any = None, fit_pairs: Any = None,
                          *, ridge: float = 1e-6) -> float:
    """Sum over canonical dimensions of Pearson's r on these pairs, projection fitted by linear CCA on other data.

    Invariant to any invertible linear map of either view, so copies of one feature count once. ``ridge`` × the mean
    variance is added to the diagonal of each covariance, which makes rank-deficient views safe; directions that
    nothing but the ridge supports (variance of the variate below 1e-3) count 0. At most d.

    Args:
        z1: (n1, d1). z2: (n2, d2). The dimensions may differ.
        fit: what the projection is fitted on: embeddings of other (training) items, (m1, d1) and (m2, d2), or the
            moments of such pairs where they are too many to hold.
        pairs: int64 (m, 2) for z1 and z2; None is the identity.
        fit_pairs: the same for the embeddings in ``fit``.
        ridge: relative ridge.

    Raises:
        DataError: shapes or pairs that don't fit. NumericalError: NaN or infinite values.
    """
    values, supported = _canonical(z1, z2, fit, pairs, fit_pairs, ridge)
    return float(values[supported].sum())


def canonical_correlations(z1: Any, z2: Any, fit: Moments | tuple[Any, Any], pairs: Any = None, fit_pairs: Any = None,
                           *, ridge: float = 1e-6) -> Tensor:
    """Pearson's r of each canonical dimension, (min(d1, d2),) float64, in the order of the correlations on the data
    that the projection is fitted on: the terms of ``canonical_correlation``, arguments and errors as there."""
    values, supported = _canonical(z1, z2, fit, pairs, fit_pairs, ridge)
    return values.masked_fill(~supported, 0.0)


def _canonical(z1: Any, z2: Any, fit: Moments | tuple[Any, Any], pairs: Any, fit_pairs: Any, ridge: float
               ) -> tuple[Tensor, Tensor]:
    """Pearson's r of each canonical dimension, and whether more than the ridge supports it."""
    m1, m2 = as_matrix(z1, "view 1"), as_matrix(z2, "view 2")
    table = check_pairs(pairs, len(m1), len(m2))
    moments = Moments(*(m.cpu() for m in (fit if isinstance(fit, Moments) else _moments(*fit, fit_pairs))))
    for number, (given, fitted) in enumerate(((m1, moments.mean1), (m2, moments.mean2)), start=1):
        if given.shape[1] != len(fitted):
            raise DataError(f"view {number} has dimension {given.shape[1]}, but its fit data has {len(fitted)}")
    scale1, scale2 = _mean_variance(moments.S11) ** 0.5, _mean_variance(moments.S22) ** 0.5
    S11, S22, S12 = moments.S11 / scale1**2, moments.S22 / scale2**2, moments.S12 / (scale1 * scale2)
    solution = cca_solution(S11, S22, S12, ridge, ridge)
    variates1 = (m1.cpu()[table[:, 0]].double() - moments.mean1) / scale1 @ solution.U
    variates2 = (m2.cpu()[table[:, 1]].double() - moments.mean2) / scale2 @ solution.V
    supported = (((solution.U.T @ S11) * solution.U.T).sum(dim=1) > NULL_VARIANCE) \
        & (((solution.V.T @ S22) * solution.V.T).sum(dim=1) > NULL_VARIANCE)
    return pearson(variates1, variates2), supported


def _moments(fit1: Any, fit2: Any, fit_pairs: Any) -> Moments:
    f1, f2 = as_matrix(fit1, "view 1 of fit"), as_matrix(fit2, "view 2 of fit")
    table = check_pairs(fit_pairs, len(f1), len(f2))
    if len(table) < 2:
        raise DataError(f"canonical_correlation needs at least 2 fit pairs, got {len(table)}")
    covariance = PairCovariance(f1.shape[1], f2.shape[1])
    for part in table.split(chunk_rows(f1)):
        covariance.update(f1[part[:, 0].to(f1.device)], f2[part[:, 1].to(f2.device)])
    return covariance.moments()


def _mean_variance(S: Tensor) -> float:
    return float(S.diagonal().mean()) or 1.0
