"""Which items the page of ``run_eval.py --html`` shows: queries with what they find, hubs, a sample of pairs."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xmodal.cli.drawing import NEIGHBOURS, shown_items, shown_styles
from xmodal.data import PairedData, PairSplit
from xmodal.evaluator.partners import partner_labels
from xmodal.metrics import DIRECTIONS, Ranks
from xmodal.metrics.hubness import NEIGHBOURS as HUB_NEIGHBOURS
from xmodal.metrics.hubness import occurrences, skewness
from xmodal.metrics.views import View, check_pairs, chunk_rows, exact_scores, make_view
from xmodal.pictures import ViewStyle, as_thumbnail
from xmodal.report.items import Item
from xmodal.report.page import Asked, Hubs

#: Queries under each heading of the sheet, and hubs shown of each gallery.
EACH, MOST_HUBS = 3, 8


class Shelf:
    """Items of a split by view and number, fetched only when they are shown.

    Args:
        data: what the split belongs to.
        split: whose items.
    """

    def __init__(self, data: PairedData, split: PairSplit) -> None:
        self.data, self.split = data, split
        self.styles: list[ViewStyle] = shown_styles(data, split)
        self.labels = item_labels(split)

    def items(self, side: int, rows: Sequence[int]) -> list[Item]:
        """Items ``rows`` of view 1 (``side`` 0) or 2 (1), as the page shows them."""
        contents = shown_items(self.data, self.split, side, torch.tensor(rows, dtype=torch.int64))
        captions = (self.split.caption1, self.split.caption2)[side]
        items = []
        for row, content in zip(rows, contents, strict=True):
            name, notes = f"view {side + 1}, item {row}", self._notes(side, row)
            if isinstance(content, str):
                items.append(Item(name, content or "(empty)", notes=notes))
                continue
            values, style = content.detach().float().cpu().numpy(), self.styles[side]
            pixels = as_thumbnail(values, style)
            items.append(Item(name, values.reshape(-1) if pixels is None else pixels, style.low, style.high,
                              said=captions[row] if captions is not None else "", notes=notes))
        return items

    def _notes(self, side: int, row: int) -> list[str]:
        notes = [self.split.ids[row]] if side == 0 and self.split.ids is not None else []
        label = None if self.labels is None else int(self.labels[side][row])
        return [*notes, f"class {label}"] if label is not None and (side == 0 or label in self._classes) else notes

    @property
    def _classes(self) -> set[int]:
        return set() if self.split.labels is None else set(self.split.labels.unique().tolist())


def item_labels(split: PairSplit) -> tuple[Tensor, Tensor] | None:
    """Classes of the items of both views, (n1,) and (n2,), as :func:`partner_labels` has them; None without labels."""
    labels = partner_labels(split)
    return None if split.labels is None or labels is None else (split.labels, labels)


# -- queries and what they find ------------------------------------------------------------------------------------

def retrieval_sheet(shelf: Shelf, z1: Tensor, z2: Tensor, ranks: Ranks
                    ) -> dict[str, list[tuple[str, list[Asked]]]]:
    """Of each direction the best, the typical and the worst queries with what they find, headings included."""
    views = make_view(z1, "view 1"), make_view(z2, "view 2")
    table = check_pairs(shelf.split.pairs, len(z1), len(z2), z1.device)
    scores = exact_scores(*views, table).cpu()
    table = table.cpu()
    sheet = {}
    for side, direction in enumerate(DIRECTIONS):
        values = getattr(ranks, direction)
        asked = ranks.queries1 if side == 0 else ranks.queries2
        best, partners = best_matches(table[:, side], table[:, 1 - side], scores, asked)
        chosen = choose(values, best)
        found = _asked(shelf, side, views, table, asked, values, best, partners,
                       torch.tensor([place for places in chosen for place in places]))
        titles = (f"The best: {_ranked(values, chosen[0])}", f"Typical: {_ranked(values, chosen[1])}",
                  f"The worst: {_ranked(values, chosen[2])}")
        ends = np.cumsum([0, *map(len, chosen)])
        sheet[direction] = [(title, found[low:high])
                            for title, low, high in zip(titles, ends[:-1], ends[1:], strict=True)]
    return sheet


def _ranked(values: Tensor, rows: Sequence[int]) -> str:
    ranks = sorted({float(values[row]) for row in rows})
    if not ranks:
        return "none"
    return f"rank {ranks[0]:,g}" + (f" to {ranks[-1]:,g}" if len(ranks) > 1 else "")


def best_matches(queries: Tensor, gallery: Tensor, scores: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Of each query in ``asked`` (ascending), the score of its most similar match, and which item that is.

    Args:
        queries, gallery: (m,) the two sides of the pairs.
        scores: (m,) their cosines.
        asked: (q,) the distinct queries.
    """
    order = np.lexsort((-scores.numpy(), queries.numpy()))
    first = np.searchsorted(queries.numpy()[order], asked.numpy(), side="left")
    rows = torch.from_numpy(order[first])
    return scores[rows], gallery[rows]


