"""Classes learned from one view and told by the other, on a split."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.data import PairedData, PairSplit, view_batches
from xmodal.errors import DataError
from xmodal.evaluator.embedding import EMBED_BATCH, TwoViewModel, chosen_split, embed
from xmodal.metrics import transfer_accuracy, transfer_folds
from xmodal.metrics.views import check_pairs, check_views


def transfer(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
             device: str | torch.device = "cpu", precision: str = "float32", folds: int = 5) -> dict[str, Any]:
    """How far classes learned from one view carry over to the other; see :func:`xmodal.metrics.transfer_accuracy`.

    Rows are pairs, and the class of a row is that of its view-1 item. Folds are cut by view-1 items, so that none is
    on both sides. Where several of these share a view-2 item, ``V2_to_V2`` and ``raw_V2_to_V2`` test on items that
    were trained on; the other keys are not touched by that.

    The raw items of both views are held in memory and take most of the time: on one core, 15 s of 25 s for 10,000
    MNIST halves (10 fits of 8,000 × 392), and 50 s for each fit of 6,400 × 4,096.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: with labels in the split.
        split: "test", "valid" or "train".
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers. The SVMs run on the CPU.
        folds: how many.

    Returns:
        Accuracies in percent: ``V1_to_V2`` (trained on embeddings of view 1, tested on those of view 2),
        ``V2_to_V1``, the single-view baselines ``V1_to_V1`` and ``V2_to_V2``, and ``raw_V1_to_V1`` and
        ``raw_V2_to_V2``, the same on flattened items; ``folds``; ``unconverged``, how many of the 6 · folds fits
        stopped at the iteration limit.

    Raises:
        DataError: no labels, too few items, one class only.
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = chosen_split(data, split, n_test)
    check_transfer(chosen, folds)
    z1, z2 = check_views(*embed(model, chosen, device=device, precision=precision))
    raw1, raw2 = (torch.cat([items.flatten(1) for items in view_batches(chosen, view, EMBED_BATCH)])
                  for view in (1, 2))
    rows1, rows2, labels = _transfer_rows(chosen)
    z1, z2 = z1.cpu()[rows1], z2.cpu()[rows2]
    sides = {"V1_to_V2": (z1, z2), "V2_to_V1": (z2, z1), "V1_to_V1": (z1, z1), "V2_to_V2": (z2, z2),
             "raw_V1_to_V1": (raw1[rows1],) * 2, "raw_V2_to_V2": (raw2[rows2],) * 2}
    results = {key: transfer_accuracy(*side, labels, folds, groups=rows1) for key, side in sides.items()}
    return {**{key: result.accuracy for key, result in results.items()},
            "folds": folds, "unconverged": sum(result.unconverged for result in results.values())}


def check_transfer(split: PairSplit, folds: int = 5) -> None:
    """Raises what :func:`transfer` would say of these data, before a model is run.

    Raises:
        DataError: no labels, too few items, a training part of one class.
    """
    rows1, _, labels = _transfer_rows(split)
    transfer_folds(labels, folds, groups=rows1)


def _transfer_rows(split: PairSplit) -> tuple[Tensor, Tensor, Tensor]:
    """View-1 item, view-2 item and class of each distinct pair, (m,) int64 each."""
    if split.labels is None:
        raise DataError(f"transfer between views needs labels, and the {split.name} pairs have none; "
                        "add labels, the classes of the view-1 items, to the data")
    rows1, rows2 = check_pairs(split.pairs, len(split.view1), len(split.view2)).unbind(dim=1)
    return rows1, rows2, split.labels[rows1]
