"""Retrieval of whole groups by the votes of their items: which piece is this recording, and at which place in it.

Every query item ranks the gallery by cosine, and its place-i item receives 1/i² of a vote, up to place ``votes``. The
first place thus outweighs all others together (π²/6 − 1 = 0.64): a group whose items each find one of the right group
first wins, whatever the number and the sizes of the groups. In a trial on drawn data (80 groups of 8 to 400 items, 1
to 15 % of the items found at once) it stayed within 3 points of the best of 1/i, 1/√i, equal votes and the cosine
itself, and unlike these it lost nothing from 5 places to 100.

Nothing is decided by the order of items. Cosines count as equal on the grid of ``class_metrics``; items that tie
share the votes of their places equally, those beyond the last place included. Groups that tie take the average rank,
as those without any vote do. So a collapsed model scores chance: every group gets votes in proportion to its items.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.errors import DataError
from xmodal.metrics.bootstrap import rank_statistic
from xmodal.metrics.classes import BLOCK_VALUES, GRID
from xmodal.metrics.retrieval import DIRECTIONS
from xmodal.metrics.views import View, check_views, class_codes, make_view

VOTES = 25          # places of a query item's ranking that receive votes
TOLERANCE = 1.0     # places this far apart count as the same, in the units of the data
STEPS = 4096        # differences of places count in so many parts of the tolerance, which bounds how many there are
SAME_VOTES = 1e-9   # sums of votes that differ by this share of all votes are the same


class _Side(NamedTuple):
    """One view: embeddings of n items, their groups as int64 codes shared by both views, their float64 places."""

    view: View
    group: np.ndarray
    place: np.ndarray


class _Gallery(NamedTuple):
    """The other view: unit rows (d, n) float64, group of each item as a position in ``names``, places, codes of the
    groups, ascending."""

    exact: Tensor
    group: np.ndarray
    place: np.ndarray
    names: np.ndarray


class _Rule(NamedTuple):
    votes: int
    excerpt: int | None
    tolerance: float


class _Ballot(NamedTuple):
    """Votes, one entry each: query row, gallery item, votes, and share in the first place (1 where nothing ties)."""

    row: np.ndarray
    item: np.ndarray
    votes: np.ndarray
    first: np.ndarray


class _Answer(NamedTuple):
    """What one group got: rank of the right group; if that came first, mean |offset| (else NaN) and the share of its
    equally likely offsets that lie within the tolerance (else 0); how many of its items were located."""

    rank: float
    error: float
    within: float
    located: float


def split_ids(ids: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Group and place of ids such as ``bach/bwv10.7@8.166``, cut at the last ``@``: n names and (n,) float64.

    Raises:
        DataError: no ``@``, no name before it, or no finite number after it; names the id.
    """
    names, places = [], []
    for number, text in enumerate(ids):
        name, _, end = str(text).rpartition("@")
        try:
            place = float(end)
        except ValueError:
            place = math.nan
        if not name or not math.isfinite(place):
            raise DataError(f"id {number} is {str(text)[:60]!r}; ids must read PIECE@PLACE, a number after the last @, "
                            "such as bach/bwv10.7@8.166")
        names.append(name)
        places.append(place)
    return names, np.array(places, dtype=np.float64)


