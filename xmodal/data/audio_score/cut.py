"""Cuts an engraved and played piece into pairs of a sheet snippet and an audio excerpt around the same onset."""
from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from xmodal.data.audio_score.engrave import Score, UnsuitableError
from xmodal.data.audio_score.sound import LEAD_IN, synthesise
from xmodal.features.sounds import FRAMES_PER_SECOND, SAMPLE_RATE, spectrogram

SNIPPET = (80, 100)  #: rows and columns of a snippet
FRAMES = 42  #: of an excerpt, which is centred on frame 21
#: Spectrograms are stored as bytes of this step.
STEP = 0.01
#: Pianos of General MIDI that pieces are played with, and the one that only ``test_timbre`` hears.
PROGRAMS = (0, 1, 2, 4)  # grand, bright, electric grand, electric piano
HELD_OUT_PROGRAM = 6  # harpsichord
_SLOWEST, _FASTEST = 80.0, 126.0  # beats per minute
_SHORTEST, _LONGEST = 0.11, 0.5  # seconds between onsets, in the median
_NEAR = 2.0  # quarter notes around an onset that make two windows the same


@dataclass(frozen=True)
class Jitter:
    """How far a pair may be from exact: drawn once for validation and test pairs, anew in each epoch for training.

    Attributes:
        rows, columns: of the snippet, in pixels.
        scale: of the snippet.
        frames: of the excerpt.
        gain: of the sound, in decibels.
    """

    rows: float = 2.5
    columns: float = 2.5
    scale: float = 0.05
    frames: int = 1
    gain: float = 6.0


JITTER = Jitter()


@dataclass(frozen=True)
class Cut:
    """Pairs of one piece.

    Attributes:
        snippets: (n, 80, 100) uint8, ink 255.
        excerpts: (n, 92, 42) uint8, ``log10(1 + x)`` in steps of 0.01.
        timbre: the same excerpts played by the held-out program; none for training pieces.
        onsets: (n,) seconds from the first beat.
        windows: (n,) int64: equal where the notes around the onset are.
    """

    snippets: np.ndarray
    excerpts: np.ndarray
    timbre: np.ndarray
    onsets: np.ndarray
    windows: np.ndarray


@dataclass(frozen=True)
class Performance:
    """How a piece is played.

    Attributes:
        seconds: that a quarter note takes.
        program: of General MIDI.
        velocity: (n,) MIDI numbers, one for each note.
    """

    seconds: float
    program: int
    velocity: np.ndarray

    def wave(self, score: Score, program: int | None = None) -> np.ndarray:
        """The whole piece (samples,) float32, played by ``program`` or the performance's own."""
        return synthesise(score.onset * self.seconds, score.duration * self.seconds, score.pitch, self.velocity,
                          self.program if program is None else program)


def perform(score: Score, rng: np.random.Generator) -> Performance:
    """Draws tempo, piano and loudness."""
    seconds = 60.0 / tempo(score.onset, rng)
    program, loudness = int(rng.choice(PROGRAMS)), rng.uniform(55, 85)
    velocity = np.clip(np.round(loudness + rng.uniform(-10, 10, len(score.onset))), 1, 127).astype(int)
    return Performance(seconds, program, velocity)


def cut(score: Score, rng: np.random.Generator, most: int, jitter: Jitter | None = None) -> Cut:
    """Plays a piece as :func:`perform` draws it and cuts up to ``most`` different pairs.

    Args:
        score: the engraved piece.
        rng: for all that is drawn.
        most: pairs at most; they are drawn from all onsets whose window lies wholly inside the strip and shows all
            of its notes.
        jitter: displaces each window by a draw of its own, and adds the held-out timbre; None cuts exactly.

    Raises:
        UnsuitableError: no onset qualifies.
    """
    played = perform(score, rng)
    sound = spectrogram(played.wave(score))
    moments, columns, windows = candidates(score, played.seconds, sound.shape[1])
    if not len(moments):
        raise UnsuitableError("no onset has a whole window around it")
    chosen = np.sort(rng.permutation(len(moments))[:most])
    seconds, windows = moments[chosen] * played.seconds, windows[chosen]
    middles = np.stack([np.full(len(chosen), score.middle), columns[chosen]], axis=1)
    if jitter is None:
        exact = np.ones(len(chosen))
        return Cut(snippets(score.strip, np.round(middles), exact), excerpts(sound, frame_of(seconds), exact),
                   np.zeros((0,), dtype=np.uint8), seconds, windows)
    middles, scale, late, gain = _displaced(middles, jitter, rng)
    frames = frame_of(seconds) + late
    timbre = excerpts(spectrogram(played.wave(score, HELD_OUT_PROGRAM)), frames, gain)
    return Cut(snippets(score.strip, middles, scale), excerpts(sound, frames, gain), timbre, seconds, windows)


