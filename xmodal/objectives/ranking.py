"""Ranking losses: true pairs are to be nearer than others by a margin."""
from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import Compared, InBatch, Part

#: Added under the root of a squared distance, whose slope at 0 has no bound.
_ROUND_OFF = 1e-6
#: The triplet loss has collapsed when it has stood at its margin for so many steps, within this part of the margin.
PLATEAU_STEPS, PLATEAU_WIDTH = 100, 1e-3


class PairwiseRanking(InBatch):
    """Pairwise ranking (contrastive hinge) loss on cosines (Kiros et al. 2014; Dorfer et al. 2018).

    For every row i with matching cosine ``s_ii`` and every non-matching ``s_ij``:
    ``max(0, margin − s_ii + s_ij)``.

    Args:
        margin: what a true pair's cosine should be ahead by.
        symmetric: also rank view-1 items for view-2 queries; the two directions' losses are added.
        negatives: ``"mean"`` over all non-matching pairs (the published models), their ``"sum"`` (Kiros et al.), or
            only the ``"hardest"`` of each query, averaged over queries (VSE++, Faghri et al. 2018).
    """

    adds_directions = True

    def __init__(self, margin: float = 0.5, symmetric: bool = False,
                 negatives: Literal["mean", "sum", "hardest"] = "mean") -> None:
        super().__init__(symmetric)
        if negatives not in ("mean", "sum", "hardest"):
            raise ExperimentError(f"PairwiseRanking: negatives must be mean, sum or hardest, got {negatives!r}")
        self.margin, self.negatives = margin, negatives

    def contribution(self, compared: Compared) -> Part:
        if self.negatives == "hardest":
            hinge = self.margin - compared.positives.squeeze(1) + nearest_negative(compared)
            return Part(hinge.relu().sum(), _number(len(hinge), hinge))
        hinge = compared.scores + (self.margin - compared.positives)
        hinge = hinge.scatter_(1, compared.own[:, None], -1.0)
        if compared.others is not None:
            hinge = hinge.masked_fill_(compared.others, -1.0)
        hinge = hinge.relu_()  # in place, since these n × n arrays are what the loss spends its time on
        return Part(hinge.sum(), compared.count_negatives() if self.negatives == "mean" else _number(0, hinge))

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}, symmetric={self.symmetric}, negatives={self.negatives!r}"


class Triplet(InBatch):
    """Triplet loss ``max(0, margin + d(q, p) − d(q, n))`` on Euclidean distances of embeddings of length one (Schroff
    et al. 2015, arXiv 1503.03832; Hermans et al. 2017, arXiv 1703.07737, without squares).

    * ``"all"``: the mean over all triplets that violate the margin (Hermans et al., "batch all", non-zero ones).
    * ``"semi-hard"``: of each query the nearest negative that is farther than its partner, or where there is none the
      farthest of all (Schroff et al., as TensorFlow's program has it).
    * ``"hardest"``: the nearest negative ("batch hard"). On its own it tends to pull everything into one point, where
      it stays at its margin; so the first ``warm_up`` steps go from the mean over all negatives to it.

    A warning tells when the loss has stood at that plateau for ``PLATEAU_STEPS`` steps.

    Args:
        margin: in units of distance, which is at most 2.
        negatives: see above.
        warm_up: steps of training after which only the hardest count.
        symmetric: also view-2 queries.
    """

    steps: Tensor

    def __init__(self, margin: float = 0.2, negatives: Literal["all", "semi-hard", "hardest"] = "semi-hard",
                 warm_up: int = 500, symmetric: bool = True) -> None:
        super().__init__(symmetric)
        if negatives not in ("all", "semi-hard", "hardest"):
            raise ExperimentError(f"Triplet: negatives must be all, semi-hard or hardest, got {negatives!r}")
        if not margin > 0 or warm_up < 0:
            raise ExperimentError(f"Triplet: margin must be above 0 and warm_up not negative, got {margin} and "
                                  f"{warm_up}")
        self.margin, self.negatives, self.warm_up = margin, negatives, warm_up
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._at_plateau = 0
        self._share = 1.0  # of the hardest, in this step

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        warming = self.negatives == "hardest" and self.warm_up > 0
        self._share = min(1.0, float(self.steps) / self.warm_up) if warming else 1.0
        loss = super().forward(embedded, pairs)
        if self.training and torch.is_grad_enabled():
            self.steps += 1
            self._watch(loss)
        return loss

    def prepare(self, cosines: Tensor) -> Tensor:
        """Distances where all of them count; else only those picked are made of cosines."""
        return _distance(cosines) if self.negatives == "all" else cosines

    def contribution(self, compared: Compared) -> Part:
        if self.negatives == "all":
            hinge = (self.margin + compared.positives - compared.negatives(torch.inf)).relu()
            return Part(hinge.sum(), (hinge > 0).sum())
        partner = _distance(compared.positives)
        picked = nearest_negative(compared) if self.negatives == "hardest" else _semi_hard_negative(compared)
        total = (self.margin + partner.squeeze(1) - _distance(picked)).relu().sum()
        share = self._share  # not of `steps`: a block is computed anew when these have gone on
        if share < 1.0:
            every = (self.margin + partner - _distance(compared.negatives(-torch.inf))).relu()
            mean = every.sum() / compared.count_negatives().clamp(min=1) * len(picked)
            total = share * total + (1 - share) * mean
        return Part(total, _number(len(picked), picked))

    def _watch(self, loss: Tensor) -> None:
        at_margin = abs(float(loss.detach()) - self.margin) < PLATEAU_WIDTH * self.margin
        self._at_plateau = self._at_plateau + 1 if at_margin else 0
        if self._at_plateau == PLATEAU_STEPS:
            warnings.warn(f"the triplet loss has stood at its margin of {self.margin:g} for {PLATEAU_STEPS} steps: all "
                          "embeddings are one point; try a longer warm_up, semi-hard negatives, a lower learning rate "
                          "or larger batches", stacklevel=2)

    def extra_repr(self) -> str:
        return (f"margin={self.margin:g}, negatives={self.negatives!r}, warm_up={self.warm_up}, "
                f"symmetric={self.symmetric}")


