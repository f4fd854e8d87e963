"""``mnist_label``: MNIST pictures and the ten digits, 784 grey values + 10."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.data.fetch import Say
from xmodal.data.files import write_arrays
from xmodal.data.mnist import N_VALID, read_mnist

N_DIGITS = 10


def prepare(path: Path, *, say: Say = print, source: Path | None = None, url: str | None = None,
            checksums: Mapping[str, str] | None = None, n_valid: int = N_VALID) -> None:
    """Write MNIST pictures and their digits to the HDF5 file ``path``.

    View 1 is (n, 784) grey values, stored as bytes with scale 1/255. View 2 of every split is the identity (10, 10)
    float32: item k stands for the digit k, and row i of the pair table is (i, label of image i). Labels are kept. The
    other arguments, the splits and the errors are those of :func:`xmodal.data.mnist.read_mnist`.
    """
    splits, facts = read_mnist(path.parent / "downloads" / "mnist_label", say=say, source=source, url=url,
                               checksums=checksums, n_valid=n_valid)
    arrays: dict[str, Any] = {}
    for split, (images, labels) in splits.items():
        arrays[f"{split}_view1"] = images.reshape(len(images), -1)
        arrays[f"{split}_view2"] = np.eye(N_DIGITS, dtype=np.float32)
        arrays[f"{split}_pairs"] = np.stack([np.arange(len(labels)), labels], axis=1)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_caption2"] = [str(digit) for digit in range(N_DIGITS)]
    write_arrays(path, arrays, {"name": "mnist_label", "version": "1",
                                "picture1": splits["train"].images.shape[1:], **facts}, scale=1 / 255)