def group_retrieval(z1: Any, z2: Any, groups1: Any, places1: Any, groups2: Any, places2: Any, *, votes: int = VOTES,
                    excerpt: int | None = None, tolerance: float = TOLERANCE) -> dict[str, dict[str, float]]:
    """``{"V1_to_V2": {...}, "V2_to_V1": {...}}``: every group of one view finds its own in the other by voting.

    The module's docstring has the rule of the votes. Groups that the gallery lacks are not asked, and neither are
    their items; groups that are not asked are in the gallery. Per direction:

    * ``r1``, ``r5`` (percent of the groups asked), ``mrr``, ``median_rank`` of the right group among the gallery's,
      ``n_groups`` (asked), ``n_gallery`` (groups in the gallery).
    * Where the right group came first, the votes for its items vote for ``place_gallery − place_query`` as well. The
      offset is the mode of these differences, the highest point of a density estimate with the triangular kernel
      max(0, 1 − |Δ|/tolerance); the truth is 0. (A median would be near 0 by symmetry even if every vote was cast at
      random. The mode is less easily right by chance, but where a whole group asks, such differences crowd around 0
      as well; those of an ``excerpt`` spread evenly.) ``offset_error`` is the median of |offset| over groups that
      came first (NaN when none did), ``offset_within`` the percent of all groups asked that came first and have
      |offset| ≤ tolerance. Modes that tie are equally likely, and expected values count.
    * ``located``: percent of the items asked (``n_items``, all items of the groups asked, whatever ``excerpt``)
      whose best gallery item is of the right group and within the tolerance of the right place; expected value over
      best items that tie.

    Differences of places are rounded to 1/4096 of the tolerance. Whole rows of the score matrix are held in float64,
    4 million values at a time.

    Args:
        z1: view-1 embeddings (n1, d), tensor or array.
        z2: view-2 embeddings (n2, d).
        groups1: groups (n1,) of the view-1 items, texts or numbers.
        places1: places (n1,) of the view-1 items within their groups, in any unit.
        groups2: groups (n2,) of the view-2 items; equal names are the same group.
        places2: places (n2,) of the view-2 items, in the same unit.
        votes: how many nearest items of a query item get votes; more than the gallery has is allowed.
        excerpt: only so many consecutive items of a group vote, the middle ones by place (all of a smaller group;
            items at the very places of the first and the last vote, too); None for all.
        tolerance: up to which distance places are the same.

    Raises:
        DataError: shapes or options that don't fit, places that are not finite, no group in both views.
        NumericalError: NaN or infinite embeddings.
    """
    rule = _check_rule(votes, excerpt, tolerance)
    m1, m2 = check_views(z1, z2)
    codes1, codes2 = class_codes(("groups1", groups1, len(m1)), ("groups2", groups2, len(m2)))
    side1 = _Side(make_view(m1, "view 1"), codes1, _places(places1, "places1", len(m1)))
    side2 = _Side(make_view(m2, "view 2"), codes2, _places(places2, "places2", len(m2)))
    if not np.isin(codes1, codes2).any():
        raise DataError("no group of view 1 is in view 2: names must be equal in both views")
    return {direction: _ask_all(query, gallery, rule) for direction, query, gallery in
            zip(DIRECTIONS, (side1, side2), (side2, side1), strict=True)}


def _ask_all(query: _Side, gallery: _Side, rule: _Rule) -> dict[str, float]:
    """One direction."""
    names, group = np.unique(gallery.group, return_inverse=True)
    asked = np.flatnonzero(np.isin(query.group, names))
    with torch.no_grad(), torch.autocast(gallery.view.raw.device.type, enabled=False):
        searched = _Gallery(gallery.view.exact(slice(None)).T, group, gallery.place, names)
        answers = [_ask(query, rows, searched, rule) for rows in _by_group(query, asked)]
    ranks, errors, within, located = (np.array(column) for column in zip(*answers, strict=True))
    first = ~np.isnan(errors)
    return {**{key: float(rank_statistic(key)(ranks)) for key in ("r1", "r5", "mrr", "median_rank")},
            "offset_error": float(np.median(errors[first])) if first.any() else math.nan,
            "offset_within": 100.0 * float(within.mean()), "located": 100.0 * float(located.sum()) / len(asked),
            "n_groups": len(answers), "n_gallery": len(names), "n_items": len(asked)}


def _by_group(side: _Side, items: np.ndarray) -> Iterator[np.ndarray]:
    """The items of each group, ordered by place."""
    ordered = items[np.lexsort((side.place[items], side.group[items]))]
    yield from np.split(ordered, np.flatnonzero(np.diff(side.group[ordered])) + 1)


