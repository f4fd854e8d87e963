"""From a piece to one long staff line as pixels, with time, pitch and place of every note."""
from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.audio_score.packages import required

FONTS = ("Leipzig", "Bravura", "Leland")
#: Engraving costs more than linearly in the length.
MOST_MEASURES = 80
_MEI = "http://www.music-encoding.org/ns/mei"
_ID = "{http://www.w3.org/XML/1998/namespace}id"
#: What is not played as written, or would give the piece away by words.
_DROPPED = {"verse", "syl", "dir", "dynam", "fermata", "tempo", "harm", "hairpin", "trill", "mordent", "turn", "ornam",
            "arpeg", "pedal", "fing", "reh", "breath", "caesura", "label", "labelAbbr", "pgHead", "pgFoot", "pgHead2",
            "pgFoot2", "expansion", "gliss", "mNum", "anchoredText", "sb", "pb", "instrDef", "graceGrp", "phrase", "fb",
            "meiHead"}
#: Where clefs and definitions of staves stay when staves are merged.
_PLACES = {"clef": {"staffDef"}, "staffDef": {"staffGrp", "scoreDef"}}
_SHOWN_AT = 40  # percent: twice the size of the strip, which is box-averaged
_OPTIONS = {"breaks": "none", "adjustPageWidth": True, "adjustPageHeight": True, "xmlIdSeed": 1, "header": "none",
            "footer": "none", "pageMarginLeft": 0, "pageMarginRight": 0, "pageMarginTop": 0, "pageMarginBottom": 0,
            "scale": _SHOWN_AT, "spacingStaff": 9, "mnumInterval": 0,
            "expandNever": True}  # repeats are drawn once; playing them crashes on every third tune (verovio 6.4.1)
_NOTE = re.compile(r'<g id="([^"]+)" class="note"[^>]*>\s*<g (?:id="[^"]*" )?class="notehead"[^>]*>\s*'
                   r'<use [^>]*translate\((-?\d+), (-?\d+)\)')
_STAFF = re.compile(r'class="staff"[^>]*>\s*((?:<path d="[^"]*" stroke-width="\d+" ?/>\s*)+)')
_LINE = re.compile(r'd="M-?\d+ (-?\d+) L-?\d+ \1"')
_NOTEHEAD_UNITS = 106  # half the width of a black notehead, in the units of the drawing
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ACCIDENTALS = {"s": 1, "f": -1, "n": 0, "ss": 2, "x": 2, "ff": -2}


class UnsuitableError(Exception):
    """A piece that can't be made into pairs, for the reason given."""


@dataclass(frozen=True)
class Music:
    """What sounds in a piece, and how to draw it.

    Attributes:
        mei: the score as MEI text, on at most two staves.
        names: (n,) xml:id of each note that starts a sound.
        onset: (n,) quarter notes from the start.
        duration: (n,) quarter notes; tied notes count once, with their whole length.
        pitch: (n,) MIDI numbers.
        melody: MIDI numbers of the upper voice on each quarter note.
    """

    mei: str
    names: np.ndarray
    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    melody: np.ndarray


@dataclass(frozen=True)
class Score:
    """An engraved piece.

    Attributes:
        strip: (height, width) uint8, ink 255 on 0.
        middle: row in the middle between the outermost staff lines.
        onset, duration, pitch: (n,) of the notes that are drawn, see :class:`Music`.
        x, y: (n,) pixel columns and rows of their heads' middles.
    """

    strip: np.ndarray
    middle: float
    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    x: np.ndarray
    y: np.ndarray


