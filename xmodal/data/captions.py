"""Tables of pictures and captions, as people keep them: TSV, CSV or JSON lines."""
from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xmodal.data.problems import Problems
from xmodal.errors import DataError, one_line

PICTURE_COLUMNS = ("image", "file", "filename", "file_name", "image_name", "path", "picture")
CAPTION_COLUMNS = ("caption", "captions", "text", "comment", "sentence", "title", "description")
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid", "test": "test"}
SUFFIXES = (".tsv", ".txt", ".csv", ".jsonl")


class Caption(NamedTuple):
    """What a table says: the name of a picture, a text, the line, and the split ("" if it names none)."""

    picture: str
    text: str
    line: int
    split: str = ""


def read_captions(file: Path, problems: Problems) -> list[Caption]:
    """The captions of a table; several lines, or several texts in a line, may be of one picture.

    A first line with names of columns (``image`` or ``file``, ``caption`` or ``text``, ``split``) is used as such.
    Without it the first column names the picture and the others are captions; ``name.jpg#0`` means ``name.jpg``.
    JSON lines are objects with such keys; ``captions`` may be a list. Fields of a ``.csv`` are separated by commas,
    semicolons or bars, those of ``.tsv`` and ``.txt`` by tabs. ``split`` is train, valid (val, dev) or test.

    Empty captions, lines that can't be read and lines that aren't UTF-8 (read as Latin-1) go into ``problems``.

    Raises:
        DataError: no such file, another suffix, UTF-16, or no captions in it.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"--captions {file}: expected a .tsv, .csv or .jsonl file")
    if not file.is_file():
        raise DataError(f"no file {file}")
    raw = file.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{file} is in UTF-16; save it as UTF-8")
    text = _decoded(raw.removeprefix(codecs.BOM_UTF8), problems)
    rows = _json_lines(text, problems) if suffix == ".jsonl" else _table(text, suffix, file, problems)
    captions = []
    for picture, texts, line, split in rows:
        if not picture:
            problems.add("lines without the name of a picture", f"line {line}")
            continue
        if split and split.lower() not in _SPLITS:
            problems.add("lines with an unknown split, left out (train, valid or test)", f"line {line}: {split[:20]}")
            continue
        for one in texts:
            folded = " ".join(storable(one).split())
            if folded != " ".join(one.split()):
                problems.add("captions with NUL characters or halves of others, replaced", f"{picture} (line {line})")
            if folded:
                captions.append(Caption(picture, folded, line, _SPLITS.get(split.lower(), "")))
            else:
                problems.add("empty captions", f"{picture} (line {line})")
    if not captions:
        raise DataError(f"{file} holds no captions; expected lines such as: name.jpg, a tab, a caption")
    return captions


def storable(text: str) -> str:
    """``text`` without what HDF5 can't store: NUL becomes a space, half of a surrogate pair a question mark."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


def _decoded(raw: bytes, problems: Problems) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        lines = []
        for number, line in enumerate(raw.split(b"\n"), start=1):
            try:
                lines.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                problems.add("lines that are not UTF-8, read as Latin-1", f"line {number}")
                lines.append(line.decode("latin-1"))
        return "\n".join(lines)


_Row = tuple[str, Sequence[str], int, str]


def _json_lines(text: str, problems: Problems) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add("lines that can't be read", f"line {number}: {one_line(error)[:60]}")
            continue
        picture = _first(entry, PICTURE_COLUMNS) if isinstance(entry, dict) else None
        found = _first(entry, CAPTION_COLUMNS) if isinstance(entry, dict) else None
        texts: list[Any] = found if isinstance(found, list) else [found]
        if not isinstance(picture, str) or not all(isinstance(one, str) for one in texts):
            problems.add("lines that can't be read", f"line {number}: expected {{\"image\": ..., \"caption\": ...}}")
            continue
        yield picture, texts, number, str(entry.get("split") or "")


def _first(entry: dict[str, Any], keys: Iterable[str]) -> Any:
    return next((entry[key] for key in keys if key in entry), None)


def _table(text: str, suffix: str, file: Path, problems: Problems) -> Iterator[_Row]:
    """TSV is split at tabs alone, CSV also knows quotes."""
    if suffix == ".csv":
        rows = _numbered(_csv_reader(text, _separator(text)), problems)
    else:
        rows = ((number, line.split("\t")) for number, line in enumerate(re.split("\r\n?|\n", text), start=1))
    picture, texts, split = 0, None, None
    for position, (number, fields) in enumerate((number, fields) for number, fields in rows if any(fields)):
        values = [field.strip() for field in fields]
        if position == 0 and (header := _header([value.lower() for value in values])) is not None:
            picture, texts, split = header
            continue
        chosen = range(1, len(values)) if texts is None else texts
        if len(values) < 2 or any(column >= len(values) for column in (picture, *chosen)):
            problems.add("lines that can't be read", f"line {number}: {len(values)} field(s)")
            continue
        name = values[picture] if texts is not None else re.sub(r"#\d+$", "", values[picture])
        yield name, [values[column] for column in chosen], number, \
            values[split] if split is not None and split < len(values) else ""


def _separator(text: str) -> str:
    """The one that makes names of columns of the first line, or else the first one there that is outside of quotes."""
    first = (text.lstrip().splitlines() or [""])[0]
    for separator in ",;|":
        if _header([field.strip(' "').lower() for field in first.split(separator)]) is not None:
            return separator
    found = re.search(r"[,;|]", re.sub(r'"[^"]*"', "", first))
    return found[0] if found else ","


def _csv_reader(text: str, separator: str) -> Any:
    """Strict, since an open quote would silently make one caption of many lines."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)


def _numbered(reader: Any, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    while True:
        before = reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = f"line {reader.line_num}" if reader.line_num <= before + 1 else \
                f"lines {before + 1} to {reader.line_num}"
            problems.add("lines that can't be read", f"{lines}: {one_line(error)}")
            continue
        yield reader.line_num, fields


def _header(names: Sequence[str]) -> tuple[int, list[int], int | None] | None:
    """The columns of the picture, the captions and the split, if the line holds names of columns."""
    pictures = [i for i, name in enumerate(names) if name in PICTURE_COLUMNS]
    texts = [i for i, name in enumerate(names) if name in CAPTION_COLUMNS]
    if not pictures or not texts:
        return None
    return pictures[0], texts, names.index("split") if "split" in names else None
