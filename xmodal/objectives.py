"""Objectives: ``(Embedded, pairs) -> scalar`` to be minimised.

``pairs`` is the (n, 2) table of item indices of the batch's rows, or None when every item occurs once. Objectives that
contrast a row with the others use it so that a second caption of the same picture is not taken for a negative.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded, LengthNorm


class TraceNorm(nn.Module):
    """Negative sum of canonical correlations, ``−‖T‖_tr``: the objective of deep CCA (Andrew et al. 2013).

    Args:
        rT: smoothing of the singular values of ``T`` near zero: each counts ``√(σ² + rT) − √rT``, which is never more
            than ``σ``; the published models add ``rT·I`` to ``TᵀT`` to the same end (without the subtraction, which
            only shifts the loss). 0 is the plain sum.
    """

    def __init__(self, rT: float = 0.0) -> None:
        super().__init__()
        if not rT >= 0:
            raise ExperimentError(f"TraceNorm: rT must not be negative, got {rT}")
        self.rT = rT

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        if embedded.correlations is None:
            raise ExperimentError("TraceNorm needs a head that reports canonical correlations; this one does not "
                                  "(use CCALayer)")
        sigma = embedded.correlations
        if self.rT == 0:
            return -sigma.sum()
        smoothed = (sigma.square() + self.rT).sqrt() - self.rT**0.5
        return -(smoothed * sigma.sign()).sum()  # held-out correlations may be negative

    def extra_repr(self) -> str:
        return f"rT={self.rT:g}"


class PairwiseRanking(nn.Module):
    """Pairwise ranking (contrastive hinge) loss on cosines (Kiros et al. 2014; Dorfer et al. 2018).

    For every row i with matching cosine ``s_ii`` and every non-matching ``s_ij``:
    ``max(0, margin − s_ii + s_ij)``.

    Args:
        margin: what a true pair's cosine should be ahead by.
        symmetric: also rank view-1 items for view-2 queries; the two directions' losses are added.
        negatives: ``"mean"`` over all non-matching pairs (the published models), their ``"sum"`` (Kiros et al.), or
            only the ``"hardest"`` of each query, averaged over queries (VSE++, Faghri et al. 2018).
    """

    def __init__(self, margin: float = 0.5, symmetric: bool = False,
                 negatives: Literal["mean", "sum", "hardest"] = "mean") -> None:
        super().__init__()
        if negatives not in ("mean", "sum", "hardest"):
            raise ExperimentError(f"PairwiseRanking: negatives must be mean, sum or hardest, got {negatives!r}")
        self.margin, self.symmetric, self.negatives = margin, symmetric, negatives
        self.norm = LengthNorm()

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        scores = self.norm(embedded.view1) @ self.norm(embedded.view2).mT
        matches = shared_items(pairs, len(scores), scores.device)
        loss = self._one_direction(scores, matches)
        if self.symmetric:
            loss = loss + self._one_direction(scores.mT, None if matches is None else matches.mT)
        return loss

    def _one_direction(self, scores: Tensor, matches: Tensor | None) -> Tensor:
        hinge = scores + (self.margin - scores.diagonal())[:, None]
        n_negatives: int | Tensor = len(scores) * (len(scores) - 1)
        if matches is None:
            hinge = hinge.fill_diagonal_(-1.0)
        else:
            hinge = hinge.masked_fill_(matches, -1.0)
            n_negatives = (~matches).sum()
        hinge = hinge.relu_()  # in place, since these n × n arrays are what the loss spends its time on
        if self.negatives == "sum":
            return hinge.sum()
        if self.negatives == "hardest":
            return hinge.amax(dim=1).mean()
        return hinge.sum() / max(n_negatives, 1)

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}, symmetric={self.symmetric}, negatives={self.negatives!r}"


def shared_items(pairs: Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """(n, n) bool: whether view-1 row i and view-2 row j are known to match; None when only i = j do.

    They do when rows i and j share an item: if both hold the same picture, the caption of row j is a caption of row
    i's picture.
    """
    if pairs is None or all(len(items.unique()) == n for items in pairs.unbind(dim=1)):
        return None
    items1, items2 = pairs.to(device).unbind(dim=1)
    return (items1[:, None] == items1[None, :]) | (items2[:, None] == items2[None, :])


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

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        terms = [weight * part(embedded, pairs) for weight, part in zip(self.weights, self.parts, strict=True)
                 if weight != 0]
        return torch.stack(terms).sum()

    def extra_repr(self) -> str:
        return f"weights={self.weights}"
