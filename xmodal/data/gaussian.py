"""A linear-Gaussian pair of views whose population canonical correlations are known exactly."""
from __future__ import annotations

import numpy as np
from scipy.fft import dct

_ROWS = 1000
N_SHARED, STRONGEST, NOISE = 128, 0.7, 0.1


def population_correlations(n_shared: int = N_SHARED, strongest: float = STRONGEST) -> np.ndarray:
    """The canonical correlations of :func:`linear_gaussian`, (n_shared,) float64, falling in equal steps.

    rho_i = strongest * (1 - i / n_shared) for i = 0, 1, ...; all further ones are 0.
    """
    return strongest * (1.0 - np.arange(n_shared) / n_shared)


def linear_gaussian(n: int, width1: int, width2: int, *, n_shared: int = N_SHARED, strongest: float = STRONGEST,
                    noise: float = NOISE, seed: int = 23) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``n`` pairs of linear-Gaussian views.

    With standard normal z, e, f in R^k (k = n_shared) and rho as in :func:`population_correlations`, the shared
    coordinates of a pair are

        a_i = sqrt(rho_i) z_i + sqrt(1 - rho_i) e_i,    b_i = sqrt(rho_i) z_i + sqrt(1 - rho_i) f_i,

    unit normals with corr(a_i, b_i) = rho_i and corr(a_i, b_j) = 0. The other coordinates of a view are independent
    normals of standard deviation ``noise``. Each view is then x = O [a; noise], with an orthogonal O of its own:
    coordinates permuted, signs drawn at random, orthonormal DCT-II. Both maps are invertible, so that the population
    canonical correlations of (x, y) are exactly rho, and O costs width * log(width) a row.

    Returns:
        (n, width1) and (n, width2) float32; the same for the same arguments.
    """
    rho = population_correlations(n_shared, strongest)
    if n_shared > min(width1, width2):
        raise ValueError(f"{n_shared} shared coordinates don't fit into widths {width1} and {width2}")
    shared_seed, *view_seeds = np.random.SeedSequence(seed).spawn(3)
    shared = np.random.default_rng(shared_seed).standard_normal((n, n_shared), dtype=np.float32)
    shared *= np.sqrt(rho).astype(np.float32)
    own = np.sqrt(1.0 - rho).astype(np.float32)
    view1, view2 = (_view(shared, own, width, noise, np.random.default_rng(view_seed))
                    for width, view_seed in zip((width1, width2), view_seeds, strict=True))
    return view1, view2


def _view(shared: np.ndarray, own: np.ndarray, width: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """One view from the shared part (n, k) and the scales (k,) of its own part; in blocks, to spare memory."""
    n, k = shared.shape
    place = rng.permutation(width)
    scale = np.full(width, noise, dtype=np.float32)
    scale[:k] = own
    scale *= rng.choice(np.array([-1, 1], dtype=np.float32), width)
    sign = np.sign(scale[:k])
    view = np.empty((n, width), dtype=np.float32)
    for start in range(0, n, _ROWS):
        block = rng.standard_normal((min(_ROWS, n - start), width), dtype=np.float32)
        block *= scale
        block[:, :k] += sign * shared[start:start + _ROWS]
        view[start:start + _ROWS] = dct(block[:, place], type=2, norm="ortho", axis=1, overwrite_x=True)
    return view
