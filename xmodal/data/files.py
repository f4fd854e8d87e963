"""Data sets in HDF5 files, one each: the layout, reading and writing."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import creating_h5, replacing
from xmodal.data.captions import storable
from xmodal.data.checks import check_range
from xmodal.data.hashing import ArrayHash
from xmodal.data.memory import available_memory
from xmodal.data.pairs import FURTHER, SPLITS, PairedData, PairSplit, View, as_integers, named_arrays
from xmodal.data.stored import check_attribute, check_heaps, check_links, check_stored
from xmodal.data.streamed import StreamedView, open_h5, to_float32
from xmodal.distributed import largest, local_size, wait_for_all
from xmodal.errors import DataError, did_you_mean

VIEWS = ("view1", "view2")
_TABLES = ("pairs", "labels")
_TEXTS = ("ids", "caption1", "caption2")
KEYS = (*VIEWS, *_TABLES, *_TEXTS)
_PICTURES = ("picture1", "picture2")
_FLAGS = ("rising1", "rising2")
_COMPRESSED_ROWS = 64
ATTRIBUTES = ("name", "version", "source", "licence", "split_seed", "synthetic", "note", *_PICTURES, *_FLAGS,
              "view1_name", "view2_name")
#: How the keys of further views of the same items, and of their captions, begin: ``view2_de`` is the view ``de``.
NAMED = ("view1_", "view2_", "caption1_", "caption2_")
#: The view of this name is what its side's items look like.
PIXELS = "pixels"


def write_h5(data: PairedData, path: str | Path) -> str:
    """Write ``data`` to one HDF5 file, all at once or not at all.

    Views in memory are stored as float32; streamed views are copied as they are stored.

    Returns:
        The fingerprint of what was written.

    Raises:
        DataError: a text holds what HDF5 can't store; ``path`` is then what it was.
        OSError: the disk is full or the folder can't be written to; likewise.
    """
    arrays = {f"{split}_{key}": value for split, key, value in named_arrays(data)}
    for split_name, split in zip(data.split_names(), data.splits(), strict=True):
        for side, shown in (("1", split.thumbnails1), ("2", split.thumbnails2)):
            if shown is not None:
                arrays[f"{split_name}_view{side}_{PIXELS}"] = shown
    encoders = {data.view1_name or "view1": data.encoder1, data.view2_name or "view2": data.encoder2}
    return write_arrays(path, arrays, {key: getattr(data, key) for key in ATTRIBUTES}, encoders=encoders)


def write_arrays(path: str | Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any], *,
                 scale: float | Mapping[str, float] = 1.0, compress: bool = False,
                 encoders: Mapping[str, str] | None = None) -> str:
    """Write arrays under the NPZ keys (``train_view1``, ``train_labels``, ...) to an HDF5 file in its own groups.

    Args:
        path: where to; replaced only when the new file is complete and flushed.
        arrays: ndarrays, tensors or streamed views; lists of text for ids and captions. Beside ``view1`` there may be
            further views of the same items, ``view1_NAME``, and of view 2 likewise, with ``caption1_NAME`` and
            ``caption2_NAME``.
        attributes: name, version, source, licence, split_seed, synthetic, note, picture1, picture2, rising1, rising2,
            view1_name, view2_name.
        scale: of views that are arrays of bytes (uint8), by their keys without the split: value = stored * scale, so
            that bytes stay bytes. Views of other types hold their values. One number is that of ``view1`` and
            ``view2``.
        compress: gzip the views, losslessly.
        encoders: how raw items become a view, as JSON text, by the view's name.

    Returns:
        The fingerprint of the views ``view1`` and ``view2``, which is stored with them.

    Raises:
        DataError, OSError: as :func:`write_h5`.
    """
    path = Path(path)
    scales = scale if isinstance(scale, Mapping) else dict.fromkeys(VIEWS, scale)
    total = ArrayHash()
    with replacing(path) as beside, creating_h5(beside) as file:
        for split in (*SPLITS, *further_splits(arrays)):
            named = sorted(key.removeprefix(f"{split}_") for key in arrays if key.startswith(
                tuple(f"{split}_{start}" for start in NAMED)))
            for key in (*KEYS, *named):
                value = arrays.get(f"{split}_{key}")
                if value is not None:
                    _write_one(file, f"{split}/{key}", value, scales.get(key, 1.0), compress,
                               total if key in KEYS else ArrayHash())
        for key, value in attributes.items():
            if value is not None and value != "":
                _check_texts([value], key)
                file.attrs[key] = value
        for name, encoder in (encoders or {}).items():
            if encoder:
                file.create_dataset(f"encoders/{name}", data=encoder, dtype=h5py.string_dtype())
        file.attrs["fingerprint"] = total.hexdigest()
    return total.hexdigest()


def further_splits(keys: Iterable[str]) -> list[str]:
    """The names of further test splits among the NPZ keys.

    Raises:
        DataError: one is called as the further views of the test split are.
    """
    names = sorted({key.removesuffix("_view1") for key in keys if key.startswith(FURTHER) and key.endswith("_view1")}
                   - {"test"})
    for name in names:
        if name.startswith(tuple(f"test_{start}" for start in NAMED)):
            raise DataError(f"a further test split can't be called {name}, as a view of the test split would be: give "
                            f"it another name, such as test_{name.removeprefix('test_').partition('_')[2]}")
    return names


def _write_one(file: h5py.File, where: str, value: Any, scale: float, compress: bool, total: ArrayHash) -> None:
    key = where.replace("/", "_")
    if where.partition("/")[2].startswith(("ids", "caption")):
        _check_texts(value, key)
        file.create_dataset(where, data=np.array(value, dtype=object), dtype=h5py.string_dtype())
        return
    if isinstance(value, StreamedView):
        dataset = _copy_streamed(file, where, value)
        total.add(key, dataset, float(dataset.attrs.get("scale", 1.0)))
        return
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    how = {"chunks": (min(_COMPRESSED_ROWS, len(array)), *array.shape[1:]), "compression": "gzip"} \
        if compress and array.ndim > 1 and not where.endswith(_TABLES) else {}
    dataset = file.create_dataset(where, data=array, **how)
    one_scale = scale if array.dtype == np.uint8 else 1.0
    if one_scale != 1.0:
        dataset.attrs["scale"] = one_scale
    total.add(key, array, one_scale)


def _check_texts(texts: Iterable[Any], where: str) -> None:
    for text in texts:
        if isinstance(text, str) and text != storable(text):
            raise DataError(f"{where}: HDF5 can't store {text[:40]!r}; take NUL characters and halves of surrogate "
                            "pairs out of it")


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


def read_h5(path: str | Path, stream: bool | None = None, views: Sequence[str] | None = None) -> PairedData:
    """Read a data set from an HDF5 file.

    Groups ``train``, ``valid`` and ``test``, and further test splits (``test_...``), hold ``view1`` and ``view2``
    (n, ...) of any real dtype and optionally ``pairs`` (m, 2), ``labels`` (n1,), ``ids`` (n1,), ``caption1`` (n1,),
    ``caption2`` (n2,). The attribute ``scale`` of a view means value = stored * scale; ``picture1`` and ``picture2`` of
    the file are two whole numbers each.

    The groups may also hold further views of the same items, ``view1_NAME`` and ``view2_NAME``, with captions of their
    own, ``caption1_NAME`` and ``caption2_NAME``; the attributes ``view1_name`` and ``view2_name`` name ``view1`` and
    ``view2``. A view named ``pixels`` also becomes the thumbnails of its side.

    Args:
        path: the file.
        stream: leave the views on disk; None does so if as float32 they would take over half of the free memory. Of
            several processes (:func:`xmodal.distributed.joined`) each has its copy, and all must read: they stream
            if one of them has to.
        views: the names of the two views to read; None is ``view1`` and ``view2``. Two views of one side, such as a
            text in two languages, match item by item.

    Returns:
        The data with its fingerprint. In memory it is computed and, for ``view1`` and ``view2``, compared with the one
        in the file; streamed, the file's is trusted, or computed block by block if it has none for these views.

    Raises:
        DataError: the file is missing, damaged, incomplete or holds bad values, or no such views.
    """
    path = Path(path)
    with open_h5(path) as file:
        check_links(file, path)
        _check_layout(file, path)
        check_heaps(file, path, (file[split][key] for split in _split_names(file) for key in file[split]
                                 if key.startswith(VIEWS)))
        attributes = _read_attributes(file, path)
        stored = attributes.pop("fingerprint", "")
        keys = VIEWS
        if views is not None:
            keys = _chosen(file, path, views, attributes)
            if tuple(views) != VIEWS:
                attributes.update(view1_name=views[0], view2_name=views[1])
        if keys != VIEWS:
            stored = ""
            for key in (*_PICTURES, *_FLAGS):
                attributes.pop(key, None)
        for number, name in enumerate((attributes.get("view1_name"), attributes.get("view2_name")), start=1):
            attributes[f"encoder{number}"] = _read_encoder(file, path, name or f"view{number}")
        if stream is None:
            memory = available_memory()
            needed = _float32_bytes(file, keys) * local_size()
            wait_for_all()
            stream = bool(largest(int(memory is not None and needed > memory // 2)))
        total = ArrayHash()
        trusted = stream and bool(stored)
        train, valid, test, *further = (_read_split(file, path, name, keys, stream, None if trusted else total)
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
            if key not in KEYS and not str(key).startswith(NAMED):
                raise DataError(f"{path} has an unknown array {split}/{key}; {did_you_mean(str(key), KEYS)}")
            entry = file[split].get(key)
            if not isinstance(entry, h5py.Dataset):
                raise DataError(f"{path}: {split}/{key} must be an array; it is a group, a type or a link to nothing")
            check_stored(entry, path)
    _check_views(file, path, VIEWS)


def _check_views(file: h5py.File, path: Path, keys: Sequence[str]) -> None:
    for split in _split_names(file):
        for view in keys:
            dataset = file[split].get(view)
            if not isinstance(dataset, h5py.Dataset):
                raise DataError(f"{path} lacks {split}/{view}: every split needs the same views")
            _check_values(dataset, path, f"{split}/{view}")


def _check_values(dataset: h5py.Dataset, path: Path, name: str) -> None:
    if dataset.dtype.kind not in "iufb":
        raise DataError(f"{path}: {name} must hold numbers; got dtype {dataset.dtype}")
    if not dataset.shape or len(dataset.shape) < 2:  # None for an empty dataspace
        raise DataError(f"{path}: {name} must be an array (items, values, ...); got shape {dataset.shape}")


def _split_names(file: h5py.File) -> list[str]:
    """Train, valid, test, and the groups that are further test splits."""
    return [*SPLITS, *sorted(name for name in file if isinstance(name, str) and name.startswith(FURTHER)
                             and isinstance(file.get(name), h5py.Group))]


def view_names(file: h5py.File, attributes: Mapping[str, Any]) -> dict[str, str]:
    """The keys of the views by their names, those that are read by default first; ``view1`` is always a name, too."""
    names = {str(attributes.get(f"{view}_name") or view): view for view in VIEWS}
    names |= {key.partition("_")[2]: key for key in file["train"] if str(key).startswith(NAMED[:2])}
    return names | dict(zip(VIEWS, VIEWS, strict=True))


def _chosen(file: h5py.File, path: Path, views: Sequence[str], attributes: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of the two named views."""
    known = view_names(file, attributes)
    for name in views:
        if name not in known:
            raise DataError(f"{path} has no view {name!r}; {did_you_mean(name, known)}")
    one, two = (known[name] for name in views)
    if one == two:
        raise DataError(f"views {views[0]} and {views[1]} are the same; give two")
    if _side(one) > _side(two):
        raise DataError(f"{views[0]} is a view of side 2, {views[1]} of side 1: give {views[1]} {views[0]}")
    _check_views(file, path, (one, two))
    return one, two


