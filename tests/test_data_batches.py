"""Batches: each pair once, in an order that is a function of (seed, epoch), in memory and from disk alike."""
from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data import PairedData, PairSplit, lone_batches, n_batches, pair_batches, read_h5, view_batches, write_h5
from xmodal.data import batches as batches_module
from xmodal.errors import DataError


def numbered(n: int, pairs: torch.Tensor | None = None, n2: int | None = None) -> PairSplit:
    """Items that say which they are: view1[i] = (i, i), view2[j] = (-j,)."""
    view2 = -torch.arange(float(n if n2 is None else n2))[:, None]
    return PairSplit("train", torch.arange(float(n))[:, None].expand(-1, 2).contiguous(), view2, pairs)


def table(n: int, n2: int, m: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.integers(0, n, m), rng.integers(0, n2, m)], axis=1))


def streamed(split: PairSplit, path: Path) -> PairSplit:
    write_h5(PairedData("toy", split, split, split), path)
    return read_h5(path, stream=True).train


def collected(split: PairSplit, batch_size: int, **how) -> list[list[tuple[int, int]]]:
    """The pairs of each batch; checks on the way that the rows are those of the pairs."""
    result = []
    for batch in pair_batches(split, batch_size, **how):
        assert batch.view1[:, 0].tolist() == batch.pairs[:, 0].tolist() == batch.view1[:, 1].tolist()
        assert (-batch.view2[:, 0]).tolist() == batch.pairs[:, 1].tolist()
        assert batch.view1.dtype == batch.view2.dtype == torch.float32 and batch.pairs.dtype == torch.int64
        result.append([(i, j) for i, j in batch.pairs.tolist()])
    return result


