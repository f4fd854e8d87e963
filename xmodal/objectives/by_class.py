"""Classes in the place of items."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.weighted import loss_of


class ByClass(nn.Module):
    """An objective that takes rows of one class for known matches, as it would rows that hold the same item: they are
    never each other's negatives. What is pulled together are true pairs, as ever.

    For :class:`xmodal.objectives.Siamese`, :class:`xmodal.objectives.Triplet`,
    :class:`xmodal.objectives.MatchOrNot` and others that know of matches besides the pair itself, on pairs of the same
    class, such as ``mnist_twins``. Needs labels (``uses_labels``).

    Args:
        objective: is called with pairs (class, class) instead of those of items.
    """

    uses_labels = True

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, embedded: Embedded, pairs: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ExperimentError("ByClass needs labels, and these data have none")
        return loss_of(self.objective, embedded, torch.stack([labels, labels], dim=1), labels)
