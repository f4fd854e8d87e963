"""Batches of pairs, from memory or from disk, in an order that depends on a seed and an epoch and nothing else."""
from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from xmodal.data.pairs import PairSplit, View
from xmodal.data.streamed import Gather, StreamedView
from xmodal.distributed import share
from xmodal.errors import DataError

T = TypeVar("T")
_BLOCK_BYTES = 1 << 18  # one contiguous read of a streamed split
_MIXED_BLOCKS = 128     # so many blocks are shuffled together: 32 MiB, of which three or four exist at a time


class Batch(NamedTuple):
    """Pairs i of a batch: ``view1[i]`` matches ``view2[i]``."""

    view1: Tensor  # (b, *item_shape) float32
    view2: Tensor  # (b, *item_shape) float32
    pairs: Tensor  # (b, 2) int64: the item indices of each row, on the CPU


def n_batches(split: PairSplit, batch_size: int) -> int:
    """How many batches :func:`pair_batches` yields: pairs / batch_size, rounded up."""
    return len(_bounds(split.n_pairs, batch_size)) - 1


def pair_batches(split: PairSplit, batch_size: int, *, seed: int | None = None, epoch: int = 0, start: int = 0,
                 stop: int | None = None, part: tuple[int, int] = (0, 1), device: str | torch.device = "cpu"
                 ) -> Iterator[Batch]:
    """Every pair of ``split`` once, in batches.

    Batches are near-equal slices, none larger than ``batch_size`` (201 pairs at 100 make 67 + 67 + 67): a runt last
    batch of one row has no covariance and makes a poor gradient, and dropping it would hide pairs from the model. An
    odd number of pairs in batches of 2 makes one of 3.

    In memory, rows are gathered into buffers that the next batch overwrites: **a batch is valid until the next one is
    asked for**; clone what must live longer.

    A streamed split is read in contiguous blocks of its pair table; the rows of many blocks are shuffled together
    while a background thread reads the next ones. An error in that thread is raised here, and closing the iterator
    (or letting go of it) ends the thread. Its order is less random than in memory, and another one for the same seed.

    Args:
        split: the pairs.
        batch_size: the most pairs in a batch.
        seed: None for the order of the table; else shuffled, in an order that depends on (seed, epoch) only. Global
            random states are neither read nor changed.
        epoch: varies the order.
        start: leave out so many batches at the beginning, without reading them (to resume in mid-epoch).
        stop: leave out the batches from this one on.
        part: (number, parts): only this one of so many contiguous, near-equal parts of every batch, which may be empty.
        device: where the batches are wanted.

    Raises:
        ValueError: a batch size below 1, or a negative seed, epoch or start.
        DataError: a streamed file is damaged, has changed or holds NaN or infinity.
    """
    if start < 0 or epoch < 0 or (seed is not None and seed < 0):
        raise ValueError(f"seed, epoch and start must not be negative; got {seed}, {epoch}, {start}")
    slices = list(pairwise(_bounds(split.n_pairs, batch_size)))[start:stop]
    if not slices:
        return iter(())
    slices = _parts_of(slices, part)
    if split.is_streamed:
        return _streamed(split, slices, seed, epoch, torch.device(device))
    rng = None if seed is None else np.random.default_rng([seed, epoch])
    return _in_memory(split, slices, rng, torch.device(device))


def view_batches(split: PairSplit, view: int, batch_size: int, device: str | torch.device = "cpu",
                 part: tuple[int, int] = (0, 1)) -> Iterator[Tensor]:
    """The items of one view in order, each once whatever the pair table says: (b, *item_shape) float32.

    Args:
        split: whose items.
        view: 1 or 2.
        batch_size: the most items in a batch; batches are near-equal.
        device: where they are wanted.
        part: (number, parts): only this one of so many contiguous, near-equal parts of every batch, which may be empty.
    """
    return _item_batches(_items(split, view), batch_size, device, part)


