"""Which rows of a batch are known to match, and the way objectives compare every row with every other."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded, LengthNorm

#: Larger batches are compared ROWS rows at a time, each block computed anew when gradients are: memory grows as n.
WHOLE, ROWS = 8192, 2048


def require_embedded(objective: nn.Module, embedded: object) -> None:
    """Refuses what no head returns, such as the embeddings of one view, on behalf of an objective."""
    if not isinstance(embedded, Embedded):
        raise ExperimentError(f"{type(objective).__name__} takes what a head returns: Embedded(view1, view2), got "
                              f"{type(embedded).__name__}")


class Part(NamedTuple):
    """What some rows contribute to a loss: their ``total``, and of how many ``terms`` it is the mean, 0 where it is
    their sum. Both may be (k,), where a loss is the sum of k means."""

    total: Tensor
    terms: Tensor


class Compared(NamedTuple):
    """Queries of a batch against its whole other view.

    Attributes:
        scores: (b, n) cosines, or what :meth:`InBatch.prepare` makes of them.
        own: (b,) the column of each query's partner.
        others: (b, n) bool: columns known to match besides the partner; None where there are none.
    """

    scores: Tensor
    own: Tensor
    others: Tensor | None

    @property
    def positives(self) -> Tensor:
        """(b, 1) scores of the true pairs."""
        return self.scores.gather(1, self.own[:, None])

    def negatives(self, fill: float) -> Tensor:
        """(b, n) scores, with ``fill`` in place of those of known matches."""
        found = self.scores.scatter(1, self.own[:, None], fill)
        return found if self.others is None else found.masked_fill(self.others, fill)

    def pick(self, columns: Tensor) -> Tensor:
        """(b,) scores in the given columns (b,)."""
        return self.scores.gather(1, columns[:, None]).squeeze(1)

    def count_negatives(self) -> Tensor:
        """How many scores are of no known match, scalar."""
        known = len(self.own) if self.others is None else self.others.sum() + len(self.own)
        return torch.as_tensor(self.scores.numel() - known, device=self.scores.device)


class InBatch(nn.Module):
    """An objective over the cosines of all rows of a batch: subclasses say what some queries contribute.

    Rows that are known to match besides the true pairs (a second caption of the same picture) are never taken for
    negatives. Batches of more than ``WHOLE`` rows are compared some rows at a time.

    Args:
        symmetric: also view-2 queries; the two directions are averaged, or added where ``adds_directions``.
    """

    adds_directions = False

    def __init__(self, symmetric: bool = True) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.norm = LengthNorm()

    def contribution(self, compared: Compared) -> Part:
        """What the queries of ``compared`` add to the loss."""
        raise NotImplementedError

    def prepare(self, cosines: Tensor) -> Tensor:
        """Scores of cosines, once for both directions."""
        return cosines

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        require_embedded(self, embedded)
        z1, z2 = self.norm(embedded.view1), self.norm(embedded.view2)
        items = None if pairs is None else repeated_items(pairs, len(z1), z1.device)
        if len(z1) > WHOLE:
            directions = [self._by_blocks(z1, z2, items)]
            directions += [self._by_blocks(z2, z1, items)] if self.symmetric else []
        else:
            scores = self.prepare(z1 @ z2.mT)
            others = None if items is None else known_matches(items, slice(None))
            own = torch.arange(len(z1), device=z1.device)
            directions = [self.contribution(Compared(scores, own, others))]
            if self.symmetric:
                directions.append(self.contribution(Compared(scores.mT, own, None if others is None else others.mT)))
        losses = [(part.total / part.terms.clamp(min=1)).sum() for part in directions]
        if len(losses) == 1:
            return losses[0]
        return losses[0] + losses[1] if self.adds_directions else (losses[0] + losses[1]) / 2

    def _by_blocks(self, queries: Tensor, gallery: Tensor, items: Tensor | None) -> Part:
        parts = []
        for start in range(0, len(queries), ROWS):
            rows = slice(start, min(start + ROWS, len(queries)))
            others = None if items is None else known_matches(items, rows)
            own = torch.arange(rows.start, rows.stop, device=queries.device)
            parts.append(Part(*_recomputed(self._of_block, queries[rows], gallery, own, others)))
        totals, terms = zip(*parts, strict=True)
        return Part(torch.stack(totals).sum(dim=0), torch.stack(terms).sum(dim=0))

    def _of_block(self, queries: Tensor, gallery: Tensor, own: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor]:
        total, terms = self.contribution(Compared(self.prepare(queries @ gallery.mT), own, others))
        return total, terms


def _recomputed(function: Callable[..., tuple[Tensor, Tensor]], *given: Tensor | None) -> tuple[Tensor, Tensor]:
    """A block's part; its n × b arrays are not kept for the gradient but made again."""
    total, terms = checkpoint(function, *given, use_reentrant=False)
    return total, terms


def repeated_items(pairs: Tensor, n: int, device: torch.device) -> Tensor | None:
    """The (n, 2) items of the rows; None where no item occurs twice, so that only row i matches row i."""
    pairs = pairs[:, :2]
    if all(len(items.unique()) == n for items in pairs.unbind(dim=1)):
        return None
    return pairs.to(device)


def known_matches(items: Tensor, rows: slice) -> Tensor:
    """(b, n) bool: whether view-1 row i of ``rows`` and view-2 row j ≠ i are known to match.

    They do when they share an item: if both hold the same picture, the caption of row j is a caption of row i's
    picture.
    """
    items1, items2 = items.unbind(dim=1)
    found = (items1[rows, None] == items1) | (items2[rows, None] == items2)
    own = torch.arange(len(items), device=items.device)[rows]
    return found.scatter_(1, own[:, None], False)


def shared_items(pairs: Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """(n, n) bool: whether view-1 row i and view-2 row j are known to match; None when only i = j do."""
    items = None if pairs is None else repeated_items(pairs, n, device)
    return None if items is None else known_matches(items, slice(None)).fill_diagonal_(True)
