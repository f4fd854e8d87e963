"""Training curves of rows of runs: a mean and a band where a row has several seeds."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xmodal.errors import DataError
from xmodal.metrics import PRIMARY
from xmodal.report.curves import COLOURS, Log, plot_curves
from xmodal.report.escaping import one_paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_rows(logs: Mapping[str, Sequence[Log]], key: str = f"{PRIMARY.key}_%s") -> Figure:
    """Training curves of rows: of several runs the mean, with a band from the least to the greatest validation value.

    Means go as far as the shortest of their runs: beyond it they would be means of other runs.

    Args:
        logs: for each row the logs of its runs, by its name.
        key: as ``plot_curves`` takes it.

    Raises:
        DataError: no run has a line with such a value.
    """
    many = {name: _common_epochs(runs) for name, runs in logs.items()}
    means = {_row_label(name, len(logs[name])): _mean_log(runs, key) for name, runs in many.items()}
    bands = [_band(runs, key.replace("%s", "va")) if len(runs) > 1 else None for runs in many.values()]
    drawn = [float(line[part]) for runs in many.values() for log in runs for line in log
             for part in (key.replace("%s", "tr"), key.replace("%s", "va")) if _is_number(line.get(part))]
    if not drawn:
        raise DataError(f"there is nothing to draw: no log of these runs has numbers under {key!r}")
    margin = 0.05 * (max(drawn) - min(drawn)) or 0.05 * abs(max(drawn)) or 0.05
    figure = plot_curves(means, key, ymin=min(drawn) - margin, ymax=max(drawn) + margin)
    for number, band in enumerate(bands):
        if band is not None:
            figure.axes[0].fill_between(*band, color=COLOURS[number % len(COLOURS)], alpha=0.15, linewidth=0, zorder=1)
    if any(band is not None for band in bands):
        figure.axes[0].set_xlabel("epoch (means over seeds, as far as all of them went; bands from least to greatest)")
    return figure


def _row_label(name: str, count: int) -> str:
    return one_paragraph(name) + (f" ({count} seeds)" if count > 1 else "")


def _common_epochs(runs: Sequence[Log]) -> list[list[Mapping[str, Any]]]:
    shortest = min(map(len, runs))
    return [list(log[:shortest]) for log in runs]


def _mean_log(runs: Sequence[Log], key: str) -> list[dict[str, Any]]:
    """Lines with the means over runs; a value that one run lacks is left out."""
    lines = []
    for position, same_epoch in enumerate(zip(*runs, strict=True), start=1):
        line: dict[str, Any] = {"epoch": same_epoch[0].get("epoch", position)}
        for part in dict.fromkeys((key.replace("%s", "tr"), key.replace("%s", "va"))):
            values = [log_line.get(part) for log_line in same_epoch]
            if all(map(_is_number, values)):
                line[part] = float(np.mean([float(value) for value in values]))
        lines.append(line)
    return lines


def _band(runs: Sequence[Log], key: str) -> tuple[list[float], list[float], list[float]]:
    """Epochs, least and greatest values; NaN, which is a gap, where a run has none."""
    epochs, low, high = [], [], []
    for position, same_epoch in enumerate(zip(*runs, strict=True), start=1):
        values = [float(line[key]) if _is_number(line.get(key)) else math.nan for line in same_epoch]
        epochs.append(float(same_epoch[0].get("epoch", position)))
        low.append(float(np.min(values)))
        high.append(float(np.max(values)))
    return epochs, low, high


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
