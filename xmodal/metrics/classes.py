"""Class-wise retrieval: every gallery item of the query's class is relevant."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics.views import View

GRID = 2.0**34          # rankings compare cosines rounded to 2⁻³⁴, so that ties don't hang on float64 rounding
OUTSIDE = 3 * 2.0**34   # beyond every distance on that grid
STRIDE = 2.0**36        # more than any distance on that grid: sets the rows of a block apart
BLOCK_VALUES = 1 << 22  # values sorted at a time
BLOCK_ROWS = 1 << 16    # BLOCK_ROWS · STRIDE stays an exact float64
LEVELS = 11             # of recall: 0, 0.1, … 1


class Hits(NamedTuple):
    """Where the relevant gallery items of a block of queries stand, in entries of one or several that score the same.

    Of an entry, ``row``: which query, ascending · ``start``, ``end``: how many gallery items score higher, and at least
    as high · ``found``: how many relevant ones score at least as high · ``items``: how many relevant ones it is for.
    ``total``: (b,) relevant items of each query, maybe 0 · ``width``: gallery items of each query.
    """

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    found: np.ndarray
    items: np.ndarray
    total: np.ndarray
    width: int


def class_metrics(queries: View, gallery: View, query_labels: np.ndarray, gallery_labels: np.ndarray,
                  ks: Sequence[int]) -> dict[str, float]:
    """mAP over the whole gallery and nDCG@k with binary gains, of one direction, labels as integer codes.

    Ties as scikit-learn treats them. In ``average_precision_score`` a tied group enters at once, each of its
    relevant items with the precision at the group's end. In ``ndcg_score`` every order of a tied group counts
    equally: each item of the group has the group's mean discount 1/log2(1 + position). Queries whose class is not in
    the gallery are left out; when that leaves none, the values are NaN.
    """
    discounts = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, len(gallery.raw) + 2)))))
    sums, n = np.zeros(1 + len(ks)), 0
    for hits in ranked(queries, gallery, query_labels, gallery_labels):
        sums += [average_precision(hits), *_gains(hits, ks, discounts)]
        n += int((hits.total > 0).sum())
    means = sums / n if n else np.full_like(sums, np.nan)
    return {"map": float(means[0]), **{f"ndcg{k}": float(value) for k, value in zip(ks, means[1:], strict=True)}}


def ranked(queries: View, gallery: View, query_labels: np.ndarray, gallery_labels: np.ndarray, *, own: bool = False
           ) -> Iterator[Hits]:
    """Where the gallery items of each query's class stand by cosine, block by block of queries.

    Scores are float64 cosines on a grid of 2⁻³⁴, sorted in blocks of rows together with one bit for relevance, so that
    no indices need sorting.

    Args:
        queries, gallery: what ranks and is ranked.
        query_labels, gallery_labels: classes as integer codes.
        own: query i is gallery item i, which is left out of its gallery.
    """
    device, width = gallery.raw.device, len(gallery.raw)
    codes = torch.from_numpy(gallery_labels).to(device, torch.float64)
    asked = torch.from_numpy(query_labels).to(device, torch.float64).unsqueeze(1)
    exact = gallery.exact(slice(None)).T
    step = min(len(asked), BLOCK_ROWS, max(1, BLOCK_VALUES // width))
    buffers = [torch.empty(step * width, dtype=torch.float64, device=device) for _ in range(2)]
    for start in range(0, len(asked), step):
        rows = slice(start, min(start + step, len(asked)))
        keys, relevant = (buffer[: (rows.stop - start) * width].view(-1, width) for buffer in buffers)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            torch.mm(queries.exact(rows), exact, out=keys)
            torch.eq(asked[rows], codes, out=relevant)
            keys.neg_().add_(1.0).mul_(GRID).round_().mul_(2.0).add_(relevant)
            if own:  # beyond all others, and not relevant
                keys[:, start:].fill_diagonal_(2.0 * OUTSIDE)
            keys = _sort_rows(keys)
            distances = torch.mul(keys, 0.5, out=relevant[: len(keys)] if keys.device == device else None).floor_()
            bits = keys.sub_(distances, alpha=2.0)
        yield _hits(distances.numpy(), bits.numpy(), width - own)


def _sort_rows(keys: Tensor) -> Tensor:
    """Each row ascending, on the CPU; NumPy's vectorised sort is several times faster than torch's there."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values.cpu()
    keys.numpy().sort(axis=1)
    return keys


