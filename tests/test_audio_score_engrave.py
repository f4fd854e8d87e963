"""Engraving, sound and cutting: every note is where, when and how high it is said to be."""
from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from small_scores import CHORALES, abc_tune, copy_chorales, musicxml

from xmodal.data.audio_score import cut as cutting
from xmodal.data.audio_score.corpus import find_pieces, read_piece
from xmodal.data.audio_score.cut import (
    FRAMES,
    JITTER,
    SNIPPET,
    STEP,
    Jitter,
    candidates,
    cut,
    excerpts,
    frame_of,
    tempo,
    wave_excerpt,
)
from xmodal.data.audio_score.cut import snippets as cut_snippets
from xmodal.data.audio_score.engrave import (
    MOST_MEASURES,
    Music,
    Score,
    UnsuitableError,
    _loaded,
    _times,
    draw,
    melody_on_beats,
    note_pitches,
    read_music,
    simplify,
)
from xmodal.data.audio_score.sound import LEAD_IN, synthesise
from xmodal.features.sounds import FFT, FRAMES_PER_SECOND, SAMPLE_RATE, Spectrograms, filterbank, spectrogram

for package in ("verovio", "resvg_py", "PIL", "music21", "pretty_midi", "tinysoundfont"):
    pytest.importorskip(package)

SECONDS = 0.6  #: of a quarter note, where a test plays a piece itself
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def midi(name: str, octave: int) -> int:
    return 12 * (octave + 1) + STEPS[name[0]] + name.count("#") - name.count("b", 1)


@dataclass
class Played:
    """A real piece, its picture and its sound at 100 beats a minute."""

    text: str
    music: Music
    score: Score
    wave: np.ndarray
    sound: np.ndarray


@pytest.fixture(scope="module")
def chorales(tmp_path_factory) -> list[Played]:
    played = []
    for piece in find_pieces([str(copy_chorales(tmp_path_factory.mktemp("bach"), CHORALES[:4]))]):
        text = read_piece(piece)
        music = read_music(text)
        score = draw(music)
        wave = synthesise(score.onset * SECONDS, score.duration * SECONDS, score.pitch,
                          np.full(len(score.pitch), 70), 0)
        played.append(Played(text, music, score, wave, spectrogram(wave)))
    return played


# alignment

def band_of(pitch: np.ndarray) -> np.ndarray:
    """The band whose middle is nearest to a note's fundamental."""
    centres = filterbank().argmax(axis=0) * SAMPLE_RATE / FFT
    fundamental = 440 * 2 ** ((np.asarray(pitch) - 69) / 12)
    return np.abs(np.log(centres)[:, None] - np.log(fundamental)).argmin(axis=0)


def test_the_sound_has_energy_at_the_pitches_of_each_onset(chorales):
    rng = np.random.default_rng(0)
    at_notes, elsewhere = [], []
    for piece in chorales:
        for moment in np.unique(piece.score.onset):
            sounding = piece.score.pitch[(piece.score.onset <= moment)
                                         & (moment < piece.score.onset + piece.score.duration)]
            frame = int(frame_of(np.array(moment * SECONDS)))
            energy = piece.sound[:, frame + 1:frame + 4].mean(axis=1)
            others = np.setdiff1d(np.arange(piece.score.pitch.min(), piece.score.pitch.max() + 1), sounding)
            at_notes.append(energy[band_of(piece.score.pitch[piece.score.onset == moment])])
            elsewhere.append(energy[band_of(rng.choice(others, 4))])
    ours, theirs = np.concatenate(at_notes), np.concatenate(elsewhere)
    assert len(ours) > 500
    assert (ours[:, None] > theirs).mean() > 0.9  # the area under the curve


