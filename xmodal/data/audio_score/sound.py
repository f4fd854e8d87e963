"""From notes to sound and to spectrograms, by the numbers of the published audio–score data."""
from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from xmodal.data.audio_score.packages import folder_of, required

SAMPLE_RATE = 22_050
FRAMES_PER_SECOND = 20
FFT = 2048
BANDS_PER_OCTAVE = 16
#: Silence before the first note, so that an excerpt around it is whole.
LEAD_IN = 1.2
_REFERENCE = 440.0
_LOWEST, _HIGHEST = 30.0, 6000.0
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


def _load(synth: object) -> int:
    return int(synth.sfload(str(soundfont())))  # type: ignore[attr-defined]


def _generate(synth: object, samples: int) -> np.ndarray:
    stereo = np.frombuffer(synth.generate(samples), dtype=np.float32)  # type: ignore[attr-defined]
    return stereo.reshape(-1, 2).mean(axis=1)


@functools.cache
def filterbank() -> np.ndarray:
    """(1025, 92) float32: triangles of area 1 over the FFT's bins, 16 an octave from 30 to 6,000 Hz, tuned to 440 Hz.

    Low bands that would share a bin are merged, which is why there are 92.
    """
    low = np.floor(np.log2(_LOWEST / _REFERENCE) * BANDS_PER_OCTAVE)
    high = np.ceil(np.log2(_HIGHEST / _REFERENCE) * BANDS_PER_OCTAVE)
    centres = _REFERENCE * 2 ** (np.arange(low, high) / BANDS_PER_OCTAVE)
    centres = centres[(centres >= _LOWEST) & (centres <= _HIGHEST)]
    bins = np.unique(np.round(centres * FFT / SAMPLE_RATE).astype(int))
    bank = np.zeros((FFT // 2 + 1, len(bins) - 2), dtype=np.float32)
    for band, (start, centre, stop) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        bank[start:centre, band] = np.linspace(0, 1, centre - start, endpoint=False)
        bank[centre:stop, band] = np.linspace(1, 0, stop - centre, endpoint=False)
    return bank / bank.sum(axis=0)


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """(bands, frames) float32 of a wave (samples,): ``log10(1 + x)`` of filtered magnitudes.

    Frame ``i`` is centred at ``i / 20`` seconds. Magnitudes are those of 2,048 samples under a Hann window.
    """
    frames = int(len(wave) / SAMPLE_RATE * FRAMES_PER_SECOND) + 1
    padded = np.pad(wave, FFT // 2)
    starts = np.round(np.arange(frames) * SAMPLE_RATE / FRAMES_PER_SECOND).astype(int)
    starts = starts[starts + FFT <= len(padded)]
    windows = padded[starts[:, None] + np.arange(FFT)] * np.hanning(FFT).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(windows, axis=1)).astype(np.float32)
    return np.log10(1 + magnitudes @ filterbank()).T
