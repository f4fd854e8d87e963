"""What a line of the log says of retrieval."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xmodal.data import PairedData, PairSplit

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
