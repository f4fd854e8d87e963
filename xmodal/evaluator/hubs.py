"""Hubs of a split, and what correcting for them finds."""
from __future__ import annotations

from typing import Any

import torch

from xmodal.data import PairedData
from xmodal.evaluator.embedding import TwoViewModel, chosen_split, embed
from xmodal.metrics import DIRECTIONS, hubness
from xmodal.metrics.hubness import CORRECTIONS
from xmodal.nearest import spread_rows

#: Training pairs whose embeddings stand for queries to come, when hubs are corrected for.
HUB_BANK = 10_000


def find_hubs(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
              device: str | torch.device = "cpu", precision: str = "float32") -> dict[str, dict[str, Any]]:
    """How strong hubs are in a split, and what is found where scores are corrected; see :func:`xmodal.metrics.hubness`.

    Favours of hubs are worked out twice: from training queries (``HUB_BANK`` pairs at most, evenly spread), as one
    would in use, and from all queries of the split at once, as the papers do.

    Returns:
        ``{"V1_to_V2": {"plain": {...}, "csls_train": {...}, "csls": {...}, "inverted_softmax_train": {...},
        "inverted_softmax": {...}}, "V2_to_V1": {...}}``.

    Raises:
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = chosen_split(data, split, n_test)
    z1, z2 = embed(model, chosen, device=device, precision=precision)
    bank = data.train.select(spread_rows(len(data.train), HUB_BANK))
    banks = embed(model, bank, device=device, precision=precision)
    trained, together = hubness(z1, z2, chosen.pairs, *banks), hubness(z1, z2, chosen.pairs)
    found = {}
    for direction in DIRECTIONS:
        ways = {"plain": together[direction]["plain"]}
        for how in CORRECTIONS:
            ways |= {f"{how}_train": trained[direction][how], how: together[direction][how]}
        found[direction] = ways
    return found
