"""Where a training stands, and what is returned of it."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Progress:
    """Where a training stands: all of it but the tensors. Written into the resume state as plain values."""

    learning_rate: float
    patience: int
    patience_left: int
    refinements_left: int
    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the one after
    loss_sum: float = 0.0  # of these batches
    seconds: float = 0.0  # spent on them
    best_epoch: int = 0
    best_value: float = math.nan
    finished: str = ""  # why training ended
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        kinds = {"int": int, "float": int | float, "str": str}
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, kinds.get(str(each.type), list)):
                raise TypeError(f"{each.name} must be {each.type}, got {value!r}")


@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` returns; the model itself holds the weights of ``best_epoch``."""

    log: list[dict[str, Any]]  #: a line per epoch, as in log.jsonl
    best_epoch: int  #: the last one with ``keep="last"``
    best_value: float  #: its value on the validation pairs, of what ``config.judge`` names
    finished: str  #: "patience", "max_epochs", "closed form", or "interrupted by SIGINT"
    signal: int | None = None  #: the signal that stopped training, if one did
