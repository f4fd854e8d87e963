"""Pieces made into pairs: in parallel, resumable, and the same whatever the number of processes."""
from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from xmodal.atomic import replacing
from xmodal.data.audio_score.corpus import Piece, RightsReservedError, read_piece
from xmodal.data.audio_score.cut import JITTER, Cut, cut
from xmodal.data.audio_score.engrave import FONTS, Music, Score, UnsuitableError, draw, read_music
from xmodal.data.audio_score.works import Grams, group_works, melody_grams
from xmodal.data.fetch import Say
from xmodal.data.npz import load_member, npz_keys
from xmodal.data.pairs import SPLITS
from xmodal.errors import DataError

#: Of what is made: files of another one are not used again.
VERSION = "1"
#: Pairs of one piece at most. Test pieces give fewer, so that there are more of them.
MOST_PAIRS = {"train": 48, "valid": 25, "test": 25}
_ORDER = ("test", "valid", "train")  # in which works are given out
#: No more pieces of a work are used than this share of all (but always four): three passions, say, with all chorales
#: that they have in common with others are one work, and would make up a whole test set.
LARGE = 0.05
_TOO_MANY = "more of a work than are used"
_MARGIN = 1.1  # more pairs are planned for than needed: some pieces turn out to be unsuitable


@functools.cache
def versions() -> str:
    """Of everything that the pixels and the sounds depend on."""
    names = ("music21", "verovio", "resvg-py", "Pillow", "tinysoundfont", "pretty_midi", "numpy", "scipy")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def drawing_rng(piece: Piece, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(piece.title.encode())])


def read_score(piece: Piece) -> Music:
    return read_music(read_piece(piece))


def make_pairs(piece: Piece, music: Music, side: str, seed: int) -> Cut:
    """Engraves, plays and cuts a piece for one side of the split; what is drawn depends on its name and ``seed``.

    Raises:
        UnsuitableError: there are no pairs in it.
    """
    rng = drawing_rng(piece, seed)
    return cut(drawn_score(music, rng), rng, MOST_PAIRS[side], None if side == "train" else JITTER)


def drawn_score(music: Music, rng: np.random.Generator) -> Score:
    return draw(music, str(rng.choice(FONTS)))


@dataclass(frozen=True)
class _Job:
    """Something to be made of a piece by a worker, and the file that keeps it."""

    piece: Piece
    file: Path
    side: str = ""  #: none: only read it
    music: Path | None = None  #: where what was read lies
    seed: int = 0

    def run(self) -> None:
        """Keeps the arrays, whole or not at all; of a piece that can't be used, why."""
        try:
            made: Music | Cut = read_score(self.piece) if self.music is None else \
                make_pairs(self.piece, Music(**_kept(self.music)), self.side, self.seed)
            arrays = vars(made)
        except RightsReservedError:
            arrays = {"problem": "rights reserved"}
        except UnsuitableError as error:
            arrays = {"problem": " ".join("N" if part.isdigit() else part for part in str(error).split())}
        except MemoryError:  # of this machine, not of the piece
            raise
        except Exception as error:  # a broken file can raise anything in three libraries
            arrays = {"problem": f"broken ({type(error).__name__})"}
        with replacing(self.file) as beside, beside.open("wb") as out:
            np.savez(out, **{key: np.asarray(value) for key, value in arrays.items()})  # type: ignore[arg-type]


def _kept(file: Path) -> dict[str, Any]:
    """What is kept of a job: arrays, or ``problem``; nothing if the file isn't there or is damaged."""
    try:
        arrays: dict[str, Any] = {key: load_member(file, key) for key in npz_keys(file)}
    except DataError:
        return {}
    return {key: str(value) if key in ("mei", "problem") else value for key, value in arrays.items()}


@dataclass(frozen=True)
class _Work:
    """A piece that can be read, where it is kept, and how many onsets it has."""

    piece: Piece
    music: Path
    onsets: int


