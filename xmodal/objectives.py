"""Objectives: ``(Embedded, pairs) -> scalar`` to be minimised.

``pairs`` is the (n, 2) table of item indices of the batch's rows, or None when every item occurs once. Objectives that
contrast a row with the others use it so that a second caption of the same picture is not taken for a negative.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from xmodal.covariance import pearson
from xmodal.errors import ExperimentError
from xmodal.layers import Embedded, LengthNorm

#: Below this a cross-entropy's logarithm stays where it is: a normal number in float32.
LEAST_PROBABILITY = 2e-38


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


class InfoNCE(nn.Module):
    """Softmax cross-entropy of finding each row's partner among the batch, by cosines (van den Oord et al. 2018; in
    both directions and with a learned temperature as in CLIP, Radford et al. 2021).

    ``−1/2n Σ_i [log softmax_j(s_ij/τ)_i + log softmax_j(s_ji/τ)_i]``; rows known to match a query besides its own
    partner are left out of its softmax.

    Args:
        temperature: ``τ``, or where it starts.
        learned: whether ``1/τ`` is a parameter, trained with the model and at most 100.
    """

    MOST = 100.0  # of 1/τ, as in CLIP

    def __init__(self, temperature: float = 0.07, learned: bool = True) -> None:
        super().__init__()
        if not 1 / self.MOST <= temperature < float("inf"):
            raise ExperimentError(f"InfoNCE: temperature must be at least {1 / self.MOST}, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learned)
        self.norm = LengthNorm()

    @property
    def temperature(self) -> float:
        """``τ`` as it is now."""
        return math.exp(-float(self.log_scale.detach()))

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        with torch.no_grad():  # the parameter itself, as in CLIP: beyond a clamp it would get no gradient to come back
            self.log_scale.clamp_(max=math.log(self.MOST))
        scores = self.norm(embedded.view1) @ self.norm(embedded.view2).mT * self.log_scale.exp()
        matches = shared_items(pairs, len(scores), scores.device)
        if matches is not None:
            scores = scores.masked_fill(matches.fill_diagonal_(False), -torch.inf)
        partners = torch.arange(len(scores), device=scores.device)
        return (cross_entropy(scores, partners) + cross_entropy(scores.mT, partners)) / 2

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:.3g}, learned={self.log_scale.requires_grad}"


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


class CorrNetObjective(nn.Module):
    """The four terms of a CorrNet (Chandar et al. 2015, arXiv 1504.07225), each with a weight of its own.

    ::

        both · [E(x, x̂(x, y)) + E(y, ŷ(x, y))] + from_view1 · [E(x, x̂(x)) + E(y, ŷ(x))]
            + from_view2 · [E(x, x̂(y)) + E(y, ŷ(y))] − correlation · Σ_k corr(h_k(X), h_k(Y))

    where ``x̂(y)`` is view 1 restored from view 2 alone, and so on. ``E`` is averaged over the batch and over the values
    of an item; the paper sums over the values, so its ``λ`` of 2 on items of 392 values is a ``correlation`` of
    2/392 here. The correlations are Pearson's within the batch between the codes of either view, summed over the
    code's units; a unit that is constant within the batch counts 0 and gets no gradient.

    The terms have been given letters, and not the same ones (apsarath/CorrNet; GauravBh1010tt/DeepLearn, Keras):

    ====================  ==============================  ====================  ==================
    term                  paper, in its formula's order   its authors' program  Keras program 2017
    ====================  ==============================  ====================  ==================
    ``both``              L1                              L3                    l1
    ``from_view1``        L2                              L1                    l2
    ``from_view2``        L3                              L2                    l3
    ``correlation``       L4                              L4                    L4
    absent views alone                                    L5
    ====================  ==============================  ====================  ==================

    Special cases: ``correlation=0`` is the multimodal autoencoder (MAE; Ngiam et al. 2011);
    ``both=0, correlation=0, restore="absent"`` restores each view from the other and nothing else, a SplitAE in both
    directions (Wang et al. 2015 call so the restoring of both views from one: ``both=0, from_view2=0,
    correlation=0``).

    Args:
        both, from_view1, from_view2, correlation: weights, none negative; a term of weight 0 is not computed.
        error: ``"squared"``, ``(x − x̂)²``, or ``"cross_entropy"``, ``−x log x̂ − (1 − x) log(1 − x̂)``, for items and
            reconstructions within [0, 1] (let the decoders end in a sigmoid).
        restore: what one view alone has to restore: ``"all"``, both views, or only the ``"absent"`` one.

    Raises:
        ExperimentError: a negative weight, or none above 0.
    """

    def __init__(self, both: float = 1.0, from_view1: float = 1.0, from_view2: float = 1.0, correlation: float = 0.02,
                 error: Literal["squared", "cross_entropy"] = "squared",
                 restore: Literal["all", "absent"] = "all") -> None:
        super().__init__()
        weights = {"both": both, "from_view1": from_view1, "from_view2": from_view2, "correlation": correlation}
        numbers = all(isinstance(weight, int | float) and 0 <= weight < float("inf") for weight in weights.values())
        if not numbers or not any(weights.values()):
            raise ExperimentError(f"CorrNetObjective: weights must be numbers, none negative and not all 0; got "
                                  f"{weights}")
        if error not in ("squared", "cross_entropy"):
            raise ExperimentError(f"CorrNetObjective: error must be squared or cross_entropy, got {error!r}")
        if restore not in ("all", "absent"):
            raise ExperimentError(f"CorrNetObjective: restore must be all or absent, got {restore!r}")
        self.weights, self.error, self.restore = weights, error, restore

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        signed = {**self.weights, "correlation": -self.weights["correlation"]}
        return torch.stack([signed[name] * term for name, term in self.terms(embedded).items()]).sum()

    def terms(self, embedded: Embedded) -> dict[str, Tensor]:
        """The scalar terms that have a weight, by name and without it."""
        if "code" not in embedded.extras:
            raise ExperimentError("CorrNetObjective needs a model that restores its views; this model does not "
                                  "(use CorrNet)")
        absent = self.restore == "absent"
        restored = {"both": [1, 2], "from_view1": [2] if absent else [1, 2], "from_view2": [1] if absent else [1, 2]}
        terms = {name: self._restoring(embedded, name.removeprefix("from_"), views)
                 for name, views in restored.items() if self.weights[name]}
        if self.weights["correlation"]:
            terms["correlation"] = pearson(embedded.view1, embedded.view2).sum().to(embedded.view1.dtype)
        return terms

    def _restoring(self, embedded: Embedded, source: str, views: Sequence[int]) -> Tensor:
        errors = []
        for view in views:
            target, restored = embedded.extras[f"view{view}"], embedded.extras[f"view{view}_from_{source}"]
            if restored.shape != target.shape:
                shape, got = tuple(target.shape[1:]), tuple(restored.shape[1:])
                end = f"; end it in nn.Unflatten(1, {shape})" if restored.numel() == target.numel() else ""
                raise ExperimentError(f"decoder{view} must restore items of shape {shape}, got {got}{end}")
            errors.append(self._error(restored.to(target.dtype), target))  # target: never less than float32
        return torch.stack(errors).sum()

    def _error(self, restored: Tensor, target: Tensor) -> Tensor:
        if self.error == "squared":
            return mse_loss(restored, target)
        if any(bool(((values < 0) | (values > 1)).any()) for values in (restored, target)):
            raise ExperimentError("CorrNetObjective(error='cross_entropy') needs items and reconstructions within "
                                  "[0, 1]; let the decoders end in a sigmoid, or use error='squared'")
        # torch's own function calls NaN out of range, too, and so would hide that a training diverged
        logs = (target * restored.clamp(min=LEAST_PROBABILITY).log()
                + (1 - target) * (1 - restored).clamp(min=LEAST_PROBABILITY).log())
        return -logs.mean()

    def extra_repr(self) -> str:
        weights = ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())
        return f"{weights}, error={self.error!r}, restore={self.restore!r}"
