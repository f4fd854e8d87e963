"""A view that stays on disk: rows of an HDF5 dataset, read when they are asked for."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from xmodal.data.checks import check_finite, check_range
from xmodal.errors import DataError, XmodalError, one_line

Gather = Callable[[Tensor], Tensor]
#: What h5py raises on damaged files: of each kind there is a byte that leads to it.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, SystemError)
_BRIDGED_BYTES = 1 << 16  # reading this much that isn't needed costs less than one more read


def to_float32(raw: np.ndarray, scale: float) -> Tensor:
    """Stored values (any real dtype) to the float32 tensor that the toolkit works on: ``stored * scale``."""
    with np.errstate(over="ignore"):  # becomes infinite, which check_range reports
        native = np.ascontiguousarray(raw, dtype=np.float32)
    values = torch.from_numpy(native if native.flags.writeable else native.copy())
    if scale == 1.0:
        return values
    return values * scale if np.shares_memory(native, raw) else values.mul_(scale)


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; what goes wrong with the file is a :class:`DataError` in one line.

    Without HDF5's own file locks: prepared files are only ever replaced whole, and locks fail on network and
    read-only file systems.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except XmodalError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{path} can't be read as HDF5, it is damaged or cut short; prepare it again "
                        f"({one_line(error)})") from error
    except MemoryError as error:
        raise DataError(f"{path} doesn't fit into memory ({one_line(error)})") from error


@dataclass(frozen=True)
class StreamedView:
    """The items of one view, on disk.

    Attributes:
        path: the HDF5 file.
        key: the dataset in it, such as ``train/view1``.
        shape: (n, *item_shape), as :attr:`torch.Tensor.shape` of the view in memory.
        dtype: the NumPy name of the stored dtype; what is read is float32 whatever that is.
        scale: value = stored * scale.
        stamp: size and modification time of the file when it was first opened; a file that has changed since is
            refused, because its rows may be others.
        chunk_rows: how many rows HDF5 reads at least, 1 if they are stored contiguously.
        rows: which rows of the dataset these items are, in order; None means all.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    stamp: tuple[int, int]
    chunk_rows: int = 1
    rows: np.ndarray | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, path: Path, dataset: h5py.Dataset, scale: float) -> StreamedView:
        """The view of an open ``dataset`` of the file ``path``."""
        path = path.absolute()  # the working directory may change before rows are read
        return cls(path, dataset.name.strip("/"), tuple(int(n) for n in dataset.shape), str(dataset.dtype), scale,
                   _stamp(path), 1 if dataset.chunks is None else int(dataset.chunks[0]))

    def __len__(self) -> int:
        return self.shape[0]

    def select(self, rows: Tensor) -> StreamedView:
        """The view of the items ``rows`` (int64), in that order; nothing is read."""
        picked = rows.numpy() if self.rows is None else self.rows[rows.numpy()]
        return dataclasses.replace(self, shape=(len(picked), *self.shape[1:]), rows=picked)

    @contextmanager
    def reader(self) -> Iterator[Gather]:
        """Open the file and yield a function: item indices (b,) int64 -> values (b, *item_shape) float32.

        Each call of ``reader`` opens the file anew, so that threads and processes share nothing.

        Raises:
            DataError: the file is gone, damaged or changed, or the rows hold NaN or infinity.
        """
        with open_h5(self.path) as file:
            if _stamp(self.path) != self.stamp:
                raise DataError(f"{self.path} changed while it was in use; load the data again")
            dataset = file[self.key]
            yield lambda indices: self._gather(dataset, indices)

    def gather(self, indices: Tensor) -> Tensor:
        """Items ``indices`` (b,) int64 as (b, *item_shape) float32; opens and closes the file."""
        with self.reader() as read:
            return read(indices)

    def _gather(self, dataset: h5py.Dataset, indices: Tensor) -> Tensor:
        wanted = indices.numpy() if self.rows is None else self.rows[indices.numpy()]
        unique, inverse = np.unique(wanted, return_inverse=True)
        raw = read_rows(dataset, unique)
        if raw.dtype.kind == "f" or self.scale != 1.0:
            where, values = self.key.replace("/", " "), to_float32(raw, self.scale)
            check_range(raw, values, where)
            check_finite(values, where, unique)
        if len(unique) < len(wanted) or not bool((np.diff(wanted) > 0).all()):
            raw = raw[inverse.reshape(-1)]  # before the conversion: stored rows are often smaller
        return to_float32(raw, self.scale)


def read_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Rows of ``dataset``, given in ascending order: one read for each run of rows that lie close together."""
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64)))
    out = np.empty((len(rows), *dataset.shape[1:]), dtype=dataset.dtype)
    ends = np.flatnonzero(np.diff(rows) > 1 + _BRIDGED_BYTES // row_bytes) + 1
    starts = [0, *ends.tolist()]
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        if start == end:
            continue
        first, last = int(rows[start]), int(rows[end - 1])
        block = dataset[first:last + 1]
        out[start:end] = block if last - first == end - start - 1 else block[rows[start:end] - first]
    return out


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
