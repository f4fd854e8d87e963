"""Whose class is it? Items told by their nearest neighbours: k of them, one or five of each class, or none at all.

Everything is by cosine similarity. A gallery holds items whose classes are known; queries are told the class of what is
near them there. Where queries are in the gallery themselves, or another item of the same thing is, ``owners`` says so.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.errors import DataError
from xmodal.metrics.verification import verification
from xmodal.metrics.views import check_cutoffs, check_views, class_codes, make_view
from xmodal.nearest import TILE_VALUES, nearest

#: Neighbours that vote, items of each class that are known, and how often these are drawn.
KS, SHOTS, DRAWS = (1, 5, 25), (1, 5), 20
#: Of an open set: the share of classes that are unknown, how often they are drawn, and shares of false alarms.
UNKNOWN, OPEN_DRAWS, ALARMS = 0.5, 10, (0.01, 0.1)


class _Sides(NamedTuple):
    """Unit vectors (q, d) and (n, d) float32, their classes as codes shared by both, and their owners, if any."""

    queries: Tensor
    gallery: Tensor
    asked: np.ndarray
    classes: np.ndarray
    query_owners: np.ndarray | None
    owners: np.ndarray | None


def neighbour_accuracy(queries: Any, gallery: Any, query_labels: Any, gallery_labels: Any, ks: Sequence[int] = KS, *,
                       owners: tuple[Any, Any] | None = None) -> dict[str, float]:
    """``knn<k>``: percent of the queries whose class has most votes among their ``k`` nearest gallery items.

    Of classes with as many votes the one with the greatest sum of similarities is told, and after that the one of the
    nearest item. Of equally near items the first ones of the gallery vote. A query of a class that the gallery lacks
    counts as wrong.

    Args:
        queries: embeddings (q, d). gallery: embeddings (n, d).
        query_labels: classes (q,). gallery_labels: classes (n,).
        ks: how many vote; more than there are count as all.
        owners: numbers (q,) and (n,); gallery items with a query's number are left out of its gallery.

    Raises:
        DataError: shapes, or a number of neighbours, that don't fit.
        NumericalError: NaN or infinite embeddings.
    """
    if not ks:
        raise DataError("ks: expected whole numbers from 1, got none")
    check_cutoffs(ks)
    sides = _check(queries, gallery, query_labels, gallery_labels, owners)
    own = 0 if sides.owners is None else int(np.unique(sides.owners, return_counts=True)[1].max())
    most = min(max(ks) + own, len(sides.gallery))
    right = np.zeros(len(ks))
    step = max(1, TILE_VALUES // most**2)
    found = nearest(sides.queries, sides.gallery, most)
    for start in range(0, len(sides.asked), step):
        rows = slice(start, start + step)
        near, scores = found.rows[rows].numpy(), found.scores[rows].double().numpy()
        valid = np.ones_like(near, dtype=bool)
        if sides.query_owners is not None and sides.owners is not None:
            valid = sides.owners[near] != sides.query_owners[rows, None]
            order = np.argsort(~valid, axis=1, kind="stable")
            near, scores, valid = (np.take_along_axis(values, order, axis=1) for values in (near, scores, valid))
        right += [(_elected(sides.classes[near[:, :k]], scores[:, :k], valid[:, :k]) == sides.asked[rows]).sum()
                  for k in ks]
    return {f"knn{k}": float(100 * count / len(sides.asked)) for k, count in zip(ks, right, strict=True)}


def _elected(classes: np.ndarray, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The class with most votes of each row (b, k), best scores first; −1 where nobody votes."""
    same = (classes[:, :, None] == classes[:, None, :]) & valid[:, None, :]
    votes = np.where(valid, same.sum(axis=2), -1)
    sums = np.where(same, scores[:, None, :], 0.0).sum(axis=2)
    best = np.where(votes == votes.max(axis=1, keepdims=True), sums, -np.inf).argmax(axis=1)[:, None]
    told = np.where(np.take_along_axis(valid, best, axis=1), np.take_along_axis(classes, best, axis=1), -1)
    return told[:, 0]