def choose(ranks: Tensor, scores: Tensor, each: int = EACH) -> list[list[int]]:
    """Places of the best, the typical and the worst queries, at most ``each``, none of them twice.

    The order is that of the ranks and, among equals, of the similarity of the match: the best are the surest, the
    worst are found last and are least like their match, and typical ones stand around the middle.
    """
    order = np.lexsort((-scores.numpy(), ranks.numpy())).tolist()
    each = min(each, len(order) // 3) or 1
    best, worst = order[:each], order[max(each, len(order) - each):][::-1]
    rest = order[each:len(order) - each]
    low = max(0, (len(rest) - each) // 2)
    return [best, rest[low:low + each], worst]


def _asked(shelf: Shelf, side: int, views: tuple[View, View], table: Tensor, asked: Tensor, ranks: Tensor,
           best: Tensor, partners: Tensor, places: Tensor) -> list[Asked]:
    """What the page shows of the queries at ``places`` of ``asked``."""
    queries, matches = asked[places], partners[places]
    near = nearest_items(views[side], views[1 - side], queries).tolist()
    items = shelf.items(side, queries.tolist())
    partner_items = shelf.items(1 - side, matches.tolist())
    flat = iter(shelf.items(1 - side, [row for rows in near for row in rows]))
    result = []
    for i, (query, rows) in enumerate(zip(queries.tolist(), near, strict=True)):
        mine = set(table[table[:, side] == query, 1 - side].tolist())
        place = int(places[i])
        result.append(Asked(items[i], partner_items[i], float(ranks[place]), float(best[place]),
                            [next(flat) for _ in rows], [row in mine for row in rows]))
    return result


def nearest_items(queries: View, gallery: View, rows: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The ``k`` items of the gallery with the largest float64 cosine to the queries in ``rows``, (q, k), best first.

    Of equal ones the first: the order agrees with the ranks, which are those of float64, too.
    """
    asked = queries.exact(rows.to(queries.raw.device))
    step = chunk_rows(gallery.raw)
    scores = torch.cat([asked @ gallery.exact(slice(start, start + step)).T
                        for start in range(0, len(gallery.raw), step)], dim=1)
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k].cpu()


# -- hubs and a sample ---------------------------------------------------------------------------------------------

def shown_hubs(shelf: Shelf, z1: Tensor, z2: Tensor) -> dict[str, Hubs]:
    """How often each item of the gallery is found, of each direction, and the items found most often."""
    hubs = {}
    for side, (direction, queries, gallery) in enumerate(zip(DIRECTIONS, (z1, z2), (z2, z1), strict=True)):
        counts = occurrences(queries, gallery).cpu().numpy()
        rows = np.argsort(-counts, kind="stable")[:MOST_HUBS].tolist()
        items = zip(shelf.items(1 - side, rows), counts[rows].tolist(), strict=True)
        hubs[direction] = Hubs(counts, skewness(counts), min(HUB_NEIGHBOURS, len(gallery)), len(queries), list(items))
    return hubs


def sample_pairs(split: PairSplit, n: int, seed: int = 0) -> Tensor:
    """At most ``n`` rows of the pair table, (m, 2), drawn with a fixed seed."""
    table = split.pair_table()
    if len(table) <= n:
        return table
    return table[torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:n]]