class Siamese(InBatch):
    """Contrastive loss of siamese networks, on Euclidean distances of embeddings of length one: the mean over true
    pairs of ``d²``, plus the mean over others of ``max(0, margin − d)²`` (Hadsell, Chopra, LeCun 2006, CVPR, equation
    4, whose factors of ½ are left out), or of ``max(0, margin − d)``, as it stands in many programs and tutorials.

    Args:
        margin: in units of distance, which is at most 2.
        squared: Hadsell's form.
    """

    def __init__(self, margin: float = 1.0, squared: bool = True) -> None:
        super().__init__(symmetric=False)  # all pairs are looked at already
        if not 0 < margin <= 2:
            raise ExperimentError(f"Siamese: margin must be above 0 and at most 2, got {margin}")
        self.margin, self.squared = margin, squared

    def prepare(self, cosines: Tensor) -> Tensor:
        """Distances."""
        return _distance(cosines)

    def contribution(self, compared: Compared) -> Part:
        hinge = (self.margin - compared.negatives(torch.inf)).relu()
        apart = (hinge.square() if self.squared else hinge).sum()
        return Part(torch.stack([(compared.positives.square() - _ROUND_OFF).sum(), apart]),
                    torch.stack([_number(len(hinge), hinge), compared.count_negatives()]))

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}, squared={self.squared}"


def nearest_negative(compared: Compared) -> Tensor:
    """(b,) cosine of each query's nearest negative, −∞ where there is none; which one it is takes no gradient."""
    with torch.no_grad():
        nearest = compared.negatives(-torch.inf).max(dim=1)
    return compared.pick(nearest.indices).masked_fill(nearest.values == -torch.inf, -torch.inf)


def _semi_hard_negative(compared: Compared) -> Tensor:
    """(b,) cosine of the nearest negative that is farther than the partner, else of the farthest; −∞ without one."""
    with torch.no_grad():
        scores = compared.negatives(-torch.inf)
        beyond = scores.masked_fill(scores >= compared.positives, -torch.inf).max(dim=1)
        columns, none = beyond.indices, beyond.values == -torch.inf
        rows = none.nonzero().flatten()
        if len(rows):
            some = scores[rows]
            farthest = some.masked_fill(some == -torch.inf, torch.inf).min(dim=1)
            columns = columns.index_copy(0, rows, farthest.indices)
            none = none.index_copy(0, rows, farthest.values == torch.inf)
    return compared.pick(columns).masked_fill(none, -torch.inf)


def _distance(cosines: Tensor) -> Tensor:
    """Euclidean distance of unit vectors; infinite for a cosine of −∞."""
    return (2 - 2 * cosines).clamp(min=0).add(_ROUND_OFF).sqrt()


def _number(n: int, like: Tensor) -> Tensor:
    return torch.as_tensor(n, device=like.device)
