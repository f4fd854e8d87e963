"""Noise regularisation of deep CCA."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.linalg import cholesky, whitened_cross_covariance
from xmodal.objectives.weighted import loss_of, uses_labels

_NAMES = ("items", "noise", "tower", "noise_tower")


class NoiseRegularised(nn.Module):
    """An objective with NR-DCCA's regularisation (He, Du, Xu, Ma 2024, arXiv 2411.00383): a tower is to relate to
    noise as its view itself does, ``base + weight · Σ_k |Corr(f_k(X_k), f_k(A_k)) − Corr(X_k, A_k)|``, where A_k is
    noise of the shape of the batch X_k and Corr the sum of canonical correlations. Towers whose weights become
    redundant, which is how deep CCA loses what it had learned when it is trained for long, change that.

    Needs a model that passes noise through its towers in train mode: ``TwoTower(..., noise=True)``.

    Args:
        base: such as ``TraceNorm()``.
        weight: the paper's α.
        r: ridge of the covariances, as a share of their mean variance.
    """

    def __init__(self, base: nn.Module, weight: float = 1.0, r: float = 1e-3) -> None:
        super().__init__()
        if not weight >= 0 or not r > 0:
            raise ExperimentError(f"NoiseRegularised: weight must not be negative and r above 0, got {weight} and {r}")
        self.base, self.weight, self.r = base, weight, r

    @property
    def uses_labels(self) -> bool:
        """Whether the base asks for classes."""
        return uses_labels(self.base)

    def forward(self, embedded: Embedded, pairs: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        loss = loss_of(self.base, embedded, pairs, labels)
        if not (self.training and torch.is_grad_enabled()):
            return loss
        for view in (1, 2):
            if any(f"{name}{view}" not in embedded.extras for name in _NAMES):
                raise ExperimentError("NoiseRegularised needs a model that passes noise through its towers: "
                                      "TwoTower(..., noise=True)")
            items, noise, tower, noise_tower = (embedded.extras[f"{name}{view}"] for name in _NAMES)
            with torch.no_grad():
                wanted = total_correlation(items.flatten(1), noise.flatten(1), self.r)
            loss = loss + self.weight * (total_correlation(tower, noise_tower, self.r) - wanted).abs().to(loss.dtype)
        return loss

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, r={self.r:g}"


def total_correlation(a: Tensor, b: Tensor, r: float) -> Tensor:
    """Sum of the canonical correlations of two blocks of rows (n, d1) and (n, d2), float64.

    It is a nuclear norm, whose gradient ``E Fᵀ`` needs no division.
    """
    a, b = (z.double() - z.double().mean(dim=0) for z in (a, b))
    ridges = [r * z.square().sum() / (max(len(z) - 1, 1) * z.shape[1]) + 1e-12 for z in (a, b)]
    a, b = _in_own_span(a), _in_own_span(b)
    S11, S22, S12 = (one.mT @ other / max(len(a) - 1, 1) for one, other in ((a, a), (b, b), (a, b)))
    L1, L2 = (cholesky(S + ridge * torch.eye(len(S), dtype=S.dtype, device=S.device), f"a tower's output{what}")
              for S, ridge, what in ((S11, ridges[0], ""), (S22, ridges[1], " for noise")))
    total: Tensor = torch.linalg.matrix_norm(whitened_cross_covariance(S12, L1, L2), "nuc")
    return total


def _in_own_span(z: Tensor) -> Tensor:
    """Rows (n, d) as (n, n) coordinates in the space that they span, where that is smaller and no gradient is asked
    for: all inner products stay, and with them correlations; d may be in the ten thousands."""
    if z.shape[1] <= len(z) or z.requires_grad:
        return z
    values, vectors = torch.linalg.eigh(z @ z.mT)
    coordinates: Tensor = vectors * values.clamp(min=0).sqrt()
    return coordinates