def test_the_sound_rises_at_the_onsets(chorales):
    lags = np.arange(-6, 7)
    rises = np.zeros(len(lags))
    for piece in chorales:
        rise = np.maximum(np.diff(piece.sound, axis=1, prepend=piece.sound[:, :1]), 0).sum(axis=0)
        frames = frame_of(np.unique(piece.score.onset) * SECONDS)
        rises += np.array([rise[frames + lag].mean() for lag in lags])
    assert lags[rises.argmax()] == 0
    assert rises.max() > 2 * rises[np.abs(lags) == 5].mean()  # between the onsets of eighths and quarters


def test_noteheads_are_where_the_columns_and_rows_say(chorales):
    """Ink around each notehead, averaged: its middle of mass in a window of that width is at most 2 pixels off."""
    around = np.zeros((13, 21))
    for piece in chorales:
        strip = np.pad(piece.score.strip.astype(float), 20)
        for x, y in zip(piece.score.x, piece.score.y, strict=True):
            row, column = round(y) + 20, round(x) + 20
            around += strip[row - 6:row + 7, column - 10:column + 11]
    ink = around[4:9].sum(axis=0)  # the rows of the head
    assert abs(ink.argmax() - 10) <= 2 and ink[8:13].mean() > 2 * ink[[0, 1, 2, 18, 19, 20]].mean()
    rows = around[:, 8:13].sum(axis=1)
    assert abs(rows.argmax() - 6) <= 2


def test_rows_are_a_line_of_the_steps_within_a_staff(chorales):
    for piece in chorales:
        root = ET.fromstring(piece.music.mei)
        place = dict(zip(piece.music.names.tolist(), piece.score.y, strict=True))  # all notes are drawn
        for number in ("1", "2"):
            notes = [note for staff in root.findall(".//{*}staff") if staff.get("n") == number
                     for note in staff.findall(".//{*}note")]
            table = [(7 * int(note.get("oct")) + "cdefgab".index(note.get("pname")),
                      place[note.get("{http://www.w3.org/XML/1998/namespace}id")])
                     for note in notes if note.get("{http://www.w3.org/XML/1998/namespace}id") in place]
            steps, rows = np.array(table).T
            slope, start = np.polyfit(steps, rows, 1)
            assert slope < -1.0 and np.abs(rows - start - slope * steps).max() < 0.1
            assert len(table) > 40


def test_columns_rise_with_time(chorales):
    for piece in chorales:
        columns = [np.median(piece.score.x[piece.score.onset == moment]) for moment in np.unique(piece.score.onset)]
        assert (np.diff(columns) > 0).all()


def test_pitches_are_those_that_the_engraver_would_play(chorales):
    for piece in chorales:
        toolkit = _loaded(piece.music.mei)
        toolkit.renderToMIDI()
        played = [toolkit.getMIDIValuesForElement(str(name)).get("pitch") for name in piece.music.names]
        known = [(ours, theirs) for ours, theirs in zip(piece.music.pitch.tolist(), played, strict=True) if theirs]
        assert all(ours == theirs for ours, theirs in known) and len(known) > 0.7 * len(played)


# reading

FOUR_PARTS = [
    [[("C", 5, 1.0), ("D", 5, 1.0), ("E", 5, 2.0)], [("F#", 5, 2.0), ("r", 0, 1.0), ("G", 5, 1.0)]],
    [[("G", 4, 2.0), ("G", 4, 2.0)], [("A", 4, 4.0)]],
    [[("E", 4, 1.0), ("F", 4, 0.5), ("E", 4, 0.5), ("C", 4, 2.0)], [("D", 4, 4.0)]],
    [[("C", 3, 4.0)], [("D", 3, 2.0), ("Bb", 2, 2.0)]],
]


def notes_of(parts) -> Counter:
    """(onset, duration, pitch) of each note, counted by hand."""
    found: Counter = Counter()
    for measures in parts:
        now = 0.0
        for name, octave, length in (note for measure in measures for note in measure):
            if name != "r":
                found[now, length, midi(name, octave)] += 1
            now += length
    return found


def heard(music: Music | Score) -> Counter:
    return Counter(zip(music.onset.tolist(), music.duration.tolist(), music.pitch.tolist(), strict=True))