def _side(key: str) -> int:
    return 1 if key.startswith(VIEWS[0]) else 2


def _read_encoder(file: h5py.File, path: Path, name: str) -> str:
    dataset = file.get(f"encoders/{name}")
    if dataset is None:
        return ""
    if not isinstance(dataset, h5py.Dataset) or h5py.check_string_dtype(dataset.dtype) is None or dataset.shape != ():
        raise DataError(f"{path}: encoders/{name} must be one text")
    check_stored(dataset, path)
    return str(dataset.asstr(errors="replace")[()])


def _float32_bytes(file: h5py.File, keys: Sequence[str]) -> int:
    return sum(4 * int(file[split][view].size) for split in _split_names(file) for view in keys)


def _read_attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """The attributes that PairedData knows, as plain Python values; others are ignored."""
    values: dict[str, Any] = {}
    for key in (*ATTRIBUTES, "fingerprint"):
        if key not in file.attrs:
            continue
        check_attribute(file, key, path)
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


def _read_split(file: h5py.File, path: Path, name: str, keys: Sequence[str], stream: bool,
                total: ArrayHash | None) -> PairSplit:
    group = file[name]
    views: list[View] = []
    for key, view in zip(keys, VIEWS, strict=True):
        dataset = group[key]
        scale = _scale(dataset, path)
        if stream:
            views.append(StreamedView.of(path, dataset, scale))
            raw = dataset
        else:
            raw = dataset[...]
            values = to_float32(raw, scale)
            check_range(raw, values, f"{name} {key}")
            views.append(values)
        if total is not None:
            total.add(f"{name}_{view}", raw, scale)
    sides = [_side(key) for key in keys]
    tables: dict[str, Tensor] = {}
    for key in _TABLES:
        if key in group and sides == ([1, 2] if key == "pairs" else [1, sides[1]]):
            raw = group[key][...]
            tables[key] = as_integers(raw, f"{path}: {name} {key}")
            if total is not None:
                total.add(f"{name}_{key}", raw)
    places = {"ids": "ids"} if sides[0] == 1 else {}
    thumbnails: dict[str, View] = {}
    for number, (key, side) in enumerate(zip(keys, sides, strict=True), start=1):
        own = f"caption{side}{key[len(VIEWS[0]):]}"
        places[f"caption{number}"] = own if own in group else f"caption{side}"
        pixels = group.get(f"view{side}_{PIXELS}")
        if isinstance(pixels, h5py.Dataset) and pixels.name != f"/{name}/{key}":
            _check_values(pixels, path, f"{name}/view{side}_{PIXELS}")
            thumbnails[f"thumbnails{number}"] = StreamedView.of(path, pixels, _scale(pixels, path))
    texts = {key: _read_texts(group[place], f"{path}: {name} {place}") for key, place in places.items()
             if place in group}
    return PairSplit(name, views[0], views[1], **tables, **texts, **thumbnails)  # type: ignore[arg-type]


def _scale(dataset: h5py.Dataset, path: Path) -> float:
    if "scale" in dataset.attrs:
        check_attribute(dataset, "scale", path)
    value = dataset.attrs.get("scale", 1.0)
    if np.ndim(value) != 0 or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise DataError(f"{path}: attribute scale of {dataset.name.strip('/')} must be a finite number; got "
                        f"{str(value)[:40]!r}")
    return float(value)


def _read_texts(dataset: h5py.Dataset, where: str) -> list[str]:
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        raise DataError(f"{where} must be a list of text; got dtype {dataset.dtype} of shape {dataset.shape}")
    return [str(text) for text in dataset.asstr(errors="replace")[...]]
