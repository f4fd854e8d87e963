"""Retrieval metrics of both directions: hit rates, ranks, MRR, distances, and with labels what `classes` adds."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from xmodal.errors import DataError, did_you_mean
from xmodal.metrics.classes import class_metrics
from xmodal.metrics.ranks import Ranks, ranks_of_views
from xmodal.metrics.views import KS, check_cutoffs, check_pairs, check_views, class_codes, exact_scores, make_view

DIRECTIONS = ("V1_to_V2", "V2_to_V1")


class Primary(NamedTuple):
    """The metric by which models are chosen, and which way is better."""

    key: str
    high_is_better: bool


PRIMARY = Primary("mrr", True)


def retrieval_metrics(z1: Any, z2: Any, pairs: Any = None, ks: Sequence[int] = KS,
                      labels1: Any = None, labels2: Any = None, *, ranks: Ranks | None = None,
                      shared: bool = False) -> dict[str, dict[str, float]]:
    """``{"V1_to_V2": {...}, "V2_to_V1": {...}}`` by cosine similarity.

    Per direction: ``r<k>`` (percent of queries whose best match has rank ≤ k; an average rank of 1.5 is no hit at
    1) and ``hits<k>`` (their number), ``median_rank``, ``mean_rank``, ``mrr`` (mean of 1/rank), ``mean_distance``,
    ``median_distance``, ``min_distance``, ``max_distance`` (1 − cosine of the true pairs), ``tied_queries``,
    ``n_queries``, ``n_gallery``. With labels also ``map`` and ``ndcg<k>``, where every gallery item of the query's
    class is relevant and every item of the view with at least one relevant gallery item is a query (see
    ``class_metrics`` for ties).

    Args:
        z1: view-1 embeddings (n1, d), tensor or array.
        z2: view-2 embeddings (n2, d).
        pairs: int64 (m, 2) or None for the identity.
        ks: cut-offs; larger than the gallery is allowed.
        labels1: classes (n1,) of the view-1 items; needs ``labels2`` too.
        labels2: classes (n2,) of the view-2 items.
        ranks: what ``retrieval_ranks`` returned for the same arguments, to save the pass over the scores.
        shared: as ``retrieval_ranks`` has it.

    Raises:
        DataError: shapes, pairs, labels or cut-offs that don't fit.
        NumericalError: NaN or infinite embeddings.
    """
    check_cutoffs(ks)
    if (labels1 is None) != (labels2 is None):
        raise DataError("labels: give both labels1 and labels2, or neither")
    m1, m2 = check_views(z1, z2)
    table = check_pairs(pairs, len(m1), len(m2), m1.device)
    labels = None if labels1 is None else class_codes(("labels1", labels1, len(m1)), ("labels2", labels2, len(m2)))
    view1, view2 = make_view(m1, "view 1"), make_view(m2, "view 2")
    scores = exact_scores(view1, view2, table)
    if ranks is None:
        ranks = ranks_of_views(view1, view2, table, scores, shared=shared)
    distances = _distance_metrics(scores)
    result = {direction: {**rank_metrics(ranks, direction, ks), **distances, "n_gallery": gallery}
              for direction, gallery in zip(DIRECTIONS, (len(m2), len(m1)), strict=True)}
    if labels is not None:
        result["V1_to_V2"].update(class_metrics(view1, view2, labels[0], labels[1], ks))
        result["V2_to_V1"].update(class_metrics(view2, view1, labels[1], labels[0], ks))
    return result


def rank_metrics(ranks: Ranks, direction: str, ks: Sequence[int] = KS) -> dict[str, float]:
    """What follows from the ranks of one direction alone: hit rates, median and mean rank, MRR, tied queries."""
    if direction not in DIRECTIONS:
        raise DataError(f"direction {direction!r}: {did_you_mean(direction, DIRECTIONS)}")
    values, tied = (ranks.V1_to_V2, ranks.tied1) if direction == DIRECTIONS[0] else (ranks.V2_to_V1, ranks.tied2)
    n = len(values)
    result: dict[str, float] = {}
    for k in ks:
        hits = int((values <= k).sum())
        result[f"r{k}"] = 100.0 * hits / n
        result[f"hits{k}"] = hits
    result["median_rank"] = float(np.median(values.numpy()))
    result["mean_rank"] = float(values.mean())
    result["mrr"] = float((1.0 / values).mean())
    result["tied_queries"] = int(tied.sum())
    result["n_queries"] = n
    return result


def _distance_metrics(scores: Tensor) -> dict[str, float]:
    """Cosine distances of the true pairs from their float64 cosines (m,)."""
    distances = (1.0 - scores).clamp_(0.0, 2.0).cpu().numpy()
    return {"mean_distance": float(distances.mean()), "median_distance": float(np.median(distances)),
            "min_distance": float(distances.min()), "max_distance": float(distances.max())}