@pytest.mark.parametrize("declaration", ['<?xml version="1.0" encoding="UTF-16"?>',
                                         "<?xml version='1.0' encoding='UTF-16'?>"])
def test_utf_16_is_engraved(declaration, tmp_path):
    text = declaration + musicxml(FOUR_PARTS).partition("?>")[2]
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    piece, = find_pieces([str(tmp_path)])
    assert heard(read_music(read_piece(piece))) == notes_of(FOUR_PARTS)


GRACE = ("<note><grace/><pitch><step>B</step><octave>4</octave></pitch><voice>1</voice><type>eighth</type></note>")
WORDS = "<direction><direction-type><words>Andante</words></direction-type></direction>"


@pytest.mark.parametrize("n_parts", [1, 2, 3, 4])
def test_two_staves_hold_all_notes_of_up_to_four_parts(n_parts):
    parts = FOUR_PARTS[:n_parts]
    music = read_music(musicxml(parts, before=GRACE, lyric="<lyric><text>la</text></lyric>", direction=WORDS))
    assert heard(music) == notes_of(parts)
    root = ET.fromstring(music.mei)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"verse", "syl", "tempo", "dir"} and "Andante" not in music.mei and "grace" not in music.mei
    assert len({staff.get("n") for staff in root.findall(".//{*}staff")}) == min(n_parts, 2)
    layers = [[len(staff) for staff in measure.findall("{*}staff")] for measure in root.findall(".//{*}measure")]
    assert layers == [{1: [1], 2: [1, 1], 3: [2, 1], 4: [2, 2]}[n_parts]] * 2
    assert music.melody.tolist() == [72, 74, 76, 76, 78, 78, 79]  # the rest is left out
    assert len(draw(music).x) == sum(notes_of(parts).values())


def sounding(notes: Counter) -> Counter:
    """How often each pitch sounds in each 48th of a quarter note, however its sound is cut into notes."""
    return Counter((cell, pitch) for (onset, duration, pitch), count in notes.items() for _ in range(count)
                   for cell in range(round(48 * onset), round(48 * (onset + duration))))


def test_merging_real_chorales_keeps_all_notes(chorales):
    for piece in chorales:
        root = ET.fromstring(_loaded(piece.text).getMEI())
        onset, duration, names = _times(_loaded(piece.text).renderToTimemap())
        pitches = note_pitches(root)
        before = Counter((o, d, pitches[name]) for o, d, name in zip(onset.tolist(), duration.tolist(), names,
                                                                     strict=True))
        assert sounding(heard(piece.music)) == sounding(before)
        assert before.total() * 0.9 < heard(piece.music).total() <= before.total()  # ties are joined
        simplify(root)
        assert sorted({staff.get("n") for staff in root.findall(".//{*}staff")}) == ["1", "2"]


@pytest.mark.parametrize("text, reason", [
    (musicxml([*FOUR_PARTS, FOUR_PARTS[0]]), "it has 5 staves"),
    (musicxml(FOUR_PARTS[:1], attributes="<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"),
     "another octave or key"),
    (musicxml(FOUR_PARTS[:1], direction='<direction><direction-type><octave-shift type="down" size="8"/>'
              "</direction-type></direction>"), "another octave or key"),
    (musicxml([[[("r", 0, 4.0)]]]), "nothing in it sounds"),
    ("", "can't read it"), ("<score-partwise>", "nothing in it sounds"), ("no music at all", "can't read it"),
])
def test_what_cannot_be_used_says_why(text, reason):
    with pytest.raises(UnsuitableError, match=reason):
        read_music(text)


def test_accidentals_of_abc_come_from_the_key_and_last_for_the_bar():
    music = read_music("X:1\nT:a\nM:4/4\nL:1/4\nK:G\nF G ^c c|c F =F F|f4|\n")
    assert music.pitch.tolist() == [66, 67, 73, 73, 72, 66, 65, 65, 78]
    flat = read_music("X:1\nT:a\nM:4/4\nL:1/4\nK:Eb\nE A b B|_G ^^F G B|\n")
    assert flat.pitch.tolist() == [63, 68, 82, 70, 66, 67, 66, 70]


