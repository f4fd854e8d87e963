"""Whole groups that find their own in the other view, on a split."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch

from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError
from xmodal.evaluator.embedding import TwoViewModel, chosen_split, embed
from xmodal.evaluator.partners import partners_of
from xmodal.metrics import group_retrieval, split_ids
from xmodal.metrics.groups import TOLERANCE, VOTES
from xmodal.metrics.views import check_views


def retrieve_groups(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
                    device: str | torch.device = "cpu", precision: str = "float32", votes: int = VOTES,
                    excerpt: int | None = None, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Whole groups of one view find their own in the other; see :func:`xmodal.metrics.group_retrieval`.

    Groups and places come from the ids of the view-1 items, ``PIECE@PLACE``. A view-2 item has those of its partner
    (the last one's in the pair table, if it has several). View-2 items without a partner are left out, from the
    gallery as well.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: with ids in the split.
        split: a split's name.
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        votes, excerpt, tolerance: see :func:`xmodal.metrics.group_retrieval`.

    Returns:
        ``{"V1_to_V2": {...}, "V2_to_V1": {...}, "votes", "excerpt", "tolerance"}``.

    Raises:
        DataError: ids are missing or read otherwise.
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = chosen_split(data, split, n_test)
    names, places = check_groups(chosen)
    z1, z2 = check_views(*embed(model, chosen, device=device, precision=precision))
    partners = partners_of(chosen)
    kept = np.flatnonzero(partners >= 0)
    named = [names[partner] for partner in partners[kept]]
    found = group_retrieval(z1, z2[torch.from_numpy(kept)], names, places, named, places[partners[kept]],
                            votes=votes, excerpt=excerpt, tolerance=tolerance)
    return {**found, "votes": votes, "excerpt": excerpt, "tolerance": tolerance}


def check_groups(split: PairSplit) -> tuple[list[str], np.ndarray]:
    """Group and place of the view-1 items; raises what :func:`retrieve_groups` would, before a model is run.

    Raises:
        DataError: ids are missing or read otherwise.
    """
    if split.ids is None:
        raise DataError(f"retrieval of groups needs ids of the view-1 items, and the {split.name} pairs have none; "
                        "ids must read PIECE@PLACE, such as bach/bwv10.7@8.166")
    return split_ids(split.ids)
