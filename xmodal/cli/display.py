"""What a training shows: a progress bar under a growing table on a terminal, a plain line per epoch elsewhere."""
from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from xmodal.report import epoch_header, epoch_line
from xmodal.trainer import Display


def display_for(stream: TextIO) -> Display:
    """The display that suits ``stream``."""
    return TerminalDisplay(Console(file=stream)) if stream.isatty() else PlainDisplay(stream)


class PlainDisplay:
    """A header, then one line per epoch: for logs, pipes and batch systems."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._begun = False

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        """Nothing: a line per batch would drown the log."""

    def epoch(self, line: dict[str, Any]) -> None:
        if not self._begun:
            self._print(epoch_header())
            self._begun = True
        self._print(epoch_line(line))

    def note(self, text: str) -> None:
        self._print(text)

    def close(self) -> None:
        """Nothing is left open."""

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class TerminalDisplay:
    """The same table, its best epochs in colour, above a bar that shows the batches of the current epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._begun = False
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        text = "" if loss is None else f"loss {loss:.4f}"
        if self._bar is None:
            self._bar = Progress(TextColumn("epoch {task.fields[epoch]}"), BarColumn(),
                                 TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.fields[loss]}"),
                                 TimeRemainingColumn(), console=self.console, transient=True)
            self._task = self._bar.add_task("", total=total, epoch=epoch, loss=text)
            self._bar.start()
        self._bar.update(self._task, completed=done, epoch=epoch, loss=text)

    def epoch(self, line: dict[str, Any]) -> None:
        self.close()
        if not self._begun:
            self.console.print(epoch_header(), style="bold", highlight=False)
            self._begun = True
        self.console.print(epoch_line(line), style="green" if line["best"] else None, highlight=False)

    def note(self, text: str) -> None:
        self.close()
        self.console.print(text, style="yellow", highlight=False)

    def close(self) -> None:
        """Takes the bar away and gives the cursor back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
