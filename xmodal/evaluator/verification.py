"""Whether a pair of a split matches, told by its cosine or by a network."""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError
from xmodal.evaluator.embedding import TwoViewModel, chosen_split, embed
from xmodal.evaluator.partners import partner_labels
from xmodal.metrics import Judged, best_threshold, judge_pairs, verification
from xmodal.networks import Verifier, evaluating

#: What a pair that matches has in common.
MATCHES = ("pair", "class")


class Verified(NamedTuple):
    """What :func:`verify` found: ``report`` for people and files, ``judged`` pairs of the split for curves, by how they
    were judged: "network" first, where there is one, and "cosine"."""

    report: dict[str, Any]
    judged: dict[str, Judged]


def verify(model: TwoViewModel, data: PairedData, split: str = "test", *, match: str = "pair",
           n_test: int | None = None, device: str | torch.device = "cpu", precision: str = "float32", seed: int = 0
           ) -> Verified:
    """Are these two items the same? Matching pairs of a split against others, by cosines, and by its network where the
    model is a :class:`xmodal.networks.Verifier`.

    Others are drawn at random (20 for each matching pair, a million at most), or hard: for each view-1 item the
    nearest one that doesn't match; by a network, the one that it takes for the likeliest match of the 20 nearest. The
    thresholds come from the validation pairs, for either kind of others.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: its validation pairs give the thresholds.
        split: "test", "valid", "train" or a further test split.
        match: "pair", or "class": two items match when they are of one class, so that others are of different classes.
            The matching pairs are those of the pair table all the same.
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        seed: of the random pairs.

    Returns:
        A report ``{"random": {...}, "hard": {...}, "match": "pair"}``, each as :func:`xmodal.metrics.verification` has
        it, and the scores. With a network the report is on its judgements, and has a ``"cosine"`` with the same keys
        on the cosines of the same embeddings.

    Raises:
        DataError: classes are asked for, and the data have none.
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = chosen_split(data, split, n_test)
    for each in (data.valid, chosen):
        check_classes(each, match)
    found, valid = (_judged(model, each, match, device, precision, seed) for each in (chosen, data.valid))
    reports = {how: _report(found[how], valid[how]) for how in found}
    report: dict[str, Any] = {**reports.get("network", reports["cosine"]), "match": match}
    if "network" in reports:
        report["cosine"] = reports["cosine"]
    return Verified(report, found)


def check_classes(split: PairSplit, match: str) -> None:
    """Raises what :func:`verify` would say of these data, before a model is run.

    Raises:
        DataError: classes are asked for, and there are none.
    """
    if match not in MATCHES:
        raise DataError(f"match must be {' or '.join(MATCHES)}, got {match!r}")
    if match == "class" and split.labels is None:
        raise DataError(f"verification by class needs labels, and the {split.name} pairs have none; add labels, the "
                        "classes of the view-1 items, to the data")


def _judged(model: TwoViewModel, split: PairSplit, match: str, device: str | torch.device, precision: str, seed: int
            ) -> dict[str, Judged]:
    """Scores by the network first, if there is one, and by cosine."""
    z1, z2 = embed(model, split, device=device, precision=precision)
    labels1, labels2 = split.labels, partner_labels(split)
    classes = (labels1, labels2) if match == "class" and labels1 is not None and labels2 is not None else None
    found = {}
    if isinstance(model, Verifier):
        network = model

        def by_network(one: Tensor, two: Tensor) -> Tensor:
            return network.judge(one.to(device), two.to(device))

        with evaluating(network):
            found["network"] = judge_pairs(z1, z2, split.pairs, seed, classes=classes, score=by_network)
    return {**found, "cosine": judge_pairs(z1, z2, split.pairs, seed, classes=classes)}


def _report(found: Judged, valid: Judged) -> dict[str, Any]:
    return {kind: verification(found.matching, getattr(found, kind),
                               best_threshold(valid.matching, getattr(valid, kind)))
            for kind in ("random", "hard") if len(getattr(found, kind)) and len(getattr(valid, kind))}