def few_shot_accuracy(queries: Any, gallery: Any, query_labels: Any, gallery_labels: Any,
                      shots: Sequence[int] = SHOTS, draws: int = DRAWS, seed: int = 0, *,
                      owners: tuple[Any, Any] | None = None) -> dict[str, float]:
    """``shot<m>`` and ``shot<m>_std``: percent of the queries told right where ``m`` items of each class are known.

    They are drawn at random from the gallery, ``draws`` times; a query is told the class whose mean of unit vectors is
    nearest (Snell, Swersky, Zemel 2017, Prototypical networks, with cosines). All classes of the gallery take part. A
    class with fewer than ``m`` items gives what it has.

    Args:
        queries, gallery, query_labels, gallery_labels, owners: as for :func:`neighbour_accuracy`; queries that own a
            drawn item don't ask in that draw.
        shots: how many items of each class.
        draws: how often.
        seed: of the draws.

    Returns:
        Mean and standard deviation (divisor ``draws − 1``) over the draws; NaN where no query is left in any of them.

    Raises:
        DataError: shapes or numbers that don't fit.
        NumericalError: NaN or infinite embeddings.
    """
    check_cutoffs(shots, "shots")
    check_cutoffs([draws], "draws")
    sides = _check(queries, gallery, query_labels, gallery_labels, owners)
    present, at = np.unique(sides.classes, return_inverse=True)
    result: dict[str, float] = {}
    for m in shots:
        rng, rates = np.random.default_rng((seed, m)), []
        for _ in range(draws):
            order = rng.permutation(len(at))
            order = order[np.argsort(at[order], kind="stable")]
            starts = np.searchsorted(at[order], np.arange(len(present)))
            drawn = order[np.arange(len(at)) - starts[at[order]] < m]
            sums = sides.gallery.new_zeros(len(present), sides.gallery.shape[1])
            sums.index_add_(0, torch.from_numpy(at[drawn]), sides.gallery[torch.from_numpy(drawn)])
            told = present[nearest(sides.queries, make_view(sums, "class means").unit, 1).rows[:, 0].numpy()]
            asks = np.ones(len(told), dtype=bool)
            if sides.owners is not None and sides.query_owners is not None:
                asks = ~np.isin(sides.query_owners, sides.owners[drawn])
            rates.append(100 * (told == sides.asked)[asks].mean() if asks.any() else np.nan)
        result |= _over_draws(f"shot{m}", rates)
    return result


def open_set(queries: Any, gallery: Any, query_labels: Any, gallery_labels: Any, share: float = UNKNOWN,
             draws: int = OPEN_DRAWS, alarms: Sequence[float] = ALARMS, seed: int = 0, *,
             owners: tuple[Any, Any] | None = None) -> dict[str, float]:
    """Some classes are taken out of the gallery, and their queries should be found to be of none.

    A query's score is its greatest similarity, and it is told the class of that item. Known queries are those whose
    class is in what is left of the gallery. Means over the draws, each with ``_std`` (divisor ``draws − 1``): ``auc``,
    the chance that a known query scores higher than an unknown one, ties counting half · ``identified``: percent of
    known queries that are told their class, all being accepted · ``dir@1%``, ``dir@10%``: percent of known queries that
    are accepted and told their class where at most so many unknown ones are accepted (the detection and identification
    rate of Phillips, Grother, Micheals 2011, Evaluation methods in face recognition); NaN where there are fewer unknown
    queries than could show it. ``n_known`` and ``n_unknown`` count classes.

    Args:
        queries, gallery, query_labels, gallery_labels, owners: as for :func:`neighbour_accuracy`.
        share: of the gallery's classes that are taken out, rounded down, but one at least, and one stays.
        draws: how often.
        alarms: shares of unknown queries.
        seed: of the draws.

    Raises:
        DataError: a gallery of one class; shapes or numbers that don't fit.
        NumericalError: NaN or infinite embeddings.
    """
    if draws < 1 or not 0 < share < 1:
        raise DataError(f"expected a share between 0 and 1 and at least 1 draw, got {share} and {draws}")
    sides = _check(queries, gallery, query_labels, gallery_labels, owners)
    present = np.unique(sides.classes)
    if len(present) < 2:
        raise DataError("an open set needs at least two classes in the gallery: one known, one unknown; got one")
    n_unknown = max(1, int(share * len(present)))
    rng = np.random.default_rng(seed)
    known = np.ones((draws, len(present)), dtype=bool)
    for row in known:
        row[rng.permutation(len(present))[:n_unknown]] = False
    top, told, mine = _best_classes(sides, present, known)
    figures: dict[str, list[float]] = {"auc": [], "identified": [], **{f"dir@{100 * alarm:g}%": [] for alarm in alarms}}
    for draw in range(draws):
        inside = mine & np.isin(sides.asked, present[known[draw]])
        right = told[draw, inside] == sides.asked[inside]
        accepted, others = top[draw, inside], np.sort(top[draw, ~inside])[::-1]
        both = len(accepted) > 0 and len(others) > 0
        figures["auc"].append(float(verification(accepted, others)["auc"] or 0) if both else np.nan)
        figures["identified"].append(100 * float(right.mean()) if len(right) else np.nan)
        for alarm in alarms:
            allowed = int(alarm * len(others) + 1e-9)
            above = accepted > others[allowed] if allowed < len(others) else np.ones(len(accepted), dtype=bool)
            figures[f"dir@{100 * alarm:g}%"].append(
                100 * float((above & right).mean()) if len(right) and allowed else np.nan)
    result: dict[str, float] = {"n_known": len(present) - n_unknown, "n_unknown": n_unknown}
    for key, values in figures.items():
        result |= _over_draws(key, values)
    return result


