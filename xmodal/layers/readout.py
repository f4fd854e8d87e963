"""CCA that takes no part in training."""
from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers.cca import CCALayer
from xmodal.layers.embedded import Embedded, check_widths, result_dtype


class CCAReadout(nn.Module):
    """Linear CCA on top of whatever the towers learn, fitted when the statistics are refitted: it takes no part in
    training.

    An objective such as :class:`xmodal.objectives.InfoNCE` brings partners close to each other, yet leaves the two
    views in different places of the space and unshared directions in both. The readout removes what is not shared.

    *Train mode.* The tower outputs as they are.

    *Eval mode.* ``z1 = ρ^power · (a − mean1) U``, ``z2 = ρ^power · (b − mean2) V`` with the canonical directions and
    correlations ``ρ`` of the pairs of the last refit. At ``power=1`` that is what the other view's canonical
    coordinates are expected to be, given this view's (their least-squares prediction); at 0 they are
    :class:`CCALayer`'s own. Gong et al. (2014, IJCV 106) weight so for retrieval, with a power of 4.

    Args:
        dim: width of both tower outputs and of the shared space.
        r1, r2: ridges of the covariances, as :class:`CCALayer` has them.
        power: of the correlations.
    """

    alpha = 1.0  # nothing is blended

    def __init__(self, dim: int, r1: float = 1e-3, r2: float = 1e-3, power: float = 1.0) -> None:
        super().__init__()
        if not 0 <= power < float("inf"):
            raise ExperimentError(f"CCAReadout: power must not be negative, got {power}")
        self.cca = CCALayer(dim, r1, r2)
        self.power = power

    def forward(self, a: Tensor, b: Tensor) -> Embedded:
        """(n, dim) and (n, dim) tower outputs, as they are in train mode and projected in eval mode."""
        check_widths("CCAReadout", self.cca.dim, a, b)
        if not self.training:
            return Embedded(self.embed_view1(a), self.embed_view2(b))
        result = result_dtype(a, b)
        return Embedded(a.to(result), b.to(result))

    def refit(self, outputs: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Fits the CCA to the given pairs of tower outputs; returns how many there were."""
        return self.cca.refit(outputs)

    def embed_view1(self, a: Tensor) -> Tensor:
        """(n, dim) tower outputs of view 1 to weighted canonical coordinates; needs nothing of view 2."""
        return self._weighted(self.cca.embed_view1(a))

    def embed_view2(self, b: Tensor) -> Tensor:
        """(n, dim) tower outputs of view 2 to weighted canonical coordinates; needs nothing of view 1."""
        return self._weighted(self.cca.embed_view2(b))

    def _weighted(self, z: Tensor) -> Tensor:
        return z * self.cca.correlations.clamp(min=0).pow(self.power).to(z.dtype)

    def extra_repr(self) -> str:
        return f"power={self.power:g}"
