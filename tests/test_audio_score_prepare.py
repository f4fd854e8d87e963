"""prepare(): the same bytes every time, no work on two sides, and what a bad piece or a bad source leaves."""
from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import zipfile
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import wavfile
from small_scores import CHORALES, abc_tune, copy_chorales, musicxml

from xmodal.data import read_h5
from xmodal.data.audio_score import engrave, making, prepare
from xmodal.data.audio_score.corpus import Piece, find_pieces, read_piece
from xmodal.data.audio_score.cut import Cut, perform
from xmodal.errors import DataError
from xmodal.features.sounds import SAMPLE_RATE, spectrogram

for package in ("verovio", "resvg_py", "PIL", "music21", "pretty_midi", "tinysoundfont"):
    pytest.importorskip(package)


module = importlib.import_module("xmodal.data.audio_score.prepare")  # the package's name of it is the function
SMALL = {"pairs": 65, "seed": 5}  # 50, 5 and 10 pairs


def quiet(line: str) -> None:
    assert "\n" not in line


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Inline:
    """In the place of a pool: runs each job at once, in this process."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.runs, self.dies_after = 0, dies_after

    def submit(self, run) -> Future:
        if self.runs == self.dies_after:
            raise KeyboardInterrupt
        self.runs += 1
        future: Future = Future()
        future.set_result(run())
        return future

    def shutdown(self, **_options) -> None:
        pass


@pytest.fixture
def inline(monkeypatch) -> Inline:
    pool = Inline()
    monkeypatch.setattr(making, "_pool", lambda workers: pool)
    return pool


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Six chorales, and four files that can't be used."""
    folder = copy_chorales(tmp_path_factory.mktemp("corpus"))
    (folder / "garbage.mxl").write_bytes(b"PK\x03\x04 no archive")
    whole = (folder / f"{CHORALES[0]}.mxl").read_bytes()
    (folder / "truncated.mxl").write_bytes(whole[:len(whole) // 2])
    (folder / "empty.xml").write_text("")
    (folder / "kept.xml").write_text(musicxml([[[("C", 5, 4.0)]]], rights="All rights reserved"))
    return folder


class Shared:
    """Two real worker processes for all rounds, because starting them takes seconds; counts its jobs."""

    def __init__(self) -> None:
        self.runs, self.pool = 0, making._pool(2)

    def submit(self, run) -> Future:
        self.runs += 1
        return self.pool.submit(run)

    def shutdown(self, **_options) -> None:
        pass


@pytest.fixture(scope="session")
def two_workers(corpus, tmp_path_factory) -> tuple[Path, int]:
    """A file that two processes made, and how many jobs it took."""
    path, pool = tmp_path_factory.mktemp("prepared") / "a.h5", Shared()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_pool", lambda workers: pool)
        prepare(path, say=quiet, corpus=[str(corpus)], workers=2, **SMALL)
    pool.pool.shutdown()
    return path, pool.runs


@pytest.fixture
def prepared(two_workers) -> Path:
    return two_workers[0]


# what is written

def test_sizes_scales_and_names(prepared):
    data = read_h5(prepared)
    assert [len(split) for split in data.splits()] == [50, 5, 10, 10]
    assert data.split_names() == ("train", "valid", "test", "test_timbre")
    assert data.view1_shape == (1, 80, 100) and data.view2_shape == (1, 92, 42)
    assert data.split_seed == 5 and not data.synthetic and "music21 10" in data.source
    with h5py.File(prepared) as file:
        for split in data.split_names():
            assert file[split]["view1"].dtype == file[split]["view2"].dtype == np.uint8
            assert file[split]["view1"].attrs["scale"] == 1 / 255 and file[split]["view2"].attrs["scale"] == 0.01
    for split in data.splits():
        assert split.view1.min() >= 0 and 0.9 < split.view1.max() <= 1 and 0.5 < split.view2.max() <= 2.55
        assert (split.view1.flatten(1).amax(dim=1) > 0.9).all() and (split.view2.flatten(1).amax(dim=1) > 0.1).all()
    assert [path.name for path in prepared.parent.iterdir()] == ["a.h5"]


def test_each_piece_is_on_one_side_and_each_onset_once(prepared):
    data = read_h5(prepared)
    sides = [{item.rpartition("@")[0] for item in split.ids} for split in (data.train, data.valid, data.test)]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides))
    for split in data.splits():
        assert len(set(split.ids)) == len(split)
        pictures = {bytes((picture * 255).round().byte().numpy()) for picture in split.view1}
        assert len(pictures) == len(split)