@pytest.mark.parametrize("before", ["G", "F", "C"])
def test_a_tune_sounds_the_same_whatever_was_read_before(before):
    """verovio 6.4.1 by itself plays a tune in C in the key of the tune before it."""
    read_music(abc_tune(before, range(4)))
    assert read_music(abc_tune("C", range(8))).pitch.tolist() == [60, 62, 64, 65, 67, 69, 71, 72]


def test_repeats_are_played_once():
    """verovio 6.4.1 crashes when it plays the repeats of some tunes, and leaves a hole in others."""
    music = read_music("X:1\nM:2/4\nL:1/4\nK:C\nC D|E F:|\n|:G A|1 B c:|2 c B|\n")
    assert music.onset.tolist() == list(range(10)) and music.pitch[:5].tolist() == [60, 62, 64, 65, 67]


def test_ties_make_one_sound():
    tied = musicxml([[[("C", 5, 4.0)], [("C", 5, 4.0)]]]).split("<type>whole</type>")
    text = '<tie type="start"/><type>whole</type><notations><tied type="start"/></notations>'.join(tied[:2]) + \
        '<tie type="stop"/><type>whole</type><notations><tied type="stop"/></notations>' + tied[2]
    assert heard(read_music(text)) == {(0.0, 8.0, 72): 1}


def test_only_the_first_measures_are_kept():
    music = read_music(musicxml([[[("C", 5, 2.0), ("D", 5, 2.0)]] * (MOST_MEASURES + 5)]))
    assert len(music.pitch) == 2 * MOST_MEASURES and music.onset.max() == 4 * MOST_MEASURES - 2


def test_melody_on_beats():
    onset, duration = np.array([0.0, 0.5, 1.0, 3.0, 3.0]), np.array([0.5, 0.5, 1.5, 1.0, 1.0])
    assert melody_on_beats(onset, duration, np.array([60, 61, 62, 63, 66])).tolist() == [60, 62, 62, 66]
    assert melody_on_beats(onset[:0], duration[:0], np.zeros(0, int)).tolist() == []


def test_staves_that_are_too_high_and_fonts(chorales):
    music = chorales[0].music
    with pytest.raises(UnsuitableError, match=r"its staves are \d+ pixels high"):
        draw(music, highest=20)
    plain, other = draw(music), draw(music, "Bravura")
    assert plain.strip.dtype == np.uint8 and not np.array_equal(plain.strip, other.strip)
    assert plain.strip.shape[0] < 120 and plain.strip.shape[1] > 400 and plain.strip.max() == 255


# sound

def note_at(second: float, **changes) -> np.ndarray:
    """One middle A of half a second."""
    event = {"pitch": 69, "velocity": 80, "duration": 0.5} | changes
    return synthesise(np.array([second]), np.array([event["duration"]]), np.array([event["pitch"]]),
                      np.array([event["velocity"]]), 0)


def test_silence_then_the_note_and_the_loudest_is_a_half():
    wave = note_at(0.25)
    start = round((0.25 + LEAD_IN) * SAMPLE_RATE)
    assert wave.dtype == np.float32 and np.abs(wave[:start]).max() < 1e-4
    first = np.flatnonzero(np.abs(wave) > 1e-3)[0]
    assert 0 <= first - start < 0.008 * SAMPLE_RATE
    assert np.abs(wave).max() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("later", [0.1, 0.123456, 1 / 3])
def test_a_later_note_is_the_same_sound_later(later):
    early, late = note_at(0.0), note_at(later)
    shift = round((later + LEAD_IN) * SAMPLE_RATE) - round(LEAD_IN * SAMPLE_RATE)
    np.testing.assert_allclose(late[shift:][:len(early)], early, atol=1e-5)


