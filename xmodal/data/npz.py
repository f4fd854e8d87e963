"""Data sets in NPZ files, and from arrays that are in memory. Nothing is ever unpickled."""
from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import replacing
from xmodal.data.files import ATTRIBUTES, KEYS, VIEWS, further_splits, typed_attributes
from xmodal.data.pairs import SPLITS, PairedData, PairSplit, named_arrays
from xmodal.data.splitting import item_hashes, split_table
from xmodal.errors import DataError, did_you_mean, one_line


def write_npz(data: PairedData, path: str | Path) -> None:
    """Write ``data`` to one NPZ file with keys ``train_view1``, ``train_view2``, ..., all at once or not at all.

    The key ``meta`` holds name, source and so on as JSON text.

    Raises:
        DataError: the data is streamed (an NPZ file is always read into memory; use :func:`write_h5`).
        OSError: the disk is full or the folder can't be written to; ``path`` is then what it was.
    """
    if any(split.is_streamed for split in data.splits()):
        raise DataError(f"{data.name} is streamed from disk; write it as HDF5 (.h5), which can be streamed")
    arrays = {f"{split}_{key}": value.detach().cpu().numpy() if isinstance(value, Tensor) else np.array(value, str)
              for split, key, value in named_arrays(data)}
    meta = json.dumps({key: getattr(data, key) for key in ATTRIBUTES})
    with replacing(Path(path)) as beside, beside.open("wb") as file:
        np.savez(file, **{"meta": np.array(meta), **arrays})  # type: ignore[arg-type]


def read_npz(path: str | Path) -> PairedData:
    """Read a data set from an NPZ file.

    Keys are ``train_view1``, ``train_view2``, ``valid_view1``, ..., ``test_view2`` and optionally ``train_labels``,
    ``train_pairs``, ``train_ids``, ``train_caption1``, ``train_caption2``, ...; or just ``view1``, ``view2`` (and
    ``labels``, ``pairs``, ...), which are split 80/10/10 with a fixed seed.

    Raises:
        DataError: the file is missing, damaged, holds objects (they would have to be unpickled) or bad values.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file {path}")
    arrays = {key: load_member(path, key) for key in npz_keys(path)}
    meta: dict[str, Any] = {}
    if "meta" in arrays:
        meta = _read_meta(arrays.pop("meta"), path)
    return data_from_arrays(arrays, path.stem, str(path), meta)


def npz_keys(path: Path) -> list[str]:
    """The names of the arrays in an NPZ file."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an NPZ file (a zip archive of arrays), or it is damaged or was cut short")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # NumPy leaves a damaged one open
            return list(file.files)
    except Exception as error:  # NumPy and zipfile raise a dozen kinds on damaged files
        raise DataError(f"{path} is not a readable NPZ file; it is damaged or was cut short "
                        f"({one_line(error)})") from error


def load_member(path: Path, key: str) -> np.ndarray:
    """One array of an NPZ file; zip checks its checksum.

    Raises:
        DataError: the array is damaged or holds objects.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            value = file[key]
    except Exception as error:  # likewise
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: array {key} holds Python objects, which are never unpickled; store numbers or "
                            "text") from error
        raise DataError(f"{path}: array {key} is damaged ({one_line(error)})") from error
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path}: {key} is not an array")
    return value


def _read_meta(array: np.ndarray, path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(str(array))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: meta must be JSON text ({one_line(error)})") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path}: meta must be a JSON object")
    return typed_attributes({key: value for key, value in meta.items() if key in ATTRIBUTES}, path)


def data_from_arrays(arrays: Mapping[str, Any], name: str, where: str,
                     meta: Mapping[str, Any] | None = None) -> PairedData:
    """A data set from arrays under the NPZ keys (see :func:`read_npz`), with its fingerprint.

    Where the arrays are split already, the note says how many pairs of the other splits are also training pairs.

    Args:
        arrays: anything that NumPy takes, or tensors.
        name: of the data set, if ``meta`` doesn't say.
        where: what errors call the collection, such as the file.
        meta: name, version, source, licence, split_seed, synthetic, note, picture1, picture2, rising1, rising2.

    Raises:
        DataError: keys are missing or unknown, or values are bad.
    """
    names = [*SPLITS, *further_splits(arrays)]
    known = {"meta", *KEYS, *(f"{split}_{key}" for split in names for key in KEYS)}
    if arrays and not known & arrays.keys():
        _require(arrays, VIEWS, where)
    for key in arrays:
        if key not in known:
            raise DataError(f"{where} has an unknown array {key!r}; {did_you_mean(str(key), known - {'meta'})}")
    values = dict(meta or {})
    name = values.pop("name", "") or name
    if any(key in arrays for key in KEYS):
        if any(key.startswith(tuple(f"{split}_" for split in SPLITS)) for key in arrays):
            raise DataError(f"{where} mixes whole arrays (view1) with splits (train_view1); give one or the other")
        _require(arrays, VIEWS, where)
        data = split_table(PairSplit.of(name, **{key: arrays[key] for key in KEYS if key in arrays}), name)
        values["split_seed"] = data.split_seed
        values["note"] = "; ".join(note for note in (values.get("note"), data.note) if note)
        splits = data.splits()
    else:
        _require(arrays, [f"{split}_{view}" for split in names for view in VIEWS], where)
        splits = tuple(
            PairSplit.of(split, **{key: arrays[f"{split}_{key}"] for key in KEYS if f"{split}_{key}" in arrays})
            for split in names)
        note, repeats = values.get("note") or "", _repeats(*splits)
        if repeats not in note:  # as a file says already that was written of such data
            values["note"] = "; ".join(filter(None, (note, repeats)))
    train, valid, test, *further = splits
    return PairedData(name, train, valid, test, further=tuple(further), **values).with_fingerprint()


def _repeats(train: PairSplit, *others: PairSplit) -> str:
    """How many pairs of other splits have both items equal to those of a training pair, in words."""
    held = {split.name: _pair_hashes(split) for split in others}
    known = set(_pair_hashes(train, {first for pairs in held.values() for first, _ in pairs}))
    counts = {name: sum(pair in known for pair in pairs) for name, pairs in held.items()}
    found = [f"{n:,} of {len(held[name]):,} {name} pairs" for name, n in counts.items() if n]
    return f"also among the training pairs: {', '.join(found)}" if found else ""


def _pair_hashes(split: PairSplit, firsts: set[bytes] | None = None) -> list[tuple[bytes, bytes]]:
    """Hashes of both items of each pair, or of those pairs only whose view-1 item is among ``firsts``."""
    if not (isinstance(split.view1, Tensor) and isinstance(split.view2, Tensor)):  # on disk
        return []
    table = split.pair_table()
    items = table[:, 0].unique()
    ones = dict(zip(items.tolist(), item_hashes(split.view1, items), strict=True))
    pairs = [(i, j) for i, j in table.tolist() if firsts is None or ones[i] in firsts]
    items = torch.tensor(sorted({j for _, j in pairs}), dtype=torch.int64)
    twos = dict(zip(items.tolist(), item_hashes(split.view2, items), strict=True))
    return [(ones[i], twos[j]) for i, j in pairs]


def _require(arrays: Mapping[str, Any], keys: tuple[str, ...] | list[str], where: str) -> None:
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; expected train_view1, train_view2, valid_view1, ..., "
                        f"test_view2, or view1 and view2 (found: {', '.join(arrays) or 'nothing'})")
