"""Data sets in HDF5 files, one each: the layout, reading and writing."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import creating_h5, replacing
from xmodal.data.pairs import FURTHER, SPLITS, ArrayHash, PairedData, PairSplit, View, as_integers, named_arrays
from xmodal.data.streamed import StreamedView, open_h5, to_float32
from xmodal.errors import DataError, did_you_mean

VIEWS = ("view1", "view2")
_TABLES = ("pairs", "labels")
_TEXTS = ("ids", "caption1", "caption2")
KEYS = (*VIEWS, *_TABLES, *_TEXTS)
_PICTURES = ("picture1", "picture2")
_FLAGS = ("rising1", "rising2")
_COMPRESSED_ROWS = 64
ATTRIBUTES = ("name", "version", "source", "licence", "split_seed", "synthetic", "note", *_PICTURES, *_FLAGS)


def write_h5(data: PairedData, path: str | Path) -> str:
    """Write ``data`` to one HDF5 file, all at once or not at all.

    Views in memory are stored as float32; streamed views are copied as they are stored.

    Returns:
        The fingerprint of what was written.

    Raises:
        OSError: the disk is full or the folder can't be written to; ``path`` is then what it was.
    """
    arrays = {f"{split}_{key}": value for split, key, value in named_arrays(data)}
    return write_arrays(path, arrays, {key: getattr(data, key) for key in ATTRIBUTES})


def write_arrays(path: str | Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any],
                 scale: float | tuple[float, float] = 1.0, compress: bool = False) -> str:
    """Write arrays under the NPZ keys (``train_view1``, ``train_labels``, ...) to an HDF5 file in its own groups.

    Args:
        path: where to; replaced only when the new file is complete and flushed.
        arrays: ndarrays, tensors or streamed views; lists of text for ids and captions.
        attributes: name, version, source, licence, split_seed, synthetic, note, picture1, picture2, rising1, rising2.
        scale: stored with the views that are arrays of bytes (uint8): value = stored * scale, so that bytes stay
            bytes. Views of other types hold their values. Two numbers are those of view 1 and view 2.
        compress: gzip the views, losslessly.

    Returns:
        The fingerprint, which is stored with them.
    """
    path = Path(path)
    scales = dict(zip(VIEWS, scale if isinstance(scale, tuple) else (scale, scale), strict=True))
    total = ArrayHash()
    with replacing(path) as beside, creating_h5(beside) as file:
        for split in (*SPLITS, *further_splits(arrays)):
            for key in KEYS:
                value = arrays.get(f"{split}_{key}")
                if value is not None:
                    _write_one(file, f"{split}/{key}", value, scales.get(key, 1.0), compress and key in VIEWS, total)
        for key, value in attributes.items():
            if value is not None:
                file.attrs[key] = value
        file.attrs["fingerprint"] = total.hexdigest()
    return total.hexdigest()


def further_splits(keys: Iterable[str]) -> list[str]:
    """The names of further test splits among the NPZ keys."""
    return sorted({key.removesuffix("_view1") for key in keys if key.startswith(FURTHER) and key.endswith("_view1")}
                  - {"test"})


def _write_one(file: h5py.File, where: str, value: Any, scale: float, compress: bool, total: ArrayHash) -> None:
    key = where.replace("/", "_")
    if where.endswith(_TEXTS):
        file.create_dataset(where, data=np.array(value, dtype=object), dtype=h5py.string_dtype())
        return
    if isinstance(value, StreamedView):
        dataset = _copy_streamed(file, where, value)
        total.add(key, dataset, float(dataset.attrs.get("scale", 1.0)))
        return
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    how = {"chunks": (min(_COMPRESSED_ROWS, len(array)), *array.shape[1:]), "compression": "gzip"} if compress else {}
    dataset = file.create_dataset(where, data=array, **how)
    one_scale = scale if array.dtype == np.uint8 else 1.0
    if one_scale != 1.0:
        dataset.attrs["scale"] = one_scale
    total.add(key, array, one_scale)


def _copy_streamed(file: h5py.File, where: str, view: StreamedView) -> h5py.Dataset:
    """Copy a streamed view block by block: as stored, or a selection of its rows as float32."""
    whole = view.rows is None
    dataset = file.create_dataset(where, shape=view.shape, dtype=view.dtype if whole else np.float32)
    if whole and view.scale != 1.0:
        dataset.attrs["scale"] = view.scale
    step = max(1, (1 << 25) // max(1, 4 * int(np.prod(view.shape[1:], dtype=np.int64))))
    with open_h5(view.path) as source:
        for start in range(0, len(view), step):
            stop = min(start + step, len(view))
            if view.rows is None:
                dataset[start:stop] = source[view.key][start:stop]
            else:
                dataset[start:stop] = view.gather(torch.arange(start, stop)).numpy()
    return dataset


def read_h5(path: str | Path, stream: bool | None = None) -> PairedData:
    """Read a data set from an HDF5 file.

    Groups ``train``, ``valid`` and ``test``, and further test splits (``test_...``), hold ``view1`` and ``view2``
    (n, ...) of any real dtype and optionally ``pairs`` (m, 2), ``labels`` (n1,), ``ids`` (n1,), ``caption1`` (n1,),
    ``caption2`` (n2,). The attribute ``scale`` of a view means value = stored * scale; ``picture1`` and ``picture2`` of
    the file are two whole numbers each.

    Args:
        path: the file.
        stream: leave the views on disk; None does so if as float32 they would take over half of the free memory.

    Returns:
        The data with its fingerprint. In memory it is computed and compared with the one in the file; streamed, the
        file's is trusted, or computed block by block if it has none.

    Raises:
        DataError: the file is missing, damaged, incomplete or holds bad values.
    """
    path = Path(path)
    with open_h5(path) as file:
        _check_layout(file, path)
        if stream is None:
            memory = available_memory()
            stream = memory is not None and _float32_bytes(file) > memory // 2
        attributes = _read_attributes(file, path)
        stored = attributes.pop("fingerprint", "")
        total = ArrayHash()
        trusted = stream and bool(stored)
        train, valid, test, *further = (_read_split(file, path, name, stream, None if trusted else total)
                                        for name in _split_names(file))
    computed = stored if trusted else total.hexdigest()
    if stored and stored != computed:
        raise DataError(f"{path} doesn't match its fingerprint (says {stored[:12]}, is {computed[:12]}): it is "
                        "damaged or was edited; prepare it again")
    name = attributes.pop("name", "") or path.stem
    return PairedData(name, train, valid, test, fingerprint=computed, further=tuple(further), **attributes)


def _check_layout(file: h5py.File, path: Path) -> None:
    missing = [f"{split}/{view}" for split in SPLITS for view in VIEWS
               if not isinstance(file.get(f"{split}/{view}"), h5py.Dataset)]
    if missing:
        found = ", ".join(map(str, file)) or "nothing"  # a damaged name comes as bytes
        raise DataError(f"{path} lacks {', '.join(missing)}; expected groups train, valid, test, each with view1 and "
                        f"view2 (found at the top: {found})")
    missing = [f"{split}/{view}" for split in _split_names(file)[len(SPLITS):] for view in VIEWS
               if not isinstance(file.get(f"{split}/{view}"), h5py.Dataset)]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: a further test split needs view1 and view2, too")
    for split in _split_names(file):
        for key in file[split]:
            if key not in KEYS:
                raise DataError(f"{path} has an unknown array {split}/{key}; {did_you_mean(key, KEYS)}")
    for split in _split_names(file):
        for view in VIEWS:
            dataset = file[split][view]
            if dataset.dtype.kind not in "iufb":
                raise DataError(f"{path}: {split}/{view} must hold numbers; got dtype {dataset.dtype}")
            if not dataset.shape or len(dataset.shape) < 2:  # None for an empty dataspace
                raise DataError(f"{path}: {split}/{view} must be an array (items, values, ...); got shape "
                                f"{dataset.shape}")


def _split_names(file: h5py.File) -> list[str]:
    """Train, valid, test, and the groups that are further test splits."""
    return [*SPLITS, *sorted(name for name in file if isinstance(name, str) and name.startswith(FURTHER)
                             and isinstance(file.get(name), h5py.Group))]


def _float32_bytes(file: h5py.File) -> int:
    return sum(4 * int(file[split][view].size) for split in _split_names(file) for view in VIEWS)


def _read_attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """The attributes that PairedData knows, as plain Python values; others are ignored."""
    values: dict[str, Any] = {}
    for key in (*ATTRIBUTES, "fingerprint"):
        if key not in file.attrs:
            continue
        value = file.attrs[key]
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        values[key] = value.item() if isinstance(value, np.generic) else value
    return typed_attributes(values, path)


def typed_attributes(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check the types of attributes that come from a file; pictures become tuples."""
    for key, value in values.items():
        if key in _PICTURES:
            values[key] = _picture(value, f"{path}: attribute {key}")
            continue
        expected = int if key in ("split_seed", "synthetic", *_FLAGS) else str
        if not isinstance(value, expected) and not (key == "split_seed" and value is None):
            raise DataError(f"{path}: attribute {key} has a value of the wrong kind: {str(value)[:40]!r}")
    for key in {"synthetic", *_FLAGS} & values.keys():
        values[key] = bool(values[key])
    return values


