"""Kernels as explicit features: inner products of features are values of the kernel, so that linear CCA of them is
kernel CCA."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal.errors import DataError

KERNELS = ("linear", "rbf", "poly", "precomputed")
#: Eigenvalues of a kernel matrix below this part of the largest are rounding noise of it.
_LEAST_EIGENVALUE = 1e-12


class Kernel(NamedTuple):
    """A kernel and its parameters.

    ``linear``: ``⟨a, b⟩``. ``rbf``: ``exp(−gamma ‖a − b‖²)``. ``poly``: ``(gamma ⟨a, b⟩ + coef0)^degree``.
    ``precomputed``: the items are rows of kernel values.
    """

    name: str
    gamma: float = 1.0
    degree: int = 3
    coef0: float = 1.0

    def __call__(self, A: Tensor, B: Tensor) -> Tensor:
        """(n, d) and (m, d) float64 to the kernel values (n, m)."""
        if self.name == "rbf":
            return torch.exp(-self.gamma * squared_distances(A, B))
        inner = A @ B.mT
        return inner if self.name == "linear" else (self.gamma * inner + self.coef0).pow(self.degree)


def squared_distances(A: Tensor, B: Tensor) -> Tensor:
    """(n, m) squared distances between rows; of centred rows, so that a large mean costs no digits."""
    centre = B.mean(dim=0)
    A, B = A - centre, B - centre
    return (A.square().sum(dim=1)[:, None] - 2 * A @ B.mT + B.square().sum(dim=1)).clamp(min=0)


def median_gamma(sample: Tensor) -> float:
    """``1 / (2 m)`` with ``m`` the median squared distance between different rows of the sample (n, d), the median
    heuristic (Gretton et al. 2012); 1 for a sample without two different rows."""
    distances = squared_distances(sample, sample)
    apart = distances[torch.triu(torch.ones_like(distances, dtype=torch.bool), diagonal=1)]
    apart = apart[apart > 1e-12 * distances.mean()]
    return 1.0 / (2.0 * float(apart.median())) if len(apart) else 1.0


class FeatureMap(NamedTuple):
    """Items (n, d) to features (n, q) of one kernel.

    * With ``landmarks`` (m, d) and ``whitening`` (m, q): Nyström features ``k(x, landmarks) W`` with ``W Wᵀ`` the
      inverse of the landmarks' kernel matrix (Williams and Seeger 2001). Where all fitted items are landmarks, inner
      products of theirs are the kernel's values exactly.
    * With ``frequencies`` (d, q/2): random Fourier features ``(cos xW, sin xW) √(2/q)`` (Rahimi and Recht 2007).
    * With ``whitening`` alone: of precomputed kernel values.
    * With nothing: the items themselves.
    """

    kernel: Kernel
    landmarks: Tensor | None = None
    whitening: Tensor | None = None
    frequencies: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(n, d) to (n, q), float64."""
        if self.frequencies is not None:
            phases = x.to(self.frequencies) @ self.frequencies
            return torch.cat([phases.cos(), phases.sin()], dim=1).div_(phases.shape[1] ** 0.5)
        if self.whitening is None:
            return x.double()
        values = x.to(self.whitening)
        return (values if self.landmarks is None else self.kernel(values, self.landmarks)) @ self.whitening

    @property
    def width(self) -> int | None:
        """Values of an item; None for any."""
        if self.landmarks is not None:
            return self.landmarks.shape[1]
        if self.frequencies is not None:
            return self.frequencies.shape[0]
        return None if self.whitening is None else self.whitening.shape[0]

    @property
    def n_features(self) -> int | None:
        """How many features an item gets; None where it is its own."""
        if self.frequencies is not None:
            return 2 * self.frequencies.shape[1]
        return None if self.whitening is None else self.whitening.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """What there is, by name."""
        parts = {name: getattr(self, name) for name in ("landmarks", "whitening", "frequencies")}
        return {"gamma": torch.tensor(self.kernel.gamma, dtype=torch.float64),
                **{name: tensor for name, tensor in parts.items() if tensor is not None}}


def nystroem(kernel: Kernel, landmarks: Tensor) -> FeatureMap:
    """The features that reproduce the kernel on the landmarks (m, d)."""
    landmarks = landmarks.double()
    return FeatureMap(kernel, landmarks, inverse_root(kernel(landmarks, landmarks)))


def precomputed(K: Tensor) -> FeatureMap:
    """The features of a given kernel matrix (n, n).

    Raises:
        DataError: it is not square, not symmetric, or has negative eigenvalues.
    """
    K = K.double()
    if K.shape[0] != K.shape[1]:
        raise DataError(f"a precomputed kernel must be square to be fitted to, (items, items); got {tuple(K.shape)}")
    if not torch.allclose(K, K.mT, rtol=1e-6, atol=1e-8 * float(K.abs().max())):
        raise DataError("a precomputed kernel must be symmetric")
    return FeatureMap(Kernel("precomputed"), whitening=inverse_root(K))


def inverse_root(K: Tensor) -> Tensor:
    """(m, q) ``W`` with ``W Wᵀ`` the pseudo-inverse of a kernel matrix (m, m); directions of no weight are left out.

    Raises:
        DataError: an eigenvalue is negative beyond rounding, or a value not finite.
    """
    if not bool(torch.isfinite(K).all()):
        raise DataError("kernel values are not finite: scale the items, or choose another gamma, degree or coef0")
    if not bool(K.any()):  # a view that is constant at zero: one feature, likewise
        return torch.zeros_like(K[:, :1])
    values, vectors = torch.linalg.eigh(0.5 * (K + K.mT))
    largest = float(values[-1])
    if float(values[0]) < -1e-6 * max(largest, 0.0) or largest <= 0:
        raise DataError(f"the kernel matrix is not positive semi-definite: eigenvalues from {float(values[0]):.3g} to "
                        f"{largest:.3g}")
    kept = values > _LEAST_EIGENVALUE * largest
    scaled: Tensor = vectors[:, kept] / values[kept].sqrt()
    return scaled


def fourier(kernel: Kernel, width: int, n_features: int, generator: torch.Generator) -> FeatureMap:
    """``n_features`` random features (rounded up to an even number) of an RBF kernel for items of ``width`` values."""
    frequencies = torch.randn(width, -(-n_features // 2), generator=generator, dtype=torch.float64)
    return FeatureMap(kernel, frequencies=frequencies * (2 * kernel.gamma) ** 0.5)
