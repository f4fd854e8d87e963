"""What the metrics read: two checked arrays of embeddings, a checked pair table, exact cosines of chosen rows."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.errors import DataError, NumericalError, one_line

CHUNK_VALUES = 1 << 22      # values held at a time where a float64 copy of a whole view is not wanted
TINY_NORM = 1e-300          # shorter vectors count as zero vectors, whose cosine with anything is 0
#: Cut-offs of hit rates.
KS = (1, 5, 10, 25)


class View(NamedTuple):
    """Embeddings of one view with what cosines need of them.

    ``raw``: (n, d) as the caller gave it · ``unit``: (n, d) float32 rows of length one (or zero) ·
    ``inverse_norm``: (n, 1) float64, 0 for zero vectors.
    """

    raw: Tensor
    unit: Tensor
    inverse_norm: Tensor

    def exact(self, rows: Tensor | slice) -> Tensor:
        """Unit rows in float64, (k, d), good to about 1e-16 whatever the width of the input."""
        return self.raw[rows].to(torch.float64) * self.inverse_norm[rows]


def as_matrix(z: Any, name: str, first_row: int = 0) -> Tensor:
    """``z`` (tensor or array, any float width, any device) as a detached, finite (n, d) tensor, of which errors number
    the rows from ``first_row``.

    Raises:
        DataError: not two-dimensional, or empty.
        NumericalError: NaN or infinite values; says which view and which rows.
    """
    matrix = torch.as_tensor(z).detach()
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(f"{name}: expected embeddings of shape (n, d) with n and d at least 1, got "
                        f"{tuple(matrix.shape)}")
    if matrix.is_complex():
        raise DataError(f"{name}: expected real embeddings, got {matrix.dtype}")
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.float32)
    if matrix.device.type == "mps":          # no float64 there
        matrix = matrix.cpu()
    bad = torch.cat([~torch.isfinite(part).all(dim=1) for part in matrix.split(chunk_rows(matrix))]).nonzero().flatten()
    if len(bad):
        first = ", ".join(str(first_row + row) for row in bad[:5].tolist()) + (", …" if len(bad) > 5 else "")
        raise NumericalError(f"{name}: {len(bad)} of {len(matrix)} embeddings have NaN or infinite values (rows "
                             f"{first}); look at the features of these rows and at the weights that embedded them")
    return matrix


def chunk_rows(z: Tensor) -> int:
    """How many rows of ``z`` to take at a time so that a float64 copy of them stays small."""
    return max(1, CHUNK_VALUES // z.shape[1])


def make_view(z: Any, name: str) -> View:
    """Checks ``z`` and normalises its rows: largest absolute value first, then length, both in float64, so that
    neither 1e-30 nor 1e30 under- or overflows."""
    raw = as_matrix(z, name)
    unit = torch.empty(raw.shape, dtype=torch.float32, device=raw.device)
    inverse = torch.empty(len(raw), 1, dtype=torch.float64, device=raw.device)
    step = chunk_rows(raw)
    for start in range(0, len(raw), step):
        rows = slice(start, start + step)
        part = raw[rows].to(torch.float64)
        peak = part.abs().amax(dim=1, keepdim=True)
        norm = peak * (part / peak.clamp_min(TINY_NORM)).norm(dim=1, keepdim=True)
        inverse[rows] = torch.where(norm > TINY_NORM, 1.0 / norm, 0.0)
        unit[rows] = (part * inverse[rows]).to(torch.float32)
    return View(raw, unit, inverse)


def check_views(z1: Any, z2: Any) -> tuple[Tensor, Tensor]:
    """Both views as finite matrices on one device.

    Raises:
        DataError: wrong shapes, or different dimensions.
        NumericalError: NaN or infinite values.
    """
    m1, m2 = as_matrix(z1, "view 1"), as_matrix(z2, "view 2")
    if m1.shape[1] != m2.shape[1]:
        raise DataError(f"the views are embedded in spaces of different dimension: {m1.shape[1]} and {m2.shape[1]}; "
                        "a cosine needs one shared space")
    return m1, m2.to(m1.device)


def check_pairs(pairs: Any, n1: int, n2: int, device: torch.device | str = "cpu") -> Tensor:
    """The pair table as sorted, distinct rows, (m, 2) int64; the identity when ``pairs`` is None.

    Raises:
        DataError: no table for views of unequal length; wrong shape or type; indices out of range; no row.
    """
    if pairs is None:
        if n1 != n2:
            raise DataError(f"view 1 has {n1} items and view 2 has {n2}: without a pair table they must be equal; "
                            "pass pairs, an int64 array (m, 2)")
        return torch.arange(n1, device=device).unsqueeze(1).expand(n1, 2)
    table = torch.as_tensor(pairs)
    if table.ndim != 2 or table.shape[1] != 2 or len(table) == 0:
        raise DataError(f"pairs: expected an int64 array (m, 2) with at least one row, got shape {tuple(table.shape)}")
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise DataError(f"pairs: expected integers, got {table.dtype}")
    table = table.to(device=device, dtype=torch.int64)
    for column, n in ((0, n1), (1, n2)):
        low, high = int(table[:, column].min()), int(table[:, column].max())
        if low < 0 or high >= n:
            raise DataError(f"pairs: column {column} holds {low} to {high}, "
                            f"but view {column + 1} has items 0 to {n - 1}")
    distinct: Tensor = table.unique(dim=0)
    return distinct


def check_cutoffs(ks: Sequence[float], name: str = "ks") -> None:
    """Raises unless all are whole numbers from 1.

    Raises:
        DataError: some are not.
    """
    if not all(k >= 1 and float(k).is_integer() for k in ks):
        raise DataError(f"{name}: expected whole numbers from 1, got {tuple(ks)}")


def class_codes(*given: tuple[str, Any, int | None]) -> list[np.ndarray]:
    """Classes, or other names, as int64 codes from 0, in ascending order of what they stand for.

    Args:
        given: a name to be said in errors, the values (n,), numbers or texts, and n, or None for any number. Equal
            values of all that are given have one code.

    Raises:
        DataError: another shape, numbers beside texts, or what can't be sorted.
    """
    arrays = []
    for name, values, n in given:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else \
            values if isinstance(values, np.ndarray) else np.array([*values])
        if array.ndim != 1 or n not in (None, len(array)):
            raise DataError(f"{name}: expected one per item, shape ({'n' if n is None else n},), got {array.shape}")
        arrays.append(array)
    if len({array.dtype.kind in "SU" for array in arrays if array.dtype.kind != "O"}) > 1:
        raise DataError(f"{' and '.join(name for name, *_ in given)}: expected numbers or texts, got some of each")
    try:
        codes = np.unique(np.concatenate(arrays), return_inverse=True)[1].reshape(-1)
    except TypeError as error:
        raise DataError(f"{' and '.join(name for name, *_ in given)}: expected numbers or texts "
                        f"({one_line(error)})") from error
    return np.split(codes, np.cumsum([len(array) for array in arrays])[:-1])


def exact_scores(view1: View, view2: View, pairs: Tensor) -> Tensor:
    """Cosines of the pairs, (m,) float64; 0 where one side is a zero vector."""
    parts = [(view1.exact(part[:, 0]) * view2.exact(part[:, 1])).sum(dim=1)
             for part in pairs.split(chunk_rows(view1.raw))]
    return torch.cat(parts)
