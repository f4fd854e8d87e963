"""Correlation of paired embeddings: summed over the given dimensions, or over canonical ones fitted elsewhere."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.covariance import PairCovariance
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
    m1, m2 = check_views(z1, z2)
    table = check_pairs(pairs, len(m1), len(m2), m1.device)
    total = 0.0
    for start in range(0, m1.shape[1], DIMENSIONS_AT_A_TIME):
        block = slice(start, start + DIMENSIONS_AT_A_TIME)
        total += float(_pearson(m1[:, block][table[:, 0]], m2[:, block][table[:, 1]]).sum())
    return total


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's r per column of two (n, d) arrays, (d,) float64; 0 where one varies less than its rounding."""
    centred, norms = [], []
    for value in (x, y):
        resolution = torch.finfo(value.dtype).eps
        value = value.to(torch.float64)
        peak = value.abs().amax(dim=0)
        value = value / peak.clamp_min(1e-300)      # r has no scale: neither 1e-200 nor 1e200 may under- or overflow
        deviation = value - value.mean(dim=0)
        norm = deviation.norm(dim=0)
        constant = norm <= resolution * len(value)**0.5 * 0.5
        centred.append(deviation.masked_fill(constant, 0.0))
        norms.append(norm.masked_fill(constant, 1.0))
    return (centred[0] * centred[1]).sum(dim=0) / (norms[0] * norms[1])


def canonical_correlation(z1: Any, z2: Any, fit: tuple[Any, Any], pairs: Any = None, fit_pairs: Any = None,
                          *, ridge: float = 1e-6) -> float:
    """Sum over canonical dimensions of Pearson's r on these pairs, projection fitted by linear CCA on other data.

    Invariant to any invertible linear map of either view, so copies of one feature count once. ``ridge`` × the mean
    variance is added to the diagonal of each covariance, which makes rank-deficient views safe; directions that
    nothing but the ridge supports (variance of the variate below 1e-3) count 0. At most d.

    Args:
        z1: (n1, d1). z2: (n2, d2). The dimensions may differ.
        fit: embeddings of other (training) items on which the projection is fitted, (m1, d1) and (m2, d2).
        pairs: int64 (m, 2) for z1 and z2; None is the identity.
        fit_pairs: the same for ``fit``.
        ridge: relative ridge.

    Raises:
        DataError: shapes or pairs that don't fit. NumericalError: NaN or infinite values.
    """
    m1, m2 = as_matrix(z1, "view 1"), as_matrix(z2, "view 2")
    f1, f2 = as_matrix(fit[0], "view 1 of fit"), as_matrix(fit[1], "view 2 of fit")
    for number, (given, fitted) in enumerate(((m1, f1), (m2, f2)), start=1):
        if given.shape[1] != fitted.shape[1]:
            raise DataError(f"view {number} has dimension {given.shape[1]}, but its fit data has {fitted.shape[1]}")
    table = check_pairs(pairs, len(m1), len(m2))
    fit_table = check_pairs(fit_pairs, len(f1), len(f2))
    if len(fit_table) < 2:
        raise DataError(f"canonical_correlation needs at least 2 fit pairs, got {len(fit_table)}")
    f1, f2, scale1, scale2 = f1.cpu(), f2.cpu(), _scale(f1), _scale(f2)
    covariance = PairCovariance(f1.shape[1], f2.shape[1])
    for part in fit_table.split(chunk_rows(f1)):
        covariance.update(f1[part[:, 0]].to(torch.float64) / scale1, f2[part[:, 1]].to(torch.float64) / scale2)
    S11, S22 = covariance.S11.to(torch.float64), covariance.S22.to(torch.float64)
    r1, r2 = (ridge * max(float(S.diagonal().mean()), 1e-12) for S in (S11, S22))
    solution = cca_solution(S11, S22, covariance.S12.to(torch.float64), r1, r2)
    variates1 = (m1.cpu()[table[:, 0]].to(torch.float64) / scale1 - covariance.mean1) @ solution.U
    variates2 = (m2.cpu()[table[:, 1]].to(torch.float64) / scale2 - covariance.mean2) @ solution.V
    supported = (((solution.U.T @ S11) * solution.U.T).sum(dim=1) > NULL_VARIANCE) \
        & (((solution.V.T @ S22) * solution.V.T).sum(dim=1) > NULL_VARIANCE)
    return float(_pearson(variates1, variates2)[supported].sum())


def _scale(z: Tensor) -> float:
    """Largest absolute value (1 for zeros), so that the sums of squares neither under- nor overflow."""
    return float(z.abs().max()) or 1.0
