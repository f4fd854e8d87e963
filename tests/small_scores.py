"""Small scores for tests: real chorales of music21's corpus, and pieces written note by note."""
from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

CHORALES = ("bwv10.7", "bwv66.6", "bwv101.7", "bwv104.6", "bwv108.6", "bwv111.6")
Note = tuple[str, int, float]  #: step with # or b, octave, quarter notes; "r" is a rest


def corpus_folder() -> Path:
    """Where music21's corpus lies, found without importing it."""
    spec = importlib.util.find_spec("music21")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "corpus"


def copy_chorales(folder: Path, names: Sequence[str] = CHORALES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(corpus_folder() / "bach" / f"{name}.mxl", folder / f"{name}.mxl")
    return folder


def abc_tune(key: str, degrees: Sequence[int], title: str = "tune", number: int = 1) -> str:
    """Quarter notes on the degrees of a major scale; degree 0 is the tonic."""
    names = "CDEFGABcdefgab"
    first = names.index(key)
    notes = [names[first + degree] for degree in degrees]
    bars = "|".join(" ".join(notes[i:i + 4]) for i in range(0, len(notes), 4))
    return f"X:{number}\nT:{title}\nM:4/4\nL:1/4\nK:{key}\n{bars}|\n"


def _note(note: Note, extra: str) -> str:
    name, octave, length = note
    kinds = {4.0: "whole", 2.0: "half", 1.0: "quarter", 0.5: "eighth"}
    what = "<rest/>" if name == "r" else (f"<pitch><step>{name[0]}</step><alter>{name.count('#') - name.count('b', 1)}"
                                          f"</alter><octave>{octave}</octave></pitch>")
    return (f"<note>{what}<duration>{int(2 * length)}</duration><voice>1</voice><type>{kinds[length]}</type>"
            f"{extra}</note>")


def musicxml(parts: Sequence[Sequence[Sequence[Note]]], *, attributes: str = "", before: str = "", lyric: str = "",
             direction: str = "", rights: str = "") -> str:
    """Parts of measures of notes in 4/4. ``before`` stands before each measure's notes, ``lyric`` inside each note."""
    listed = "".join(f'<score-part id="P{i}"><part-name>part {i}</part-name></score-part>' for i in range(len(parts)))
    body = ""
    for i, measures in enumerate(parts):
        clef = "<clef><sign>G</sign><line>2</line></clef>" if i < (len(parts) + 1) // 2 else \
            "<clef><sign>F</sign><line>4</line></clef>"
        body += f'<part id="P{i}">'
        for number, notes in enumerate(measures, start=1):
            body += f'<measure number="{number}">'
            if number == 1:
                body += (f"<attributes><divisions>2</divisions><key><fifths>0</fifths></key><time><beats>4</beats>"
                         f"<beat-type>4</beat-type></time>{clef}{attributes}</attributes>{direction}")
            body += before + "".join(_note(note, lyric) for note in notes) + "</measure>"
        body += "</part>"
    said = f"<identification><rights>{rights}</rights></identification>" if rights else ""
    return ('<?xml version="1.0" encoding="UTF-8"?><score-partwise version="3.1">'
            f"{said}<part-list>{listed}</part-list>{body}</score-partwise>")
