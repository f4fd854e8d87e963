"""Sums of objectives."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded


def uses_labels(objective: nn.Module) -> bool:
    """Whether an objective asks for classes."""
    return bool(getattr(objective, "uses_labels", False))


def loss_of(objective: nn.Module, embedded: Embedded, pairs: Tensor | None, labels: Tensor | None) -> Tensor:
    """An objective's loss, with the rows' classes (n,) where it asks for them."""
    loss: Tensor = objective(embedded, pairs, labels) if uses_labels(objective) else objective(embedded, pairs)
    return loss


def loss_of_pairs(objective: nn.Module, embedded: Embedded, pairs: Tensor, labels: Tensor | None) -> Tensor:
    """The same, given the classes of all view-1 items of the split that the rows of ``pairs`` are of."""
    rows = labels[pairs[:, 0]] if labels is not None and uses_labels(objective) else None
    return loss_of(objective, embedded, pairs, rows)


class WeightedSum(nn.Module):
    """``Σ w_k · objective_k``; parts of weight 0 are not computed.

    Args:
        parts: (weight, objective) pairs, such as ``[(CONFIG.weight_tno, TraceNorm()),
            (1 - CONFIG.weight_tno, PairwiseRanking())]``.
    """

    def __init__(self, parts: Sequence[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [float(weight) for weight, _ in parts]
        self.parts = nn.ModuleList(part for _, part in parts)
        if not any(self.weights):
            raise ExperimentError("WeightedSum needs at least one part with a weight other than 0")

    @property
    def uses_labels(self) -> bool:
        """Whether a part asks for classes."""
        return any(uses_labels(part) for weight, part in zip(self.weights, self.parts, strict=True) if weight != 0)

    def forward(self, embedded: Embedded, pairs: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        terms = [weight * loss_of(part, embedded, pairs, labels)
                 for weight, part in zip(self.weights, self.parts, strict=True) if weight != 0]
        return torch.stack(terms).sum()

    def extra_repr(self) -> str:
        return f"weights={self.weights}"
