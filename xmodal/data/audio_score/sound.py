"""From notes to sound, by the numbers of the published audio–score data."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xmodal.data.audio_score.packages import folder_of, required
from xmodal.features.sounds import SAMPLE_RATE

#: Silence before the first note, so that an excerpt around it is whole.
LEAD_IN = 1.2
_TAIL = 1.2


def soundfont() -> Path:
    """The General MIDI soundfont TimGM6mb (T. Brechbill, GPL 2) that comes with pretty_midi."""
    return folder_of("pretty_midi") / "TimGM6mb.sf2"


def synthesise(onset: np.ndarray, duration: np.ndarray, pitch: np.ndarray, velocity: np.ndarray, program: int
               ) -> np.ndarray:
    """Plays notes with a program of General MIDI, every event on its exact sample.

    Args:
        onset, duration: (n,) seconds; the sound starts ``LEAD_IN`` seconds before time 0.
        pitch, velocity: (n,) MIDI numbers.
        program: 0 to 127.

    Returns:
        (samples,) float32, both channels averaged, its largest value 0.5.
    """
    synth = required("tinysoundfont").Synth(gain=-12, samplerate=SAMPLE_RATE)
    synth.program_select(0, _load(synth), 0, program)
    starts = np.round((onset + LEAD_IN) * SAMPLE_RATE).astype(int)
    ends = np.maximum(starts + 1, np.round((onset + duration + LEAD_IN) * SAMPLE_RATE).astype(int))
    events = sorted([(int(end), 0, int(p), 0) for end, p in zip(ends, pitch, strict=True)]
                    + [(int(start), 1, int(p), int(v)) for start, p, v in zip(starts, pitch, velocity, strict=True)])
    parts, now = [], 0
    for sample, begins, note, strength in events:
        if sample > now:
            parts.append(_generate(synth, sample - now))
            now = sample
        if begins:
            synth.noteon(0, note, strength)
        else:
            synth.noteoff(0, note)
    parts.append(_generate(synth, int(_TAIL * SAMPLE_RATE)))
    wave = np.concatenate(parts)
    loudest = float(np.abs(wave).max())
    return wave * np.float32(0.5 / loudest) if loudest > 0 else wave


def _load(synth: Any) -> int:
    return int(synth.sfload(str(soundfont())))


def _generate(synth: Any, samples: int) -> np.ndarray:
    stereo = np.frombuffer(synth.generate(samples), dtype=np.float32).reshape(-1, 2)
    mono: np.ndarray = stereo.mean(axis=1)
    return mono