def read_music(text: str) -> Music:
    """Reads MusicXML, MEI or ABC text.

    Scores of three or four parts are merged to two staves, as chorales are printed for the piano. Words, dynamics,
    ornaments and grace notes are dropped; only the first 80 measures are kept.

    Raises:
        UnsuitableError: more parts, transposing instruments, octave lines, or nothing that sounds.
    """
    toolkit = _loaded(text)
    root = ET.fromstring(toolkit.getMEI())
    if text.lstrip().startswith("X:"):
        sound_as_written(root)
    simplify(root)
    mei = ET.tostring(root, encoding="unicode")
    onset, duration, names = _times(_loaded(mei).renderToTimemap())
    pitches, voice = note_pitches(root), _upper_voice(root)
    duration, continued = _tied(root, onset, duration, names)
    kept = [i for i, name in enumerate(names) if name in pitches and name not in continued]
    if not kept:
        raise UnsuitableError("nothing in it sounds")
    onset, duration, names = onset[kept], duration[kept], [names[i] for i in kept]
    pitch, upper = np.array([pitches[name] for name in names]), np.array([name in voice for name in names])
    return Music(mei, np.array(names), onset, duration, pitch,
                 melody_on_beats(onset[upper], duration[upper], pitch[upper]))


def draw(music: Music, font: str = FONTS[0], highest: float = 64.0) -> Score:
    """Engraves a piece as one line.

    Raises:
        UnsuitableError: the staves take more than ``highest`` pixels, which leaves too few of a snippet's 80 for jitter
            and ledger lines; or no note can be seen.
    """
    toolkit = _loaded(music.mei, font)
    if toolkit.getPageCount() != 1:
        raise UnsuitableError(f"it takes {toolkit.getPageCount()} pages")
    svg = toolkit.renderToSVG(1)
    places, first, last = _places(svg)
    if last - first > highest:
        raise UnsuitableError(f"its staves are {last - first:.0f} pixels high")
    drawn = [i for i, name in enumerate(music.names) if name in places]
    if not drawn:
        raise UnsuitableError("no note can be seen")
    png = required("resvg_py").svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True, dpi=96.0)
    spots = np.array([places[music.names[i]] for i in drawn])
    return Score(_pixels(png), (first + last) / 2, music.onset[drawn], music.duration[drawn], music.pitch[drawn],
                 spots[:, 0], spots[:, 1])


def _loaded(text: str, font: str = FONTS[0]) -> Any:
    verovio = required("verovio")
    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions({**_OPTIONS, "font": font})
    if not toolkit.loadData(text):
        raise UnsuitableError("the engraver can't read it")
    return toolkit


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _all(element: ET.Element, tag: str) -> list[ET.Element]:
    return element.findall(f".//{{{_MEI}}}{tag}")


def simplify(root: ET.Element) -> None:
    """Drops what is not played, measures past the 80th, and merges up to four staves to two; changes ``root``.

    Raises:
        UnsuitableError: see :func:`read_music`.
    """
    ET.register_namespace("", _MEI)
    _drop(root)
    for number, measure in enumerate(_all(root, "measure")):
        if number >= MOST_MEASURES:
            for child in list(measure):
                measure.remove(child)
    _remove_empty_measures(root)
    definition = next(iter(_all(root, "scoreDef")), None)
    staves = _all(definition, "staffDef") if definition is not None else []
    if _all(root, "octave") or any(staff.get("trans.semi", "0") != "0" for staff in _all(root, "staffDef")):
        raise UnsuitableError("it sounds in another octave or key than it is written in")
    if not 1 <= len(staves) <= 4:
        raise UnsuitableError(f"it has {len(staves)} staves")
    if len(staves) > 2:
        _merge(root, [staff.get("n", "") for staff in staves])


def _drop(element: ET.Element) -> None:
    for child in list(element):
        if _tag(child) in _DROPPED or child.get("grace") is not None:
            element.remove(child)
        else:
            _drop(child)
    if _tag(element) == "chord" and len(element) == 0:
        element.clear()


