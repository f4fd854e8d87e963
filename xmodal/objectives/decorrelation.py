"""Objectives that keep dimensions apart instead of whitening them, and so need no large batches (nor a CCA head)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import require_embedded

#: Added to variances before roots are taken of them.
_EPS = 1e-4


class BarlowTwins(nn.Module):
    """``Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²`` of the correlations ``C`` of the batch's dimensions across the views
    (Zbontar et al. 2021, arXiv 2103.03230, equation 1).

    Args:
        weight: λ.
    """

    def __init__(self, weight: float = 5e-3) -> None:
        super().__init__()
        self.weight = _not_negative("BarlowTwins", "weight", weight)

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        one, two = map(_standardised, _views(self, embedded))
        C = one.mT @ two / len(one)
        own = C.diagonal()
        return (1 - own).square().sum() + self.weight * (C.square().sum() - own.square().sum())

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


class VICReg(nn.Module):
    """Variance, invariance, covariance (Bardes, Ponce, LeCun 2022, arXiv 2105.04906, equations 1 to 6):

    ``λ · mean|z1 − z2|² / d + μ · Σ_views mean_j max(0, 1 − √(var_j + ε)) + ν · Σ_views Σ_{i≠j} cov_ij² / d``.

    Args:
        invariance, variance, covariance: λ, μ and ν.
    """

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.weights = tuple(_not_negative("VICReg", name, value) for name, value in
                             (("invariance", invariance), ("variance", variance), ("covariance", covariance)))

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        views = _views(self, embedded)
        invariance, variance, covariance = self.weights
        loss = invariance * (views[0] - views[1]).square().mean()
        for z in views:
            S = _covariance(z, z)
            loss = loss + variance * (1 - (S.diagonal() + _EPS).sqrt()).relu().mean() \
                + covariance * (S.square().sum() - S.diagonal().square().sum()) / len(S)
        return loss

    def extra_repr(self) -> str:
        return "invariance={:g}, variance={:g}, covariance={:g}".format(*self.weights)


class SoftDecorrelation(nn.Module):
    """Soft CCA (Chang, Xiang, Hospedales 2018, CVPR, equations 6 to 10): the views' standardised coordinates are to be
    close, ``½ mean‖z1 − z2‖²``, and each view's own covariances off the diagonal small, ``λ Σ_{i≠j} |φ_ij|``, where
    ``φ`` is a running covariance: small batches do, since the past is remembered.

    Args:
        weight: λ, of each view.
        momentum: α, by which the past's share shrinks every step.
    """

    covariance1: Tensor
    covariance2: Tensor
    seen: Tensor

    def __init__(self, weight: float = 1e-2, momentum: float = 0.9) -> None:
        super().__init__()
        self.weight = _not_negative("SoftDecorrelation", "weight", weight)
        if not 0 <= momentum < 1:
            raise ExperimentError(f"SoftDecorrelation: momentum must be from 0 to below 1, got {momentum}")
        self.momentum = momentum
        for name in ("covariance1", "covariance2"):
            self.register_buffer(name, torch.zeros(0, 0))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        views = [_standardised(z) for z in _views(self, embedded)]
        loss = 0.5 * (views[0] - views[1]).square().sum(dim=1).mean()
        learning = self.training and torch.is_grad_enabled()
        seen = self.momentum * self.seen + 1
        for name, z in (("covariance1", views[0]), ("covariance2", views[1])):
            past: Tensor = getattr(self, name)
            S = _covariance(z, z)
            total = S if past.numel() == 0 else self.momentum * past.to(S) + S
            phi = total / seen.to(S)
            loss = loss + self.weight * (phi.abs().sum() - phi.diagonal().abs().sum())
            if learning:
                setattr(self, name, total.detach())
        if learning:
            self.seen = seen
        return loss

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, momentum={self.momentum:g}"

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name in ("covariance1", "covariance2"):  # they have their shape from the first batch on
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class EckartYoung(nn.Module):
    """Unconstrained CCA (Chapman, Wells, Aguila 2024, arXiv 2310.01012, equation 8): ``−2 tr(C) + ‖V‖²_F`` with
    ``C = Cov(z1, z2) + Cov(z2, z1)`` and ``V = Var(z1) + Var(z2)``. Its least value for linear towers is ``−Σ ρ_k²``,
    where the coordinates span the canonical ones; gradients are unbiased for any batch where ``V`` comes from another
    part of it.

    Args:
        halves: V's square is the product of the variances of the batch's two halves, whose expectation is that of the
            whole data whatever the batch size; else of the batch with itself.
    """

    def __init__(self, halves: bool = True) -> None:
        super().__init__()
        self.halves = halves

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        one, two = _views(self, embedded)
        n = len(one)
        reward = 2 * _covariance(one, two).diagonal().sum()
        if self.halves and n >= 4:
            middle = n // 2
            first, second = (_variance(one[rows], two[rows]) for rows in (slice(0, middle), slice(middle, n)))
            return -2 * reward + (first * second).sum()
        return -2 * reward + _variance(one, two).square().sum()

    def extra_repr(self) -> str:
        return f"halves={self.halves}"


def _variance(one: Tensor, two: Tensor) -> Tensor:
    return _covariance(one, one) + _covariance(two, two)


def _views(objective: nn.Module, embedded: Embedded) -> tuple[Tensor, Tensor]:
    """Both views in float32 at the least."""
    require_embedded(objective, embedded)
    one, two = (z if z.dtype == torch.float64 else z.float() for z in (embedded.view1, embedded.view2))
    return one, two


def _covariance(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    return a.mT @ b / max(len(a) - 1, 1)


def _standardised(z: Tensor) -> Tensor:
    """Mean 0 and deviation 1 in each dimension; a constant dimension becomes 0."""
    centred = z - z.mean(dim=0)
    return centred * torch.rsqrt(centred.square().mean(dim=0) + 1e-12)


def _not_negative(objective: str, name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ExperimentError(f"{objective}: {name} must not be negative, got {value}")
    return float(value)
