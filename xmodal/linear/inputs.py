"""Views as users have them (arrays, memory maps, HDF5 datasets, tensors), read block by block."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from xmodal.data.checks import check_finite
from xmodal.data.streamed import read_rows
from xmodal.errors import DataError
from xmodal.metrics.views import check_pairs

#: How much of two views, as float64, is worked on at a time.
BLOCK_BYTES = 1 << 24


class Rows:
    """The items of one view: (n, d) values of any real dtype, of which blocks become tensors as they are asked for.

    Args:
        values: a two-dimensional array, memory map, tensor or HDF5 dataset.
        name: what errors call it.
        least: how many items there must be.
    """

    def __init__(self, values: Any, name: str, least: int = 1) -> None:
        self.values, self.name = values, name
        if len(values.shape) != 2 or values.shape[1] == 0:
            raise DataError(f"{name} must have two dimensions, items by features; got shape {tuple(values.shape)}")
        if len(values) < least:
            raise DataError(f"{name} must have at least {least} items; got {len(values)}")
        if isinstance(values, Tensor) and values.is_complex():
            raise DataError(f"{name} must hold real numbers; got {values.dtype}")
        self.width = int(values.shape[1])

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def take(self, index: slice | np.ndarray) -> Tensor:
        """The rows ``index`` as a tensor (n, d); memory is shared where it can be.

        Raises:
            DataError: NaN or infinity among them.
        """
        if isinstance(self.values, Tensor):
            block = self.values[index if isinstance(index, slice) else torch.from_numpy(index)].detach()
        elif isinstance(self.values, h5py.Dataset) and not isinstance(index, slice):
            unique, inverse = np.unique(index, return_inverse=True)
            block = _tensor(read_rows(self.values, unique)[inverse])
        else:
            block = _tensor(np.asarray(self.values[index]))
        rows = range(len(self))[index] if isinstance(index, slice) else index
        check_finite(block, self.name, rows)
        return block

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All rows in order, ``size`` at a time."""
        for low in range(0, len(self), size):
            yield self.take(slice(low, low + size))


def _tensor(array: np.ndarray) -> Tensor:
    """Shares memory with the array where torch can."""
    if array.dtype.kind not in "fiub":
        raise DataError(f"features must be real numbers; got dtype {array.dtype}")
    known = array.dtype.isnative and array.dtype != np.longdouble and (array.dtype.kind != "u" or array.itemsize == 1)
    if not known:  # to torch
        array = array.astype(np.float64)
    if not array.flags.writeable or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def is_read_by_blocks(values: Any) -> bool:
    """Whether these are not for scikit-learn to check, which would make an array of all of them."""
    return isinstance(values, Tensor | h5py.Dataset)


def checked_table(pairs: Any, rows1: Rows, rows2: Rows) -> np.ndarray | None:
    """The pair table (m, 2); None where row i matches row i.

    Raises:
        DataError: none for views of different length, or one that doesn't fit them.
    """
    if pairs is None and len(rows1) == len(rows2):
        return None
    return check_pairs(pairs, len(rows1), len(rows2)).numpy()


def block_rows(width: int) -> int:
    """How many rows to work on at a time, for this many columns."""
    return max(512, BLOCK_BYTES // (8 * width))


def paired_blocks(rows1: Rows, rows2: Rows, pairs: np.ndarray | None) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs in blocks (n, d1), (n, d2)."""
    size = block_rows(rows1.width + rows2.width)
    if pairs is None:
        yield from zip(rows1.blocks(size), rows2.blocks(size), strict=True)
        return
    for low in range(0, len(pairs), size):
        yield rows1.take(pairs[low:low + size, 0]), rows2.take(pairs[low:low + size, 1])


def lone_blocks(rows: Rows, pairs: np.ndarray | None, column: int) -> Iterator[Tensor]:
    """The items of one view that the pair table does not name, in blocks (n, d)."""
    if pairs is None:
        return
    absent = np.ones(len(rows), dtype=bool)
    absent[pairs[:, column]] = False
    numbers = absent.nonzero()[0]
    size = block_rows(rows.width)
    for low in range(0, len(numbers), size):
        yield rows.take(numbers[low:low + size])


def flat_items(name: str, items: Tensor, width: int | None) -> Tensor:
    """(n, *shape) to (n, width), any width while none is known.

    Raises:
        DataError: it has another number of values.
    """
    flat = items.flatten(1) if items.ndim > 1 else items[:, None]
    if flat.shape[1] != (width or flat.shape[1]):
        raise DataError(f"{name} has items of {flat.shape[1]} values; expected {width}")
    return flat
