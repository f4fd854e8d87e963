"""What a search shows: a line per trial, and in the end what was best."""
from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from xmodal.config import WHOLE
from xmodal.metrics import PRIMARY
from xmodal.ranges import Choices, Range, describe, tidy
from xmodal.tuning import Search, Trial

WIDTH = 80
#: How a trial is marked, and where the values that it tried begin.
MARKS = {"done": " ", "pruned": "p", "failed": "f", "running": " "}
INDENT = 22


def opening(search: Search, total: int, trials: Sequence[Trial]) -> str:
    """What is searched, on which data."""
    data, experiment = search.data, search.experiment
    ended = sum(trial.state != "running" for trial in trials)
    before = f" ({ended} of them before)" if ended else ""
    seeds = f"seed {search.seed}" + (f", {search.seeds} each" if search.seeds > 1 else "")
    names = max(map(len, experiment.search))
    space = [line for name, choices in experiment.search.items()
             for line in textwrap.wrap(f"{name:{names}}  {describe(choices)}", WIDTH, initial_indent="  ",
                                       subsequent_indent=" " * (names + 4))]
    return "\n".join([
        f"Data : {data.title}", f"Train: {len(data.train):,}",
        f"Valid: {len(data.valid):,}, by which epochs and trials are chosen", "Test : left alone",
        f"Tune : {experiment.name}, {total} trials{before}, {seeds}, {search.device}", *space])


class TrialTable:
    """A line per trial: number, value, epochs, ``*`` for the best so far, and what was tried.

    That stands in columns where there is room for them, and otherwise as ``name=value``, on as many lines as it takes.
    """

    def __init__(self, space: Mapping[str, Choices]) -> None:
        self.widths = {name: max(*map(len, _in_two(name)), _width(name, choices)) for name, choices in space.items()}
        self.in_columns = INDENT + sum(self.widths.values()) + len(self.widths) - 1 <= WIDTH

    def header(self) -> str:
        """The names of the columns, the long ones on two lines."""
        first = f"{'trial':>5} {PRIMARY.key + '_va':>6} {'epochs':>6}"
        if not self.in_columns:
            return first
        above, below = (" ".join(_in_two(name)[part].rjust(width) for name, width in self.widths.items())
                        for part in (0, 1))
        lines = [" " * INDENT + above.rstrip()] if above.strip() else []
        return "\n".join([*lines, first.ljust(INDENT) + below])

    def line(self, trial: Trial, is_best: bool) -> str:
        """A trial that has ended; why, below it, if it failed."""
        value = "" if trial.value is None else f"{trial.value:.4f}"
        first = f"{trial.number:>5} {value:>6} {trial.epochs:>6} {'*' if is_best else MARKS[trial.state]} "
        if self.in_columns:
            lines = [first + " ".join(str(trial.params[name]).rjust(width) for name, width in self.widths.items())]
        else:
            lines = textwrap.wrap(" ".join(f"{name}={value}" for name, value in trial.params.items()), WIDTH,
                                  initial_indent=first, subsequent_indent=" " * INDENT, break_on_hyphens=False)
        if trial.reason:
            lines.append(" " * 6 + textwrap.shorten(trial.reason, WIDTH - 6, placeholder=" ..."))
        return "\n".join(lines)


def _in_two(name: str) -> tuple[str, str]:
    """``learning_rate`` as ``learning`` and ``rate``, ``gamma`` as nothing and ``gamma``."""
    above, _, below = name.rpartition("_")
    return above, below


def _width(name: str, choices: Choices) -> int:
    """How long the values of a field get."""
    if not isinstance(choices, Range):
        return max(len(str(value)) for value in choices)
    middle = choices.low + (choices.high - choices.low) / 3
    shown = [choices.low, choices.high, *([] if name in WHOLE else [tidy(choices, middle)])]
    return max(*(len(str(value)) for value in shown), 8 if choices.log and name not in WHOLE else 0)


def summary(result: Mapping[str, Any], folder: Path) -> str:
    """The end of a search: the best values, which of them mattered, and the command that trains with them."""
    counts, importance = result["trials"], result["importance"] or {}
    own = result["own_value"]
    names = max(map(len, result["params"]))
    lines = [f"best of {counts['total']} trials ({counts['done']} done, {counts['pruned']} pruned, {counts['failed']} "
             f"failed): trial {result['number']}",
             f"{result['metric']} {result['value']:.4f}"
             + (f", the mean of {len(result['values'])} seeds" if len(result["values"]) > 1 else "")
             + (f" in epoch {result['best_epoch']}" if result["epochs"] > 1 == len(result["values"]) else "")
             + (f"; with the file's own values {own:.4f} (trial 1)" if own is not None else "")]
    for name, value in result["params"].items():
        share = f"   importance {importance[name]:.2f}" if name in importance else ""
        lines.append(f"  {name:{names}}  {value!s:10}{share}".rstrip())
    return "\n".join([*lines, "train with them:", _folded(result["command"]), f"kept in {folder}"])


def _folded(command: Sequence[str]) -> str:
    """A command for the shell, on lines that end in a backslash; an option stays with its value."""
    groups: list[str] = []
    for part in command:
        if part.startswith("--") or len(groups) < 2:
            groups.append(part)
        else:
            groups[-1] += f" {part}"
    lines = [""]
    for group in groups:
        if lines[-1] and len(lines[-1]) + len(group) > WIDTH - 5:
            lines.append("")
        lines[-1] += f" {group}" if lines[-1] else group
    return "  " + " \\\n    ".join(lines)


class TrialDisplay:
    """On a terminal, a line that shows how far the training of a trial has got; nothing elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._status: Status | None = None

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        """Nothing: epochs will do."""

    def epoch(self, line: dict[str, Any]) -> None:
        if not self.console.is_terminal:
            return
        if self._status is None:
            self._status = self.console.status("")
            self._status.start()
        self._status.update(f"epoch {line['epoch']}: {PRIMARY.key} {line[PRIMARY.key + '_va']:.4f}")

    def note(self, text: str) -> None:
        """Nothing: that a trial is refined needn't be said."""

    def close(self) -> None:
        """Takes the line away; another training may follow."""
        if self._status is not None:
            self._status.stop()
            self._status = None
