"""One training of a search: what was tried, and what came of it."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from xmodal.metrics import PRIMARY
from xmodal.ranges import Choices, holds

State = Literal["running", "done", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """A trial; what a line of ``trials.jsonl`` says.

    Attributes:
        number: from 1, in the order of time.
        state: ``pruned`` was ended early, since the others did better; ``running`` is one that a kill interrupted.
        params: what was tried for each field of the search.
        seed: of its training, the first one if there are several; the next ones have the next seeds.
        value: its primary metric on the validation pairs, as training chooses by, the mean over seeds; of a pruned one,
            the best so far.
        values: what it is the mean of.
        best_epoch: the best epoch of the first training.
        curve: the primary metric after each epoch of the first training.
        seconds: that it took.
        reason: why it failed.
        attempts: how often it was begun.
    """

    number: int
    state: State
    params: dict[str, Any]
    seed: int
    value: float | None = None
    values: tuple[float, ...] = ()
    best_epoch: int = 0
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    attempts: int = 1

    @property
    def epochs(self) -> int:
        """How many epochs it was trained, for the first time."""
        return len(self.curve)


def read_trial(content: Any, space: Mapping[str, Choices]) -> Trial:
    """A trial from what JSON has made of it.

    Raises:
        ValueError: it isn't one of this search.
    """
    kinds = {"number": int, "state": str, "params": dict, "seed": int, "value": int | float | None,
             "values": list, "best_epoch": int, "curve": list, "seconds": int | float, "reason": str, "attempts": int}
    if not isinstance(content, dict) or content.keys() != {each.name for each in fields(Trial)}:
        raise ValueError("a line is not a trial")
    wrong = [name for name, kind in kinds.items() if not isinstance(content[name], kind)]
    wrong += ["state"] if "state" not in wrong and content["state"] not in get_args(State) else []
    wrong += [name for name in ("curve", "values") if name not in wrong
              and not all(isinstance(value, int | float) for value in content[name])]
    wrong += ["value"] if "value" not in wrong and content["state"] == "done" and content["value"] is None else []
    if wrong:
        raise ValueError(f"a trial has a wrong {wrong[0]}")
    params = content["params"]
    if params.keys() != space.keys() or not all(holds(space[name], value) for name, value in params.items()):
        raise ValueError(f"trial {content['number']} is outside of the search")
    return Trial(**{**content, "curve": tuple(content["curve"]), "values": tuple(content["values"])})


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the best value of those that were trained to their end; the first of several."""
    done = [trial for trial in trials if trial.state == "done"]
    sign = 1 if PRIMARY.high_is_better else -1
    return max(done, key=lambda trial: sign * (trial.value or 0.0), default=None)
