"""Pictures and texts made into a data set: features of both, and the items themselves to be looked at, in one file."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xmodal.data.fetch import Say
from xmodal.data.files import PIXELS, write_arrays
from xmodal.data.pairs import SPLITS
from xmodal.errors import DataError
from xmodal.features.images import ImageEncoder
from xmodal.features.pictures import UnusablePictureError, read_picture
from xmodal.features.svg import draw_svg
from xmodal.features.texts import Joined, TextEncoder, TfIdf

#: Pictures are stored in this size, height and width, whatever they had.
THUMBNAIL = 64
BATCH = 64
_SECONDS_BETWEEN_LINES = 20.0


class TextView(NamedTuple):
    """A text for each view-2 item and what makes a vector of it; a :class:`TfIdf` is fitted on training texts."""

    texts: Sequence[str]
    encoder: TextEncoder


@dataclass(frozen=True, eq=False)
class ImageText:
    """Pictures, texts and which of them match.

    Attributes:
        ids: names of the n1 pictures.
        texts: the text views by name, of n2 texts each; the first is the one that is read by default.
        pairs: (m, 2) int64, see :class:`xmodal.data.PairSplit`.
        splits: by name, which pictures (n1,) and which texts (n2,) belong to it, as booleans.
        labels: (n1,) int64, classes of the pictures.
    """

    ids: Sequence[str]
    texts: Mapping[str, TextView]
    pairs: np.ndarray
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]
    labels: np.ndarray | None = None


class Encoded(NamedTuple):
    """What was made of n pictures.

    Attributes:
        features: (n, d) float16 by the view's name, at least one.
        thumbnails: (n, 3, 64, 64) uint8.
        states: of the encoders, likewise by name.
    """

    features: Mapping[str, np.ndarray]
    thumbnails: np.ndarray
    states: Mapping[str, Mapping[str, Any]]


def write_image_text(path: Path, items: ImageText, pictures: Encoded, attributes: Mapping[str, Any]) -> None:
    """Makes the text features and writes the HDF5 file ``path``.

    View 1 is the first of the pictures' features, view 2 the first text view; the others are further views of the
    file, ``view1_NAME`` and ``view2_NAME``, and ``pixels`` the pictures themselves.

    Args:
        path: the file to write.
        items: texts, pairs and splits.
        pictures: the n1 pictures.
        attributes: name, version, source, ... of the file.

    Raises:
        DataError: a split is empty, or an encoder gives values that are not finite.
    """
    for name, (_, rows2) in items.splits.items():
        if not rows2.any():
            raise DataError(f"no text is left for the {name} split: there are too few items")
    views1 = {**pictures.features, PIXELS: pictures.thumbnails}
    views2 = {name: _encode_texts(name, view, items.splits["train"][1]) for name, view in items.texts.items()}
    first1, first2 = next(iter(views1)), next(iter(views2))
    arrays: dict[str, Any] = {}
    for split, (rows1, rows2) in items.splits.items():
        for number, rows, views, first in ((1, rows1, views1, first1), (2, rows2, views2, first2)):
            for name, values in views.items():
                arrays[f"{split}_view{number}{'' if name == first else f'_{name}'}"] = values[rows]
        arrays[f"{split}_pairs"] = _pairs_of(items.pairs, rows1, rows2, split)
        arrays[f"{split}_ids"] = _chosen(items.ids, rows1)
        if items.labels is not None:
            arrays[f"{split}_labels"] = items.labels[rows1]
        for name, view in items.texts.items():
            if name == first2:
                arrays[f"{split}_caption2"] = _chosen(view.texts, rows2)
            elif view.texts is not items.texts[first2].texts:
                arrays[f"{split}_caption2_{name}"] = _chosen(view.texts, rows2)
    states = {**pictures.states, **{name: view.encoder.state() for name, view in items.texts.items()}}
    write_arrays(path, arrays, {**attributes, "view1_name": first1, "view2_name": first2},
                 scale={f"view1_{PIXELS}": 1 / 255}, compress=True,
                 encoders={name: json.dumps(state, ensure_ascii=False) for name, state in states.items()})


def split_rows(side1: np.ndarray, side2: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The splits of :class:`ImageText` from 0 (train), 1 (valid) or 2 (test) for each picture and each text."""
    return {name: (side1 == number, side2 == number) for number, name in enumerate(SPLITS)}


