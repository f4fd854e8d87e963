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
    if not positions:
        return
    numbers = positions if rows is None else [int(rows[i]) for i in positions]
    shown = ", ".join(str(number) for number in numbers[:5]) + (", ..." if len(numbers) > 5 else "")
    count = "1 row" if len(numbers) == 1 else f"{len(numbers):,} rows"
    raise DataError(f"{where} has NaN or infinite values in {count} of {len(values):,} (row {shown}): "
                    "clean these features or leave the rows out")
