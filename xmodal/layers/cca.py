"""The differentiable CCA layer."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xmodal.covariance import Moments, PairCovariance, batch_moments, blend, pearson
from xmodal.distributed import gather_rows, merge_moments
from xmodal.errors import ExperimentError, NumericalError
from xmodal.layers.embedded import Embedded, check_widths, least_precision, result_dtype
from xmodal.linalg import (
    CCASolution,
    cca_solution,
    cholesky,
    describe_spectrum,
    polar_factor,
    ridged,
    whiten,
    whitened_cross_covariance,
)

#: ``alpha="auto"`` takes the largest alpha whose effective sample size is this many times the dimension.
AUTO_PAIRS_PER_DIMENSION = 50
#: Below this many effective pairs per dimension a fixed alpha gets a warning.
FEW_PAIRS_PER_DIMENSION = 10


def effective_sample_size(n: int, alpha: float) -> float:
    """Pairs that covariances blended by ``alpha`` from batches of ``n`` amount to: ``n (2 − α)/α``.

    The variance of an exponential average of independent batches is ``α/(2 − α)`` times that of one.
    """
    return n * (2 - alpha) / alpha


def auto_alpha(n: int, dim: int) -> float:
    """Largest alpha ≤ 1 with an effective sample size of at least 50 pairs per dimension."""
    return min(1.0, 2 * n / (AUTO_PAIRS_PER_DIMENSION * dim + n))


class CCALayer(nn.Module):
    """Differentiable CCA projection of two tower outputs (Dorfer et al. 2018), in a form without ``eigh``.

    With ``L1``, ``L2`` the Cholesky factors of the regularised covariances ``S + r·I`` and
    ``T = L1⁻¹ S12 L2⁻ᵀ = E Σ Fᵀ``, the CCA projections are ``U = L1⁻ᵀE`` and ``V = L2⁻ᵀF``. No loss built on
    inner products in the shared space sees ``E`` and ``F`` but through the polar factor ``Q = E Fᵀ`` of ``T``, whose
    derivative has no differences of singular values in it (:class:`xmodal.linalg.PolarFactor`). So repeated
    correlations, duplicated or constant columns and batches smaller than the dimension do no harm.

    *Train mode.* The batch's moments, blended with the stored ones by ``alpha``, give the differentiable projection,
    and the stored ones take the blended values. Returned coordinates are ``z1 = A L1⁻ᵀQ`` and ``z2 = B L2⁻ᵀ``: the
    CCA embeddings up to one rotation that both views share, the same in every cosine, norm and gradient.
    A batch of one row has no covariance: it is projected by the stored moments and leaves them alone.

    *Eval mode.* The stored moments, unchanged; coordinates are ``(a − mean1) U`` and ``(b − mean2) V``, sorted by
    falling correlation (so they can be truncated), signs by :func:`xmodal.linalg.fix_signs`. The correlations are
    those of the rows given, along the stored directions: on held-out pairs an honest, out-of-sample figure.

    The moments, with the precision of the features behind them, are the only state (buffers that stay float64 whatever
    the model is cast to): ``U``, ``V`` and the correlations are a cached function of them. Arithmetic is float64;
    results have the inputs' dtype, float32 at the least.

    Args:
        dim: width of both tower outputs and of the shared space.
        r1, r2: ridges added to the covariances of the views. A floor relative to the features' scale and precision is
            always added (:func:`xmodal.linalg.noise_floor`).
        alpha: weight of the current batch in the blended moments, in (0, 1], or ``"auto"``: the largest one whose
            effective sample size ``n(2 − α)/α`` is at least 50 pairs per dimension. Fitted on few pairs, CCA aligns
            any two views by chance (correlations up to ``2√(d/n·(1 − d/n))`` for pure noise) and the towers learn
            nothing that carries over.
    """

    mean1: Tensor
    mean2: Tensor
    S11: Tensor
    S22: Tensor
    S12: Tensor
    count: Tensor
    eps: Tensor

    def __init__(self, dim: int, r1: float = 1e-3, r2: float = 1e-3, alpha: float | Literal["auto"] = 1.0) -> None:
        super().__init__()
        if dim < 1:
            raise ExperimentError(f"CCALayer: dim must be at least 1, got {dim}")
        if not (r1 >= 0 and r2 >= 0):
            raise ExperimentError(f"CCALayer: r1 and r2 must not be negative, got {r1} and {r2}")
        if alpha != "auto" and not (isinstance(alpha, int | float) and 0 < alpha <= 1):
            raise ExperimentError(f"CCALayer: alpha must be in (0, 1] or 'auto', got {alpha!r}")
        self.dim, self.r1, self.r2, self.alpha = dim, r1, r2, alpha
        for name, shape in (("mean1", (dim,)), ("mean2", (dim,)), ("S11", (dim, dim)), ("S22", (dim, dim)),
                            ("S12", (dim, dim))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # pairs behind the moments
        self.register_buffer("eps", torch.tensor(torch.finfo(torch.float32).eps, dtype=torch.float64))
        self._warned = False
        self._cache: tuple[tuple[tuple[Tensor, int], ...], tuple[float, float], CCASolution] | None = None

    # -- training ---------------------------------------------------------------------------------------------------

    def forward(self, a: Tensor, b: Tensor) -> Embedded:
        """Projects a batch of pairs.

        Args:
            a, b: (n, dim) tower outputs of view 1 and view 2.

        Raises:
            ExperimentError, DataError: shapes that don't fit.
            NumericalError: a covariance that is not finite or not positive definite; the stored moments stay.
        """
        check_widths("CCALayer", self.dim, a, b)
        if not self.training:
            z1, z2 = self.embed_view1(a), self.embed_view2(b)
            return Embedded(z1, z2, pearson(z1, z2).to(z1.dtype))
        with torch.autocast(a.device.type, enabled=False):
            return self._forward_train(a, b)

    def _forward_train(self, a: Tensor, b: Tensor) -> Embedded:
        eps, result = least_precision(a, b), result_dtype(a, b)
        a, b = a.double(), b.double()
        moments = blend(self.moments(), batch_moments(a, b), self.batch_alpha(len(a)))
        L1 = cholesky(ridged(moments.S11, self.r1, eps), "view1's tower output")
        L2 = cholesky(ridged(moments.S22, self.r2, eps), "view2's tower output")
        if len(a) > 1:
            self._store(moments.detach(), self.count + len(a), eps)
        T = whitened_cross_covariance(moments.S12, L1, L2)
        Q, correlations = polar_factor(T, eps**0.5)
        z1 = whiten(a - moments.mean1, L1) @ Q
        z2 = whiten(b - moments.mean2, L2)
        return Embedded(z1.to(result), z2.to(result), correlations.to(result))

    def batch_alpha(self, n: int) -> float:
        """The weight of a batch of ``n`` pairs: ``alpha``, 1 while nothing is stored, 0 for a single row."""
        if n < 2:
            return 0.0
        if not self.has_statistics:
            return 1.0
        if self.alpha == "auto":
            return auto_alpha(n, self.dim)
        self._warn_if_few(n, float(self.alpha))
        return float(self.alpha)

    def _warn_if_few(self, n: int, alpha: float) -> None:
        n_eff = effective_sample_size(n, alpha)
        if not self._warned and n_eff < FEW_PAIRS_PER_DIMENSION * self.dim:
            self._warned = True
            warnings.warn(
                f"CCALayer({self.dim}): batches of {n} pairs with alpha={alpha:g} amount to {n_eff:.0f} pairs, "
                f"{n_eff / self.dim:.1f} per dimension. CCA fitted on so few aligns views by chance and the towers "
                f"learn less; alpha='auto' ({auto_alpha(n, self.dim):.2g} here) or a larger batch would help.",
                stacklevel=4)

    # -- stored statistics ------------------------------------------------------------------------------------------

    @property
    def has_statistics(self) -> bool:
        """Whether any batch or refit has filled the moments."""
        return bool(self.count > 0)

    def moments(self) -> Moments:
        """The stored moments (the buffers themselves)."""
        return Moments(self.mean1, self.mean2, self.S11, self.S22, self.S12)

    def _store(self, moments: Moments, count: int | Tensor, eps: float) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.moments(), moments, strict=True):
                buffer.copy_(value)
            self.count.copy_(torch.as_tensor(count))
            self.eps.fill_(eps)

    def refit(self, outputs: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Sets the stored moments to the exact ones of the given pairs of tower outputs.

        Args:
            outputs: batches (n, dim), (n, dim); any sizes. Of several processes each gives its own part of the pairs.

        Returns:
            How many pairs there were. The moments stay as they are when there were fewer than two.

        Raises:
            NumericalError: outputs that are not finite; the stored moments stay.
        """
        exact, eps = PairCovariance(self.dim, self.dim, device=self.mean1.device), 0.0
        for a, b in outputs:
            exact.update(a, b)
            eps = max(eps, least_precision(a, b))
        exact, eps = merge_moments(exact), float(gather_rows(torch.tensor([eps]))[0].max())
        moments = exact.moments()
        for view, S in (("view1", moments.S11), ("view2", moments.S22)):
            if not bool(torch.isfinite(S).all()):
                raise NumericalError(f"the covariance of {view}'s tower output is {describe_spectrum(S)}")
        if exact.count > 1:
            self._store(moments, exact.count, eps)
        return exact.count

    def solution(self) -> CCASolution:
        """``U``, ``V`` and the correlations of the stored moments; computed once and kept until these change."""
        buffers = (*self.moments(), self.eps)
        ridges = (self.r1, self.r2)
        if self._cache is None or ridges != self._cache[1] or any(
                now is not then or now._version != version
                for now, (then, version) in zip(buffers, self._cache[0], strict=True)):
            with torch.inference_mode(False), torch.no_grad():  # the cache may be used where gradients are wanted
                solved = cca_solution(self.S11, self.S22, self.S12, self.r1, self.r2, eps=float(self.eps))
            self._cache = tuple((b, b._version) for b in buffers), ridges, solved
        return self._cache[2]

    @property
    def correlations(self) -> Tensor:
        """(dim,) canonical correlations of the stored moments, descending."""
        return self.solution().correlations

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CCALayer:
        """Moves with the model, but a cast (``.half()``, ``.to(torch.bfloat16)``) leaves the moments float64: rounded
        to fewer digits a covariance is not positive definite any more."""
        def move_only(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return moved if moved.dtype == buffer.dtype else buffer.to(moved.device)

        super()._apply(move_only, recurse)  # type: ignore[no-untyped-call]  # torch has no annotation here
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which start without a cached solution: the versions it goes by don't carry over."""
        return {**self.__dict__, "_cache": None}

    # -- embedding one view -----------------------------------------------------------------------------------------

    def embed_view1(self, a: Tensor) -> Tensor:
        """(n, dim) tower outputs of view 1 to canonical coordinates; needs nothing of view 2."""
        return self._project(a, self.mean1, self.solution().U)

    def embed_view2(self, b: Tensor) -> Tensor:
        """(n, dim) tower outputs of view 2 to canonical coordinates; needs nothing of view 1."""
        return self._project(b, self.mean2, self.solution().V)

    def _project(self, z: Tensor, mean: Tensor, projection: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return ((z.double() - mean) @ projection).to(result_dtype(z))

    def extra_repr(self) -> str:
        return f"{self.dim}, r1={self.r1:g}, r2={self.r2:g}, alpha={self.alpha!r}"
