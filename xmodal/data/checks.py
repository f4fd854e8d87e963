"""The checks on feature values that every way into the toolkit shares."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xmodal.errors import DataError

_BLOCK_VALUES = 1 << 22


def check_finite(values: Tensor, where: str, rows: Sequence[int] | np.ndarray | None = None) -> None:
    """Raise if ``values`` (n, ...) hold NaN or infinity.

    The sum of all values is finite only if all are, so that good data cost one pass and no memory; only a sum that
    isn't finite (bad values, or good ones that overflow) is looked into row by row.

    Args:
        values: any float tensor with rows first.
        where: what the error calls it, such as ``train view1``.
        rows: the row numbers to report, when ``values`` are not rows 0, 1, 2, ...

    Raises:
        DataError: names ``where``, the first offending rows and how many there are.
    """
    if not values.is_floating_point() or values.numel() == 0 or bool(torch.isfinite(values.sum())):
        return
    per_row = max(1, values[0].numel())
    step = max(1, _BLOCK_VALUES // per_row)
    bad = torch.cat([(~torch.isfinite(block.reshape(len(block), -1))).any(dim=1) for block in values.split(step)])
    positions = bad.nonzero().flatten().tolist()
    if positions:
        numbers = positions if rows is None else [int(rows[i]) for i in positions]
        raise DataError(f"{where} has NaN or infinite values in {_in_words(numbers, len(values))}: clean these "
                        "features or leave the rows out")


def check_range(given: np.ndarray | Tensor, converted: Tensor, where: str) -> None:
    """Raise if finite numbers became infinite when they were converted to float32; good ones cost one pass.

    Args:
        given: of any real dtype, rows first.
        converted: the same as float32.
        where: what the error calls them.

    Raises:
        DataError: says how large they are, and in which rows.
    """
    if given.dtype.itemsize <= 4 or converted.ndim == 0 or bool(torch.isfinite(converted.sum())):
        return
    values = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    beyond = np.isfinite(values) & ~np.isfinite(converted.cpu().numpy())
    rows = np.flatnonzero(beyond.reshape(len(values), -1).any(axis=1)).tolist()
    if rows:
        largest = np.abs(values, where=beyond, out=np.zeros_like(values)).max()
        raise DataError(f"{where} has values up to {largest:.3g} in {_in_words(rows, len(values))}, which float32 "
                        f"can't hold (at most {torch.finfo(torch.float32).max:.3g}): scale these features")


def _in_words(rows: list[int], n: int) -> str:
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"{'1 row' if len(rows) == 1 else f'{len(rows):,} rows'} of {n:,} (row {shown})"
