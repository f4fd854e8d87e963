"""The validation of an epoch: what a line of the log says of it, and by what of that the epoch is judged."""
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmodal.config import TrainConfig
from xmodal.data import PairedData, PairSplit, n_batches, pair_batches
from xmodal.distributed import add_up, from_first, part_of, size
from xmodal.evaluator import embed, tower_precision
from xmodal.metrics import PRIMARY, retrieval_metrics
from xmodal.networks import Model, evaluating
from xmodal.objectives import loss_of_pairs

#: Training metrics are computed on this many training pairs at most, and never on more than there are to validate.
TRAIN_PROBE = 2000


def probe(data: PairedData) -> PairSplit:
    """The training pairs that training metrics are computed on; items without a partner are not among them."""
    return data.train.select(torch.arange(min(TRAIN_PROBE, len(data.valid), len(data.train))))


def retrieval_line(train: Mapping[str, Any], valid: Mapping[str, Any]) -> dict[str, float]:
    """The main metrics of both splits, means of the two directions; of the validation split also each direction."""
    line = {}
    for suffix, metrics in (("tr", train), ("va", valid)):
        for key in ("mrr", "median_rank", "r1", "r10", "mean_distance"):
            directions = metrics["V1_to_V2"][key], metrics["V2_to_V1"][key]
            line[f"{key}_{suffix}"] = sum(directions) / 2
            if suffix == "va":
                line[f"{key}_V1_to_V2_va"], line[f"{key}_V2_to_V1_va"] = directions
    return line


class Validation:
    """Loss and retrieval of a model that is being trained; several processes share the work and get the same line.

    Args:
        model: is put into eval mode meanwhile.
        objective: likewise; a model with ``needs_no_pairs`` has its loss on all validation items.
        data: its validation pairs, and a probe of its training pairs.
        config: for the size of batches and the precision of the towers.
        device: where the model is.
    """

    def __init__(self, model: Model, objective: nn.Module, data: PairedData, config: TrainConfig, device: torch.device
                 ) -> None:
        self.model, self.objective, self.data, self.config, self.device = model, objective, data, config, device
        self.probe = probe(data)
        self.loss_split = data.valid.all_items() if getattr(model, "needs_no_pairs", False) else data.valid

    def line(self) -> dict[str, Any]:
        """``loss_va`` and what :func:`retrieval_line` says, of the model as it is."""
        loss, z1, z2 = self._embed_with_loss()
        valid = retrieval_metrics(z1, z2, self.data.valid.pairs, shared=True)
        z1, z2 = embed(self.model, self.probe, device=self.device, precision=self.config.precision)
        train = retrieval_metrics(z1, z2, self.probe.pairs, shared=True)
        line = {"loss_va": loss, **retrieval_line(train, valid)}
        return dict(json.loads(from_first(json.dumps(line).encode()) or b""))

    def _embed_with_loss(self) -> tuple[float, Tensor, Tensor]:
        """The objective over the validation split, and its items' embeddings."""
        split = self.loss_split
        low, high = part_of(n_batches(split, self.config.batch_size))
        losses, rows1, rows2 = [], [], []
        self.objective.eval()
        with evaluating(self.model):
            for batch in pair_batches(split, self.config.batch_size, start=low, stop=high, device=self.device):
                with tower_precision(self.config.precision, self.device):
                    embedded = self.model(batch.view1, batch.view2)
                loss_here = loss_of_pairs(self.objective, embedded, batch.pairs, split.labels)
                losses.append(float(loss_here) * len(batch.pairs))
                rows1.append(embedded.view1)
                rows2.append(embedded.view2)
        loss = float(add_up(torch.tensor(sum(losses), dtype=torch.float64))) / len(split)
        if split.pairs is None and split is self.data.valid and size() == 1:
            return loss, torch.cat(rows1), torch.cat(rows2)
        z1, z2 = embed(self.model, self.data.valid, device=self.device, precision=self.config.precision)
        return loss, z1, z2


class Judge(NamedTuple):
    """By which validation value the best epoch is chosen."""

    key: str  # in the log
    high_is_better: bool
    name: str  # on the screen


def judge_of(config: TrainConfig) -> Judge:
    """What ``config.judge`` stands for."""
    if config.judge == "loss":
        return Judge("loss_va", False, "validation loss")
    return Judge(f"{PRIMARY.key}_va", PRIMARY.high_is_better, "validation MRR")