def test_training_pairs_are_exact_and_the_others_are_displaced(prepared, corpus):
    data, drawn, exact = read_h5(prepared), {}, {}
    for piece in find_pieces([str(corpus)]):
        if piece.name in CHORALES:
            rng = making.drawing_rng(piece, SMALL["seed"])
            score = making.drawn_score(making.read_score(piece), rng)
            drawn[piece.name] = score, perform(score, rng).seconds
    for split in (data.train, data.valid, data.test):
        same = []
        for item, picture in zip(split.ids, split.view1[:, 0] * 255, strict=True):
            name, _, at = item.rpartition("@")
            score, seconds = drawn[name]
            columns = score.x[np.abs(score.onset * seconds - float(at)) < 0.001]
            left, top = round(float(np.median(columns))) - 50, round(score.middle) - 40 + 60
            strip = np.pad(score.strip, ((60, 60), (0, 0)))[top:top + 80, left:left + 100]
            same.append(np.array_equal(picture.round().numpy(), strip))
        exact[split.name] = sum(same) / len(same)
    assert exact == {"train": 1.0, "valid": 0.0, "test": 0.0}


def test_the_further_split_is_the_same_music_by_another_instrument(prepared):
    data = read_h5(prepared)
    test, other = data.test, data.split("test_timbre")
    assert torch.equal(test.view1, other.view1) and test.ids == other.ids
    ours, theirs = test.view2.flatten(1), other.view2.flatten(1)
    alike = torch.nn.functional.cosine_similarity(ours[:, None], theirs[None], dim=2)
    assert (ours != theirs).any(dim=1).all() and (alike.argmax(dim=1) == torch.arange(len(ours))).float().mean() >= 0.8


def test_what_cannot_be_used_is_counted_in_the_note(prepared):
    note = read_h5(prepared).note
    assert "rights reserved (1)" in note and "broken (BadZipFile) (2)" in note
    assert "the engraver can't read it (1)" in note


def test_the_sound_of_an_id_is_that_of_its_excerpt(prepared, corpus, tmp_path):
    """Of all excerpts of the piece, the nearest to the sound is at the same time: within the frames of an eighth."""
    train = read_h5(prepared).train
    names, times = zip(*((item.rpartition("@")[0], float(item.rpartition("@")[2])) for item in train.ids), strict=True)
    for row in range(0, len(train), 12):
        module.play(train.ids[row], tmp_path / "a.wav", seed=SMALL["seed"], corpus=[str(corpus)])
        rate, wave = wavfile.read(tmp_path / "a.wav")
        assert rate == SAMPLE_RATE and len(wave) == pytest.approx(2.1 * rate, abs=2)
        heard = torch.from_numpy(spectrogram(wave)[:, 1:42])
        same = [i for i, name in enumerate(names) if name == names[row]]
        distance = torch.stack([(train.view2[i, 0, :, 1:] - heard).abs().mean() for i in same])
        assert abs(times[same[int(distance.argmin())]] - times[row]) < 0.2


@pytest.mark.parametrize("item, message", [
    ("bwv10.8@1.0", r"there is no piece 'bwv10\.8': expected an id such as .*; did you mean .*bwv10\.7"),
    ("bwv10.7@999", r"can't play 'bwv10\.7@999': the piece lasts from 0 to \d"),
    ("bwv10.7@soon", "can't play 'bwv10.7@soon'"), ("kept@1", "can't play 'kept@1': All rights reserved")])
def test_ids_that_have_no_sound(item, message, corpus, tmp_path):
    with pytest.raises(DataError, match=message):
        module.play(item, tmp_path / "a.wav", corpus=[str(corpus)])
    assert not list(tmp_path.iterdir())


