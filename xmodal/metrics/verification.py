"""Are these two items the same? What scores of matching and of other pairs are good for."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from xmodal.errors import DataError
from xmodal.metrics.views import check_pairs, check_views, make_view
from xmodal.nearest import nearest

#: Shares of false accepts at which true accepts are told.
FALSE_ACCEPTS = (0.001, 0.01)
#: Other pairs drawn at random: so many for each matching one, and at most.
EACH, MOST = 20, 1_000_000


class Roc(NamedTuple):
    """The receiver operating characteristic: from the strictest threshold to accepting all, (t,) float64 each.

    ``false_accepts``: share of other pairs with a score of at least the threshold · ``true_accepts``: likewise of
    matching ones · ``thresholds``: descending, the first one +∞.
    """

    false_accepts: np.ndarray
    true_accepts: np.ndarray
    thresholds: np.ndarray


class Judged(NamedTuple):
    """Cosines of pairs of items: those that match, (m,), others drawn at ``random``, and for each view-1 item the
    nearest that doesn't match, ``hard``. All float32."""

    matching: Tensor
    random: Tensor
    hard: Tensor


def judge_pairs(z1: Any, z2: Any, pairs: Any = None, seed: int = 0) -> Judged:
    """Scores of matching, random and hard pairs.

    Args:
        z1: view-1 embeddings (n1, d).
        z2: view-2 embeddings (n2, d).
        pairs: int64 (m, 2) or None for the identity.
        seed: of the random pairs.

    Raises:
        DataError: everything matches everything; shapes or pairs that don't fit.
        NumericalError: embeddings that are not finite.
    """
    m1, m2 = check_views(z1, z2)
    table = check_pairs(pairs, len(m1), len(m2)).cpu()
    one, two = make_view(m1, "view 1").unit.cpu(), make_view(m2, "view 2").unit.cpu()
    known = torch.unique(table[:, 0] * len(two) + table[:, 1])
    if len(known) == len(one) * len(two):
        raise DataError("every item matches every other: there are no pairs to tell apart")
    rows = _random_pairs(len(one), len(two), known, min(EACH * len(table), MOST), seed)
    hard = _nearest_others(one, two, table)
    return Judged((one[table[:, 0]] * two[table[:, 1]]).sum(dim=1), (one[rows[:, 0]] * two[rows[:, 1]]).sum(dim=1),
                  hard)


def _random_pairs(n1: int, n2: int, known: Tensor, count: int, seed: int) -> Tensor:
    """(k, 2) pairs drawn with replacement, without the ``known`` ones, which are given as row · n2 + column."""
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n1 * n2, (count,), generator=draw)
    while bool((wrong := torch.isin(drawn, known)).any()):
        drawn[wrong] = torch.randint(n1 * n2, (int(wrong.sum()),), generator=draw)
    return torch.stack([drawn // n2, drawn % n2], dim=1)


def _nearest_others(one: Tensor, two: Tensor, table: Tensor) -> Tensor:
    """The cosine of the nearest view-2 item that doesn't match, of each view-1 item that has one."""
    partners = torch.bincount(table[:, 0], minlength=len(one))
    most = min(int(partners.max()) + 1, len(two))
    found = nearest(one, two, most)
    columns = found.rows.clamp(min=0)
    matches = torch.isin(torch.arange(len(one))[:, None] * len(two) + columns, table[:, 0] * len(two) + table[:, 1])
    scores = found.scores.masked_fill(matches | (found.rows < 0), -torch.inf).amax(dim=1)
    return scores[scores > -torch.inf]


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
