"""The published audio–score data, read from the ancestor's file."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from xmodal.data.checks import check_finite
from xmodal.data.fetch import Say
from xmodal.data.files import write_arrays
from xmodal.data.npz import load_member, npz_keys
from xmodal.errors import DataError


def from_published(path: Path, source: Path, say: Say = print) -> None:
    """Write the ancestor's ``audio_sheet_music.npz`` as a data set.

    Snippets and excerpts may lack the axis of channels. Bytes stay bytes, with a scale of 1/255.

    Raises:
        DataError: the file is missing or damaged, or its arrays have other names or shapes.
    """
    file = source / "audio_sheet_music.npz" if source.is_dir() else source
    if not file.is_file():
        raise DataError(f"no file {file}; --source takes audio_sheet_music.npz or the folder that holds it")
    names = {f"{letter}_{short}": f"{split}_view{view}" for view, letter in ((1, "X"), (2, "Y"))
             for short, split in (("tr", "train"), ("va", "valid"), ("te", "test"))}
    keys = npz_keys(file)
    missing = [key for key in names if key not in keys]
    if missing:
        raise DataError(f"{file} lacks {', '.join(missing)}; expected {', '.join(names)} (found: "
                        f"{', '.join(keys) or 'nothing'})")
    arrays = {}
    for key, name in names.items():
        array = load_member(file, key)
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[1] != 1):
            raise DataError(f"{file}: {key} must have shape (items, 1, height, width); got {array.shape}")
        arrays[name] = array.reshape(len(array), 1, *array.shape[-2:])
        _check_published(file, key, arrays, name)
        say(f"  {key} {array.shape} {array.dtype}")
    about = {"name": "audio_score", "rising2": True, "version": "published", "source": f"arrays of {file.name}",
             "licence": "see the owners of the data set"}
    write_arrays(path, arrays, about, scale=1 / 255, compress=True)


def _check_published(file: Path, key: str, arrays: Mapping[str, np.ndarray], name: str) -> None:
    """The array ``name``, which the file calls ``key``, against those before it."""
    array, split, view = arrays[name], *name.split("_")
    if array.dtype.kind not in "iufb" or array.size == 0:
        raise DataError(f"{file}: {key} must hold numbers; got {array.dtype} of shape {array.shape}")
    if array.dtype != arrays.get(f"train_{view}", array).dtype:
        raise DataError(f"{file}: {key} must hold {arrays[f'train_{view}'].dtype}, as in training; got {array.dtype}")
    if array.dtype.kind == "f":
        native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        check_finite(torch.from_numpy(native), f"{file}: {key}")
    partner = arrays.get(f"{split}_view1", array)
    if len(partner) != len(array):
        raise DataError(f"{file}: {key} must have {len(partner):,} items, one for each snippet; got {len(array):,}")
    expected = arrays.get(f"train_{view}", array).shape[1:]
    if array.shape[1:] != expected:
        raise DataError(f"{file}: {key} must have items of shape {expected}, as in training; got {array.shape[1:]}")
