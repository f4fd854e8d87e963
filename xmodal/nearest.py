"""The k gallery vectors of largest inner product with each query: exactly, and without the matrix of all scores."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Scores in a tile: what the second-level cache holds together with its operands. On one core, 1,000 queries in a
#: gallery of 1,000,000 × 128, half and twice as much cost 1 to 8 % more.
TILE_VALUES = 1 << 20
#: Rows in a tile at least, so that its product is worth a call, and at most.
LEAST_ROWS, MOST_ROWS = 256, 1 << 17
GPU_TILE_VALUES = 1 << 28
QUERIES_AT_ONCE = 1024
#: From so many queries on a product in bfloat16 first tells which tiles can't hold anything near. With fewer, copying
#: tiles costs more than it saves.
SKETCHED_QUERIES = 400
#: What rounding both operands and the product to bfloat16 changes of an inner product, at most, as a multiple of both
#: lengths: 2u + u² of the operands and u of the product, u = 2^-8, and a little for sums in float32.
SKETCH_ERROR = 0.0125
#: After so many tiles in a row that could not be ruled out for most queries, no more is tried: scores lie too close.
MOST_USELESS = 50


class Nearest(NamedTuple):
    """The nearest rows of a gallery, best first; of equal scores the lower row.

    ``scores`` (q, k) float32 · ``rows`` (q, k) int64, −1 (with score −inf) where there are fewer than k.
    """

    scores: Tensor
    rows: Tensor


def nearest(queries: Tensor, gallery: Tensor | Sequence[Tensor], k: int, *, allowed: Tensor | None = None,
            read: Callable[[Tensor], Tensor] | None = None) -> Nearest:
    """The ``k`` rows of ``gallery`` with the largest inner products with each query.

    Goes through the gallery tile by tile and keeps what is better than the worst kept so far, which after the first
    tiles is rarely anything. On CPUs with matrix units for bfloat16 (AMX) a rough product rules most tiles out first;
    what is kept is always compared in float32.

    Args:
        queries: (q, d) float32, finite.
        gallery: (n, d) float32, finite, or several such one after the other; may be memory-mapped. Tiles go to the
            device of the queries.
        k: how many.
        allowed: (n,) bool; other rows are left out.
        read: makes float32 (m, d) of m rows of a gallery that is stored otherwise.
    """
    parts = [gallery] if isinstance(gallery, Tensor) else list(gallery)
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        found = [_nearest(some, parts, k, allowed, read) for some in queries.split(QUERIES_AT_ONCE)]
    return found[0] if len(found) == 1 else Nearest(*(torch.cat(values) for values in zip(*found, strict=True)))


def _nearest(queries: Tensor, parts: Sequence[Tensor], k: int, allowed: Tensor | None,
             read: Callable[[Tensor], Tensor] | None) -> Nearest:
    count, on_cpu = len(queries), queries.device.type == "cpu"
    values = TILE_VALUES if on_cpu else GPU_TILE_VALUES
    n_rows = min(max(values // max(count, 1), LEAST_ROWS), MOST_ROWS)
    kept = _Kept(queries, k, sketch=on_cpu and count >= SKETCHED_QUERIES and has_bfloat16_units())
    for start, tile in _tiles(parts, n_rows):
        values_of = tile.to(queries.device) if read is None else read(tile.to(queries.device))
        kept.look_at(values_of, start,
                     None if allowed is None else allowed[start:start + len(tile)].to(queries.device))
    return kept.best_first()


def has_bfloat16_units() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware (AMX), many times as fast as float32."""
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # new in torch 2.13
    return bool(capabilities.get("amx_bf16"))


def _tiles(parts: Sequence[Tensor], n_rows: int) -> Iterator[tuple[int, Tensor]]:
    """The gallery in pieces of ``n_rows``, each with the number of its first row."""
    first = 0
    for part in parts:
        for start in range(0, len(part), n_rows):
            yield first + start, part[start:start + n_rows]
        first += len(part)


