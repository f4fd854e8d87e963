"""The metrics of a split: ranks, correlations, class-wise retrieval."""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.covariance import Moments
from xmodal.data import PairedData, PairSplit
from xmodal.evaluator.embedding import TwoViewModel, chosen_split, embed, embedded_moments
from xmodal.evaluator.partners import partner_labels
from xmodal.metrics import (
    DIRECTIONS,
    Ranks,
    bootstrap_interval,
    canonical_correlation,
    retrieval_metrics,
    retrieval_ranks,
    sum_correlation,
)
from xmodal.metrics.chance import chance_metrics, match_counts

#: What a bootstrap interval is given for.
WITH_INTERVAL = ("r1", "r5", "r10", "r25", "median_rank", "mean_rank", "mrr")


def evaluate(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
             device: str | torch.device = "cpu", precision: str = "float32", intervals: bool = False, seed: int = 0
             ) -> dict[str, Any]:
    """All metrics of a model on a split.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: its training pairs fit the projection of the canonical correlation.
        split: "test", "valid" or "train".
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        intervals: also bootstrap 95 % intervals over queries, as ``"intervals"`` of each direction.
        seed: of the bootstrap.

    Returns:
        ``{"V1_to_V2": {...}, "V2_to_V1": {...}, "sum_correlation", "canonical_correlation", "dim", "split",
        "n_pairs"}``; see :func:`xmodal.metrics.retrieval_metrics`. Rates are percent. ``"chance"`` of each direction is
        what a gallery in random order gives; see :func:`xmodal.metrics.chance.chance_metrics`.

    Raises:
        NumericalError: an embedding is not finite; names view and rows.
    """
    embedded = embed_split(model, data, split, n_test=n_test, device=device, precision=precision)
    return metrics_of(embedded, intervals=intervals, seed=seed)


class EmbeddedSplit(NamedTuple):
    """What an evaluation is made of: a split, its items embedded (n1, d) and (n2, d), the ranks of both directions, and
    the moments of the embedded training pairs."""

    split: PairSplit
    z1: Tensor
    z2: Tensor
    ranks: Ranks
    fit: Moments


def embed_split(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
                device: str | torch.device = "cpu", precision: str = "float32") -> EmbeddedSplit:
    """The slow half of :func:`evaluate`, whose arguments it has."""
    chosen = chosen_split(data, split, n_test)
    z1, z2 = embed(model, chosen, device=device, precision=precision)
    ranks = retrieval_ranks(z1, z2, chosen.pairs, shared=True)
    return EmbeddedSplit(chosen, z1, z2, ranks, embedded_moments(model, data.train, device=device, precision=precision))


def metrics_of(embedded: EmbeddedSplit, *, intervals: bool = False, seed: int = 0) -> dict[str, Any]:
    """The other half: what :func:`evaluate` returns."""
    chosen, z1, z2, ranks, fit = embedded
    report: dict[str, Any] = retrieval_metrics(z1, z2, chosen.pairs, labels1=chosen.labels,
                                               labels2=partner_labels(chosen), ranks=ranks)
    for direction, matches in zip(DIRECTIONS, match_counts(chosen.pairs, ranks, len(z1), len(z2)), strict=True):
        report[direction]["chance"] = chance_metrics(matches, report[direction]["n_gallery"])
    if intervals:
        for direction in DIRECTIONS:
            report[direction]["intervals"] = {key: bootstrap_interval(getattr(ranks, direction), key, seed=seed)[1:]
                                              for key in WITH_INTERVAL}
    return {**report,
            "sum_correlation": sum_correlation(z1, z2, chosen.pairs),
            "canonical_correlation": canonical_correlation(z1, z2, fit, chosen.pairs),
            "dim": z1.shape[1], "split": chosen.name, "n_pairs": len(chosen)}
