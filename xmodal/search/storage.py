"""The files of a gallery: vectors that can be memory-mapped, and a description that names the other files."""
from __future__ import annotations

import json
import re
import secrets
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import replacing
from xmodal.data.fetch import sha256_of
from xmodal.errors import CheckpointError, DataError, one_line
from xmodal.metrics.hubness import CORRECTIONS
from xmodal.search.indexes import KINDS, Index, load_index

FORMAT = 1
DESCRIPTION = "gallery.json"
#: A .npy header of version 1.0: magic, version and length in 10 bytes, then text up to byte 128.
HEADER = 128


def _header(count: int, width: int) -> bytes:
    """How a ``.npy`` file of (count, width) float32 begins, in the fixed length of ``HEADER`` bytes."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {width}), }}"
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + f"{text:<{HEADER - 11}}\n".encode()


def write_array(path: Path, blocks: Iterable[Tensor]) -> None:
    """Blocks of rows float32, one after the other, as a ``.npy`` file whose header is written last."""
    with replacing(path) as beside, beside.open("wb") as file:
        count, width = 0, 0
        file.write(bytes(HEADER))
        for block in blocks:
            count, width = count + len(block), block.shape[1]
            file.write(np.ascontiguousarray(block.cpu().numpy(), dtype="<f4").data)
        if not count:
            raise DataError("no embeddings: there is nothing to search in")
        file.seek(0)
        file.write(_header(count, width))


def map_array(path: Path) -> Tensor:
    """The (n, d) float32 array that :func:`write_array` wrote, memory-mapped to be read: it may be larger than memory.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({one_line(error)}): build the gallery again") from error
    found = re.search(rb"'shape': \((\d{1,15}), (\d{1,15})\)", header)
    count, width = (int(found[1]), int(found[2])) if found else (0, 0)
    if header != _header(count, width) or size != HEADER + 4 * count * width or not size > HEADER:
        raise CheckpointError(f"{path} is damaged: build the gallery again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch can't keep others from writing to it; nobody here does
        return torch.from_numpy(np.memmap(path, "<f4", "r", offset=HEADER, shape=(count, width)))


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({one_line(error)}): build the gallery again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: build the gallery again")
    return content


def read_description(folder: Path) -> dict[str, Any]:
    """``gallery.json``, checked."""
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(f"there is no gallery in {folder}: build one first (run_search.py --build)")
    said = read_json(folder / DESCRIPTION)
    if said.get("format") != FORMAT:
        raise CheckpointError(f"{folder / DESCRIPTION} has format {said.get('format')!r}, this version reads {FORMAT}")
    files, indexed, corrected = said.get("files"), said.get("kind") != "exact", said.get("correction") is not None
    numbers = ("items", "dim", *(("effort", "shortlist") if indexed else ()))
    good = (said.get("kind") in KINDS and said.get("correction") in (None, *CORRECTIONS)
            and isinstance(files, dict) and all(isinstance(name, str) and Path(name).name == name
                                                for name in files.values())
            and files.keys() - {"texts"} == {"vectors", *["index"] * indexed, *["bank"] * corrected}
            and all(type(said.get(key)) is int and 0 <= said[key] < 2**31 for key in numbers)
            and isinstance(said.get("recall_at_10"), int | float) and isinstance(said.get("about"), dict)
            and isinstance(said.get("recall_measured_with"), str))
    if not good:
        raise CheckpointError(f"{folder / DESCRIPTION} is damaged: build the gallery again")
    return said


@dataclass(frozen=True)
class Stored:
    """A gallery as it lies in its folder.

    Attributes:
        said: the checked description.
        vectors: (n, width), memory-mapped.
        file: that they are mapped from.
        ids, captions: n texts, or None.
        bank: (m, d) queries that hubs are corrected by, or None.
        index: over the vectors, or None.
    """

    said: dict[str, Any]
    vectors: Tensor
    file: Path
    ids: list[str] | None
    captions: list[str] | None
    bank: Tensor | None
    index: Index | None


def write_gallery(folder: Path, said: Mapping[str, Any], parts: Sequence[Tensor], *, file: Path | None,
                  ids: list[str] | None, captions: list[str] | None, bank: Tensor | None, index: Index | None) -> None:
    """Writes ``gallery.json`` and the files that it names. What was there stays readable until the new one is complete.

    Args:
        folder: where to.
        said: of the description, what isn't about files.
        parts: vectors, one part after the other; not written again where they are mapped from ``file`` in the folder.
        file: that all of them are mapped from, or None.
        ids, captions, bank, index: see :class:`Stored`.

    Raises:
        OSError: the disk is full or the folder can't be written to.
    """
    token = secrets.token_hex(4)
    if file is not None and file.parent.absolute() == folder.absolute():
        files = {"vectors": file.name}
    else:
        files = {"vectors": f"vectors-{token}.npy"}
        write_array(folder / files["vectors"], parts)
    if bank is not None:
        files["bank"] = f"bank-{token}.npy"
        write_array(folder / files["bank"], [bank])
    checksum = None
    if index is not None:
        files["index"] = f"index-{token}.bin"
        with replacing(folder / files["index"]) as beside:
            index.save(beside)
            checksum = sha256_of(beside)
    if ids is not None or captions is not None:
        files["texts"] = f"texts-{token}.json"
        with replacing(folder / files["texts"]) as beside:
            beside.write_text(json.dumps({"ids": ids, "captions": captions}), encoding="utf-8")
    content = {"format": FORMAT, **said, "files": files, "index_sha256": checksum,
               "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    with replacing(folder / DESCRIPTION) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for old in folder.glob("*-*.*"):
        if old.name not in files.values() and old.stem.partition("-")[0] in ("vectors", "bank", "index", "texts"):
            old.unlink(missing_ok=True)


def read_gallery(folder: Path) -> Stored:
    """What :func:`write_gallery` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    said = read_description(folder)
    files = said["files"]
    file = folder / files["vectors"]
    vectors = map_array(file)
    shape = int(vectors.shape[0]), int(vectors.shape[1])
    if shape != (said["items"], said["dim"] + (2 if said.get("correction") else 0)):
        raise CheckpointError(f"{file} has another shape than {DESCRIPTION} says: build the gallery again")
    texts = read_json(folder / files["texts"]) if "texts" in files else {}
    for key in ("ids", "captions"):
        values = texts.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != shape[0]
                                   or not all(isinstance(value, str) for value in values)):
            raise CheckpointError(f"{folder / files['texts']}: expected {shape[0]} {key}: build the gallery again")
    bank = map_array(folder / files["bank"]) if "bank" in files else None
    index = None
    if "index" in files:
        index = load_index(said["kind"], folder / files["index"], shape, said.get("index_sha256"))
    return Stored(said, vectors, file, texts.get("ids"), texts.get("captions"), bank, index)