@dataclass
class _Side:
    """The pairs of one side so far."""

    needed: int
    cuts: list[tuple[str, Cut]] = field(default_factory=list)
    count: int = 0
    windows: set[int] = field(default_factory=set)

    @property
    def missing(self) -> int:
        return max(0, self.needed - self.count)

    def add(self, name: str, made: Cut) -> None:
        """Adds a piece's pairs, without those whose window is there already."""
        fresh = np.array([int(window) not in self.windows for window in made.windows], dtype=bool)
        rows = fresh.nonzero()[0][:self.missing]
        if len(rows) == 0:
            return
        self.windows.update(int(window) for window in made.windows[rows])
        timbre = made.timbre[rows] if len(made.timbre) else made.timbre
        self.cuts.append((name, Cut(made.snippets[rows], made.excerpts[rows], timbre, made.onsets[rows],
                                    made.windows[rows])))
        self.count += len(rows)


class PairMaker:
    """Gives works out to the sides until each has its pairs."""

    def __init__(self, folder: Path, seed: int, needed: Mapping[str, int], workers: int) -> None:
        self.folder, self.seed, self.workers = folder, seed, workers
        self.sides = {side: _Side(needed[side]) for side in _ORDER}
        self.left_out: Counter[str] = Counter()
        self.n_works = dict.fromkeys(_ORDER, 0)

    @property
    def missing(self) -> int:
        """Pairs still to be made."""
        return sum(side.missing for side in self.sides.values())

    def run(self, pieces: Sequence[Piece], say: Say) -> None:
        """Reads pieces, groups them to works, and makes these into pairs.

        Raises:
            DataError: there are not enough pieces.
        """
        order = [pieces[i] for i in np.random.default_rng(self.seed).permutation(len(pieces))]
        total = self.missing
        with _Bar(say) as bar:
            works = self._works(order, bar)
            while self.missing:
                jobs = self._round(works)
                if not jobs:
                    raise DataError(self._too_few(len(pieces)))
                for job, made in self._made(jobs):
                    if self._usable(made):
                        self.sides[job.side].add(job.piece.name, Cut(**made))
                    bar.show("pairs", total - self.missing, total)

    def _works(self, pieces: Sequence[Piece], bar: _Bar) -> list[list[_Work]]:
        """The pieces that can be read, those of one work together."""
        readable: list[_Work] = []
        grams: list[Grams] = []
        jobs = [_Job(piece, self._file(piece, "")) for piece in pieces]
        for number, (job, made) in enumerate(self._made(jobs), start=1):
            if self._usable(made):
                readable.append(_Work(job.piece, job.file, len(np.unique(made["onset"]))))
                grams.append(melody_grams(made["melody"]))
            bar.show("pieces read", number, len(jobs))
        groups = group_works([one.piece.work for one in readable], grams)
        most = max(4, int(LARGE * len(readable)))
        if too_many := sum(max(0, len(group) - most) for group in groups):
            self.left_out[_TOO_MANY] = too_many
        return [[readable[i] for i in group[:most]] for group in groups]

    def _round(self, works: list[list[_Work]]) -> list[_Job]:
        """Takes the next works from the list, as many as the sides are likely to need."""
        jobs = []
        wanted = {name: side.missing * _MARGIN for name, side in self.sides.items()}
        while works:
            side = next((name for name in _ORDER if wanted[name] > 0), None)
            if side is None:
                break
            self.n_works[side] += 1
            for one in works.pop(0):
                wanted[side] -= min(one.onsets, MOST_PAIRS[side])
                jobs.append(_Job(one.piece, self._file(one.piece, side), side, one.music, self.seed))
        return jobs

    def _usable(self, made: dict[str, Any]) -> bool:
        if "problem" in made:
            self.left_out[made["problem"]] += 1
        return "problem" not in made

    def _file(self, piece: Piece, side: str) -> Path:
        score = piece.path.stat()
        made_of = (f"{VERSION} {versions()} {self.seed} {side} {MOST_PAIRS.get(side)} {piece.name} "
                   f"{piece.path.resolve()} {score.st_size} {score.st_mtime_ns}")
        return self.folder / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npz"

    def _made(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, dict[str, Any]]]:
        """Each job with its result, in their order; what lies in the folder already is not made again."""
        todo = [job for job in jobs if not _kept(job.file)]
        pool = _pool(min(self.workers, max(1, len(todo))))
        try:
            running = {job.file: pool.submit(job.run) for job in todo}
            for number, job in enumerate(jobs, start=1):
                if job.file in running and not _wait(job, running[job.file]):
                    pool.shutdown()
                    pool = _pool(self.workers)
                    running = {one.file: pool.submit(one.run) for one in jobs[number:] if not _kept(one.file)}
                yield job, _kept(job.file) or {"problem": "broken (a library crashed)"}
        finally:
            pool.shutdown(cancel_futures=True)

    def _too_few(self, n_pieces: int) -> str:
        have = {name: side.count for name, side in self.sides.items()}
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.left_out.most_common(4))
        return (f"{n_pieces:,} pieces are not enough: they give {have['train']:,} train, {have['valid']:,} valid and "
                f"{have['test']:,} test pairs; ask for fewer (--pairs) or for more music (--corpus scores tunes); "
                f"what was made waits in {self.folder}" + (f". Left out: {reasons}" if reasons else ""))

    def note(self) -> str:
        """How many pieces there are, and how many were left out why."""
        counts = ", ".join(f"{len(self.sides[name].cuts):,} {name} ({self.n_works[name]:,} works)" for name in SPLITS)
        left = ", ".join(f"{reason} ({count:,})" for reason, count in sorted(self.left_out.items()))
        return f"pieces: {counts}. Left out: {left or 'none'}"

    def arrays(self) -> dict[str, Any]:
        """Everything under the NPZ keys."""
        arrays: dict[str, Any] = {}
        rng = np.random.default_rng(self.seed)
        for name, side in self.sides.items():
            order = rng.permutation(side.count)  # so that the first n pairs are of all pieces
            arrays[f"{name}_view1"] = np.concatenate([one.snippets for _, one in side.cuts])[order, None]
            arrays[f"{name}_view2"] = np.concatenate([one.excerpts for _, one in side.cuts])[order, None]
            ids = [f"{piece}@{onset:.3f}" for piece, one in side.cuts for onset in one.onsets]
            arrays[f"{name}_ids"] = [ids[i] for i in order]
            if name == "test":
                arrays["test_timbre_view1"] = arrays["test_view1"]
                arrays["test_timbre_view2"] = np.concatenate([one.timbre for _, one in side.cuts])[order, None]
                arrays["test_timbre_ids"] = arrays["test_ids"]
        return arrays


class _Bar:
    """Progress: a bar on a terminal, a line for each tenth elsewhere."""

    def __init__(self, say: Say) -> None:
        self.say, self.told = say, ("", 0)
        self.progress = Progress("  {task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                                 disable=not sys.stdout.isatty(), transient=True)
        self.task = self.progress.add_task("")

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, what: str, have: int, total: int) -> None:
        """``have`` of ``total`` are done."""
        self.progress.update(self.task, description=what, completed=have, total=total)
        tenths = (what, 10 * have // total)
        if self.progress.disable and tenths != self.told and tenths[1] > 0:
            self.told = tenths
            self.say(f"  {have:,} of {total:,} {what}")


def _wait(job: _Job, future: Future[None]) -> bool:
    """Waits for a job; False if the pool is no more. One that takes its process down takes the whole pool with it, so
    this one, which may be another, is then run in a process of its own."""
    try:
        future.result()
    except BrokenProcessPool:
        if not _kept(job.file):
            with _pool(1) as alone, suppress(BrokenProcessPool):  # then it was this one
                alone.submit(job.run).result()
        return False
    return True


def _pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes: a fork of one with threads, as torch makes them, may hang."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who waits
    threadpool_limits(1)  # the processes are as many as the cores
