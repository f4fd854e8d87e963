"""What a training shows, written for TensorBoard as well: the lines of the log as scalars, and the settings of the run.

  tensorboard --logdir runs
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from xmodal.checkpoint import RunFolder
from xmodal.cli.plot_log import read_log
from xmodal.errors import DataError, one_line
from xmodal.features.packages import required
from xmodal.metrics import PRIMARY
from xmodal.trainer import Display


def require_tensorboard() -> None:
    """Raises a :class:`DataError` that says how to get it, if TensorBoard isn't there."""
    _summary_writer()


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
        self._writer: Any = None

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        self.display.batch(epoch, done, total, loss)

    def epoch(self, line: dict[str, Any]) -> None:
        if self._writer is None:
            self._begin([each for each in self._logged() if each.get("epoch", 0) < line["epoch"]])
        self._write([line])
        self.display.epoch(line)

    def note(self, text: str) -> None:
        self.display.note(text)

    def close(self) -> None:
        self.display.close()

    def finish(self) -> None:
        """Ends the file; of a run that was finished before, all of it is written now."""
        if self._writer is None:
            self._begin(self._logged())
        self._writer.close()

    def _logged(self) -> list[dict[str, Any]]:
        path = self.run.file(RunFolder.LOG)
        return read_log(path) if path.is_file() else []

    def _begin(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.run.clear_events()
        self._writer = _summary_writer()(self.run.file(RunFolder.EVENTS))
        for event in _settings(self.run.config()):
            self._writer.file_writer.add_summary(event)
        self._write(lines)

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            for key, value in line.items():
                if key != "epoch" and isinstance(value, int | float) and not isinstance(value, bool):
                    self._writer.add_scalar(key, value, line["epoch"])
        self._writer.flush()  # a kill costs no epoch that has ended


def _summary_writer() -> Any:
    required("tensorboard")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DataError(f"tensorboard is installed but can't be imported: {one_line(error)}") from error
    return SummaryWriter


def _settings(about: Mapping[str, Any]) -> tuple[Any, ...]:
    """The run's settings as TensorBoard's table of hyper-parameters wants them, with the metric that it shows."""
    from torch.utils.tensorboard.summary import hparams

    settings = {**about["config"], "seed": about["seed"], "data": about["data"].get("title"),
                "experiment": about.get("experiment")}
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value)
             for key, value in settings.items()}
    return tuple(hparams(plain, {f"{PRIMARY.key}_va": 0.0}))