def test_a_repeated_note_starts_anew_and_no_notes_are_silence():
    wave = synthesise(np.array([0.0, 0.5]), np.array([0.5, 0.5]), np.array([60, 60]), np.array([80, 80]), 0)
    rise = np.maximum(np.diff(spectrogram(wave), axis=1), 0).sum(axis=0)
    assert abs(int(rise[int((LEAD_IN + 0.3) * FRAMES_PER_SECOND):].argmax())
               - int(0.2 * FRAMES_PER_SECOND)) <= 1
    silence = synthesise(np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros(0, int), 0)
    assert len(silence) > 0 and not silence.any() and not spectrogram(silence).any()


def test_the_bank_has_92_triangles_of_area_one_sixteen_an_octave():
    bank = filterbank()
    assert bank.shape == (1025, 92)
    np.testing.assert_allclose(bank.sum(axis=0), 1, rtol=1e-5)
    places = {round(440 * 2 ** (k / 16) * FFT / SAMPLE_RATE) for k in range(-100, 100)
              if 30 <= 440 * 2 ** (k / 16) <= 6000}
    corners = sorted(places)
    for band, (low, centre, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        triangle = np.interp(np.arange(1025), [low, centre, high], [0, 1, 0])
        np.testing.assert_allclose(bank[:, band], triangle / triangle.sum(), atol=1e-6)


def test_the_spectrogram_frame_by_frame():
    rng = np.random.default_rng(0)
    wave = rng.normal(size=5000).astype(np.float32)
    ours = spectrogram(wave)
    assert ours.shape == (92, 5) and ours.dtype == np.float32
    for frame in range(5):
        middle = round(frame * SAMPLE_RATE / 20)
        window = np.array([wave[i] if 0 <= i < len(wave) else 0.0 for i in range(middle - 1024, middle + 1024)])
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2047)
        expected = np.log10(1 + np.abs(np.fft.fft(window * hann))[:1025] @ filterbank().astype(float))
        np.testing.assert_allclose(ours[:, frame], expected, atol=1e-4)


@pytest.mark.parametrize("loudest", [1e-45, 1e-40, 1e-37, 0.1, 1e38])
def test_a_recording_is_made_loud_or_is_silence(loudest):
    wave = np.sin(np.arange(SAMPLE_RATE) * 0.1)
    heard = Spectrograms()((loudest * wave).astype(np.float32))
    expected = Spectrograms()(wave.astype(np.float32)) if loudest > 1e-38 else np.zeros((1, 92, 42))
    np.testing.assert_allclose(heard, expected, atol=1e-3)


# cutting

def test_snippets_at_scale_one_are_slices_and_blank_outside():
    strip = np.random.default_rng(0).integers(0, 256, (60, 300), dtype=np.uint8)
    middles = np.array([[30.0, 60.0], [25.0, 150.0], [33.0, 249.0]])
    ours = cut_snippets(strip, middles, np.ones(3))
    padded = np.pad(strip, ((40, 40), (0, 0)))
    for one, (row, column) in zip(ours, middles.astype(int), strict=True):
        np.testing.assert_array_equal(one, padded[row:row + 80, column - 50:column + 50])
    assert ours.shape == (3, *SNIPPET) and ours.dtype == np.uint8


@pytest.mark.parametrize("scale", [0.95, 1.05, 2.0])
def test_snippets_are_magnified_about_their_middles(scale):
    rows, columns = np.meshgrid(np.arange(200.0), np.arange(250.0), indexing="ij")
    strip = (rows / 2 + columns / 2).astype(np.float32)  # linear, so that interpolation is exact
    middle = np.array([[100.3, 120.7]])
    ours = cut_snippets(strip, middle, np.array([scale]))[0].astype(float)
    y, x = np.meshgrid(np.arange(80) - 40, np.arange(100) - 50, indexing="ij")
    np.testing.assert_allclose(ours, (100.3 + y / scale) / 2 + (120.7 + x / scale) / 2, atol=0.51)


