"""What a search over a field of ``CONFIG`` may choose from: a range of numbers, or a list of values."""
from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.errors import ExperimentError


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``; for a field of whole numbers, the whole ones.

    Checked where a model file is loaded, so that all mistakes of its ``SEARCH`` are reported together.

    Attributes:
        low: the least value.
        high: the greatest value.
        log: every factor is as likely as any other (1e-4 to 1e-3 as 1e-3 to 1e-2), not every difference.
    """

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low!r} to {self.high!r}{' (log)' if self.log else ''}"


#: What a field may be searched in; a list or tuple holds the values to choose from.
Choices = Range | Sequence[Any]


def ends(choices: Any) -> list[Any]:
    """The values that must be allowed for all of ``choices`` to be: the two ends of a range, each value of a list."""
    return [choices.low, choices.high] if isinstance(choices, Range) else list(choices)


def range_problems(choices: Any) -> list[str]:
    """What is wrong with the form of ``choices``, a phrase each; whether the field allows its values is not asked."""
    if isinstance(choices, Range):
        return _wrong_range(choices)
    if not isinstance(choices, list | tuple):
        return [f"must be a Range(low, high) or a list of values, got {choices!r}"]
    odd = [value for value in choices if not isinstance(value, str | int | float | None)]
    if odd:
        return [f"must list numbers, texts, True, False or None, got {odd[0]!r}"]
    if any(value in choices[:i] for i, value in enumerate(choices)):
        return [f"must list different values, got {list(choices)!r}"]
    return [] if len(choices) > 1 else [f"must list at least two values, got {list(choices)!r}"]


def _wrong_range(choices: Range) -> list[str]:
    low, high = choices.low, choices.high
    if not all(isinstance(end, int | float) and not isinstance(end, bool) and abs(end) <= 2**53 for end in (low, high)):
        return [f"must range between two numbers, got {low!r} and {high!r}"]
    if not isinstance(choices.log, bool):
        return [f"must have log=True or log=False, got {choices.log!r}"]
    if low >= high:
        return [f"must range from a lower to a higher number, got {low!r} and {high!r}"]
    if choices.log and low <= 0:
        return [f"must begin above 0 where log=True, got {low!r}"]
    return []


def holds(choices: Choices, value: Any) -> bool:
    """Whether ``value`` is one of ``choices``."""
    if isinstance(choices, Range):
        return isinstance(value, int | float) and not isinstance(value, bool) and choices.low <= value <= choices.high
    return value in choices


def tidy(choices: Range, value: float) -> float:
    """A value of the range near ``value`` that one can read and type: of a logarithmic range three digits, of another
    one in steps of between a hundredth and a thousandth of its length."""
    if choices.log:
        near = float(f"{value:.2e}")
    else:
        near = round(value, 2 - math.floor(math.log10(choices.high - choices.low)))
    return min(max(near, float(choices.low)), float(choices.high))


def describe(choices: Choices) -> str:
    """For people: ``0.0001 to 0.01 (log)``, or ``16, 24, auto``."""
    return str(choices) if isinstance(choices, Range) else ", ".join(map(str, choices))


def as_plain(space: Mapping[str, Choices]) -> dict[str, Any]:
    """The space as JSON can hold it."""
    return {name: {"low": choices.low, "high": choices.high, "log": choices.log} if isinstance(choices, Range)
            else list(choices) for name, choices in space.items()}


def parse_search(text: str) -> tuple[str, Choices]:
    """``"l2=1e-6:1e-3:log"`` to a logarithmic :class:`Range`, ``"alpha=auto,1"`` to ``["auto", 1]``, with the name.

    Raises:
        ExperimentError: it is neither of them.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ExperimentError(f"--search needs FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=A,B,C; got {text!r}")
    parts = value.split(":")
    if len(parts) == 1:
        return name.strip(), [_literal(part) for part in value.split(",")]
    if len(parts) > 3 or parts[2:] not in ([], ["log"]):
        raise ExperimentError(f"--search {name.strip()} needs LOW:HIGH or LOW:HIGH:log, got {value!r}")
    return name.strip(), Range(_literal(parts[0]), _literal(parts[1]), log=len(parts) == 3)


def _literal(text: str) -> Any:
    """A number, True, False or None, or else the text itself."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two of deep nesting
        return text.strip()
    return value if isinstance(value, str | int | float | None) else text.strip()


def same(one: Any, other: Any) -> bool:
    """Whether two things are the same once they have been written as JSON."""
    return bool(json.loads(json.dumps(one)) == json.loads(json.dumps(other)))
