"""SHA-256 over arrays, the same for every way in which they are stored."""
from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


class ArrayHash:
    """SHA-256 over arrays in the order in which they are added.

    Each array counts with its key, dtype, scale, shape and values as stored (rows in order, little-endian), so that
    the digest doesn't depend on the file format, on chunks, or on whether the array is in memory. Tables of integers
    count as int64. The same values stored in another dtype have another digest.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, key: str, array: Any, scale: float = 1.0) -> None:
        """Add an ndarray or an HDF5 dataset under ``key``, such as ``train_view1``."""
        table = key.endswith(("_pairs", "_labels"))
        dtype = np.dtype(np.int64 if table else array.dtype).newbyteorder("<")
        shape = ",".join(str(int(n)) for n in array.shape)
        self._sha.update(f"{key} {dtype.str} {float(scale)!r} {shape}\n".encode())
        row_bytes = max(1, dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
        step = max(1, (1 << 25) // row_bytes)
        for start in range(0, array.shape[0], step):
            block = np.ascontiguousarray(array[start:start + step], dtype=dtype)
            if block.size:
                self._sha.update(block.data)

    def hexdigest(self) -> str:
        """The digest so far, 64 hexadecimal digits."""
        return self._sha.hexdigest()