def _displaced(middles: np.ndarray, jitter: Jitter, rng: np.random.Generator
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Other middles (n, 2), and scales, frames to be late by, and factors of loudness (n,)."""
    n = len(middles)
    moved = middles + np.stack([rng.uniform(-jitter.rows, jitter.rows, n),
                                rng.uniform(-jitter.columns, jitter.columns, n)], axis=1)
    scale = 1 + rng.uniform(-jitter.scale, jitter.scale, n)
    late = rng.integers(-jitter.frames, jitter.frames + 1, n)
    return moved, scale, late, 10 ** (rng.uniform(-jitter.gain, jitter.gain, n) / 20)


def tempo(onset: np.ndarray, rng: np.random.Generator) -> float:
    """Beats per minute: 80 to 126, doubled or halved until the median time between onsets is 0.11 to 0.5 seconds."""
    beats = rng.uniform(_SLOWEST, _FASTEST)
    gaps = np.diff(np.unique(onset))
    typical = float(np.median(gaps)) if len(gaps) else 1.0
    while typical * 60 / beats > _LONGEST:
        beats *= 2
    while typical * 60 / beats < _SHORTEST:
        beats /= 2
    return beats


def frame_of(seconds: np.ndarray) -> np.ndarray:
    """The frame whose middle is nearest to a time of the piece."""
    return np.round((seconds + LEAD_IN) * FRAMES_PER_SECOND).astype(int)


def candidates(score: Score, seconds: float, n_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Onsets (quarter notes), columns and windows of all that can be cut with any jitter, each window once."""
    half = SNIPPET[1] / 2 * (1 + JITTER.scale) + JITTER.columns + 1
    rows = SNIPPET[0] / 2 * (1 - JITTER.scale) - JITTER.rows
    moments = np.unique(score.onset)
    found: dict[int, tuple[float, float]] = {}
    for moment in moments:
        column = float(np.median(score.x[score.onset == moment]))
        frame = int(frame_of(np.array(moment * seconds)))
        if not half <= column <= score.strip.shape[1] - half:
            continue
        if not FRAMES // 2 + JITTER.frames <= frame <= n_frames - FRAMES // 2 - JITTER.frames:
            continue
        if np.abs(score.y[np.abs(score.x - column) <= half] - score.middle).max() > rows:
            continue
        near = np.abs(score.onset - moment) <= _NEAR
        notes = np.stack([np.round((score.onset[near] - moment) * 24), score.pitch[near],
                          np.round(score.duration[near] * 24)], axis=1).astype(np.int32)
        window = zlib.crc32(notes[np.lexsort(notes.T)].tobytes())
        found.setdefault(window, (float(moment), column))
    table = np.array(list(found.values())).reshape(-1, 2)
    return table[:, 0], table[:, 1], np.array(list(found), dtype=np.int64)


def snippets(strip: np.ndarray, middles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(n, 80, 100) uint8: the strip (height, width) around ``middles`` (n, 2: row, column), magnified by ``scale``
    (n,); what lies above and below the strip is blank."""
    rows = (np.arange(SNIPPET[0]) - SNIPPET[0] / 2)[None, :, None] / scale[:, None, None]
    columns = (np.arange(SNIPPET[1]) - SNIPPET[1] / 2)[None, None, :] / scale[:, None, None]
    where = np.broadcast_arrays(rows + middles[:, 0, None, None], columns + middles[:, 1, None, None])
    grey: np.ndarray = np.round(map_coordinates(strip.astype(np.float32), where, order=1))
    return grey.astype(np.uint8)


def excerpts(sound: np.ndarray, frames: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """(n, 92, 42) uint8: 42 frames of ``sound`` (92, frames) around ``frames`` (n,), as loud as ``gain`` (n,) says."""
    parts = np.stack([sound[:, frame - FRAMES // 2:frame + FRAMES // 2] for frame in frames])
    louder = np.log10(1 + (10 ** parts - 1) * gain[:, None, None])
    steps: np.ndarray = np.clip(np.round(louder / STEP), 0, 255)
    return steps.astype(np.uint8)


def wave_excerpt(wave: np.ndarray, seconds: float) -> np.ndarray:
    """The 2.1 seconds of sound whose middle is at ``seconds``: (n,) samples, fewer where the recording ends before."""
    middle = round((seconds + LEAD_IN) * SAMPLE_RATE)
    half = round(FRAMES / 2 / FRAMES_PER_SECOND * SAMPLE_RATE)
    return wave[max(0, middle - half):middle + half]