def encode_pictures(pictures: Iterable[np.ndarray], encoders: Mapping[str, ImageEncoder], say: Say = print) -> Encoded:
    """Features and thumbnails of pictures, each (3, size, size) uint8; float16 and a batch at a time.

    How many there were and how many a second each encoder took is said at the end.

    Raises:
        DataError: there is no picture, or features are not finite.
    """
    thumbnails: list[np.ndarray] = []
    features: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    seconds = dict.fromkeys(encoders, 0.0)
    done, last_line = 0, time.monotonic()
    remaining = iter(pictures)
    while batch := list(islice(remaining, BATCH)):
        whole = torch.from_numpy(np.stack(batch))
        thumbnails.append(resized(whole, THUMBNAIL).numpy())
        for name, encoder in encoders.items():
            began = time.perf_counter()
            values = encoder(resized(whole, encoder.size))
            seconds[name] += time.perf_counter() - began
            features[name].append(_half(values, f"image features {name}"))
        done += len(batch)
        if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
            say(f"  {done:,} pictures")
            last_line = time.monotonic()
    if not done:
        raise DataError("there is no picture to work on")
    for name, taken in seconds.items():
        say(f"{name}: features of {done:,} pictures, {done / max(taken, 1e-9):,.0f} images/s")
    return Encoded({name: np.concatenate(parts) for name, parts in features.items()}, np.concatenate(thumbnails),
                   {name: encoder.state() for name, encoder in encoders.items()})


def resized(pictures: Tensor, size: int) -> Tensor:
    """Pictures (n, 3, s, s) uint8 in another size, smoothly."""
    if pictures.shape[-1] == size:
        return pictures
    values = interpolate(pictures.float(), size=(size, size), mode="bicubic", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _encode_texts(name: str, view: TextView, train: np.ndarray) -> np.ndarray:
    if isinstance(view.encoder, TfIdf | Joined):
        view.encoder.fit(_chosen(view.texts, train))
    values = torch.from_numpy(np.asarray(view.encoder(view.texts), dtype=np.float32))
    return _half(values, f"text features {name}")


def _half(values: Tensor, what: str) -> np.ndarray:
    """float16, in which features are as good and take half the room; beyond its range they stop at its end."""
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"{what} are not finite")
    most = torch.finfo(torch.float16).max
    return values.clamp(-most, most).half().numpy()


def _chosen(texts: Sequence[str], rows: np.ndarray) -> list[str]:
    return [texts[row] for row in np.flatnonzero(rows).tolist()]


def _pairs_of(pairs: np.ndarray, rows1: np.ndarray, rows2: np.ndarray, split: str) -> np.ndarray:
    """The pairs whose two items belong to a split, counted within it."""
    inside = pairs[rows1[pairs[:, 0]] & rows2[pairs[:, 1]]]
    if not len(inside):
        raise DataError(f"no pair is left for the {split} split: there are too few items")
    return np.stack([(np.cumsum(rows) - 1)[column] for rows, column in zip((rows1, rows2), inside.T, strict=True)],
                    axis=1)


def class_numbers(names: Sequence[str]) -> np.ndarray:
    """Whole numbers for names of classes, in alphabetical order."""
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], dtype=np.int64)


def packed_picture(content: bytes, path: str, package: str) -> np.ndarray:
    """A picture or a drawing out of a package, (3, 64, 64) uint8, whole and on white.

    Raises:
        DataError: it is damaged; names package and path.
    """
    try:
        png = draw_svg(content, THUMBNAIL) if path.endswith(".svg") else content
        return read_picture(png, THUMBNAIL, "pad").pixels
    except UnusablePictureError as error:
        raise DataError(f"{package}: {path} is no use: {error}") from error


def in_order(read: Callable[[Iterable[str]], Iterator[tuple[str, bytes]]], paths: Sequence[str],
             picture: Callable[[bytes, str], np.ndarray]) -> list[np.ndarray]:
    """Pictures of an archive's files in the order of ``paths``; the archive is read once, in its own order."""
    drawn = {path: picture(content, path) for path, content in read(paths)}
    return [drawn[path] for path in paths]
