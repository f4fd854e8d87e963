"""Are these two items the same? What scores of matching and of other pairs are good for."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from xmodal.errors import DataError
from xmodal.metrics.views import check_pairs, check_views, make_view

#: Shares of false accepts at which true accepts are told.
FALSE_ACCEPTS = (0.001, 0.01)
#: Other pairs drawn at random: so many for each matching one, and at most.
EACH, MOST = 20, 1_000_000
#: Where fewer than one in so many pairs don't match, those are counted through and not hit upon.
FEW_OTHERS = 8
#: So many of the nearest items are candidates for a hard pair.
NEAR = 20
#: Scores, and pairs, that are looked at together; a matter of memory only.
BLOCK, JUDGED_AT_ONCE = 1 << 22, 1 << 15

#: Rows of embeddings (k, d) and (k, d) to (k,) scores, higher for those that match.
Score = Callable[[Tensor, Tensor], Tensor]


class Roc(NamedTuple):
    """The receiver operating characteristic: from the strictest threshold to accepting all, (t,) float64 each.

    ``false_accepts``: share of other pairs with a score of at least the threshold · ``true_accepts``: likewise of
    matching ones · ``thresholds``: descending, the first one +∞.
    """

    false_accepts: np.ndarray
    true_accepts: np.ndarray
    thresholds: np.ndarray


class Judged(NamedTuple):
    """Scores of pairs of items: those that match, (m,), others drawn at ``random``, and ``hard`` ones, for each view-1
    item the highest score of a near one that doesn't match. All float32."""

    matching: Tensor
    random: Tensor
    hard: Tensor


class Candidates(NamedTuple):
    """Pairs to be judged, by rows of either view: ``matching`` (m, 2) and ``random`` (k, 2) int64, and of the items
    ``near`` to each view-1 item, (n1, c) int64, those that don't match, −1 where there are fewer."""

    matching: Tensor
    random: Tensor
    near: Tensor


def judge_pairs(z1: Any, z2: Any, pairs: Any = None, seed: int = 0, *, classes: tuple[Any, Any] | None = None,
                score: Score | None = None) -> Judged:
    """Scores of matching, random and hard pairs.

    Args:
        z1: view-1 embeddings (n1, d).
        z2: view-2 embeddings (n2, d).
        pairs: int64 (m, 2) or None for the identity. They are the matching pairs.
        seed: of the random pairs.
        classes: of the view-1 items (n1,) and of the view-2 items (n2,): two of one class are known to match, too, so
            that others are of different classes.
        score: of rows of embeddings of length one, (k, d) and (k, d) float32 on the CPU, to (k,); cosines by default.
            Hard others are the highest scores among the ``NEAR`` nearest by cosine.

    Raises:
        DataError: everything matches everything; shapes or pairs that don't fit.
        NumericalError: embeddings that are not finite.
    """
    m1, m2 = check_views(z1, z2)
    one, two = make_view(m1, "view 1").unit.cpu(), make_view(m2, "view 2").unit.cpu()
    found = candidates(one, two, check_pairs(pairs, len(one), len(two)).cpu(), seed, classes)
    judge = _cosines if score is None else score
    near = found.near if score is not None else found.near[:, :1]
    rows, places = (near >= 0).nonzero(as_tuple=True)
    scores = torch.full(near.shape, -torch.inf)
    scores[rows, places] = _scored(judge, one, two, torch.stack([rows, near[rows, places]], dim=1))
    hard = scores.amax(dim=1)
    return Judged(_scored(judge, one, two, found.matching), _scored(judge, one, two, found.random),
                  hard[hard > -torch.inf])


def candidates(one: Tensor, two: Tensor, table: Tensor, seed: int = 0, classes: tuple[Any, Any] | None = None
               ) -> Candidates:
    """Which pairs are to be judged, given unit rows (n1, d) and (n2, d), the pair table (m, 2), and classes or none."""
    labels = None
    if classes is not None:
        first, second = (torch.as_tensor(each).cpu() for each in classes)
        if first.shape != (len(one),) or second.shape != (len(two),):
            raise DataError(f"expected a class for each of {len(one)} and {len(two)} items, got "
                            f"{tuple(first.shape)} and {tuple(second.shape)}")
        labels = first, second
    known = _Known(torch.unique(table[:, 0] * len(two) + table[:, 1]), len(one), len(two), labels)
    if known.total() == len(one) * len(two):
        raise DataError("every item matches every other: there are no pairs to tell apart")
    return Candidates(table, _random_pairs(known, min(EACH * len(table), MOST), seed), _nearest_others(one, two, known))