class _Kept:
    """The best of what was seen so far, for all queries."""

    def __init__(self, queries: Tensor, k: int, sketch: bool) -> None:
        count = len(queries)
        self.queries, self.k = queries, k
        self.scores = queries.new_full((count, k), -torch.inf, dtype=torch.float32)
        self.rows = torch.full((count, k), -1, dtype=torch.int64, device=queries.device)
        self.sketch = queries.bfloat16() if sketch else None
        self.lengths = queries.norm(dim=1) * SKETCH_ERROR
        self.buffer = queries.new_empty(0)
        self.useless = 0

    def look_at(self, tile: Tensor, start: int, allowed: Tensor | None) -> None:
        """Takes over what is better than the worst kept; of equal scores those stay that came earlier."""
        asking = self._may_improve(tile)
        if asking is None:
            scores = self._product(self.queries, tile)
            if allowed is not None:
                scores.masked_fill_(~allowed, -torch.inf)
            asking = (scores.amax(dim=1) > self.scores[:, -1]).nonzero().flatten()
            if len(asking) < len(scores):
                scores = scores[asking]
        elif len(asking):
            scores = self._product(self.queries[asking], tile)
            if allowed is not None:
                scores.masked_fill_(~allowed, -torch.inf)
        if not len(asking):
            return
        best = first_largest(scores, min(self.k, scores.shape[1]))
        joined = torch.cat([self.scores[asking], best.scores], dim=1)
        rows = torch.cat([self.rows[asking], best.rows + start], dim=1)
        top, order = joined.sort(dim=1, descending=True, stable=True)
        self.scores[asking] = top[:, :self.k]
        self.rows[asking] = rows.gather(1, order[:, :self.k])

    def _may_improve(self, tile: Tensor) -> Tensor | None:
        """The queries for which a tile may hold something better, by a rough product; None if that can't tell."""
        if self.sketch is None or bool(self.scores[0, -1] == -torch.inf):
            return None
        rough = (self.sketch @ tile.bfloat16().T).amax(dim=1).float()
        slack = self.lengths * tile.norm(dim=1).amax()
        asking: Tensor = (rough + slack > self.scores[:, -1]).nonzero().flatten()
        self.useless = self.useless + 1 if 2 * len(asking) > len(rough) else 0
        if self.useless == MOST_USELESS:
            self.sketch = None
        return asking

    def _product(self, queries: Tensor, tile: Tensor) -> Tensor:
        """Scores (len(queries), len(tile)) in a buffer that is used again."""
        size = len(queries) * len(tile)
        if self.buffer.numel() < size:
            self.buffer = queries.new_empty(size)
        return torch.mm(queries, tile.T, out=self.buffer[:size].view(len(queries), len(tile)))

    def best_first(self) -> Nearest:
        self.rows.masked_fill_(self.scores == -torch.inf, -1)
        return Nearest(self.scores, self.rows)


def spread_rows(n: int, most: int) -> Tensor:
    """At most ``most`` of the rows 0 … n − 1, evenly spread and with both ends, int64 ascending: ⌊i (n − 1) / (m − 1)⌋.

    In whole numbers: ``torch.linspace`` in float32 ends one past the last row from n = 2²⁴ + 4 on.
    """
    count = min(most, n)
    return torch.arange(count) * (n - 1) // max(count - 1, 1)


def first_largest(scores: Tensor, k: int) -> Nearest:
    """The ``k`` largest of each row of ``scores`` (q, n), best first; of equal ones those that come first.

    ``torch.topk`` takes any of equal scores. So rows are sorted whole where one that is left out equals the last taken.
    """
    more = min(k + 1, scores.shape[1])
    top, rows = scores.topk(more, dim=1)
    if more > k:
        tied = (top[:, k] == top[:, k - 1]).nonzero().flatten()
        if len(tied):
            top[tied], rows[tied] = (part[:, :more] for part in scores[tied].sort(dim=1, descending=True, stable=True))
        top, rows = top[:, :k], rows[:, :k]
    rows, order = rows.sort(dim=1)
    top, order = top.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Nearest(top, rows.gather(1, order))