def lone_batches(split: PairSplit, view: int, batch_size: int, device: str | torch.device = "cpu") -> Iterator[Tensor]:
    """The items of one view that no row of the pair table names, as :func:`view_batches` has all of them."""
    items = _items(split, view)
    alone = torch.ones(len(items), dtype=torch.bool)
    alone[split.pair_table()[:, view - 1]] = False
    rows = alone.nonzero().flatten()
    if len(rows) == 0:
        return iter(())
    return _item_batches(items[rows] if isinstance(items, Tensor) else items.select(rows), batch_size, device)


def _items(split: PairSplit, view: int) -> View:
    if view not in (1, 2):
        raise ValueError(f"view must be 1 or 2; got {view}")
    return split.view1 if view == 1 else split.view2


def _item_batches(items: View, batch_size: int, device: str | torch.device, part: tuple[int, int] = (0, 1)
                  ) -> Iterator[Tensor]:
    slices = _parts_of(list(pairwise(_bounds(len(items), batch_size))), part)
    if isinstance(items, Tensor):
        return (items[low:high].to(device) for low, high in slices)
    return (block.to(device) for block in read_ahead(lambda: _read_slices(items, slices)))


def _bounds(count: int, batch_size: int) -> list[int]:
    """Where the near-equal batches begin and end: ceil(count / batch_size) of them, the longer ones first; one less
    where there would be one of a single row."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    batches = -(-count // batch_size)
    if batch_size == 2 and count > 2:
        batches = count // 2
    size, longer = divmod(count, batches)
    return [i * size + min(i, longer) for i in range(batches + 1)]


def _parts_of(slices: list[tuple[int, int]], part: tuple[int, int]) -> list[tuple[int, int]]:
    """One part of every slice."""
    cuts = [share(high - low, *part) for low, high in slices]
    return [(low + begin, low + end) for (low, _), (begin, end) in zip(slices, cuts, strict=True)]


def _in_memory(split: PairSplit, slices: list[tuple[int, int]], rng: np.random.Generator | None,
               device: torch.device) -> Iterator[Batch]:
    if not isinstance(split.view1, Tensor) or not isinstance(split.view2, Tensor):
        raise DataError(f"{split.name} is streamed")
    order = None if rng is None else torch.from_numpy(rng.permutation(split.n_pairs))
    largest = max(high - low for low, high in slices)
    take1, take2 = _buffered(split.view1, largest), _buffered(split.view2, largest)
    for low, high in slices:
        if order is None and split.pairs is None:
            pairs = torch.arange(low, high)[:, None].expand(-1, 2)
            yield Batch(split.view1[low:high].to(device), split.view2[low:high].to(device), pairs)
            continue
        rows = torch.arange(low, high) if order is None else order[low:high]
        pairs = rows[:, None].expand(-1, 2) if split.pairs is None else split.pairs[rows]
        yield Batch(take1(pairs[:, 0]).to(device), take2(pairs[:, 1]).to(device), pairs)


def _buffered(view: Tensor, largest: int) -> Gather:
    """A function that gathers up to ``largest`` rows of ``view`` into one buffer that it uses again and again."""
    buffer = torch.empty((largest, *view.shape[1:]), dtype=view.dtype, device=view.device)

    def take(indices: Tensor) -> Tensor:
        rows = indices.contiguous().to(view.device)
        return torch.index_select(view, 0, rows, out=buffer[:len(rows)])

    return take


def _streamed(split: PairSplit, slices: list[tuple[int, int]], seed: int | None, epoch: int,
              device: torch.device) -> Iterator[Batch]:
    order, groups = _block_order(split, seed, epoch)
    wanted = np.zeros(len(order), dtype=bool)
    for low, high in slices:
        wanted[low:high] = True
    before = np.concatenate([[0], np.cumsum(wanted)])  # rows that are wanted before each one
    groups = [(int(before[low]), int(before[high])) for low, high in groups if before[high] > before[low]]
    order = order[wanted]
    waiting: list[Batch] = []  # what was read and not yet handed out, in order
    ready = 0  # rows in `waiting`
    mixed = read_ahead(lambda: _read_groups(split, order, groups))
    try:
        for size in (high - low for low, high in slices):
            while ready < size:
                waiting.append(next(mixed))
                ready += len(waiting[-1].pairs)
            batch, waiting = _cut(waiting, size) if size else (_no_rows(split), waiting)
            ready -= size
            yield Batch(batch.view1.to(device), batch.view2.to(device), batch.pairs)
    finally:
        mixed.close()


def _no_rows(split: PairSplit) -> Batch:
    return Batch(torch.empty(0, *split.view1_shape), torch.empty(0, *split.view2_shape),
                 torch.empty(0, 2, dtype=torch.int64))


def _cut(waiting: list[Batch], size: int) -> tuple[Batch, list[Batch]]:
    """The first ``size`` rows of what is waiting, and the rest."""
    taken: list[Batch] = []
    while size > 0:
        head = waiting[0]
        taken.append(Batch(*(part[:size] for part in head)))
        rest = [Batch(*(part[size:] for part in head))] if len(head.pairs) > size else []
        waiting = rest + waiting[1:]
        size -= len(taken[-1].pairs)
    if len(taken) == 1:
        return taken[0], waiting
    return Batch(*(torch.cat(parts) for parts in zip(*taken, strict=True))), waiting


def _block_order(split: PairSplit, seed: int | None, epoch: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The order of the pair table's rows, and the stretches of that order which are read as one group.

    Blocks are contiguous rows of the table and come in random order; each group of blocks is shuffled as a whole. The
    sizes depend on the file alone, never on the machine, so that the order is the same everywhere.
    """
    count = split.n_pairs
    pair_bytes = 4 * sum(int(np.prod(shape, dtype=np.int64)) for shape in (split.view1_shape, split.view2_shape))
    block = max(1, _BLOCK_BYTES // pair_bytes)
    mixed = block * _MIXED_BLOCKS
    chunk = max(view.chunk_rows for view in (split.view1, split.view2) if isinstance(view, StreamedView))
    block = -(-block // chunk) * chunk  # whole chunks: a compressed one is unpacked once an epoch, not once a block
    blocks = max(1, mixed // block)
    if seed is None:
        order = np.arange(count)
        edges = list(range(0, count, block * blocks))
    else:
        rng = np.random.default_rng([seed, epoch])
        starts = np.arange(0, count, block)
        rng.shuffle(starts)
        parts, edges, filled = [], [], 0
        for i in range(0, len(starts), blocks):
            rows = np.concatenate([np.arange(low, min(low + block, count)) for low in starts[i:i + blocks]])
            rng.shuffle(rows)
            parts.append(rows)
            edges.append(filled)
            filled += len(rows)
        order = np.concatenate(parts)
    return order, list(zip(edges, [*edges[1:], count], strict=True))


def _read_groups(split: PairSplit, order: np.ndarray, groups: list[tuple[int, int]]) -> Generator[Batch, None, None]:
    """Read one group after the other; runs in the background thread."""
    with ExitStack() as files:
        take1, take2 = _opened(split.view1, files), _opened(split.view2, files)
        for low, high in groups:
            rows = torch.from_numpy(order[low:high])
            pairs = rows[:, None].expand(-1, 2) if split.pairs is None else split.pairs[rows]
            yield Batch(take1(pairs[:, 0]), take2(pairs[:, 1]), pairs)


def _read_slices(view: StreamedView, slices: Iterable[tuple[int, int]]) -> Generator[Tensor, None, None]:
    with view.reader() as read:
        for low, high in slices:
            yield read(torch.arange(low, high))


def _opened(view: View, files: ExitStack) -> Gather:
    if isinstance(view, StreamedView):
        return files.enter_context(view.reader())
    return lambda indices: view.index_select(0, indices)


def read_ahead(produce: Callable[[], Generator[T, None, None]], depth: int = 2) -> Generator[T, None, None]:
    """Iterate over ``produce()`` in a background thread that works up to ``depth`` items ahead.

    The thread starts with the first item asked for; what it raises is raised here, and closing this iterator ends it.
    """
    items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return items.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        source = produce()
        try:
            for item in source:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # handed to the consumer, whatever it is
            put(None, error)
        finally:
            source.close()

    thread = threading.Thread(target=work, name="xmodal-reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        while not items.empty():
            items.get_nowait()
        thread.join()
