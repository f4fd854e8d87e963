"""The files of a gallery: vectors that can be memory-mapped, and a description that names the other files."""
from __future__ import annotations

import json
import re
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import LEFTOVER_SECONDS, only_one, replacing
from xmodal.data.fetch import sha256_of
from xmodal.errors import CheckpointError, DataError, one_line
from xmodal.metrics.hubness import CORRECTIONS
from xmodal.search.indexes import KINDS, Index, load_index

FORMAT = 1
DESCRIPTION = "gallery.json"
#: A .npy header of version 1.0: magic, version and length in 10 bytes, then text up to byte 128.
HEADER = 128
#: Seconds that a gallery waits to be written while another process writes to its folder.
PATIENCE = 600.0
_SUFFIXES = {"vectors": ".npy", "bank": ".npy", "index": ".bin", "texts": ".json"}
#: Of 16 digits; of 8 in galleries of earlier versions, as in names that people give: dates.
_NAME = re.compile(r"(?:vectors|bank|index|texts)-([0-9a-f]{8}|[0-9a-f]{16})\.(?:npy|bin|json)")


def new_name(part: str) -> str:
    """What to call a new file of a gallery: no two have the same name."""
    return f"{part}-{secrets.token_hex(8)}{_SUFFIXES[part]}"


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
    numbers = ("items", "dim", *(("effort", "shortlist") if indexed else ()), *said.keys() & {"built_from"})
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
        dropped: rows of those it was built from that were removed.
    """

    said: dict[str, Any]
    vectors: Tensor
    file: Path
    ids: list[str] | None
    captions: list[str] | None
    bank: Tensor | None
    index: Index | None
    dropped: list[int]


def write_gallery(folder: Path, said: Mapping[str, Any], parts: Sequence[Tensor], *, file: Path | None,
                  ids: list[str] | None, captions: list[str] | None, bank: Tensor | None, index: Index | None,
                  dropped: list[int]) -> None:
    """Writes ``gallery.json`` and the files that it names. What was there stays readable until the new one is complete.

    Then the files of the gallery that was there are removed, and what processes left that were killed an hour ago or
    earlier; nothing else.

    Args:
        folder: where to.
        said: of the description, what isn't about files.
        parts: vectors, one part after the other; not written again where ``file`` is in the folder still.
        file: that all of them are mapped from, or None.
        ids, captions, bank, index, dropped: see :class:`Stored`.

    Raises:
        DataError: another process was writing there all the time.
        OSError: the disk is full or the folder can't be written to.
    """
    with _alone(folder):
        before = _named(folder)
        if file is not None and _holds(folder, file, parts):
            files = {"vectors": file.name}
        else:
            files = {"vectors": new_name("vectors")}
            write_array(folder / files["vectors"], parts)
        if bank is not None:
            files["bank"] = new_name("bank")
            write_array(folder / files["bank"], [bank])
        checksum = None
        if index is not None:
            files["index"] = new_name("index")
            with replacing(folder / files["index"]) as beside:
                index.save(beside)
                checksum = sha256_of(beside)
        if ids is not None or captions is not None or dropped:
            files["texts"] = new_name("texts")
            texts = {"ids": ids, "captions": captions, "dropped": dropped}
            with replacing(folder / files["texts"]) as beside:
                beside.write_text(json.dumps(texts), encoding="utf-8")
        content = {"format": FORMAT, **said, "files": files, "index_sha256": checksum,
                   "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        with replacing(folder / DESCRIPTION) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _clean_up(folder, before, set(files.values()))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until nobody else is inside this block with the same folder."""
    until = time.monotonic() + PATIENCE
    while True:
        with only_one(folder / ".lock") as alone:
            if alone:
                yield
                return
        if time.monotonic() > until:
            raise DataError(f"another process is writing to {folder}: save again when it has ended")
        time.sleep(0.05)


def _named(folder: Path) -> set[str]:
    """The files of the gallery in a folder; none where there is no gallery, or a damaged one."""
    try:
        return set(read_description(folder)["files"].values())
    except CheckpointError:
        return set()


def _clean_up(folder: Path, before: set[str], now: set[str]) -> None:
    """Removes the files of the gallery that was there before, and what processes left that were killed."""
    for file in folder.iterdir():
        form = _NAME.fullmatch(file.name)
        if form is None or file.name in now:
            continue
        with suppress(OSError):  # Windows keeps what is mapped; a later save removes it
            left = len(form[1]) == 16 and file.stat().st_mtime < time.time() - LEFTOVER_SECONDS
            if left or file.name in before:
                file.unlink()


def _holds(folder: Path, file: Path, parts: Sequence[Tensor]) -> bool:
    """Whether a folder still has the file that these vectors were mapped from: another process may have removed it."""
    size = HEADER + 4 * sum(part.numel() for part in parts)
    return file.parent.absolute() == folder.absolute() and file.is_file() and file.stat().st_size == size


def read_gallery(folder: Path) -> Stored:
    """What :func:`write_gallery` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    said = read_description(folder)
    while True:
        try:
            return _read_files(folder, said)
        except (CheckpointError, OSError):
            files, said = said["files"], read_description(folder)
            if said["files"] == files:  # otherwise another process has replaced it meanwhile
                raise


def _read_files(folder: Path, said: dict[str, Any]) -> Stored:
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
    dropped = texts.get("dropped", [])
    if not _fits(dropped, said.get("built_from", shape[0]), shape[0]):
        raise CheckpointError(f"{folder / DESCRIPTION} is damaged: build the gallery again")
    bank = map_array(folder / files["bank"]) if "bank" in files else None
    index = None
    if "index" in files:
        index = load_index(said["kind"], folder / files["index"], shape, said.get("index_sha256"))
    return Stored(said, vectors, file, texts.get("ids"), texts.get("captions"), bank, index, dropped)


def _fits(dropped: Any, built_from: int, items: int) -> bool:
    """Whether ``dropped`` are rows of those built from, of which the others are among the items."""
    return isinstance(dropped, list) and all(type(row) is int and 0 <= row < built_from for row in dropped) \
        and len(dropped) == len(set(dropped)) and built_from - len(dropped) <= items
