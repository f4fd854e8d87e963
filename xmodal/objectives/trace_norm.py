"""Deep CCA's objective."""
from __future__ import annotations

from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import require_embedded


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
        require_embedded(self, embedded)
        if embedded.correlations is None:
            raise ExperimentError("TraceNorm needs a head that reports canonical correlations; this one does not "
                                  "(use CCALayer)")
        sigma = embedded.correlations
        if self.rT == 0:
            return -sigma.sum()
        smoothed: Tensor = (sigma.square() + self.rT).sqrt() - self.rT**0.5
        return -(smoothed * sigma.sign()).sum()  # held-out correlations may be negative

    def extra_repr(self) -> str:
        return f"rT={self.rT:g}"
