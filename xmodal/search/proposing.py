"""Search by an index: it proposes candidates, which are scored exactly, with as much effort as a recall takes."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from xmodal.nearest import Nearest, first_largest, nearest
from xmodal.search.blocks import gather
from xmodal.search.indexes import GRAPH, Effort, Index

#: Neighbours by which recall is measured, and queries that measure it, at most.
RECALL_AT, RECALL_QUERIES = 10, 1000
#: How much of the way from the recall asked for to 1 is added to it when effort is chosen.
MARGIN = 0.3
_GATHERED = 1 << 24  # values of candidates held at a time


class Tuned(NamedTuple):
    """An effort, and the recall that was measured with it."""

    effort: Effort
    recall: float


def propose(index: Index, effort: Effort, parts: Sequence[Tensor], queries: Tensor, k: int,
            allowed: Tensor | None = None) -> Nearest:
    """The ``k`` best of what an index proposes for unit queries (q, d), scored exactly; of ``allowed`` rows alone.

    Args:
        index: over the rows of ``parts``.
        effort: at least; more where ``k`` asks for it.
        parts: unit vectors (n_i, d), one part after the other.
        queries: (q, d).
        k: how many; −1, with score −inf, where fewer were found.
        allowed: (n,) bool.
    """
    effort = Effort(max(effort.search, k if index.kind == GRAPH else 0), max(effort.shortlist, k))
    width = queries.shape[1]
    kept = []
    for some in queries.split(max(1, _GATHERED // (effort.shortlist * width))):
        rows = index.candidates(some, effort, allowed).sort(dim=1).values  # by row, for the disk and for ties
        items = gather(parts, rows.clamp(min=0).flatten()).view(*rows.shape, width)
        scores = torch.bmm(items, some[:, :, None]).squeeze(2).masked_fill_(rows < 0, -torch.inf)
        best = first_largest(scores, min(k, scores.shape[1]))
        found = rows.gather(1, best.rows).masked_fill(best.scores == -torch.inf, -1)
        missing = (0, k - found.shape[1])
        kept.append(Nearest(pad(best.scores, missing, value=-torch.inf), pad(found, missing, value=-1)))
    return Nearest(*(torch.cat(values) for values in zip(*kept, strict=True)))


def tuned(index: Index, parts: Sequence[Tensor], queries: Tensor, recall: float) -> Tuned:
    """The least effort that reaches a recall, and ``MARGIN`` more on the way to 1, or else the greatest."""
    count = sum(map(len, parts))
    k = min(RECALL_AT, count)
    wanted = nearest(queries, parts, k).scores[:, -1:] - 1e-6  # what ties with the last one counts, too
    for effort in index.efforts:
        found = propose(index, effort, parts, queries, k)
        reached = Tuned(effort, float((found.scores >= wanted).double().mean()))
        if reached.recall >= recall + MARGIN * (1 - recall) or effort.shortlist >= count:
            break
    return reached