def _best_classes(sides: _Sides, present: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each set of ``known`` classes (draws, c) the greatest similarity and its class, (draws, q), of each query, and
    (q,) whether its own class is in its gallery. Tile by tile; −1 where the gallery is empty."""
    order = np.argsort(sides.classes, kind="stable")
    starts = np.searchsorted(sides.classes[order], present)
    items = sides.gallery[torch.from_numpy(order)].T.contiguous()
    n, step = len(sides.asked), max(1, TILE_VALUES // len(order))
    top, told = np.empty((len(known), n)), np.empty((len(known), n), dtype=np.int64)
    mine = np.empty(n, dtype=bool)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        scores = (sides.queries[rows] @ items).numpy()
        if sides.owners is not None and sides.query_owners is not None:
            scores[sides.query_owners[rows, None] == sides.owners[order]] = -np.inf
        best = np.maximum.reduceat(scores, starts, axis=1)
        own = np.searchsorted(present, sides.asked[rows]).clip(max=len(present) - 1)
        mine[rows] = (present[own] == sides.asked[rows]) & (best[np.arange(len(own)), own] > -np.inf)
        for draw, kept in enumerate(known):
            left = best[:, kept]
            at = left.argmax(axis=1)
            top[draw, rows] = left[np.arange(len(at)), at].clip(min=-1)
            told[draw, rows] = present[kept][at]
    return top, told, mine


def identification(queries: Any, gallery: Any, query_labels: Any, gallery_labels: Any, seed: int = 0, *,
                   owners: tuple[Any, Any] | None = None) -> dict[str, Any]:
    """What :func:`neighbour_accuracy` and :func:`few_shot_accuracy` find, and under ``open_set`` what
    :func:`open_set` does, with ``n_queries``, ``n_gallery`` and ``n_classes`` (of the queries).

    The few shots are of the queries' classes alone; the others ask the whole gallery.

    Raises:
        DataError: queries or a gallery of one class; shapes that don't fit.
        NumericalError: NaN or infinite embeddings.
    """
    sides = _check(queries, gallery, query_labels, gallery_labels, owners)
    asked = np.unique(sides.asked)
    if len(asked) < 2:
        raise DataError("identification needs queries of at least two classes, got one")
    shown = np.isin(sides.classes, asked)
    few = None if sides.owners is None else (sides.query_owners, sides.owners[shown])
    return {**neighbour_accuracy(queries, gallery, sides.asked, sides.classes, owners=owners),
            **few_shot_accuracy(sides.queries, sides.gallery[torch.from_numpy(shown)], sides.asked,
                                sides.classes[shown], seed=seed, owners=few),
            "open_set": open_set(queries, gallery, sides.asked, sides.classes, seed=seed, owners=owners),
            "n_queries": len(sides.asked), "n_gallery": len(sides.classes), "n_classes": len(asked)}


def _over_draws(key: str, values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation of what is a number."""
    told = np.array(values)[np.isfinite(values)]
    if not len(told):
        return {key: float("nan"), f"{key}_std": float("nan")}
    return {key: float(told.mean()), f"{key}_std": float(told.std(ddof=1)) if len(told) > 1 else 0.0}


def _check(queries: Any, gallery: Any, query_labels: Any, gallery_labels: Any, owners: tuple[Any, Any] | None
           ) -> _Sides:
    asked, items = check_views(queries, gallery)
    classes = class_codes(("query labels", query_labels, len(asked)), ("gallery labels", gallery_labels, len(items)))
    own = (None, None) if owners is None else \
        class_codes(("owners", owners[0], len(asked)), ("owners", owners[1], len(items)))
    return _Sides(make_view(asked, "queries").unit.cpu(), make_view(items, "gallery").unit.cpu(), *classes, *own)
