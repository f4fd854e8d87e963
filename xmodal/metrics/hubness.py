"""Hubs, items that turn up among the nearest of far too many queries, and scores that take what they gain away again.

In high dimensions a few items lie near everything (Radovanović, Nanopoulos, Ivanović 2010, JMLR 11). Both corrections
take off each gallery item's score what makes it a favourite of a bank of queries; they change the order in which items
are found, so their figures stand beside the plain ones and never in place of them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.errors import DataError, did_you_mean
from xmodal.metrics.ranks import retrieval_ranks
from xmodal.metrics.retrieval import DIRECTIONS, rank_metrics
from xmodal.metrics.views import KS, check_views, make_view
from xmodal.nearest import TILE_VALUES, nearest

#: Neighbours that count: as the papers on hubs have it, and CSLS.
NEIGHBOURS = 10
#: Inverse temperature of the inverted softmax. Smith et al. tune theirs on training pairs; MUSE's programs take 30.
BETA = 30.0
CORRECTIONS = ("csls", "inverted_softmax")
_CONSTANT = 2.0  # what a corrected item's squared length is made up to: 1 of itself, and bias² ≤ 1


def occurrences(queries: Any, gallery: Any, k: int = NEIGHBOURS) -> Tensor:
    """How often each gallery item is among the ``k`` nearest of the queries by cosine similarity.

    Args:
        queries: (q, d).
        gallery: (n, d).
        k: at most n; more counts as n.

    Returns:
        (n,) int64, with mean q·k / n.
    """
    check_views(queries, gallery)
    asked, items = make_view(queries, "queries").unit, make_view(gallery, "gallery").unit
    rows = nearest(asked, items, min(k, len(items))).rows
    return torch.bincount(rows.flatten(), minlength=len(items)).cpu()


def skewness(counts: Any) -> float:
    """Third standardised moment E[(N − μ)³] / σ³ of counts (n,); 0 where all are equal.

    Of k-occurrences, 0 or less says that there are no hubs; Radovanović et al. speak of strong ones from about 1.4.
    """
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"expected counts of shape (n,) with n at least 1, got {values.shape}")
    centred = values - values.mean()
    deviation = math.sqrt((centred ** 2).mean())
    return float((centred ** 3).mean() / deviation ** 3) if deviation > 0 else 0.0


def favour(gallery: Any, bank: Any, how: str, k: int = NEIGHBOURS, beta: float = BETA) -> Tensor:
    """What is to be taken off each gallery item's cosine, (n,) float32 in [−1, 1].

    * ``csls``: r(g) / 2, r(g) the mean cosine of g and the ``k`` nearest queries of the bank. The order by
      cos(q, g) − r(g) / 2 is that by 2 cos(q, g) − r(q) − r(g) (Conneau et al. 2018, arXiv 1710.04087, section 2.3).
    * ``inverted_softmax``: log(mean over the bank of exp(β cos(b, g))) / β. The order is that by
      exp(β cos(q, g)) / Σ_b exp(β cos(b, g)) (Smith et al. 2017, arXiv 1702.03859, equation 10).

    Args:
        gallery: (n, d).
        bank: (m, d) queries like those to come.
        how: one of ``CORRECTIONS``.
        k: of CSLS, at most m; more counts as m.
        beta: of the inverted softmax.

    Raises:
        DataError: no such correction, or shapes that don't fit.
        NumericalError: values that are not finite.
    """
    if how not in CORRECTIONS:
        raise DataError(f"correction {how!r}: {did_you_mean(how, CORRECTIONS)}")
    check_views(bank, gallery)
    items, asked = make_view(gallery, "gallery").unit, make_view(bank, "bank").unit
    if how == "csls":
        return nearest(items, asked, min(k, len(asked))).scores.mean(dim=1) / 2
    step = max(1, TILE_VALUES // len(asked))
    sums = [torch.logsumexp(beta * (part @ asked.T), dim=1) for part in items.split(step)]
    return (torch.cat(sums) - math.log(len(asked))) / beta


def corrected_gallery(gallery: Any, favours: Tensor) -> Tensor:
    """Unit gallery vectors with what they are favoured by: (n, d + 2) float32 of one length, for cosine similarity.

    (g, −b, √(2 − |g|² − b²)) has length √2. Its inner product with :func:`corrected_queries`, (q, 1, 0), is
    cos(q, g) − b, and their cosine is half of that: all that works by cosines works with the correction.
    """
    items = make_view(gallery, "gallery").unit
    rest = (_CONSTANT - items.square().sum(dim=1) - favours.square()).clamp(min=0).sqrt()
    return torch.cat([items, -favours[:, None], rest[:, None]], dim=1)


def corrected_queries(queries: Any) -> Tensor:
    """Unit queries for :func:`corrected_gallery`, (q, d + 2) float32 of length √2."""
    asked = make_view(queries, "queries").unit
    ones, zeros = asked.new_ones(len(asked), 1), asked.new_zeros(len(asked), 1)
    return torch.cat([asked, ones, zeros], dim=1)


def corrected_scores(cosines: Tensor) -> Tensor:
    """cos(q, g) − b from the cosine of corrected query and item."""
    return cosines * _CONSTANT


def hubness(z1: Any, z2: Any, pairs: Any = None, bank1: Any = None, bank2: Any = None,
            ks: Sequence[int] = KS, k: int = NEIGHBOURS, beta: float = BETA) -> dict[str, dict[str, Any]]:
    """How strong hubs are, and what is found where their favours are taken off.

    Args:
        z1: view-1 embeddings (n1, d).
        z2: view-2 embeddings (n2, d).
        pairs: int64 (m, 2) or None for the identity.
        bank1, bank2: queries of view 1 and of view 2 that favours are worked out from, such as those of the training
            pairs; by default the queries themselves, all at once, as the papers have it: a query's result then
            depends on the others.
        ks: cut-offs of the hit rates.
        k: neighbours that count.
        beta: of the inverted softmax.

    Returns:
        ``{"V1_to_V2": {"plain": {...}, "csls": {...}, "inverted_softmax": {...}}, "V2_to_V1": {...}}``, each the
        skewness of k-occurrences (``skew``), how many items are nobody's neighbour (``never``, percent), the greatest
        share of queries that have one item among their neighbours (``largest``, percent), and what
        ``rank_metrics`` gives.
    """
    z1, z2 = check_views(z1, z2)
    result: dict[str, dict[str, Any]] = {}
    for direction, queries, gallery, bank in ((DIRECTIONS[0], z1, z2, bank1), (DIRECTIONS[1], z2, z1, bank2)):
        ways = {"plain": (queries, gallery)}
        for how in CORRECTIONS:
            favours = favour(gallery, queries if bank is None else bank, how, k, beta)
            ways[how] = corrected_queries(queries), corrected_gallery(gallery, favours)
        result[direction] = {name: {**_spread(*way, k), **_found(*way, pairs, direction, ks)}
                             for name, way in ways.items()}
    return result


def _spread(queries: Tensor, gallery: Tensor, k: int) -> dict[str, float]:
    counts = occurrences(queries, gallery, k)
    return {"skew": skewness(counts), "never": 100.0 * float((counts == 0).double().mean()),
            "largest": 100.0 * int(counts.max()) / len(queries)}


def _found(queries: Tensor, gallery: Tensor, pairs: Any, direction: str, ks: Sequence[int]) -> dict[str, float]:
    views = (queries, gallery) if direction == DIRECTIONS[0] else (gallery, queries)
    return rank_metrics(retrieval_ranks(*views, pairs), direction, ks)
