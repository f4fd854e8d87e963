"""Sound made into spectrograms, by the numbers of the published audio–score data; recordings read from files."""
from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from xmodal.errors import DataError, one_line

SAMPLE_RATE = 22_050
FRAMES_PER_SECOND = 20
FFT = 2048
BANDS_PER_OCTAVE = 16
_REFERENCE = 440.0
_LOWEST, _HIGHEST = 30.0, 6000.0
#: Recordings of more seconds, or files of more bytes, are not read.
MOST_SECONDS, MOST_BYTES = 1800, 1 << 29
LOUDEST = 0.5  #: recordings are made as loud as what is synthesised


class Spectrograms:
    """Excerpts of ``frames`` frames of a recording, (1, 92, frames) float32: what the view of a recording holds."""

    def __init__(self, frames: int = 42) -> None:
        if frames < 1:
            raise DataError(f"Spectrograms: frames must be 1 or more; got {frames}")
        self.frames = frames

    def __call__(self, wave: np.ndarray, at: float | None = None) -> np.ndarray:
        """The excerpt centred ``at`` so many seconds (by default in the middle) of a wave (samples,) at 22,050 Hz.

        Silence is put where the recording ends earlier.

        Raises:
            DataError: ``at`` lies beyond the recording.
        """
        seconds = len(wave) / SAMPLE_RATE
        at = seconds / 2 if at is None else at
        if not 0 <= at <= seconds:
            raise DataError(f"the recording is {seconds:.1f} seconds long; there is nothing at {at:g}")
        loudest = float(np.abs(wave).max(initial=0.0))
        heard = loudest >= np.finfo(np.float32).tiny  # numbers below it have few digits, and 1 over some is infinite
        found = spectrogram(wave * np.float32(LOUDEST / loudest) if heard else wave)
        half = self.frames // 2
        padded = np.pad(found, ((0, 0), (half, self.frames)))
        first = round(at * FRAMES_PER_SECOND)
        return padded[None, :, first:first + self.frames]

    def state(self) -> dict[str, Any]:
        """How many frames."""
        return {"kind": "spectrogram", "frames": self.frames}


def sound_encoder(state: Mapping[str, Any]) -> Spectrograms:
    """The encoder that a data set stores, for new recordings.

    Raises:
        DataError: it is of a kind that is not known here.
    """
    if state.get("kind") != "spectrogram" or type(state.get("frames")) is not int:
        raise DataError(f"can't encode sound by {state.get('kind')!r}; known: spectrogram")
    return Spectrograms(state["frames"])


def read_wave(source: Path | bytes) -> np.ndarray:
    """A WAV file, or its content, as (samples,) float32 at 22,050 Hz, channels averaged.

    Raises:
        DataError: no file, no WAV of a known kind, damaged, silent length 0, or longer than half an hour.
    """
    name = "the recording" if isinstance(source, bytes) else str(source)
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{name} has {size:,} bytes, more than {MOST_BYTES:,}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks that only say who recorded it
            rate, values = wavfile.read(io.BytesIO(source) if isinstance(source, bytes) else source)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name} can't be read: {error.strerror or one_line(error)}") from error
    except Exception as error:  # damaged files make SciPy raise nearly anything
        raise DataError(f"{name} can't be read as WAV: {one_line(error)}") from error
    if not values.size or not 1000 <= rate <= 768_000:
        raise DataError(f"{name} holds no sound: {values.shape[0]} samples at {rate} Hz")
    if len(values) > MOST_SECONDS * rate:
        raise DataError(f"{name} is {len(values) / rate:,.0f} seconds long, more than {MOST_SECONDS:,}")
    wave = _as_float(values)
    wave = wave if wave.ndim == 1 else wave.mean(axis=1)
    if not np.isfinite(wave).all():
        raise DataError(f"{name} holds values that are not finite")
    if rate == SAMPLE_RATE:
        return wave
    common = math.gcd(rate, SAMPLE_RATE)
    resampled: np.ndarray = resample_poly(wave, SAMPLE_RATE // common, rate // common).astype(np.float32)
    return resampled


def _as_float(values: np.ndarray) -> np.ndarray:
    """Samples from −1 to 1."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    return (values / float(2 ** (8 * values.dtype.itemsize - 1))).astype(np.float32)


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
    bank /= bank.sum(axis=0)
    return bank


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
    bands: np.ndarray = np.log10(1 + magnitudes @ filterbank()).T
    return bands