def test_excerpts_are_frames_around_made_louder():
    sound = np.random.default_rng(0).uniform(0, 2, (92, 200)).astype(np.float32)
    frames, gain = np.array([21, 100, 179]), np.array([1.0, 0.5, 10.0])
    ours = excerpts(sound, frames, gain)
    assert ours.shape == (3, 92, FRAMES) and ours.dtype == np.uint8
    for one, frame, factor in zip(ours, frames, gain, strict=True):
        magnitude = 10.0 ** sound[:, frame - 21:frame + 21].astype(float) - 1
        expected = np.minimum(np.log10(1 + factor * magnitude), 2.55)
        np.testing.assert_allclose(one * STEP, expected, atol=STEP / 2 + 1e-4)
    assert ours[2].max() == 255


@pytest.mark.parametrize("gap, low, high", [
    (0.5, 160.0, 252.0), (1.0, 160.0, 252.0), (4.0, 480.0, 1008.0), (0.25, 80.0, 126.0), (0.05, 6.0, 31.5)])
def test_tempo_brings_the_time_between_onsets_into_its_range(gap, low, high):
    rng = np.random.default_rng(0)
    beats = np.array([tempo(np.arange(9) * gap, rng) for _ in range(60)])
    plain = np.array([np.random.default_rng(0).uniform(80, 126)])
    assert ((gap * 60 / beats >= 0.11) & (gap * 60 / beats <= 0.5)).all()
    assert low / 2 <= beats.min() and beats.max() <= high * 2
    octaves = np.log2(tempo(np.arange(9) * gap, np.random.default_rng(0)) / plain)
    np.testing.assert_allclose(octaves, np.round(octaves), atol=1e-9)
    assert 80 <= tempo(np.zeros(3), rng) * 0.5 ** np.round(np.log2(tempo(np.zeros(3), rng) / 100)) <= 252


def test_every_displaced_window_lies_inside_the_strip_and_shows_its_notes(chorales):
    for piece in chorales:
        moments, columns, windows = candidates(piece.score, SECONDS, piece.sound.shape[1])
        assert len(moments) > 20 and len(set(windows.tolist())) == len(windows)
        for moment, column in zip(moments, columns, strict=True):
            assert column == np.median(piece.score.x[piece.score.onset == moment])
            frame = int(frame_of(np.array(moment * SECONDS)))
            assert frame - 1 >= 21 and frame + 1 + 21 <= piece.sound.shape[1]
            for side in (-1, 1):
                for scale in (1 - JITTER.scale, 1 + JITTER.scale):
                    middle = column + side * JITTER.columns
                    seen = middle + (np.array([0, 99]) - 50) / scale
                    assert seen[0] >= 0 and seen[1] <= piece.score.strip.shape[1] - 1
                    inside = (piece.score.x >= seen[0]) & (piece.score.x <= seen[1])
                    rows = 40 + (piece.score.y[inside] - piece.score.middle + side * JITTER.rows) * scale
                    assert rows.min() >= 0 and rows.max() <= 79


def scale_of(pitch: np.ndarray, y: np.ndarray) -> Score:
    """Quarter notes 20 pixels apart, with room at both ends."""
    n = len(pitch)
    return Score(np.zeros((100, 20 * n + 200), np.uint8), 50.0, np.arange(n, dtype=float), np.ones(n), pitch,
                 100.0 + 20 * np.arange(n), y)


def test_what_repeats_is_cut_once():
    """Of 40 equal notes, all have the same two notes before and after but the first and the last two."""
    moments, columns, _ = candidates(scale_of(np.full(40, 60), np.full(40, 50.0)), SECONDS, 1000)
    assert moments.tolist() == [0, 1, 2, 38, 39] and columns.tolist() == [100, 120, 140, 860, 880]
    moments, _, _ = candidates(scale_of(60 + np.arange(40) % 10, np.full(40, 50.0)), SECONDS, 1000)
    assert moments.tolist() == [*range(12), 38, 39]


