"""Embeddings of both views in one plane, to be looked at."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.covariance import ViewCovariance
from xmodal.metrics.views import check_views, chunk_rows, make_view

#: Neighbours that t-SNE keeps near, and items below which it isn't asked.
PERPLEXITY = 30.0
FEWEST = 20
ITERATIONS = 500


class Plane(NamedTuple):
    """Coordinates (n1, 2) and (n2, 2) float64 of the two views, and the share of the variance along either axis."""

    view1: np.ndarray
    view2: np.ndarray
    shares: tuple[float, float]


def principal_plane(z1: Any, z2: Any) -> Plane:
    """The first two principal components of both views' unit vectors together, each of which counts the same.

    Length is left out since retrieval by cosine knows none. The entry of largest magnitude of each axis is positive.
    In O(d²) memory beyond the embeddings.

    Args:
        z1: (n1, d). z2: (n2, d).

    Raises:
        DataError: shapes that don't fit. NumericalError: NaN or infinite values.
    """
    units = [make_view(m, f"view {view}").unit.cpu() for view, m in enumerate(check_views(z1, z2), start=1)]
    covariance = ViewCovariance(units[0].shape[1])
    for unit in units:
        for part in unit.split(chunk_rows(unit)):
            covariance.update(part)
    values, vectors = torch.linalg.eigh(covariance.S)
    values, axes = values.flip(0)[:2].clamp(min=0.0), vectors.flip(1)[:, :2]
    if axes.shape[1] < 2:                        # one dimension: all items lie on a line
        values, axes = (torch.nn.functional.pad(t, (0, 1)) for t in (values, axes))
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    total = float(covariance.S.diagonal().sum()) or 1.0
    one, two = (_project(unit, covariance.mean, axes) for unit in units)
    return Plane(one, two, (float(values[0]) / total, float(values[1]) / total))


def _project(unit: Tensor, mean: Tensor, axes: Tensor) -> np.ndarray:
    return torch.cat([(part.double() - mean) @ axes for part in unit.split(chunk_rows(unit))]).numpy()


def neighbour_map(z: Any, seed: int = 0) -> np.ndarray | None:
    """Places in a plane that keep near what is near by cosine: t-SNE (van der Maaten and Hinton 2008), (n, 2) float64.

    On one core, so that the same embeddings give the same map: about 2 s for 1,200 items.

    Args:
        z: (n, d), a sample of a few thousand at most.
        seed: of scikit-learn's t-SNE.

    Returns:
        None where there is nothing to map: fewer than 20 items, or all the same.
    """
    from sklearn.manifold import TSNE  # a second, which others should not pay
    from threadpoolctl import threadpool_limits

    unit = make_view(z, "embeddings").unit.cpu().numpy()
    if len(unit) < FEWEST or unit.shape[1] < 2 or float(unit.std(axis=0).max()) < 1e-6:
        return None
    with threadpool_limits(1):
        tsne = TSNE(init="pca", perplexity=min(PERPLEXITY, (len(unit) - 1) / 3), max_iter=ITERATIONS,
                    random_state=seed, n_jobs=1)
        return np.asarray(tsne.fit_transform(unit), dtype=np.float64)