class _Known(NamedTuple):
    """What is known to match: ``keys``, row · n2 + column in ascending order, and what is of one class."""

    keys: Tensor
    n1: int
    n2: int
    labels: tuple[Tensor, Tensor] | None

    def among(self, drawn: Tensor) -> Tensor:
        """(k,) bool: which pairs, given as row · n2 + column, are known to match."""
        found = torch.isin(drawn, self.keys)
        if self.labels is not None:
            found |= self.labels[0][drawn // self.n2] == self.labels[1][drawn % self.n2]
        return found

    def block(self, start: int, stop: int) -> Tensor:
        """(stop − start, n2) bool: the same of whole rows."""
        bounds = torch.searchsorted(self.keys, torch.tensor([start * self.n2, stop * self.n2]))
        keys = self.keys[int(bounds[0]):int(bounds[1])] - start * self.n2
        found = torch.zeros(stop - start, self.n2, dtype=torch.bool)
        found.view(-1)[keys] = True
        return found if self.labels is None else found | (self.labels[0][start:stop, None] == self.labels[1])

    def total(self) -> int:
        """How many of all pairs are known to match."""
        if self.labels is None:
            return len(self.keys)
        kinds = torch.cat(self.labels).unique(return_inverse=True)[1].split([self.n1, self.n2])
        sizes = [torch.bincount(each, minlength=int(max(map(torch.max, kinds))) + 1) for each in kinds]
        apart = self.labels[0][self.keys // self.n2] != self.labels[1][self.keys % self.n2]
        return int((sizes[0] * sizes[1]).sum() + apart.sum())


def _random_pairs(known: _Known, count: int, seed: int) -> Tensor:
    """(k, 2) pairs drawn with replacement, without the ``known`` ones."""
    draw = torch.Generator().manual_seed(seed)
    total = known.n1 * known.n2
    n_others = total - known.total()
    if n_others * FEW_OTHERS < total:
        drawn = _nth_others(known, torch.randint(n_others, (count,), generator=draw))
    else:
        drawn = torch.randint(total, (count,), generator=draw)
        wrong = known.among(drawn).nonzero().flatten()
        while len(wrong):
            drawn[wrong] = torch.randint(total, (len(wrong),), generator=draw)
            wrong = wrong[known.among(drawn[wrong])]
    return torch.stack([drawn // known.n2, drawn % known.n2], dim=1)


def _nth_others(known: _Known, numbers: Tensor) -> Tensor:
    """Of the pairs that aren't known, in ascending order of row · n2 + column, those of these ``numbers`` (k,)."""
    numbers, order = numbers.sort()
    found, seen = torch.empty_like(numbers), 0
    for start, stop in _row_blocks(known):
        others = (~known.block(start, stop)).flatten().nonzero().flatten() + start * known.n2
        bounds = torch.searchsorted(numbers, torch.tensor([seen, seen + len(others)]))
        here = slice(int(bounds[0]), int(bounds[1]))
        found[order[here]] = others[numbers[here] - seen]
        seen += len(others)
    return found


def _row_blocks(known: _Known) -> Iterator[tuple[int, int]]:
    """Stretches of view-1 rows of which all scores are held at a time."""
    step = max(1, BLOCK // known.n2)
    for start in range(0, known.n1, step):
        yield start, min(start + step, known.n1)


def _nearest_others(one: Tensor, two: Tensor, known: _Known) -> Tensor:
    """(n1, c) view-2 items that don't match, the nearest first, c = NEAR at most; −1 where there are no more."""
    found = []
    for start, stop in _row_blocks(known):
        scores = (one[start:stop] @ two.mT).masked_fill_(known.block(start, stop), -torch.inf)
        best = scores.topk(min(NEAR, len(two)), dim=1)
        found.append(best.indices.masked_fill(best.values == -torch.inf, -1))
    return torch.cat(found)


def _cosines(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum(dim=1)


def _scored(judge: Score, one: Tensor, two: Tensor, rows: Tensor) -> Tensor:
    """(k,) scores of pairs of rows (k, 2)."""
    parts = [judge(one[some[:, 0]], two[some[:, 1]]).float().cpu() for some in rows.split(JUDGED_AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0)


def roc(matching: Any, others: Any) -> Roc:
    """The curve of scores of matching (m,) and other pairs (k,).

    Raises:
        DataError: no scores, or some that are not finite.
    """
    right, wrong = _scores(matching, "matching"), _scores(others, "other")
    thresholds = np.unique(np.concatenate([right, wrong]))[::-1]
    right, wrong = np.sort(right), np.sort(wrong)
    true = 1 - np.searchsorted(right, thresholds, side="left") / len(right)
    false = 1 - np.searchsorted(wrong, thresholds, side="left") / len(wrong)
    return Roc(np.concatenate([[0.0], false]), np.concatenate([[0.0], true]), np.concatenate([[np.inf], thresholds]))


def verification(matching: Any, others: Any, threshold: float | None = None) -> dict[str, float | None]:
    """How well scores tell matching pairs (m,) from others (k,).

    ``auc``: the chance that a matching pair scores higher than another one, ties counting half · ``eer``: the error
    rate at which as large a share of others is accepted as of matching ones is refused, between two thresholds by a
    straight line · ``accuracy``: the mean of the shares judged rightly of both kinds, at ``threshold`` · ``far`` and
    ``frr``: false accepts and false refusals there · ``tar@0.1%`` and ``tar@1%``: the largest share of matching pairs
    accepted while at most so many others are; None where there are fewer others than could show it. All but the area in
    percent.

    Args:
        matching: cosines of matching pairs.
        others: cosines of others.
        threshold: from other data, such as :func:`best_threshold` of validation pairs; None leaves out what needs it.

    Raises:
        DataError: no scores, or some that are not finite.
    """
    right, wrong = _scores(matching, "matching"), _scores(others, "other")
    curve = roc(right, wrong)
    ranks = rankdata(np.concatenate([right, wrong]))[:len(right)]
    result: dict[str, float | None] = {
        "auc": float((ranks.sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong))),
        "eer": 100 * equal_error_rate(curve), "n_matching": len(right), "n_others": len(wrong)}
    for share in FALSE_ACCEPTS:
        allowed = curve.true_accepts[curve.false_accepts <= share]
        result[f"tar@{100 * share:g}%"] = 100 * float(allowed.max()) if len(wrong) * share >= 1 else None
    if threshold is not None:
        false, refused = float((wrong >= threshold).mean()), float((right < threshold).mean())
        result |= {"threshold": threshold, "accuracy": 100 * (1 - (false + refused) / 2), "far": 100 * false,
                   "frr": 100 * refused}
    return result


def equal_error_rate(curve: Roc) -> float:
    """Where the share of false accepts equals that of false refusals, on straight lines between the curve's points."""
    difference = curve.false_accepts - (1 - curve.true_accepts)  # from −1 to 1, never falling
    after = int(np.argmax(difference >= 0))
    if after == 0 or difference[after] == 0:
        return float(curve.false_accepts[after])
    weight = -difference[after - 1] / (difference[after] - difference[after - 1])
    return float((1 - weight) * curve.false_accepts[after - 1] + weight * curve.false_accepts[after])


def best_threshold(matching: Any, others: Any) -> float:
    """The threshold of the greatest accuracy (mean over both kinds), halfway to the next lower score."""
    curve = roc(matching, others)
    best = int(np.argmax(curve.true_accepts - curve.false_accepts))
    score = curve.thresholds[best]
    if best + 1 == len(curve.thresholds) or not np.isfinite(score):
        return float(curve.thresholds[min(best, len(curve.thresholds) - 1)]) if np.isfinite(score) else \
            float(np.nextafter(curve.thresholds[1], np.inf))
    return float((score + curve.thresholds[best + 1]) / 2)


def _scores(values: Any, what: str) -> np.ndarray:
    scores = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise DataError(f"expected finite scores of {what} pairs, at least one, got {scores.shape}")
    return scores
