"""Linear algebra of canonical correlation analysis (CCA) as pure functions.

Notation follows Andrew et al. 2013 (Deep CCA) and Dorfer et al. 2018 (CCA layer): ``S11``, ``S22`` are the
covariances of the two views, ``S12`` their cross-covariance, ``L`` a Cholesky factor, ``T = L1⁻¹ S12 L2⁻ᵀ`` the
whitened cross-covariance with SVD ``T = E Σ Fᵀ``. The singular values are the canonical correlations; the CCA
projections are ``U = L1⁻ᵀ E`` and ``V = L2⁻ᵀ F``.

Nothing here differentiates through single singular vectors: that gradient divides by differences of singular
values and is NaN where two of them meet. See :class:`PolarFactor`.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.errors import DataError, NumericalError


class CCASolution(NamedTuple):
    """CCA of two views, by falling correlation."""

    U: Tensor  #: (d1, k) projection of centred view 1
    V: Tensor  #: (d2, k) projection of centred view 2
    correlations: Tensor  #: (k,) canonical correlations, descending, in [0, 1]


#: Relative precision of float64, for features that are exact as far as we know.
EXACT = torch.finfo(torch.float64).eps
#: Ridge of last resort. With S = 0 and r = 0 it keeps S factorable, and whitened values and gradients (which grow with
#: 1/√ridge) within the range of float32.
LEAST_RIDGE = 1e-30


def noise_floor(S: Tensor, eps: float) -> Tensor:
    """Variance below which a direction of ``S`` is rounding noise of features of relative precision ``eps``.

    Centred features of magnitude ``m`` carry rounding errors of variance about ``(eps·m/2)²``. Whitening would blow
    these up to unit variance and count them as signal (a rank-20 feature of scale 30 then "has" correlations in all
    its dimensions). The ridge is therefore never smaller than ``(256·eps)²`` times the mean variance, 260,000 times
    that noise, but at most 1/256 of the mean variance (bfloat16 needs that cap); nor smaller than ``4·d·eps64`` times
    the mean variance, which the Cholesky factorisation itself needs.

    Args:
        S: (d, d) covariance.
        eps: ``torch.finfo(dtype).eps`` of what the features were held in before any conversion.

    Returns:
        Scalar tensor, differentiable in ``S``.
    """
    rounding = min((256 * eps) ** 2, 1 / 256)
    return max(rounding, 4 * S.shape[0] * torch.finfo(S.dtype).eps) * S.diagonal().mean()


def ridged(S: Tensor, r: float, eps: float = EXACT) -> Tensor:
    """``S + (r + noise_floor)·I``: Tikhonov regularisation with a floor that scales with the features."""
    result = S.clone()
    result.diagonal().add_(r + noise_floor(S, eps) + LEAST_RIDGE)
    return result


def cholesky(S: Tensor, what: str) -> Tensor:
    """Lower Cholesky factor of a covariance, or a :class:`NumericalError` that says what is wrong with it."""
    L: Tensor
    L, info = torch.linalg.cholesky_ex(S)
    if int(info) != 0 or not bool(torch.isfinite(L.diagonal()).all()):
        raise NumericalError(f"the covariance of {what} is not positive definite: {describe_spectrum(S)}")
    return L


def describe_spectrum(S: Tensor, ridge: float | None = 0.0) -> str:
    """The extreme eigenvalues of a symmetric matrix, or which of its rows are not finite, in words.

    Args:
        S: (d, d).
        ridge: what is to be added to ``S`` yet; None where it isn't whitened. A larger one is advised where a direction
            of ``S`` would still be below the noise floor of float32 features.
    """
    finite = torch.isfinite(S).all(dim=1)
    if not bool(finite.all()):
        dims = torch.nonzero(~finite).flatten().tolist()
        return f"not finite in {len(dims)} of {S.shape[0]} dimensions (first: {dims[:5]})"
    S = S.detach().double()
    values = torch.linalg.eigvalsh(S)
    smallest = ", ".join(f"{v:.3g}" for v in values[:3].tolist())
    text = f"smallest eigenvalues {smallest}; largest {values[-1].item():.3g}"
    if ridge is None or values[0] + ridge > noise_floor(S, torch.finfo(torch.float32).eps):
        return text
    return f"{text} (a larger ridge r1, r2 would help)"


def whitened_cross_covariance(S12: Tensor, L1: Tensor, L2: Tensor) -> Tensor:
    """``T = L1⁻¹ S12 L2⁻ᵀ``, (d1, d2), by two triangular solves."""
    return whiten(torch.linalg.solve_triangular(L1, S12, upper=False), L2)


def whiten(A: Tensor, L: Tensor) -> Tensor:
    """``A L⁻ᵀ`` for centred rows ``A`` (n, d): rows whose covariance is the identity."""
    white: Tensor = torch.linalg.solve_triangular(L, A.mT, upper=False)
    return white.mT


def fix_signs(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """One sign convention for a pair of projections: in each column of ``U`` the entry of largest magnitude is
    positive, and the same column of ``V`` is flipped along, so that correlations stay positive."""
    largest = U.abs().argmax(dim=0, keepdim=True)
    signs = torch.where(U.gather(0, largest) < 0, -1.0, 1.0).to(U.dtype)
    return U * signs, V * signs


def cca_solution(S11: Tensor, S22: Tensor, S12: Tensor, r1: float = 0.0, r2: float = 0.0,
                 n_components: int | None = None, eps: float = EXACT, svd_solver: str = "exact") -> CCASolution:
    """CCA from covariances, by Cholesky whitening and one SVD (Hotelling 1936; Golub and Zha 1992).

    Args:
        S11: (d1, d1), S22: (d2, d2), S12: (d1, d2); float64 recommended.
        r1, r2: ridges added to the diagonals.
        n_components: how many to keep; default min(d1, d2).
        eps: relative precision of the features, for the noise floor.
        svd_solver: as in :func:`leading_svd`.

    Raises:
        NumericalError: a covariance is not finite or not positive definite.
    """
    L1 = cholesky(ridged(S11, r1, eps), "view1")
    L2 = cholesky(ridged(S22, r2, eps), "view2")
    k = n_components if n_components is not None else min(S12.shape)
    E, sigma, F = leading_svd(whitened_cross_covariance(S12, L1, L2), k, svd_solver)
    U = torch.linalg.solve_triangular(L1.mT, E, upper=True)
    V = torch.linalg.solve_triangular(L2.mT, F, upper=True)
    U, V = fix_signs(U, V)
    return CCASolution(U, V, sigma.clamp(max=1.0))


def leading_svd(T: Tensor, k: int, svd_solver: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` largest singular values (k,) of ``T`` (d1, d2), descending, between their vectors (d1, k), (d2, k).

    Args:
        T: what to decompose; float64 for the randomised solver's tolerance to make sense.
        k: how many; at most min(d1, d2).
        svd_solver: "exact" decomposes all of ``T``; "randomized" is block Krylov iteration from random vectors (Musco
            and Musco 2015), on until each triplet's residual ``‖T f − σ e‖`` is below ``1e-7 ‖T‖`` (the error of ``σ``
            is of the order of its square), and the exact solver after all where it does not get there; "auto" is
            randomised where ``T`` has over 1,000 rows and columns and ``k`` is a tenth of them or less.
    """
    if svd_solver not in ("auto", "exact", "randomized"):
        raise DataError(f"svd_solver must be 'auto', 'exact' or 'randomized', got {svd_solver!r}")
    few = 10 * k <= min(T.shape) and min(T.shape) > 1000
    if svd_solver == "randomized" or (svd_solver == "auto" and few):
        found = _krylov_svd(T, k)
        if found is not None:
            return found
    E, sigma, Ft = torch.linalg.svd(T, full_matrices=False)
    return E[:, :k], sigma[:k], Ft[:k].mT