def _remove_empty_measures(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if _tag(child) == "measure" and len(child) == 0:
                parent.remove(child)


def _merge(root: ET.Element, names: list[str]) -> None:
    """Puts the upper parts into one staff with a treble clef, the lower ones into another with a bass clef."""
    above = set(names[:2]) if len(names) == 4 else {name for name in names[:2] if _mean_pitch(root, name) >= 60}
    above |= {names[0]}
    place = {name: "1" if name in above else "2" for name in names}
    for definition in _all(root, "scoreDef"):
        _merge_definitions(definition, names, place)
    for parent in list(root.iter()):  # changes of clef in the middle, and definitions for single staves
        for child in list(parent):
            if _tag(parent) not in _PLACES.get(_tag(child), {_tag(parent)}):
                parent.remove(child)
    for measure in _all(root, "measure"):
        _merge_measure(measure, place)


def _merge_definitions(definition: ET.Element, names: list[str], place: dict[str, str]) -> None:
    by_name = {staff.get("n", ""): staff for staff in _all(definition, "staffDef")}
    if not by_name:
        return
    for child in [child for child in definition if _tag(child) in ("staffGrp", "staffDef")]:
        definition.remove(child)
    group = ET.SubElement(definition, f"{{{_MEI}}}staffGrp", {"symbol": "brace", "bar.thru": "true"})
    for number, (shape, line) in {"1": ("G", "2"), "2": ("F", "4")}.items():
        staff = next((by_name[name] for name in names if place[name] == number and name in by_name), None)
        if staff is None:
            continue
        staff.set("n", number)
        for child in [child for child in staff if _tag(child) == "clef"]:
            staff.remove(child)
        for key in [key for key in staff.attrib if key.startswith("clef.")]:
            del staff.attrib[key]
        staff.insert(0, ET.Element(f"{{{_MEI}}}clef", {"shape": shape, "line": line}))
        group.append(staff)


def _merge_measure(measure: ET.Element, place: dict[str, str]) -> None:
    merged: dict[str, ET.Element] = {}
    for staff in [child for child in measure if _tag(child) == "staff"]:
        number = place.get(staff.get("n", ""))
        if number is None or number in merged:
            measure.remove(staff)
        if number is None:
            continue
        target = merged.setdefault(number, staff)
        target.set("n", number)
        if target is not staff:
            target.extend(list(staff))
    for staff in merged.values():
        for position, layer in enumerate((child for child in staff if _tag(child) == "layer"), start=1):
            layer.set("n", str(position))
            for element in layer.iter():
                for key in ("stem.dir", "loc", "ploc", "oloc"):
                    element.attrib.pop(key, None)
    for child in measure:
        if _tag(child) != "staff" and child.get("staff"):
            child.set("staff", " ".join(place.get(name, name) for name in child.get("staff", "").split()))


def _mean_pitch(root: ET.Element, staff: str) -> float:
    pitches = [pitch for one in _all(root, "staff") if one.get("n") == staff for pitch in note_pitches(one).values()]
    return float(np.mean(pitches)) if pitches else 0.0


def note_pitches(root: ET.Element) -> dict[str, int]:
    """MIDI numbers of the notes by their xml:id, as they sound."""
    pitches = {}
    for note in _all(root, "note"):
        step, octave = note.get("pname"), note.get("oct.ges", note.get("oct"))
        if step not in _STEPS or octave is None:
            continue
        said = [note.get("accid.ges"), note.get("accid")]
        for child in note.iter(f"{{{_MEI}}}accid"):
            said += [child.get("accid.ges"), child.get("accid")]
        alteration = next((_ACCIDENTALS[one] for one in said if one in _ACCIDENTALS), 0)
        pitches[note.get(_ID, "")] = 12 * (int(octave) + 1) + _STEPS[step] + alteration
    return pitches


def sound_as_written(root: ET.Element) -> None:
    """Notes of an ABC tune sound by the key that is drawn, and by accidentals until the end of the bar; changes
    ``root``.

    verovio 6.4.1 forgets accidentals within a bar, and plays a tune in C in the key of the tune that it read before.
    """
    key: dict[str, int] = {}
    bar: dict[tuple[str | None, str | None], int] = {}
    for element in root.iter():
        signature = element.get("sig" if _tag(element) == "keySig" else "keysig")
        if signature is not None:
            sharps = signature.endswith("s")
            count = int(signature[:-1]) if signature[:-1].isdigit() else 0
            key = dict.fromkeys(("fcgdaeb" if sharps else "beadgcf")[:count], 1 if sharps else -1)
        if _tag(element) == "measure":
            bar = {}
        if _tag(element) != "note":
            continue
        place = element.get("pname"), element.get("oct")
        written = [one.get("accid") for one in (element, *element.iter(f"{{{_MEI}}}accid"))]
        for sign in written:
            if sign in _ACCIDENTALS:
                bar[place] = _ACCIDENTALS[sign]
        sounding = bar.get(place, key.get(place[0] or "", 0))
        element.set("accid.ges", next(sign for sign, by in _ACCIDENTALS.items() if by == sounding))


def _upper_voice(root: ET.Element) -> set[str]:
    """The ids of all notes in the first layer of the first staff."""
    layers = [staff.find(f"{{{_MEI}}}layer") for staff in _all(root, "staff") if staff.get("n") == "1"]
    return {note.get(_ID, "") for layer in layers if layer is not None for note in _all(layer, "note")}


def melody_on_beats(onset: np.ndarray, duration: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """The highest of the notes (n,) that sound on each quarter note, int64; beats of rest are left out."""
    ends = onset + duration
    sounding = (pitch[(onset <= beat) & (beat < ends)] for beat in range(int(np.ceil(ends.max(initial=0.0)))))
    return np.array([int(notes.max()) for notes in sounding if len(notes)], dtype=np.int64)


def _times(timemap: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Onset and duration in quarter notes and the id of every note that starts a sound."""
    started = {name: float(moment["qstamp"]) for moment in timemap for name in moment.get("on", ())}
    ended = {name: float(moment["qstamp"]) for moment in timemap for name in moment.get("off", ())}
    names = [name for name in started if ended.get(name, 0.0) > started[name]]
    onset = np.array([started[name] for name in names])
    return onset, np.array([ended[name] for name in names]) - onset, names


def _tied(root: ET.Element, onset: np.ndarray, duration: np.ndarray, names: list[str]) -> tuple[np.ndarray, set[str]]:
    """Durations (n,) with those of tied notes added to their first, and the names of the notes that go on sounding."""
    before = {tie.get("endid", "").lstrip("#"): tie.get("startid", "").lstrip("#") for tie in _all(root, "tie")}
    duration, first, continued = duration.copy(), {name: i for i, name in enumerate(names)}, set()
    for i in np.argsort(onset, kind="stable"):
        start = first.get(before.get(names[i], ""))
        if start is not None and np.isclose(onset[start] + duration[start], onset[i]):
            duration[start] += duration[i]
            first[names[i]] = start
            continued.add(names[i])
    return duration, continued


def _places(svg: str) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Pixel column and row of each notehead's middle by note id, and the rows of the first and the last staff line."""
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
    width = re.search(r'<svg width="(\d+)px"', svg)
    margin = re.search(r'class="page-margin" transform="translate\((-?\d+), (-?\d+)\)', svg)
    if box is None or width is None or margin is None:
        raise UnsuitableError("the engraver's drawing has an unknown form")
    to_pixels = int(width.group(1)) / int(box.group(1)) / 2
    right, down = int(margin.group(1)), int(margin.group(2))
    places = {name: ((int(x) + _NOTEHEAD_UNITS + right) * to_pixels, (int(y) + down) * to_pixels)
              for name, x, y in _NOTE.findall(svg)}
    rows = [int(y) for lines in _STAFF.findall(svg) for y in _LINE.findall(lines)]  # not those of ledger lines
    if not rows:
        raise UnsuitableError("the drawing has no staff lines")
    return places, (min(rows) + down) * to_pixels, (max(rows) + down) * to_pixels


def _pixels(png: bytes) -> np.ndarray:
    """Ink as 255 on 0, at half the size of the picture."""
    image = required("PIL.Image").open(io.BytesIO(png)).convert("L")
    ink = 255 - np.asarray(image, dtype=np.uint16)
    ink = ink[: ink.shape[0] // 2 * 2, : ink.shape[1] // 2 * 2]
    quarters = ink[0::2, 0::2] + ink[1::2, 0::2] + ink[0::2, 1::2] + ink[1::2, 1::2]
    return ((quarters + 2) // 4).astype(np.uint8)
