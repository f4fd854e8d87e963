"""A space for finding neighbours of the same class."""
from __future__ import annotations

import torch
from torch import Tensor

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import Compared, InBatch, Part


class NeighbourhoodComponents(InBatch):
    """Neighbourhood components analysis across views (Goldberger et al. 2005, NIPS 17): a row picks one of the other
    view's rows, j with probability ``softmax_j(−‖z_i − z_j‖² / τ)``, and is to pick one of its own class,

    ``−mean_i log Σ_{j≠i, same class} p_ij``, both directions averaged; rows that are alone in their class don't
    count. The row's own partner is left out: what is asked for is the class.

    Needs labels (``uses_labels``): the trainer passes those of the batch's view-1 items.

    Args:
        temperature: τ, at least 0.05, for embeddings of length one.
    """

    uses_labels = True

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not 0.05 <= temperature < float("inf"):  # e^(−4/τ), the least weight, is to be a number
            raise ExperimentError(f"NeighbourhoodComponents: temperature must be at least 0.05, got {temperature}")
        self.temperature = temperature

    def forward(self, embedded: Embedded, pairs: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ExperimentError("NeighbourhoodComponents needs labels, and these data have none")
        return super().forward(embedded, torch.stack([labels, labels], dim=1))  # known matches are of the same class

    def prepare(self, cosines: Tensor) -> Tensor:
        """``e^(−‖z_i − z_j‖² / τ)``."""
        return ((cosines - 1) * (2 / self.temperature)).exp()

    def contribution(self, compared: Compared) -> Part:
        if compared.others is None:  # every row is alone in its class
            return Part(compared.scores.sum() * 0, torch.zeros((), device=compared.scores.device))
        asked = compared.others.any(dim=1)
        picked = compared.scores.scatter(1, compared.own[:, None], 0.0).sum(dim=1)
        right = (compared.scores * compared.others).sum(dim=1)
        losses = picked[asked].log() - right[asked].log()
        return Part(losses.sum(), asked.sum())

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"
