"""What a training shows, written for TensorBoard as well: the lines of the log as scalars, and the settings of the run.

  tensorboard --logdir runs
"""
from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xmodal.checkpoint import RunFolder
from xmodal.features.packages import required
from xmodal.metrics import PRIMARY
from xmodal.trainer import Display


def require_tensorboard() -> None:
    """Raises a :class:`DataError` that says how to get it, if TensorBoard isn't there."""
    required("tensorboard")
    required("torch.utils.tensorboard")


class TensorBoardDisplay:
    """Passes everything on to another display, and writes each epoch to ``tensorboard/`` in the run folder.

    The log alone says what is in there: the events are written anew from it when the first epoch of this process ends,
    or when training is over, if there was none. So a run that is resumed has each epoch once, and none is missing.

    Args:
        display: what else shows the training.
        run: its folder. Of several processes only the first one has such a display.
    """

    def __init__(self, display: Display, run: RunFolder) -> None:
        self.display, self.run = display, run
        self._events: _EventFile | None = None

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        self.display.batch(epoch, done, total, loss)

    def epoch(self, line: dict[str, Any]) -> None:
        if self._events is None:
            self._events = self._begun(each for each in self.run.log() if each.get("epoch", 0) < line["epoch"])
        self._events.add(_scalars(line), line["epoch"])
        self.display.epoch(line)

    def note(self, text: str) -> None:
        self.display.note(text)

    def close(self) -> None:
        self.display.close()
        if self._events is not None:
            self._events.close()

    def finish(self) -> None:
        """Ends the file; of a run that was finished before, all of it is written now."""
        if self._events is None:
            self._events = self._begun(self.run.log())
        self._events.close()

    def _begun(self, lines: Iterable[Mapping[str, Any]]) -> _EventFile:
        self.run.clear_events()
        events = _EventFile(self.run.file(RunFolder.EVENTS))
        for summary in _settings(self.run.config()):
            events.add(summary)
        for line in lines:
            events.add(_scalars(line), line["epoch"])
        return events


class _EventFile:
    """A file of events, written at once and by this thread: a kill costs no epoch that has ended, and a full disk is an
    error of the training. Torch's SummaryWriter has a thread for that, which prints its own traceback."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        self._event, self._file = Event, path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def add(self, summary: Any, epoch: int = 0) -> None:
        self._write(summary=summary, step=epoch)

    def close(self) -> None:
        with suppress(OSError):  # every write has been flushed; one that a full disk refused has been told
            self._file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()


def _scalars(line: Mapping[str, Any]) -> Any:
    """The numbers of a line of the log."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in line.items()
                          if key != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)])


def _settings(about: Mapping[str, Any]) -> tuple[Any, ...]:
    """The run's settings as TensorBoard's table of hyper-parameters wants them, with the metric that it shows."""
    from torch.utils.tensorboard.summary import hparams

    settings = {**about["config"], "seed": about["seed"], "data": about["data"].get("title"),
                "experiment": about.get("experiment")}
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value)
             for key, value in settings.items()}
    return tuple(hparams(plain, {f"{PRIMARY.key}_va": 0.0}))