# determinism

def test_bytes_do_not_depend_on_processes(prepared, corpus, inline, tmp_path):
    prepare(tmp_path / "b.h5", say=quiet, corpus=[str(corpus)], workers=1, **SMALL)
    assert digest(tmp_path / "b.h5") == digest(prepared)
    assert inline.runs > len(CHORALES) and list(tmp_path.iterdir()) == [tmp_path / "b.h5"]


def test_another_seed_gives_other_pairs(prepared, corpus, inline, tmp_path):
    prepare(tmp_path / "b.h5", say=quiet, corpus=[str(corpus)], pairs=65, seed=6)
    assert read_h5(tmp_path / "b.h5").fingerprint != read_h5(prepared).fingerprint


def test_an_interruption_and_damage_change_nothing_and_what_is_made_is_kept(two_workers, corpus, tmp_path,
                                                                            monkeypatch):
    path, pieces = tmp_path / "b.h5", tmp_path / "b.h5.pieces"
    killed, again = Inline(dies_after=13), Inline()  # 10 pieces are read, 3 are made
    monkeypatch.setattr(making, "_pool", lambda workers: killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(path, say=quiet, corpus=[str(corpus)], **SMALL)
    assert not path.exists() and len(list(pieces.iterdir())) == 13
    largest, second = sorted(pieces.iterdir(), key=lambda one: -one.stat().st_size)[:2]
    largest.write_bytes(largest.read_bytes()[:-1000])
    second.write_bytes(b"")
    monkeypatch.setattr(making, "_pool", lambda workers: again)
    prepare(path, say=quiet, corpus=[str(corpus)], **SMALL)
    assert digest(path) == digest(two_workers[0]) and not pieces.exists()
    assert again.runs == two_workers[1] - 11


def test_pieces_of_one_name_with_other_contents_are_made_anew(inline, tmp_path):
    """What an interrupted run left is only good for the same files."""
    first, second = (copy_chorales(tmp_path / name, CHORALES[:1]) for name in ("one", "two"))
    shutil.copy(first / f"{CHORALES[0]}.mxl", first / "song.mxl")
    shutil.copy(copy_chorales(tmp_path / "three", CHORALES[1:2]) / f"{CHORALES[1]}.mxl", second / "song.mxl")
    for folder in (first, second):
        with pytest.raises(DataError, match="not enough"):
            prepare(tmp_path / "a.h5", say=quiet, corpus=[str(folder)], pairs=200)
    kept = [making._kept(file)["mei"] for file in (tmp_path / "a.h5.pieces").iterdir()
            if "mei" in making._kept(file)]
    assert len(set(kept)) == 2 and len(kept) == 4


# split hygiene

TUNES = [[0, 2, 4, 2, 5, 4, 2, 1, 0, 4, 2, 7, 6, 5, 4, 3] * 4, [4, 3, 2, 1, 4, 6, 7, 2, 0, 1, 5, 3, 2, 2, 6, 0] * 4]


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    """Three chorales, each also two tones higher and in a second encoding, under names that say nothing; and two
    tunes in two keys each."""
    folder = tmp_path_factory.mktemp("twins")
    verovio = pytest.importorskip("verovio")
    for number, piece in enumerate(find_pieces([str(copy_chorales(tmp_path_factory.mktemp("bach"), CHORALES[1:4]))])):
        shutil.copy(piece.path, folder / f"{number}plain.mxl")
        for name, by in (("again", "P1"), ("higher", "M3")):
            toolkit = verovio.toolkit()
            toolkit.setOptions({"transpose": by})
            toolkit.loadData(read_piece(piece))
            (folder / f"{number}{name}.mei").write_text(toolkit.getMEI())
    for number, degrees in enumerate(TUNES, start=3):
        for key in "CF":
            (folder / f"{number}{key}.abc").write_text(abc_tune(key, degrees))
    return folder


def test_twins_are_the_same_in_another_key(twins):
    plain, higher = (engrave.read_music((twins / f"0{name}.mei").read_text()) for name in ("again", "higher"))
    assert (higher.pitch == plain.pitch + 4).all() and (higher.onset == plain.onset).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_no_work_melody_or_transposition_is_on_two_sides(seed, twins, inline, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "MOST_PAIRS", {"train": 5, "valid": 5, "test": 5})
    monkeypatch.setattr(module, "_SHARES", {"test": 0.25, "valid": 0.25})
    prepare(tmp_path / "a.h5", say=quiet, corpus=[str(twins)], pairs=40, seed=seed)
    data = read_h5(tmp_path / "a.h5")
    sides = [{item[0] for item in split.ids} for split in (data.train, data.valid, data.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)), sides
    pieces = Counter(item.partition("@")[0] for split in data.splits() for item in split.ids)
    assert len(pieces) > len(set.union(*sides))  # twins are there


# when things go wrong

@dataclass(frozen=True)
class Deadly(making._Job):
    """Ends its process, as a crash in a library does, or keeps its number."""

    def run(self) -> None:
        if self.seed < 0:
            os._exit(11)
        np.savez(self.file, number=self.seed)


def test_a_worker_that_dies_stops_no_other(tmp_path, monkeypatch):
    pools, real = [], making._pool
    monkeypatch.setattr(making, "_pool", lambda workers: pools.append(workers) or real(workers))
    jobs = [Deadly(Piece(str(number), tmp_path), tmp_path / f"{i}.npz", seed=number)
            for i, number in enumerate([0, -1, 2, 3, 4, 5, 6])]
    maker = making.PairMaker(tmp_path, 0, {"train": 1, "valid": 1, "test": 1}, workers=1)
    results = [(job.seed, made) for job, made in maker._made(jobs)]
    assert results[1] == (-1, {"problem": "broken (a library crashed)"})
    assert [(seed, int(made["number"])) for seed, made in results if seed >= 0] == [(n, n) for n in (0, 2, 3, 4, 5, 6)]
    assert len(pools) == 3  # all, the deadly one alone, all others


def test_a_side_takes_each_window_once_and_no_more_than_it_needs():
    def made(*windows: int) -> Cut:
        rows = np.array(windows)
        return Cut(rows[:, None], rows[:, None] + 100, rows[:0], rows / 2, rows)

    side = making._Side(needed=5)
    for name, windows in (("a", (1, 2, 3)), ("b", (3, 2)), ("c", (2, 4)), ("d", (5, 6, 7))):
        side.add(name, made(*windows))
    assert [(name, one.windows.tolist()) for name, one in side.cuts] == [("a", [1, 2, 3]), ("c", [4]), ("d", [5])]
    assert side.count == 5 and side.missing == 0
    assert all((one.excerpts[:, 0] == one.windows + 100).all() for _, one in side.cuts)


def test_too_few_pieces_say_what_they_gave(corpus, inline, tmp_path):
    with pytest.raises(DataError) as error:
        prepare(tmp_path / "a.h5", say=quiet, corpus=[str(corpus)], pairs=1300)
    assert str(error.value).startswith("10 pieces are not enough: they give 0 train, 0 valid and ")
    assert "ask for fewer (--pairs) or for more music" in str(error.value) and "rights reserved (1)" in str(error.value)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("pairs", [25, 0, -3])
def test_too_few_pairs(pairs, tmp_path):
    with pytest.raises(DataError, match=rf"--pairs must be at least 26 .*, got {pairs}"):
        prepare(tmp_path / "a.h5", pairs=pairs)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None)
    with pytest.raises(DataError, match=r"audio_score needs verovio, .*xmodal\[audio\]"):
        prepare(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


# the ancestor's arrays

def published(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {f"{letter}_{short}": rng.integers(0, 256, (n, 1, *shape), dtype=np.uint8)
              for letter, shape in (("X", (8, 10)), ("Y", (9, 4))) for short, n in (("tr", 7), ("va", 3), ("te", 4))}
    return {key: value for key, value in (arrays | changes).items() if value is not None}


@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize("as_folder", [True, False])
def test_published_arrays(channel, as_folder, tmp_path):
    arrays = published()
    given = arrays if channel else {key: value[:, 0] for key, value in arrays.items()}
    np.savez(tmp_path / "audio_sheet_music.npz", **given)
    prepare(tmp_path / "a.h5", say=quiet, source=tmp_path if as_folder else tmp_path / "audio_sheet_music.npz")
    data = read_h5(tmp_path / "a.h5")
    assert data.view1_shape == (1, 8, 10) and data.view2_shape == (1, 9, 4) and data.further == ()
    for split, short in ((data.train, "tr"), (data.valid, "va"), (data.test, "te")):
        torch.testing.assert_close(split.view1, torch.from_numpy(arrays[f"X_{short}"]) / 255)
        torch.testing.assert_close(split.view2, torch.from_numpy(arrays[f"Y_{short}"]) / 255)


@pytest.mark.parametrize("changes, message", [
    ({"Y_va": None}, r"audio_sheet_music\.npz lacks Y_va; expected X_tr, .* \(found: X_tr"),
    ({"X_tr": np.zeros((7, 80))}, r"X_tr must have shape \(items, 1, height, width\); got \(7, 80\)"),
    ({"X_tr": np.zeros((7, 3, 8, 10))}, r"X_tr must have shape .*; got \(7, 3, 8, 10\)"),
    ({"Y_te": np.zeros((5, 9, 4), np.uint8)}, r"Y_te must have 4 items, one for each snippet; got 5"),
    ({"X_va": np.zeros((3, 8, 11), np.uint8)},
     r"X_va must have items of shape \(1, 8, 10\), as in training; got \(1, 8, 11\)"),
    ({"X_te": np.zeros((0, 8, 10)), "Y_te": np.zeros((0, 9, 4))}, r"X_te must hold numbers; got .* shape \(0, 1, 8"),
    ({"X_va": np.zeros((3, 8, 10))}, r"X_va must hold uint8, as in training; got float64"),
    ({"X_te": np.full((4, 8, 10), "a")}, r"X_te must hold numbers; got <U1"),
])
def test_published_arrays_that_are_wrong_leave_nothing(changes, message, tmp_path):
    np.savez(tmp_path / "audio_sheet_music.npz", **published(**changes))
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "a.h5", say=quiet, source=tmp_path)
    assert not (tmp_path / "a.h5").exists()


def test_a_source_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"no file .*audio_sheet_music\.npz; --source takes"):
        prepare(tmp_path / "a.h5", source=tmp_path)
    with zipfile.ZipFile(tmp_path / "audio_sheet_music.npz", "w"):
        pass
    with pytest.raises(DataError, match=r"lacks X_tr, X_va, X_te, Y_tr, Y_va, Y_te; .*found: nothing"):
        prepare(tmp_path / "a.h5", source=tmp_path)