def flat(batches: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in batch]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 pairs, 3 mixed at a time, so that small data have many groups."""
    monkeypatch.setattr(batches_module, "_BLOCK_BYTES", 4 * 12)
    monkeypatch.setattr(batches_module, "_MIXED_BLOCKS", 3)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "xmodal-reader"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.one_of(st.none(), st.integers(0, 2**40)), st.integers(0, 5),
       st.one_of(st.none(), st.integers(1, 60)), st.integers(0, 9))
def test_each_pair_once_near_equal_and_resumable(n, batch_size, seed, epoch, m, start):
    split = numbered(n) if m is None else numbered(n, table(n, 7, m), 7)
    batches = collected(split, batch_size, seed=seed, epoch=epoch)
    expected = [tuple(pair) for pair in split.pair_table().tolist()]
    assert sorted(flat(batches)) == sorted(expected)
    assert seed is not None or flat(batches) == expected
    assert [len(batch) for batch in batches] == [len(part) for part in np.array_split(expected, len(batches))]
    odd = batch_size == 2 and split.n_pairs % 2 == 1 and split.n_pairs > 1  # a batch of 3 in place of one of 1
    assert max(map(len, batches)) <= batch_size + odd
    assert len(batches) == n_batches(split, batch_size) == -(-split.n_pairs // batch_size) - odd
    assert batch_size == 1 or split.n_pairs == 1 or min(map(len, batches)) > 1
    assert collected(split, batch_size, seed=seed, epoch=epoch, start=start) == batches[start:]


def test_the_order_depends_on_seed_and_epoch_only():
    split = numbered(50)
    first = collected(split, 8, seed=3, epoch=2)
    torch.manual_seed(123)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert collected(split, 8, seed=3, epoch=2) == first
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
    others = [collected(split, 8, seed=3, epoch=3), collected(split, 8, seed=2, epoch=3), collected(split, 8)]
    assert all(other != first for other in others)
    assert flat(first) == flat(collected(split, 13, seed=3, epoch=2))  # nor on the batch size


def test_there_is_no_runt_last_batch():
    assert [len(batch.pairs) for batch in pair_batches(numbered(201), 100)] == [67, 67, 67]


def test_shuffled_batches_in_memory_share_a_buffer():
    batches = pair_batches(numbered(64), 16, seed=0)
    first = next(batches).view1.data_ptr()
    assert all(batch.view1.data_ptr() == first for batch in batches)


@pytest.mark.parametrize("how", [{"seed": -1}, {"seed": 1, "epoch": -1}, {"start": -1}])
def test_negative_numbers_and_batch_size_zero_are_refused_at_once(how):
    with pytest.raises(ValueError, match="must not be negative"):
        pair_batches(numbered(4), 2, **how)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        pair_batches(numbered(4), 0)
    with pytest.raises(ValueError, match="view must be 1 or 2"):
        view_batches(numbered(4), 3, 2)


@pytest.mark.parametrize("make", [lambda: numbered(101), lambda: numbered(30, table(30, 50, 101), 50)],
                         ids=["identity", "table"])
@pytest.mark.parametrize("seed", [None, 0, 7])
def test_streaming_gives_each_pair_once_with_the_right_rows(make, seed, tmp_path, small_blocks):
    memory = make()
    disk = streamed(memory, tmp_path / "toy.h5")
    assert disk.is_streamed and disk.n_pairs == memory.n_pairs == len(disk)
    for batch_size in (1, 5, 12, 40, 101, 1000):
        batches = collected(disk, batch_size, seed=seed, epoch=1)
        pairs = flat(batches)
        assert sorted(pairs) == sorted(map(tuple, memory.pair_table().tolist()))
        assert [len(batch) for batch in batches] == [len(part) for part in np.array_split(pairs, len(batches))]
        if seed is None:
            assert pairs == [tuple(pair) for pair in memory.pair_table().tolist()]
        for start in (0, 1, 2, len(batches) - 1, len(batches), len(batches) + 3):
            assert collected(disk, batch_size, seed=seed, epoch=1, start=start) == batches[start:]


def test_streaming_shuffles_by_seed_and_epoch(tmp_path, small_blocks):
    disk = streamed(numbered(200), tmp_path / "toy.h5")
    first = flat(collected(disk, 16, seed=1, epoch=1))
    assert first == flat(collected(disk, 16, seed=1, epoch=1))
    assert first != flat(collected(disk, 16, seed=1, epoch=2))
    assert first != flat(collected(disk, 16, seed=2, epoch=1))
    blocks = {i // 4 for i, _ in first[:12]}
    assert len(blocks) == 3 and first[:12] != sorted(first[:12])  # several blocks, mixed


def test_blocks_of_a_chunked_file_are_whole_chunks(tmp_path, small_blocks):
    with h5py.File(tmp_path / "toy.h5", "w") as file:
        for split in ("train", "valid", "test"):
            for view in ("view1", "view2"):
                file.create_dataset(f"{split}/{view}", data=np.arange(100.0)[:, None], chunks=(10, 1),
                                    compression="gzip")
    disk = read_h5(tmp_path / "toy.h5", stream=True).train
    rows = torch.cat([batch.pairs[:, 0].clone() for batch in pair_batches(disk, 10, seed=1)])
    assert sorted(rows.tolist()) == list(range(100)) and rows.tolist() != list(range(100))
    assert all(len({int(row) // 10 for row in part}) == 1 for part in rows.split(10))  # one chunk a group here


def test_resuming_a_stream_reads_no_earlier_group(tmp_path, small_blocks, monkeypatch):
    disk = streamed(numbered(120), tmp_path / "toy.h5")
    counts = []
    original = batches_module._read_groups

    def counting(split, order, groups):
        counts.append(len(groups))
        return original(split, order, groups)

    monkeypatch.setattr(batches_module, "_read_groups", counting)
    list(pair_batches(disk, 12, seed=0))
    list(pair_batches(disk, 12, seed=0, start=8))
    assert counts == [10, 2]


def test_one_view_in_memory_and_one_streamed(tmp_path, small_blocks):
    memory = numbered(50)
    disk = streamed(memory, tmp_path / "toy.h5")
    mixed = PairSplit("train", memory.view1, disk.view2)
    assert mixed.is_streamed
    assert sorted(flat(collected(mixed, 7, seed=2))) == [(i, i) for i in range(50)]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_view_batches_give_each_item_once_in_order(batch_size, tmp_path):
    memory = numbered(30, table(30, 50, 101), 50)
    for split in (memory, streamed(memory, tmp_path / "toy.h5")):
        for view, expected in ((1, memory.view1), (2, memory.view2)):
            batches = list(view_batches(split, view, batch_size))
            assert torch.equal(torch.cat(batches), expected) and max(map(len, batches)) <= batch_size
    assert not reader_threads()


@pytest.mark.parametrize("dtype, scale", [("u1", 1 / 255), ("f2", 1.0), ("f4", 0.5), ("f8", 1.0), (">f4", 1.0)])
def test_streamed_values_equal_those_in_memory_bit_by_bit(dtype, scale, tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "toy.h5", "w") as file:
        for split in ("train", "valid", "test"):
            for view in ("view1", "view2"):
                data = rng.integers(0, 255, (37, 2, 3)).astype(dtype)
                file.create_dataset(f"{split}/{view}", data=data).attrs["scale"] = scale
    memory, disk = (read_h5(tmp_path / "toy.h5", stream=stream) for stream in (False, True))
    assert memory.view1_shape == disk.view1_shape == (2, 3)
    for view in (1, 2):
        assert torch.equal(torch.cat(list(view_batches(memory.test, view, 8))),
                           torch.cat(list(view_batches(disk.test, view, 8))))
    index = torch.tensor([5, 5, 0, 36, 2])
    assert torch.equal(disk.train.view1.gather(index), memory.train.view1[index])


@pytest.mark.parametrize("pairs", [None, table(40, 40, 90)], ids=["identity", "table"])
def test_taking_from_a_streamed_split(pairs, tmp_path):
    memory = numbered(40, pairs)
    disk = streamed(memory, tmp_path / "toy.h5")
    taken, expected = disk.take(13).take(9), memory.take(13).take(9)
    assert taken.is_streamed and taken.view1.shape == expected.view1.shape
    for ours, theirs in zip(pair_batches(taken, 4), pair_batches(expected, 4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_bad_values_are_found_while_streaming(tmp_path):
    split = numbered(60)
    path = tmp_path / "toy.h5"
    write_h5(PairedData("toy", split, split, split), path)
    with h5py.File(path, "r+") as file:
        del file.attrs["fingerprint"]
        for row in (33, 41):
            file["train/view2"][row] = np.nan
    disk = read_h5(path, stream=True).train
    with pytest.raises(DataError, match=r"^train view2 has NaN or infinite values in 2 rows .*\(row 33, 41\)"):
        list(pair_batches(disk, 10, seed=0))
    with pytest.raises(DataError, match=r"^train view2 has NaN"):
        list(view_batches(disk, 2, 10))
    assert not reader_threads()


def test_a_file_that_vanishes_or_changes_is_reported(tmp_path):
    disk = streamed(numbered(60), tmp_path / "toy.h5")
    write_h5(PairedData("toy", numbered(61), numbered(61), numbered(61)), tmp_path / "toy.h5")
    with pytest.raises(DataError, match="changed while it was in use"):
        list(pair_batches(disk, 10))
    (tmp_path / "toy.h5").unlink()
    with pytest.raises(DataError, match="no file"):
        list(pair_batches(disk, 10))


def test_the_reader_thread_ends_with_the_iterator(tmp_path, small_blocks):
    disk = streamed(numbered(500), tmp_path / "toy.h5")
    batches = pair_batches(disk, 5, seed=0)
    assert not reader_threads()  # lazy
    next(batches)
    assert len(reader_threads()) == 1
    batches.close()
    assert not reader_threads()
    for batch in pair_batches(disk, 5, seed=0):
        assert len(batch.pairs) == 5
        break
    del batch
    gc.collect()
    assert not reader_threads()  # let go of, not closed
    rows = view_batches(disk, 1, 5)
    next(rows)
    rows.close()
    assert not reader_threads()


def test_read_ahead_is_bounded_and_passes_errors_on():
    made = []

    def endless():
        for i in range(10**9):
            made.append(i)
            yield i

    ahead = batches_module.read_ahead(endless, depth=2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) <= 4  # one handed out, two waiting, one in hand
    ahead.close()
    assert not reader_threads()

    def failing():
        yield 1
        raise KeyError("lost")

    ahead = batches_module.read_ahead(failing)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="lost"):
        next(ahead)
    assert not reader_threads()


@pytest.mark.parametrize("on_disk", [False, True])
def test_lone_batches_are_the_items_that_no_pair_names(on_disk, tmp_path):
    split = numbered(9, torch.tensor([[0, 3], [2, 3], [2, 0], [8, 1]]), 5)
    if on_disk:
        split = streamed(split, tmp_path / "toy.h5")
    first, second = ([batch[:, 0].abs().tolist() for batch in lone_batches(split, view, 4)] for view in (1, 2))
    assert first == [[1, 3, 4], [5, 6, 7]] and second == [[2, 4]]


def test_without_a_table_no_item_is_alone():
    assert list(lone_batches(numbered(4), 1, 3)) == list(lone_batches(numbered(4), 2, 3)) == []
    with pytest.raises(ValueError, match="view must be 1 or 2"):
        lone_batches(numbered(4), 3, 3)
