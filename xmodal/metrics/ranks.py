"""Ranks of true matches in both directions from one pass over tiles of the score matrix.

Nothing is sorted and no n × n array exists: with a the number of gallery items that score higher than a query's
best match and e the number that score the same (the match itself included), the average rank is a + (e + 1)/2.

Ties are decided in float64. A float32 product of unit vectors is off by up to 5 units of 2⁻²³ (measured, d from 1
to 8192), and by another amount in another tile, so in float32 a comparison is trusted only outside a band of
``BAND`` around the score of the match. The few rows of a tile with something inside the band are multiplied again
in float64, where "the same" means closer than ``TIE``. Identical rows therefore tie whatever the tile, a collapsed
model has the ranks of chance, and ranks equal those of a float64 sort at nearly the price of float32.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.distributed import add_up, rank, size
from xmodal.errors import DataError
from xmodal.metrics.views import View, check_pairs, check_views, exact_scores, make_view

BAND = 6 * 2.0**-23     # float32 scores this close to the match are compared again in float64
TIE = 1e-13             # float64 scores this close are the same
FEW = 0.25              # share of a tile's items up to which they are copied out and compared alone
CPU_TILE = (512, 512)   # stays in the L2 cache with its comparison, and is large enough to hide Python
GPU_TILE = (4096, 8192)

_Strip = tuple[slice, list[tuple[slice, Tensor]]]   # rows; columns and pairs inside of each tile


class Ranks(NamedTuple):
    """Ranks (from 1, ties averaged) of the best match of every item that has a partner, on the CPU.

    ``V1_to_V2``, ``V2_to_V1``: float64, one per query · ``tied1``, ``tied2``: bool, for the queries of view 1 and of
    view 2, another gallery item (another match included) scores the same as the best match · ``queries1``,
    ``queries2``: int64, which items of their view the queries are, ascending.
    """

    V1_to_V2: Tensor
    V2_to_V1: Tensor
    tied1: Tensor
    tied2: Tensor
    queries1: Tensor
    queries2: Tensor


class _Direction:
    """One direction: the score of each item's best match, and how many of its matches score that."""

    def __init__(self, matches: Tensor, scores: Tensor, n: int) -> None:
        best = torch.full((n,), -torch.inf, dtype=torch.float64, device=scores.device)
        best.scatter_reduce_(0, matches, scores, "amax")
        self.queries = (best > -torch.inf).nonzero().flatten()
        self.best = best.masked_fill_(best == -torch.inf, torch.inf)  # nothing scores above what is not asked
        self.low = (best - BAND).to(torch.float32)
        self.high = (best + BAND).to(torch.float32)
        # The pairs themselves are counted here, exactly, and left out of the tiles.
        self.same = torch.zeros(n, dtype=torch.int64, device=scores.device)
        self.same.index_add_(0, matches, (scores >= best[matches] - TIE).to(torch.int64))

    def result(self, counts: list[_Counts], shared: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Ranks, tied flags and the items that are queries, from the counts of all workers (and processes)."""
        counted = torch.stack([torch.stack([count.above, count.same]) for count in counts]).sum(dim=0)
        above, same = (add_up(counted) if shared else counted)[:, self.queries]
        same = same + self.same[self.queries]
        return (above + (same + 1).to(torch.float64) / 2).cpu(), (same > 1).cpu(), self.queries.cpu()


class _Counts:
    """What one worker has counted in one direction: per item, the scores above its best match and equal to it."""

    def __init__(self, direction: _Direction, gallery: int) -> None:
        """``gallery`` is the axis of the gallery in a tile; the items lie along the other one."""
        self.direction, self.gallery = direction, gallery
        self.above = torch.zeros_like(direction.same)
        self.same = torch.zeros_like(direction.same)

    def count(self, items: slice, scores: Tensor, buffer: Tensor) -> Tensor:
        """Adds the float32 ``scores`` of one tile; returns which of its items need float64 (their positions).

        In a good model most matches beat the whole tile, which its maximum tells in a quarter of the time.
        """
        low, high = self.direction.low[items], self.direction.high[items]
        open_ones = (scores.amax(dim=self.gallery) > low).nonzero().flatten()
        if len(open_ones) <= FEW * len(low):
            scores = scores.index_select(1 - self.gallery, open_ones)
            low, high = low[open_ones], high[open_ones]
        else:
            open_ones = torch.arange(len(low), device=low.device)
        work = buffer[:scores.numel()].view(scores.shape)   # float32, which is 4 × faster than bool
        at_least = torch.gt(scores, low.unsqueeze(self.gallery), out=work).sum(dim=self.gallery)
        above = torch.gt(scores, high.unsqueeze(self.gallery), out=work).sum(dim=self.gallery)
        unsure = at_least > above
        self.above.index_add_(0, open_ones + items.start, above.masked_fill_(unsure, 0).to(torch.int64))
        return open_ones[unsure]

    def count_exactly(self, items: Tensor, scores: Tensor) -> None:
        """Adds float64 ``scores`` between ``items`` and one tile of the gallery."""
        best = self.direction.best[items].unsqueeze(self.gallery)
        above = (scores > best + TIE).sum(dim=self.gallery)
        self.above.index_add_(0, items, above)
        self.same.index_add_(0, items, (scores >= best - TIE).sum(dim=self.gallery) - above)


def retrieval_ranks(z1: Any, z2: Any, pairs: Any = None, *, tile: tuple[int, int] | int | None = None,
                    shared: bool = False) -> Ranks:
    """Ranks of the best match by cosine, both directions, from one pass over the score matrix.

    The oracle is ``scipy.stats.rankdata(-scores, method="average")`` on float64 scores; with several matches the
    best one counts. Items without a partner are in the gallery but are no queries. A zero vector has cosine 0 with
    everything.

    Args:
        z1: view-1 embeddings (n1, d), tensor or array, any float width and device.
        z2: view-2 embeddings (n2, d).
        pairs: int64 (m, 2), row i says that ``z1[pairs[i, 0]]`` matches ``z2[pairs[i, 1]]``; None is the identity.
        tile: rows and columns of a tile of the score matrix; the default suits the device.
        shared: several processes call this with the same embeddings, and each counts a part of the tiles.

    Raises:
        DataError: shapes or pairs that don't fit.
        NumericalError: NaN or infinite embeddings.
    """
    m1, m2 = check_views(z1, z2)
    table = check_pairs(pairs, len(m1), len(m2), m1.device)
    view1, view2 = make_view(m1, "view 1"), make_view(m2, "view 2")
    return ranks_of_views(view1, view2, table, exact_scores(view1, view2, table), tile, shared)


def ranks_of_views(view1: View, view2: View, pairs: Tensor, pair_scores: Tensor,
                   tile: tuple[int, int] | int | None = None, shared: bool = False) -> Ranks:
    """``retrieval_ranks`` on prepared views, sorted distinct pairs (m, 2) and their float64 cosines (m,); ``shared``
    as there.

    On the CPU each of torch's threads takes strips of tiles of its own. Splitting every small operation among the
    threads instead would meet at a barrier ten times per tile, and crawl on a machine that is busy otherwise.
    """
    shape = _tile_shape(tile, view1, view2)
    forward = _Direction(pairs[:, 0], pair_scores, len(view1.raw))
    backward = _Direction(pairs[:, 1], pair_scores, len(view2.raw))
    strips: SimpleQueue[_Strip] = SimpleQueue()
    own = (rank(), size()) if shared else (0, 1)
    for number, strip in enumerate(_strips(pairs, len(view1.raw), len(view2.raw), *shape)):
        if number % own[1] == own[0]:
            strips.put(strip)

    def work() -> tuple[_Counts, _Counts]:
        return _count_strips(strips, view1, view2, forward, backward, shape)

    workers = max(1, min(torch.get_num_threads(), strips.qsize())) if view1.raw.device.type == "cpu" else 1
    with full_precision():
        counts = [work()] if workers == 1 else _in_threads(work, workers, strips)
    ranks1, tied1, queries1 = forward.result([count for count, _ in counts], shared)
    ranks2, tied2, queries2 = backward.result([count for _, count in counts], shared)
    return Ranks(ranks1, ranks2, tied1, tied2, queries1, queries2)


def _in_threads(work: Callable[[], tuple[_Counts, _Counts]], workers: int, strips: SimpleQueue[_Strip],
                ) -> list[tuple[_Counts, _Counts]]:
    """Runs ``work`` in so many threads, each with one torch thread; an interrupt leaves after the current strips."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(work) for _ in range(workers)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                while not strips.empty():
                    strips.get()
                raise
    finally:
        torch.set_num_threads(before)


def _count_strips(strips: SimpleQueue[_Strip], view1: View, view2: View, forward: _Direction, backward: _Direction,
                  shape: tuple[int, int]) -> tuple[_Counts, _Counts]:
    """Takes strips until none is left and counts their tiles in both directions."""
    device = view1.raw.device
    # Autocast and no_grad belong to a thread, and a thread may write only to tensors that it made (inference mode).
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        counts1, counts2 = _Counts(forward, gallery=1), _Counts(backward, gallery=0)
        scores = torch.empty(shape[0] * shape[1], dtype=torch.float32, device=device)
        buffer = torch.empty_like(scores)
        while True:
            try:
                rows, tiles = strips.get_nowait()
            except Empty:
                return counts1, counts2
            for columns, inside in tiles:
                _count_tile(view1, view2, rows, columns, inside, scores, buffer, counts1, counts2)


def _count_tile(view1: View, view2: View, rows: slice, columns: slice, inside: Tensor, scores: Tensor,
                buffer: Tensor, counts1: _Counts, counts2: _Counts) -> None:
    """One product, two comparisons per direction, and float64 for the rows and columns that need it."""
    unit1, unit2 = view1.unit[rows], view2.unit[columns]
    shape = (len(unit1), len(unit2))
    size = shape[0] * shape[1]
    part = torch.mm(unit1, unit2.T, out=scores[:size].view(shape))
    if len(inside):
        part[inside[:, 0], inside[:, 1]] = -torch.inf
    unsure1 = counts1.count(rows, part, buffer)
    unsure2 = counts2.count(columns, part, buffer)
    if len(unsure1):
        exact = view1.exact(unsure1 + rows.start) @ view2.exact(columns).T
        counts1.count_exactly(unsure1 + rows.start, exact.masked_fill_(part[unsure1] == -torch.inf, -torch.inf))
    if len(unsure2):
        exact = view1.exact(rows) @ view2.exact(unsure2 + columns.start).T
        counts2.count_exactly(unsure2 + columns.start, exact.masked_fill_(part[:, unsure2] == -torch.inf, -torch.inf))


def _tile_shape(tile: tuple[int, int] | int | None, view1: View, view2: View) -> tuple[int, int]:
    if tile is None:
        tile = CPU_TILE if view1.raw.device.type == "cpu" else GPU_TILE
    n_rows, n_columns = (tile, tile) if isinstance(tile, int) else tile
    if n_rows < 1 or n_columns < 1:
        raise DataError(f"tile: expected positive numbers of rows and columns, got {tile}")
    return min(n_rows, len(view1.raw)), min(n_columns, len(view2.raw))


def _strips(pairs: Tensor, n1: int, n2: int, n_rows: int, n_columns: int) -> Iterator[_Strip]:
    """Strips of rows with their tiles, each as column slice and pairs inside, (k, 2), from the tile's corner."""
    per_strip = -(-n2 // n_columns)
    tile_of_pair = pairs[:, 0] // n_rows * per_strip + pairs[:, 1] // n_columns
    order = tile_of_pair.argsort()
    local = torch.stack((pairs[:, 0] % n_rows, pairs[:, 1] % n_columns), dim=1)[order]
    numbers = torch.arange(-(-n1 // n_rows) * per_strip + 1, device=pairs.device)
    bounds = torch.searchsorted(tile_of_pair[order], numbers).tolist()
    for number in range(0, len(bounds) - 1, per_strip):
        row = number // per_strip * n_rows
        tiles = [(slice(i * n_columns, min((i + 1) * n_columns, n2)), local[bounds[number + i]:bounds[number + i + 1]])
                 for i in range(per_strip)]
        yield slice(row, min(row + n_rows, n1)), tiles


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in true float32 inside: no TF32 or bfloat16 shortcuts, whatever training had set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
