"""What xmodal raises: one family of errors, each a single line that a user can act on.

A message says what was expected, what came and what to do. The commands print it without a traceback and exit
with code 2 (``--debug`` shows the traceback).
"""
from __future__ import annotations

import bisect
import difflib
import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class XmodalError(Exception):
    """Base of every error that is the user's to mend."""


class DataError(XmodalError, ValueError):
    """A data set that is missing, corrupt, of the wrong shape, or not the one a run was trained on."""


class ExperimentError(XmodalError):
    """A model file, a configuration, or a model and an objective that don't fit together."""


class CheckpointError(XmodalError):
    """A run folder that is missing, incomplete, unwritable, or doesn't fit the model."""


class NumericalError(XmodalError):
    """A loss or a statistic that is not finite, with where and why."""


class ProcessError(XmodalError):
    """One of several processes that train together has ended, hangs or can't be reached."""


#: More names than this are not listed in an error.
MOST_NAMES = 12


#: Of more names than this only those are compared that stand next to the unknown one, sorted: that begin like it.
MOST_COMPARED = 2000


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown ``name``: close names, or else all the known ones."""
    known = sorted(known)
    close = _close(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known[:MOST_NAMES])}" + (f", ... ({len(known):,})" if len(known) > MOST_NAMES else "")


def _close(name: str, known: list[str]) -> list[str]:
    """At most three names that are like ``name``, or of which a part is, such as ``mnist`` of ``mnist_halves``."""
    at, half = bisect.bisect_left(known, name), MOST_COMPARED // 2
    likeness = difflib.SequenceMatcher()
    likeness.set_seq2(name)

    def like(text: str, least: float) -> float:
        likeness.set_seq1(text)
        enough = likeness.real_quick_ratio() >= least and likeness.quick_ratio() >= least
        ratio = likeness.ratio() if enough else 0.0
        return ratio if ratio >= least else 0.0

    scored = []
    for other in known[max(0, at - half):at + half]:
        whole = like(other, 0.5)
        scored.append((max(whole, *(like(part, 0.7) for part in re.findall(r"[^\W_]+", other))), whole, other))
    return [other for score, _, other in heapq.nlargest(3, scored) if score]


def one_line(error: BaseException) -> str:
    """What another library's error says, on one line, to be put into ours."""
    return " ".join(str(error).split()) or type(error).__name__


def problems_with(values: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]], of: str = ""
                  ) -> list[str]:
    """Every mistake in the given fields, a phrase each: names without a rule, and values that theirs doesn't allow.

    Args:
        values: by field.
        rules: by field, what is allowed, and a description of it.
        of: what the fields are of, to be said in the phrases.
    """
    problems = []
    for name, value in values.items():
        if name not in rules:
            problems.append(f"unknown field {name!r}{of and f' of {of}'}: {did_you_mean(name, rules)}")
            continue
        allowed, description = rules[name]
        if not allowed(value):
            problems.append(f"{of and f'{of}: '}{name} must be {description}, got {value!r}")
    return problems
