"""``mnist_halves`` and ``fashion_halves``: left and right halves of MNIST or Fashion-MNIST, 392 + 392 grey values."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from xmodal.data.fetch import Say
from xmodal.data.files import write_arrays
from xmodal.data.mnist import N_VALID, Collection, digits, read_mnist


def prepare(path: Path, *, say: Say = print, source: Path | None = None, url: str | None = None,
            checksums: Mapping[str, str] | None = None, n_valid: int = N_VALID,
            collection: Callable[[], Collection] = digits) -> None:
    """Write halves of a collection's pictures to the HDF5 file ``path``.

    Views are (n, 392) grey values, stored as bytes with scale 1/255. Labels are kept. The other arguments, the splits
    and the errors are those of :func:`xmodal.data.mnist.read_mnist`.
    """
    name = f"{collection().name}_halves"
    splits, facts = read_mnist(path.parent / "downloads" / name, say=say, source=source, url=url, checksums=checksums,
                               n_valid=n_valid, collection=collection)
    _, height, width = splits["train"].images.shape
    middle = width // 2
    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in splits.items():
        arrays[f"{split}_view1"] = images[:, :, :middle].reshape(len(images), -1)
        arrays[f"{split}_view2"] = images[:, :, middle:].reshape(len(images), -1)
        arrays[f"{split}_labels"] = labels
    write_arrays(path, arrays, {"name": name, "version": "1", "picture1": (height, middle),
                                "picture2": (height, width - middle), **facts}, scale=1 / 255)
