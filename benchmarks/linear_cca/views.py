"""The views that are fitted, and their canonical correlations in closed form."""
from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

ROWS = 5000  #: read at a time


def gaussian_views(n: int, d1: int, d2: int, strong: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian views (n, d1), (n, d2) whose population canonical correlations are 0.95, 0.90, ... and then 0.

    ``strong`` of them, falling by 5 % each, come from shared factors ``z`` as ``a z qᵀ`` in isotropic noise, where
    ``a² = ρ/(1−ρ)`` and the ``q`` are orthonormal. Columns then get scales from 1 to 10 and a mean of 3, which changes
    no correlation.
    """
    generator = np.random.default_rng(0)
    rho = 0.95 * 0.95 ** np.arange(strong)
    factors = (generator.standard_normal((n, strong)) * np.sqrt(rho / (1 - rho))).astype(dtype)
    views = []
    for d in (d1, d2):
        q = np.linalg.qr(generator.standard_normal((d, strong)))[0].astype(dtype)
        x = generator.standard_normal((n, d), dtype=np.dtype(dtype).type)
        x += factors @ q.T
        x *= (10 ** generator.random(d)).astype(dtype)
        x += 3
        views.append(x)
    return views[0], views[1]


def closed_form(x: np.ndarray, y: np.ndarray, k: int, ridges: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(k,) correlations of the fitted pairs' canonical coordinates, by float64 QR or SVD of the data (Björck and Golub
    1973); no covariance is made.

    Args:
        ridges: added to the covariances' diagonals.
    """
    A, B = (_whitened(view, ridge) for view, ridge in zip((x, y), ridges, strict=True))
    E, _, Ft = np.linalg.svd(A.T @ B, full_matrices=False)
    return coordinate_correlations(A, B, E[:, :k], Ft[:k].T)


def _whitened(view: np.ndarray, ridge: float) -> np.ndarray:
    """Rows (n, q) whose products are the identity; with a ridge, as far as it lets them."""
    centred = view.astype(np.float64)
    centred -= centred.mean(axis=0)
    if ridge == 0:
        return np.linalg.qr(centred)[0]
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left * (singular / np.sqrt(singular**2 + (len(view) - 1) * ridge))


def coordinate_correlations(x, y, W1: np.ndarray, W2: np.ndarray) -> np.ndarray:
    """(k,) Pearson correlations, float64, of the columns of ``x W1`` and ``y W2``; arrays or HDF5 datasets."""
    z1, z2 = (np.concatenate([np.asarray(view[low:low + ROWS], np.float64) @ np.asarray(W, np.float64)
                              for low in range(0, len(view), ROWS)]) for view, W in ((x, W1), (y, W2)))
    z1, z2 = z1 - z1.mean(axis=0), z2 - z2.mean(axis=0)
    return (z1 * z2).sum(axis=0) / np.sqrt((z1 * z1).sum(axis=0) * (z2 * z2).sum(axis=0))


def write(file: Path, x: np.ndarray, y: np.ndarray) -> None:
    with h5py.File(file, "w") as stored:
        stored["x"], stored["y"] = x, y
