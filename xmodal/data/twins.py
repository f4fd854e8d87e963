"""``mnist_twins`` and ``fashion_twins``: two pictures of the same class, 784 + 784 grey values."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from xmodal.data.fetch import Say
from xmodal.data.files import write_arrays
from xmodal.data.mnist import N_VALID, Collection, digits, read_mnist

TWIN_SEED = 23


def prepare(path: Path, *, say: Say = print, source: Path | None = None, url: str | None = None,
            checksums: Mapping[str, str] | None = None, n_valid: int = N_VALID, seed: int = TWIN_SEED,
            collection: Callable[[], Collection] = digits) -> None:
    """Write pictures and their twins to the HDF5 file ``path``.

    View 1 is (n, 784) grey values, stored as bytes with scale 1/255, and view 2 another picture of the same class and
    split, see :func:`twins_of`. A picture without a twin is left out. Labels are kept. ``seed`` draws the twins. The
    other arguments, the splits and the errors are those of :func:`xmodal.data.mnist.read_mnist`.
    """
    name = f"{collection().name}_twins"
    splits, facts = read_mnist(path.parent / "downloads" / name, say=say, source=source, url=url, checksums=checksums,
                               n_valid=n_valid, collection=collection)
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in splits.items():
        rows, twins = twins_of(labels, rng)
        arrays[f"{split}_view1"] = images[rows].reshape(len(rows), -1)
        arrays[f"{split}_view2"] = images[twins].reshape(len(rows), -1)
        arrays[f"{split}_labels"] = labels[rows]
    picture = splits["train"].images.shape[1:]
    note = f"{facts['note']}; twins drawn with seed {seed}"
    write_arrays(path, arrays, {"name": name, "version": "1", "picture1": picture, "picture2": picture, **facts,
                                "note": note, "split_seed": seed}, scale=1 / 255)


def twins_of(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows (k,) in ascending order and another row of the same class for each, (k,): every row is a twin once.

    A class's rows are shuffled, and each has the next one for a twin, the last one the first. Rows that are alone in
    their class are left out.
    """
    twins = np.full(len(labels), -1)
    for label in np.unique(labels):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        if len(shuffled) > 1:
            twins[shuffled] = np.roll(shuffled, -1)
    rows = np.flatnonzero(twins >= 0)
    return rows, twins[rows]
