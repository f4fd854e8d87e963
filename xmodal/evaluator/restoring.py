"""What a model restores of a split's views, and how far off that is."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from xmodal.data import PairedData, pair_batches
from xmodal.evaluator.embedding import EMBED_BATCH, chosen_split, tower_precision
from xmodal.metrics import mean_squared_errors
from xmodal.networks import evaluating


class RestoringModel(Protocol):
    """What restores its views: a CorrNet, autoencoders."""

    def restorings(self, x: Tensor, y: Tensor) -> dict[str, Tensor]: ...


def restoring_errors(model: RestoringModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
                     device: str | torch.device = "cpu", precision: str = "float32") -> dict[str, float]:
    """Mean squared errors of what is restored, over all values of all pairs, by the names that the model
    gives: ``view1_from_view2`` and so on."""
    def batches() -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        for batch in pair_batches(chosen_split(data, split, n_test), EMBED_BATCH, device=device):
            restored = model.restorings(batch.view1, batch.view2)
            yield restored, {name: batch.view1 if name.startswith("view1") else batch.view2 for name in restored}

    with evaluating(model), tower_precision(precision, device):
        return mean_squared_errors(batches())
