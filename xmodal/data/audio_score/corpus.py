"""Pieces of music in files: those of music21's corpus, or a user's own."""
from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xmodal.data.audio_score.packages import folder_of
from xmodal.errors import DataError, did_you_mean

#: Folders of the corpus with scores in several parts. Left out: Palestrina and the kern files (rights on what is
#: derived from them are reserved), the Essen collection (no commercial use), exercises and demonstrations.
SCORES = ("bach", "beach", "beethoven", "ciconia", "corelli", "cpebach", "handel", "haydn", "johnson_j_r", "joplin",
          "liliuokalani", "luca", "lusitano", "monteverdi", "mozart", "schoenberg", "schubert", "schumann_clara",
          "schumann_robert", "trecento", "verdi", "weber")
#: Folders with melodies on one staff.
TUNES = ("airdsAirs", "miscFolk", "nottingham-dataset", "oneills1850", "ryansMammoth")
#: What ``--corpus`` takes beside the names of single folders, and paths.
COLLECTIONS = {"scores": SCORES, "tunes": TUNES, "all": (*SCORES, *TUNES)}

_SUFFIXES = (".mxl", ".xml", ".musicxml", ".mei", ".abc")
_FREE = re.compile(r"public domain|\bcc0\b|\bcc[- ]by\b", re.IGNORECASE)
_KEPT = re.compile(r"all rights reserved|\bn[cd]\b|non-?commercial|\bno(?:n|t)\b[^.;]*public domain", re.IGNORECASE)
_NOTHING_SAID = re.compile(r"^(?:copyright|©|\(c\)|\s)*$", re.IGNORECASE)


class RightsReservedError(Exception):
    """The file says that somebody keeps rights that could be touched here."""


@dataclass(frozen=True, order=True)
class Piece:
    """A piece of music: ``name`` is unique, ``work`` is shared by the movements and encodings of one work."""

    name: str
    path: Path
    tune: int | None = None  #: which one of a file of tunes, counted from 0

    @property
    def work(self) -> str:
        """The name up to its catalogue number, or all of it: ``bach/bwv10.7`` and ``bach/bwv10.2`` are one work."""
        catalogued = re.match(r"(.*?\b(?:bwv|opus|op|k|d|hob)\.?\d+)", self.name, re.IGNORECASE)
        return (catalogued.group(1) if catalogued else self.title).lower()

    @property
    def title(self) -> str:
        """The name without the number that tells files of one name apart."""
        return re.sub(r"~\d+$", "", self.name)


def find_pieces(corpus: Sequence[str] = ("scores",)) -> list[Piece]:
    """The pieces of ``corpus``, sorted by name.

    Args:
        corpus: ``scores``, ``tunes``, ``all``, folders of music21's corpus such as ``bach``, or paths of folders
            with MusicXML (.mxl, .xml, .musicxml), MEI or ABC files; one called like a collection is ``./bach``.

    Raises:
        DataError: an unknown name, or nothing there; says what is known.
    """
    pieces: set[Piece] = set()
    for name in corpus:
        known = {*COLLECTIONS, *SCORES, *TUNES}
        if name in known:
            root = folder_of("music21") / "corpus"
            for one in COLLECTIONS.get(name, (name,)):
                pieces.update(_pieces_below(root / one, root))
        elif Path(name).is_dir():
            pieces.update(_pieces_below(Path(name), Path(name)))
        else:
            raise DataError(f"unknown corpus {name!r}: no such folder, and {did_you_mean(name, known)}")
    if not pieces:
        raise DataError(f"no music in {', '.join(corpus)}: expected files {', '.join(_SUFFIXES)}")
    return list(_named_apart(sorted(pieces)))


def _named_apart(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Two encodings side by side, or one name in two folders: from the second on they are ``name~2``, ..."""
    seen: Counter[str] = Counter()
    for piece in pieces:
        seen[piece.name] += 1
        number = seen[piece.name]
        yield piece if number == 1 else replace(piece, name=f"{piece.name}~{number}")


def _pieces_below(folder: Path, root: Path) -> Iterable[Piece]:
    for path in folder.rglob("*"):
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        if path.suffix.lower() == ".abc":
            yield from (Piece(f"{name}#{number}", path, number) for number in range(len(_tunes(_text(path)))))
        else:
            yield Piece(name, path)


def read_piece(piece: Piece) -> str:
    """The piece as text, for the engraver.

    Raises:
        RightsReservedError: the file has a line about rights that doesn't give them away.
        DataError, OSError, zipfile.BadZipFile, UnicodeError: it can't be read.
    """
    text = _text(piece.path)
    _check_rights(text)
    return text if piece.tune is None else _tunes(text)[piece.tune]


def _check_rights(text: str) -> None:
    said = [line for _, line in re.findall(r"<(rights|useRestrict)\b[^>]*>(.*?)</\1>", text, re.DOTALL)]
    said += re.findall(r"^%*\s*(?:[A-Z]:)?\s*(copyright.*)$", text, re.MULTILINE | re.IGNORECASE)
    for line in said:
        if not _NOTHING_SAID.match(line) and (_KEPT.search(line) or not _FREE.search(line)):
            raise RightsReservedError(" ".join(line.split())[:80])


def _text(path: Path) -> str:
    return _decoded(_from_zip(path) if path.suffix.lower() == ".mxl" else path.read_bytes())


def _from_zip(path: Path) -> bytes:
    """The score of a compressed MusicXML file."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.startswith("META-INF") and name.lower().endswith((".xml", ".musicxml")):
                return archive.read(name)
    raise DataError(f"{path} holds no score")


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
    return re.sub(r'(<\?xml[^>]*?) encoding="[^"]*"', r"\1", text, count=1)  # it is no longer true of a str


def _tunes(text: str) -> list[str]:
    """The tunes of an ABC file: each begins with its number, a line ``X:``."""
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    return [text[low:high].rstrip() + "\n" for low, high in zip(starts, [*starts[1:], len(text)], strict=True)]
