"""What a CorrNet is trained by."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from xmodal.covariance import pearson
from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import require_embedded
from xmodal.objectives.restoring import ErrorKind, check_error, restoring_error


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
                 error: ErrorKind = "squared", restore: Literal["all", "absent"] = "all") -> None:
        super().__init__()
        weights = {"both": both, "from_view1": from_view1, "from_view2": from_view2, "correlation": correlation}
        numbers = all(isinstance(weight, int | float) and 0 <= weight < float("inf") for weight in weights.values())
        if not numbers or not any(weights.values()):
            raise ExperimentError(f"CorrNetObjective: weights must be numbers, none negative and not all 0; got "
                                  f"{weights}")
        check_error("CorrNetObjective", error)
        if restore not in ("all", "absent"):
            raise ExperimentError(f"CorrNetObjective: restore must be all or absent, got {restore!r}")
        self.weights, self.error, self.restore = weights, error, restore

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        signed = {**self.weights, "correlation": -self.weights["correlation"]}
        return torch.stack([signed[name] * term for name, term in self.terms(embedded).items()]).sum()

    def terms(self, embedded: Embedded) -> dict[str, Tensor]:
        """The scalar terms that have a weight, by name and without it."""
        require_embedded(self, embedded)
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
        return torch.stack([restoring_error(embedded, view, source, self.error, "CorrNetObjective")
                            for view in views]).sum()

    def extra_repr(self) -> str:
        weights = ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())
        return f"{weights}, error={self.error!r}, restore={self.restore!r}"