# large works, and the order of the rows

def test_no_more_than_a_few_pieces_of_a_large_work_are_used(tmp_path, monkeypatch):
    pieces = [Piece(f"op{number}", tmp_path) for number in range(30)]
    same, rng = np.arange(60, 80), np.random.default_rng(0)

    def read(jobs):
        for number, job in enumerate(jobs):
            melody = same if number < 9 else rng.integers(40, 90, 30)
            yield job, {"onset": np.arange(20.0), "melody": melody}

    maker = making.PairMaker(tmp_path, 0, {"train": 100, "valid": 10, "test": 20}, workers=1)
    monkeypatch.setattr(maker, "_made", read)
    works = maker._works(pieces, making._Bar(quiet))
    assert sorted(map(len, works)) == [1] * 21 + [4] and "more of a work than are used (5)" in maker.note()


def test_rows_are_in_an_order_of_their_own(prepared):
    """So that the first few pairs are not all of one piece."""
    data = read_h5(prepared)
    for split in data.splits():
        places = [item.rpartition("@")[::2] for item in split.ids]
        rising = sum(one[0] == other[0] and float(one[1]) < float(other[1]) for one, other in pairwise(places))
        assert rising < 0.9 * (len(places) - len({piece for piece, _ in places}))  # piece by piece it would be all
    assert data.split("test_timbre").ids == data.test.ids
