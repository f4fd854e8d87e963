"""A space for finding neighbours of the same class."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded, LengthNorm


class NeighbourhoodComponents(nn.Module):
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
        self.norm = LengthNorm()

    def forward(self, embedded: Embedded, pairs: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ExperimentError("NeighbourhoodComponents needs labels, and these data have none")
        cosines = self.norm(embedded.view1) @ self.norm(embedded.view2).mT
        labels = labels.to(cosines.device)
        same = (labels[:, None] == labels).fill_diagonal_(False)
        asked = same.any(dim=1)
        if not asked.any():
            return cosines.sum() * 0
        weights = ((cosines - 1) * (2 / self.temperature)).exp()  # e^(−‖z_i − z_j‖² / τ)
        weights = weights - torch.diag(weights.diagonal())
        right = weights * same
        losses = [weights.sum(dim)[asked].log() - right.sum(dim)[asked].log() for dim in (1, 0)]
        return (losses[0].mean() + losses[1].mean()) / 2

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"