def ranked_codes(queries: np.ndarray, gallery: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray, *,
                 own: bool = False) -> Iterator[Hits]:
    """Likewise by Hamming distance, of codes packed to (n, bytes) uint8. Distances are few: they are counted, not
    sorted."""
    asked, items = (torch.from_numpy(np.unpackbits(packed, axis=1)).float().mul_(2).sub_(1)
                    for packed in (queries, gallery))
    n, bits = items.shape
    cells = 2 * (bits + 2)      # a distance, or left out; and whether relevant
    step = max(1, BLOCK_VALUES // n)
    for start in range(0, len(asked), step):
        rows = slice(start, start + step)
        keys = (bits - asked[rows] @ items.T).long().numpy()     # twice the distance
        keys += query_labels[rows, None] == gallery_labels
        if own:
            keys[np.arange(len(keys)), start + np.arange(len(keys))] = cells - 2
        keys += np.arange(len(keys))[:, None] * cells
        other, relevant = np.moveaxis(
            np.bincount(keys.ravel(), minlength=len(keys) * cells).reshape(len(keys), -1, 2), 2, 0)
        end, found = (other + relevant).cumsum(axis=1), relevant.cumsum(axis=1)
        row, distance = np.nonzero(relevant)
        at = row, distance
        yield Hits(row, end[at] - (other + relevant)[at], end[at], found[at], relevant[at], found[:, -1], n - own)


def _hits(distances: np.ndarray, bits: np.ndarray, width: int) -> Hits:
    """An entry for each relevant item, from ``distances`` (b, n), float64 whole numbers, each row ascending, and
    ``bits`` (b, n), 1 where relevant. Works on the relevant entries alone."""
    n_rows, n = distances.shape
    at = np.flatnonzero(bits)
    row, position = np.divmod(at, n)
    total = np.bincount(row, minlength=n_rows)
    first = np.concatenate(([0], np.cumsum(total)[:-1]))
    start, end, found = position, position + 1, np.arange(1, len(at) + 1) - first[row]
    tied = _tied(distances, at, position)
    if len(tied):
        lines = (distances + np.arange(n_rows)[:, None] * STRIDE).ravel()
        value, begin = lines[at[tied]], row[tied] * n
        start[tied] = np.searchsorted(lines, value, side="left") - begin
        end[tied] = np.searchsorted(lines, value, side="right") - begin
        found[tied] = np.searchsorted(at, begin + end[tied], side="left") - first[row[tied]]
    return Hits(row, start, end, found, np.broadcast_to(1, len(at)), total, width)


def average_precision(hits: Hits) -> float:
    """The sum over queries."""
    weight = 1.0 / np.where(hits.total > 0, hits.total, 1)
    return float((hits.found / hits.end * weight[hits.row] * hits.items).sum())


def _gains(hits: Hits, ks: Sequence[int], discounts: np.ndarray) -> list[float]:
    """nDCG at each k, summed over queries; entry i of ``discounts`` is the sum of the first i discounts."""
    sums = []
    for k in ks:
        cut = discounts[np.minimum(np.arange(len(discounts)), k)]
        top = np.flatnonzero(hits.start < k)
        start, end = hits.start[top], hits.end[top]
        gain = (cut[end] - cut[start]) / (end - start) * hits.items[top]
        sums.append(float((gain / cut[hits.total[hits.row[top]]]).sum()))
    return sums


def precision_at(hits: Hits, k: int | None) -> float:
    """Precision among the first ``k``, summed over queries; None takes as many as are relevant (R-precision).

    Every order of a tied group counts equally. ``k`` beyond the gallery counts as its size.
    """
    cut = np.minimum(hits.total if k is None else k, hits.width)
    of_entry = np.broadcast_to(cut, hits.total.shape)[hits.row]
    top = np.flatnonzero(hits.start < of_entry)
    start, end = hits.start[top], hits.end[top]
    share = np.minimum((of_entry[top] - start) / (end - start), 1.0)
    return float((hits.items[top] * share / of_entry[top]).sum())


def interpolated_precisions(hits: Hits) -> np.ndarray:
    """The greatest precision at a recall of at least 0, 0.1, … 1, (11,), summed over queries.

    Manning, Raghavan, Schütze 2008, Introduction to information retrieval, section 8.4. A tied group enters at once, as
    in ``precision_recall_curve`` of scikit-learn.
    """
    total = hits.total[hits.total > 0]
    if not len(total):
        return np.zeros(LEVELS)
    needed = np.maximum(-(-np.arange(LEVELS) * total[:, None] // (LEVELS - 1)), 1)
    before = np.cumsum(total) - total
    first = np.searchsorted(np.cumsum(hits.items), before[:, None] + needed)    # entry at which each level is reached
    greatest = np.maximum.reduceat(hits.found / hits.end, first.ravel()).reshape(-1, LEVELS)
    sums: np.ndarray = np.maximum.accumulate(greatest[:, ::-1], axis=1)[:, ::-1].sum(axis=0)
    return sums


def _tied(distances: np.ndarray, at: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Which of the relevant entries (flat indices ``at``) score the same as a neighbour in their row."""
    flat, n = distances.ravel(), distances.shape[1]
    here = flat[at]
    after = (position < n - 1) & (flat[np.minimum(at + 1, flat.size - 1)] == here)
    before = (position > 0) & (flat[np.maximum(at - 1, 0)] == here)
    return np.flatnonzero(after | before)