def _picture(value: Any, where: str) -> tuple[int, int] | None:
    """Height and width from an array of two whole numbers, a list in JSON; whether they fit is for PairedData."""
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if numbers is None:
        return None
    if not isinstance(numbers, list) or len(numbers) != 2 or not all(type(number) is int for number in numbers):
        raise DataError(f"{where} must be two whole numbers, height and width; got {str(value)[:40]!r}")
    return numbers[0], numbers[1]


def _read_split(file: h5py.File, path: Path, name: str, stream: bool, total: ArrayHash | None) -> PairSplit:
    group = file[name]
    views: list[View] = []
    for key in VIEWS:
        dataset = group[key]
        scale = _scale(dataset, path)
        if stream:
            views.append(StreamedView.of(path, dataset, scale))
            raw = dataset
        else:
            raw = dataset[...]
            views.append(to_float32(raw, scale))
        if total is not None:
            total.add(f"{name}_{key}", raw, scale)
    tables: dict[str, Tensor] = {}
    for key in _TABLES:
        if key in group:
            raw = group[key][...]
            tables[key] = as_integers(raw, f"{path}: {name} {key}")
            if total is not None:
                total.add(f"{name}_{key}", raw)
    texts = {key: _read_texts(group[key], f"{path}: {name} {key}") for key in _TEXTS if key in group}
    return PairSplit(name, views[0], views[1], **tables, **texts)  # type: ignore[arg-type]


def _scale(dataset: h5py.Dataset, path: Path) -> float:
    value = dataset.attrs.get("scale", 1.0)
    if np.ndim(value) != 0 or not isinstance(value, int | float | np.number):
        raise DataError(f"{path}: attribute scale of {dataset.name.strip('/')} must be a number; got "
                        f"{str(value)[:40]!r}")
    return float(value)


def _read_texts(dataset: h5py.Dataset, where: str) -> list[str]:
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        raise DataError(f"{where} must be a list of text; got dtype {dataset.dtype} of shape {dataset.shape}")
    return [str(text) for text in dataset.asstr(errors="replace")[...]]


def available_memory() -> int | None:
    """Bytes that can be used without swapping, as the system and its control group say; None where unknown."""
    free: int | None = None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, max(0, int(limit) - used))
    except (OSError, StopIteration, ValueError):  # not Linux, or no control group
        pass
    if free is None and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return free