def _krylov_svd(T: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """None where it has not converged within a subspace of a third of the dimensions, or will hardly do so."""
    most, tolerance = min(T.shape) // 3, 1e-7
    start = torch.randn(T.shape[1], min(k + 10, *T.shape), generator=torch.Generator().manual_seed(0), dtype=T.dtype)
    block = torch.linalg.qr(T @ start.to(T.device)).Q
    basis, looked_at, before = block, block.shape[1], 1.0
    while basis.shape[1] + block.shape[1] <= most:
        block = T @ (T.mT @ block)
        for _ in range(2):  # once leaves rounding errors that grow from block to block
            block = block - basis @ (basis.mT @ block)
        block = torch.linalg.qr(block).Q
        basis = torch.cat([basis, block], dim=1)
        if 2 * basis.shape[1] < 3 * looked_at:  # a look costs more than a step
            continue
        right, triangle = torch.linalg.qr(T.mT @ basis)
        inner, sigma, outer = torch.linalg.svd(triangle.mT)
        E, F = basis @ inner[:, :k], right @ outer[:k].mT
        residual = float(torch.linalg.vector_norm(T @ F - E * sigma[:k], dim=0).max() / sigma[0].clamp(min=1e-300))
        if residual <= tolerance:
            return E, sigma[:k], F
        gained = math.log(before / residual) / (basis.shape[1] - looked_at)  # digits per dimension, and they get more
        if basis.shape[1] + math.log(residual / tolerance) / max(gained, 1e-9) > 3 * most:
            return None
        looked_at, before = basis.shape[1], residual
    return None


#: Eigenvalues of ``TᵀT`` below this part of the largest one are too inexact to divide by.
_INEXACT = 1e-10


def square_svd(T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``E, σ, Fᵀ`` of a square ``T`` (d, d), σ descending; in float64 in half the time that LAPACK's SVD takes.

    ``TᵀT = F Σ² Fᵀ`` by ``eigh`` and ``E = T F Σ⁻¹``, which is orthonormal up to ``eps/σ²``; a step of Newton and
    Schulz, ``E (3 − EᵀE)/2``, squares that error. Where a singular value is below 1e-5 of the largest one, by the SVD
    itself.
    """
    if T.dtype == torch.float64:
        values, F = torch.linalg.eigh(T.mT @ T)
        if bool(values[0] > _INEXACT * values[-1]):
            values, F = values.flip(0), F.flip(1)
            sigma = values.sqrt()
            E = T @ F / sigma
            return 1.5 * E - 0.5 * (E @ (E.mT @ E)), sigma, F.mT
    E, sigma, Ft = torch.linalg.svd(T, full_matrices=False)
    return E, sigma, Ft


class PolarFactor(torch.autograd.Function):
    """``T ↦ (Q, σ)``: polar factor ``Q = E Fᵀ`` and singular values of a square ``T = E Σ Fᵀ``, differentiable.

    With ``H = Eᵀ Q̄ F`` the gradients are

    * through ``Q``: ``E [(H − Hᵀ) ∘ K] Fᵀ`` with ``K_ij = s/(s² + ε²)``, ``s = σ_i + σ_j``. The exact factor is
      ``1/s``; a *sum* of singular values, so repeated ones do no harm, and ``ε`` bounds it by ``1/(2ε)`` where
      both vanish (there ``Q`` is not unique and has no derivative).
    * through ``σ``: ``E diag(σ̄) Fᵀ``, no division at all.

    ``σ`` is clamped to 1, which only rounding can exceed for a whitened cross-covariance.
    """

    @staticmethod
    def forward(ctx: Any, T: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        E, sigma, Ft = square_svd(T)
        ctx.save_for_backward(E, sigma, Ft)
        ctx.eps = eps
        return E @ Ft, sigma.clamp(max=1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_Q: Tensor, grad_sigma: Tensor) -> tuple[Tensor, None]:
        E, sigma, Ft = ctx.saved_tensors
        H = E.mT @ grad_Q @ Ft.mT
        s = sigma[:, None] + sigma[None, :]
        inner = (H - H.mT) * (s / (s.square() + ctx.eps**2)) + torch.diag(grad_sigma)
        return E @ inner @ Ft, None


#: ``(T, ε) ↦ (Q, σ)`` of :class:`PolarFactor`.
polar_factor: Callable[[Tensor, float], tuple[Tensor, Tensor]] = PolarFactor.apply
