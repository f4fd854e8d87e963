"""The control experiment to the CCA layer: projections that are learned."""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xmodal.distributed import add_up
from xmodal.errors import ExperimentError
from xmodal.layers.embedded import Embedded, check_widths, result_dtype


class LearnedProjection(nn.Module):
    """A free linear map per view, learned by the loss alone: the control experiment to :class:`CCALayer`.

    ``z1 = (a − mean1) U``, ``z2 = (b − mean2) V`` with trained ``U``, ``V`` (dim, dim), initially random orthogonal.

    *Train mode* centres by the batch's means blended with the stored ones by ``alpha``, and stores them. *Eval mode*
    centres by the stored means and changes nothing. ``refit`` sets them to the exact ones.

    Args:
        dim: width of both tower outputs and of the shared space.
        alpha: weight of the current batch in the running means, in (0, 1].
        shared: one ``U`` and one mean, that of the rows of both views, for both views: with one tower for both, equal
            items have equal embeddings. ``V`` and ``mean2`` are None then.
    """

    V: nn.Parameter | None
    mean1: Tensor
    mean2: Tensor | None
    count: Tensor

    def __init__(self, dim: int, alpha: float = 1.0, shared: bool = False) -> None:
        super().__init__()
        if not (isinstance(alpha, int | float) and 0 < alpha <= 1):
            raise ExperimentError(f"LearnedProjection: alpha must be in (0, 1], got {alpha!r}")
        self.dim, self.alpha, self.shared = dim, alpha, shared
        self.U = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim)))
        self.register_parameter("V", None if shared else nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim))))
        self.register_buffer("mean1", torch.zeros(dim))
        self.register_buffer("mean2", None if shared else torch.zeros(dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, a: Tensor, b: Tensor) -> Embedded:
        """(n, dim) and (n, dim) tower outputs to (n, dim) coordinates; shapes that don't fit raise."""
        check_widths("LearnedProjection", self.dim, a, b)
        if not self.training:
            return Embedded(self.embed_view1(a), self.embed_view2(b))
        with torch.autocast(a.device.type, enabled=False):
            result = result_dtype(a, b)
            a, b = a.to(result), b.to(result)
            alpha = self.alpha if self.has_statistics else 1.0
            own1, own2 = a.mean(dim=0), b.mean(dim=0)
            if self.mean2 is None:
                own1 = own2 = (own1 + own2) / 2
            mean1 = (1 - alpha) * self.mean1 + alpha * own1
            mean2 = mean1 if self.mean2 is None else (1 - alpha) * self.mean2 + alpha * own2
            self._store(mean1, mean2, self.count + len(a))
            return Embedded((a - mean1) @ self.U.to(result), (b - mean2) @ self._projection2.to(result))

    @property
    def _projection2(self) -> Tensor:
        return self.U if self.V is None else self.V

    @property
    def has_statistics(self) -> bool:
        """Whether any batch or refit has filled the means."""
        return bool(self.count > 0)

    def _store(self, mean1: Tensor, mean2: Tensor, count: int | Tensor) -> None:
        with torch.no_grad():
            self.mean1.copy_(mean1)
            if self.mean2 is not None:
                self.mean2.copy_(mean2)
            self.count.copy_(torch.as_tensor(count))

    def refit(self, outputs: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Sets the means to the exact ones of the given pairs of tower outputs; returns how many there were.

        Of several processes each gives its own part of the pairs.
        """
        totals = self.mean1.new_zeros(2 * self.dim + 1, dtype=torch.float64)  # of view 1, of view 2, and the count
        with torch.no_grad():
            for a, b in outputs:
                ones = a.new_ones(len(a), 1, dtype=torch.float64)
                totals += torch.cat([a.double(), b.double(), ones], dim=1).sum(dim=0)
            total1, total2, counted = add_up(totals).split([self.dim, self.dim, 1])
        count = int(counted)
        if self.shared:
            total1 = total2 = (total1 + total2) / 2
        if count:
            self._store(total1 / count, total2 / count, count)
        return count

    def embed_view1(self, a: Tensor) -> Tensor:
        """(n, dim) tower outputs of view 1 to coordinates; needs nothing of view 2."""
        return self._project(a, self.mean1, self.U)

    def embed_view2(self, b: Tensor) -> Tensor:
        """(n, dim) tower outputs of view 2 to coordinates; needs nothing of view 1."""
        return self._project(b, self.mean1 if self.mean2 is None else self.mean2, self._projection2)

    def _project(self, z: Tensor, mean: Tensor, projection: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            result = result_dtype(z)
            return (z.to(result) - mean) @ projection.to(result)

    def extra_repr(self) -> str:
        return f"{self.dim}, alpha={self.alpha:g}" + (", shared" if self.shared else "")
