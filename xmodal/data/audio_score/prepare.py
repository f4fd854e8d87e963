"""``audio_score``: sheet-music snippets and audio excerpts around the same onset, made from public-domain scores.

The format is that of M. Dorfer, J. Schlüter, A. Vall, F. Korzeniowski, G. Widmer: End-to-end cross-modality retrieval
with CCA projections and pairwise ranking loss. International Journal of Multimedia Information Retrieval 7 (2018).
"""
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from scipy.io import wavfile

from xmodal.atomic import replacing
from xmodal.data.audio_score.corpus import RightsReservedError, find_pieces
from xmodal.data.audio_score.cut import FRAMES, STEP, perform, wave_excerpt
from xmodal.data.audio_score.engrave import UnsuitableError
from xmodal.data.audio_score.making import VERSION, PairMaker, drawing_rng, drawn_score, read_score, versions
from xmodal.data.audio_score.packages import check_installed
from xmodal.data.audio_score.published import from_published
from xmodal.data.fetch import Say
from xmodal.data.files import write_arrays
from xmodal.errors import DataError, did_you_mean, one_line
from xmodal.features.sounds import SAMPLE_RATE, Spectrograms

PAIRS = 13_000
SEED = 23
_SHARES = {"test": 2 / 13, "valid": 1 / 13}  # the rest trains


def prepare(path: Path, *, say: Say = print, source: Path | None = None, pairs: int = PAIRS, seed: int = SEED,
            corpus: Sequence[str] = ("scores",), workers: int | None = None) -> None:
    """Write the data set to the HDF5 file ``path``.

    View 1 is (1, 80, 100) ink from 0 to 1 around the notes of an onset, view 2 (1, 92, 42) ``log10(1 + x)`` of
    filtered magnitudes, 42 frames around the same onset (20 a second). Ids read ``piece@seconds``. Training pairs are
    exact; validation and test pairs are displaced by a fixed draw (see :class:`xmodal.data.audio_score.cut.Jitter`).
    ``test_timbre`` holds the test pairs once more, played by an instrument that no other pair is played by.

    No work, melody or transposition of one is on two sides. Pieces are drawn in an order that depends on ``seed``
    alone, and the bytes of the result do not depend on ``workers`` or on interruptions: finished pieces wait in
    ``<path>.pieces`` for a later call.

    Args:
        path: the file to write.
        say: prints a line of progress.
        source: the ancestor's ``audio_sheet_music.npz`` (``X_tr, Y_tr, X_va, Y_va, X_te, Y_te``); nothing is made then.
        pairs: of train, valid and test together, 10 : 1 : 2.
        seed: of everything that is drawn.
        corpus: see :func:`xmodal.data.audio_score.corpus.find_pieces`.
        workers: processes; as many as there are cores by default.

    Raises:
        DataError: packages are missing (they are named), the corpus is unknown or too small, or ``source`` is none.
        OSError: the disk is full or the folder can't be written to.
    """
    if source is not None:
        from_published(path, Path(source), say)
        return
    if pairs < 26:
        raise DataError(f"--pairs must be at least 26 (20 train, 2 valid, 4 test), got {pairs:,}")
    check_installed()
    pieces = find_pieces(corpus)
    say(f"{len(pieces):,} pieces of {', '.join(corpus)}")
    work = path.with_name(path.name + ".pieces")
    work.mkdir(parents=True, exist_ok=True)
    needed = {"test": round(pairs * _SHARES["test"]), "valid": round(pairs * _SHARES["valid"])}
    needed["train"] = pairs - sum(needed.values())
    maker = PairMaker(work, seed, needed, workers or _cores())
    maker.run(pieces, say)
    about = {"name": "audio_score", "version": VERSION, "split_seed": seed, "source": _source(corpus),
             "licence": _LICENCE, "note": maker.note(), "rising2": True}
    write_arrays(path, maker.arrays(), about, scale={"view1": 1 / 255, "view2": STEP}, compress=True,
                 encoders={"view2": json.dumps(Spectrograms(FRAMES).state())})
    shutil.rmtree(work)


_LICENCE = ("made from public-domain music; its encodings come with music21, whose corpus/license.txt says that some "
            "may not be used commercially. Sounds of TimGM6mb (GPL 2)")


def _source(corpus: Sequence[str]) -> str:
    return f"engraved and played from {', '.join(corpus)} with {versions()}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def play(item: str, file: Path, *, seed: int = SEED, corpus: Sequence[str] = ("scores",)) -> None:
    """Write what the audio excerpt of an id was computed from to a ``.wav`` file: two seconds, 22,050 samples a second.

    Args:
        item: an id of the data set, ``piece@seconds``. Displaced pairs are played exactly.
        file: to be written.
        seed, corpus: what the data set was prepared with.

    Raises:
        DataError: no such piece or time; packages are missing.
    """
    check_installed()
    name, _, at = item.rpartition("@")
    pieces = {piece.name: piece for piece in find_pieces(corpus)}
    if name not in pieces:
        raise DataError(f"there is no piece {name!r}: expected an id such as bach/bwv10.7@8.166; "
                        + did_you_mean(name, pieces))
    try:
        seconds = float(at)
        rng = drawing_rng(pieces[name], seed)
        score = drawn_score(read_score(pieces[name]), rng)
        played = perform(score, rng)
    except (ValueError, UnsuitableError, RightsReservedError) as error:
        raise DataError(f"can't play {item!r}: {one_line(error)}") from error
    length = float(score.onset.max()) * played.seconds
    if not 0 <= seconds <= length:
        raise DataError(f"can't play {item!r}: the piece lasts from 0 to {length:.1f} seconds")
    with replacing(file) as beside:
        wavfile.write(beside, SAMPLE_RATE, wave_excerpt(played.wave(score), seconds))