def _ask(query: _Side, rows: np.ndarray, gallery: _Gallery, rule: _Rule) -> _Answer:
    """What the items ``rows`` of one group find, ordered by place."""
    right = int(np.searchsorted(gallery.names, query.group[rows[0]]))
    voting = _middle(query.place[rows], rule.excerpt)
    totals, located = np.zeros(len(gallery.names)), 0.0
    steps, weights = np.zeros(0), np.zeros(0)
    size = max(1, BLOCK_VALUES // len(gallery.place))
    for start in range(0, len(rows), size):
        part = rows[start:start + size]
        scores = query.view.exact(torch.from_numpy(part).to(gallery.exact.device)) @ gallery.exact
        ballot = _ballot(scores.mul_(GRID).round_(), rule.votes)
        counted = ballot.votes * voting[start + ballot.row]
        found = gallery.group[ballot.item]
        totals += np.bincount(found, counted, len(totals))
        home = found == right
        away = gallery.place[ballot.item[home]] - query.place[part[ballot.row[home]]]
        away = np.round(away * (STEPS / rule.tolerance))
        located += float(ballot.first[home][np.abs(away) <= STEPS].sum())
        steps, weights = _merge(np.append(steps, away), np.append(weights, counted[home]))
    rank = _rank(totals, right)
    if rank > 1:
        return _Answer(rank, math.nan, 0.0, located)
    modes = np.abs(_modes(steps, weights))
    return _Answer(rank, float(modes.mean()) * rule.tolerance / STEPS, float((modes <= STEPS).mean()), located)


def _ballot(scores: Tensor, votes: int) -> _Ballot:
    """The votes of queries with ``scores`` (b, n), in which what ties is exactly equal.

    Places s + 1 to e that tie receive the mean of their votes, (C[e] − C[s])/(e − s) with C the summed votes. The
    items above the lowest of the top scores are all among the top ones; those that score the same as that one may
    be any number, and are searched for in the whole row.
    """
    k = min(votes, scores.shape[1])
    top, item = scores.topk(k, dim=1)
    lowest = top[:, -1:]
    last_row, last_item = (scores == lowest).nonzero().unbind(dim=1)
    start, end = (torch.searchsorted(-top, -top, right=right) for right in (False, True))
    tied = torch.where(top > lowest, end - start, torch.bincount(last_row, minlength=len(top)).unsqueeze(1))
    places = torch.arange(1, k + 1, dtype=torch.float64, device=top.device)
    summed = torch.cat((places.new_zeros(1), (1.0 / places.square()).cumsum(dim=0)))
    votes_each, first = (summed[end] - summed[start]) / tied, (start == 0).to(torch.float64) / tied
    row, column = (top > lowest).nonzero().unbind(dim=1)
    parts = ((row, last_row), (item[row, column], last_item), (votes_each[row, column], votes_each[last_row, -1]),
             (first[row, column], first[last_row, -1]))
    return _Ballot(*(torch.cat(part).cpu().numpy() for part in parts))


def _rank(totals: np.ndarray, right: int) -> float:
    """Average rank of entry ``right``."""
    slack = SAME_VOTES * float(totals.sum())
    above = int((totals > totals[right] + slack).sum())
    same = int((totals >= totals[right] - slack).sum()) - above
    return above + (same + 1) / 2


def _merge(steps: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct steps, ascending, with the sums of their weights; what has no weight is left out."""
    distinct, inverse = np.unique(steps[weights > 0], return_inverse=True)
    return distinct, np.bincount(inverse, weights[weights > 0], len(distinct))


def _modes(steps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Where Σ weights · max(0, STEPS − |steps − x|) is highest, ``steps`` ascending; several where it ties.

    The sum is linear in pieces and bends down at the steps alone, so that it is highest at one of them.
    """
    count, moment = (np.append(0.0, np.cumsum(values)) for values in (weights, weights * steps))
    middle = np.arange(len(steps))
    low, high = np.searchsorted(steps, steps - STEPS), np.searchsorted(steps, steps + STEPS)
    below = (STEPS - steps) * (count[middle] - count[low]) + moment[middle] - moment[low]
    above = (STEPS + steps) * (count[high] - count[middle]) - moment[high] + moment[middle]
    density = below + above
    highest: np.ndarray = steps[density >= density.max() - SAME_VOTES * STEPS * count[-1]]
    return highest


def _middle(places: np.ndarray, excerpt: int | None) -> np.ndarray:
    """Which of a group's items vote, bool (m,), their places ascending."""
    if excerpt is None or excerpt >= len(places):
        return np.ones(len(places), dtype=bool)
    start = (len(places) - excerpt) // 2
    voting: np.ndarray = (places >= places[start]) & (places <= places[start + excerpt - 1])
    return voting


def _check_rule(votes: int, excerpt: int | None, tolerance: float) -> _Rule:
    for name, value in (("votes", votes), ("excerpt", 1 if excerpt is None else excerpt)):
        if value < 1 or int(value) != value:
            raise DataError(f"{name}: expected a whole number from 1, got {value}")
    if not 0 < tolerance < math.inf:
        raise DataError(f"tolerance: expected a positive number, got {tolerance}")
    return _Rule(int(votes), None if excerpt is None else int(excerpt), float(tolerance))


def _places(places: Any, name: str, n: int) -> np.ndarray:
    """Checked places (n,) float64."""
    given = places.detach().cpu().numpy() if isinstance(places, Tensor) else np.asarray(places)
    if given.shape != (n,):
        raise DataError(f"{name}: expected one place per item, shape ({n},), got {given.shape}")
    values = given.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"{name}: expected finite numbers, got {values[bad[0]]} for item {bad[0]}")
    return values
