"""What a line of the log says of retrieval, and by what of it an epoch is judged."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from xmodal.config import TrainConfig
from xmodal.data import PairedData, PairSplit
from xmodal.metrics import PRIMARY

#: Training metrics are computed on this many training pairs at most, and never on more than there are to validate.
TRAIN_PROBE = 2000


def probe(data: PairedData) -> PairSplit:
    """The training pairs that training metrics are computed on."""
    return data.train.take(min(TRAIN_PROBE, len(data.valid), len(data.train)))


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