@pytest.mark.parametrize("height, shown", [(34.0, True), (-34.0, True), (36.5, False), (-36.5, False)])
def test_onsets_near_a_note_that_a_window_could_miss_are_left_out(height, shown):
    y = np.full(40, 50.0)
    y[20] += height
    moments, _, _ = candidates(scale_of(np.arange(40) + 40, y), SECONDS, 1000)
    missed = [] if shown else [18, 19, 20, 21, 22]
    assert moments.tolist() == [moment for moment in range(40) if moment not in missed]


@pytest.mark.parametrize("n_frames, last", [(1000, 39), (298, 21), (297, 20)])
def test_onsets_whose_sound_is_cut_off_are_left_out(n_frames, last):
    """Note 21 is at frame 24 + 12 · 21 = 276; 21 frames and one for the shift come after it."""
    moments, _, _ = candidates(scale_of(np.arange(40) + 40, np.full(40, 50.0)), SECONDS, n_frames)
    assert moments.max() == last and 24 + 12 * last + 22 <= n_frames


def test_an_exact_cut_is_centred_on_the_onset(chorales, monkeypatch):
    monkeypatch.setattr(cutting, "tempo", lambda onset, rng: 100.0)
    score = chorales[0].score
    made = cut(score, np.random.default_rng(0), 12)
    assert made.snippets.shape == (12, 80, 100) and made.excerpts.shape == (12, 92, 42) and len(made.timbre) == 0
    assert (np.diff(made.onsets) > 0).all()
    strip = np.pad(score.strip, ((60, 60), (0, 0)))
    for snippet, onset in zip(made.snippets, made.onsets, strict=True):
        column = np.median(score.x[np.isclose(score.onset * SECONDS, onset)])
        left, top = round(column) - 50, round(score.middle) - 40 + 60
        np.testing.assert_array_equal(snippet, strip[top:top + 80, left:left + 100])
    rise = np.maximum(np.diff(made.excerpts.astype(float), axis=2), 0).sum(axis=(0, 1))
    assert abs(int(rise[16:26].argmax()) + 17 - 21) <= 1


def test_a_displaced_cut_has_the_same_onsets_and_another_timbre(chorales):
    score = chorales[1].score
    exact, moved = (cut(score, np.random.default_rng(3), 15, jitter) for jitter in (None, JITTER))
    still = cut(score, np.random.default_rng(3), 15, Jitter(0, 0, 0, 0, 0))
    np.testing.assert_array_equal(exact.windows, moved.windows)
    np.testing.assert_array_equal(exact.onsets, moved.onsets)
    assert all((a != b).any() for a, b in zip(exact.snippets, moved.snippets, strict=True))
    np.testing.assert_array_equal(exact.excerpts, still.excerpts)
    assert moved.timbre.shape == moved.excerpts.shape and (moved.timbre != moved.excerpts).any(axis=(1, 2)).all()


def test_a_piece_too_short_for_a_window_is_unsuitable():
    with pytest.raises(UnsuitableError, match="no onset has a whole window around it"):
        cut(draw(read_music(abc_tune("C", [0, 1]))), np.random.default_rng(0), 5)


def test_the_wave_of_an_excerpt_is_centred_as_it_is(chorales):
    piece = chorales[0]
    onset = float(np.unique(piece.score.onset)[12]) * SECONDS
    part = wave_excerpt(piece.wave, onset)
    start = round((onset + LEAD_IN) * SAMPLE_RATE) - round(21 / 20 * SAMPLE_RATE)
    np.testing.assert_array_equal(part, piece.wave[start:start + len(part)])
    assert len(part) == 2 * round(21 / 20 * SAMPLE_RATE)


@pytest.mark.parametrize("far", [("C", 7), ("G", 3), ("B", 4)])
def test_ledger_lines_are_no_staff_lines(far):
    """The note on the third line lies in the middle of the staff, whatever else is written."""
    score = draw(read_music(musicxml([[[("B", 4, 1.0), (*far, 1.0), ("B", 4, 1.0), (*far, 1.0)]]])))
    on_the_line = score.y[score.pitch == 71]
    np.testing.assert_allclose(on_the_line, score.middle, atol=0.3)
