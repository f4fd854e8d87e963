"""Plots of training logs: a curve per run."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xmodal.errors import DataError, did_you_mean
from xmodal.metrics import PRIMARY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart by colour-blind readers, too; their yellow is left out, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", (0, (6, 2)), (0, (1, 1.2)))     # runs beyond the colours take the next style
LONGEST_NAME = 60
MOST_EPOCHS = 10**9   # an axis has no place for more

Log = Sequence[Mapping[str, Any]]


def plot_curves(logs: Mapping[str, Log], key: str = f"{PRIMARY.key}_%s", high_is_better: bool | None = None,
                max_epoch: int | None = None, ymin: float | None = None, ymax: float | None = None,
                figure: Figure | None = None) -> Figure:
    """Curves of a logged value over epochs, one colour per run, the best validation value of each marked.

    Args:
        logs: lines of ``log.jsonl`` by the name of the run.
        key: a key of the lines; ``%s`` stands for both ``tr`` (drawn thick and light) and ``va``.
        high_is_better: which value is the best; by default what ``metrics.PRIMARY`` says of the primary metric,
            and low for others.
        max_epoch: leave later epochs out.
        ymin: lower end of the y axis.
        ymax: its upper end.
        figure: where to draw, emptied first; by default a new figure that belongs to no window.

    Raises:
        DataError: no epoch at all, an unknown key, a value that is no number, or an empty range.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # half a second, which training should not pay

    logs = {name: [line for i, line in enumerate(lines) if max_epoch is None or _epoch(line, i) <= max_epoch]
            for name, lines in logs.items()}
    _check_request(logs, key, ymin, ymax)
    if high_is_better is None:
        high_is_better = PRIMARY.high_is_better and key.replace("%s", "va") == f"{PRIMARY.key}_va"
    rows = math.ceil(len(logs) / _legend_columns(logs)) + (1 if "%s" in key else 0)
    if figure is None:
        figure = Figure(figsize=(9, 5 + 0.22 * rows), layout="constrained")
        FigureCanvasAgg(figure)
    figure.clear()
    axes = figure.add_subplot()
    best = {}
    for number, (name, lines) in enumerate(logs.items()):
        best[name] = _draw_run(axes, number, name, lines, key, high_is_better)
    axes.set_ylim(*_ends(axes.get_ylim(), ymin, ymax))
    axes.set_xlim(0, (max_epoch or max(_epoch(line, i) for lines in logs.values() for i, line in enumerate(lines))) + 1)
    _mark_best(axes, list(best.values()))
    _label(figure, axes, key, high_is_better, _legend_columns(logs))
    return figure


def _ends(fitting: tuple[float, float], ymin: float | None, ymax: float | None) -> tuple[float, float]:
    """The y axis goes from where to where; if all values lie beyond the one end that is asked for, 1 further."""
    low, high = fitting[0] if ymin is None else ymin, fitting[1] if ymax is None else ymax
    if low < high:
        return low, high
    return (high - 1, high) if ymin is None else (low, low + 1)


def _epoch(line: Mapping[str, Any], position: int) -> int:
    epoch = line.get("epoch", position + 1)
    if not isinstance(epoch, int) or not 0 <= epoch < MOST_EPOCHS:
        raise DataError(f"line {position + 1} of a log has no usable epoch number: {str(epoch)[:20]}")
    return epoch


def _check_request(logs: Mapping[str, Log], key: str, ymin: float | None, ymax: float | None) -> None:
    if key.count("%") != key.count("%s") or key.count("%s") > 1:
        raise DataError(f"key {key!r}: a % may only stand once, as %s for tr and va, such as {PRIMARY.key}_%s")
    if ymin is not None and ymax is not None and ymin >= ymax:
        raise DataError(f"ymin must be below ymax, got {ymin:g} and {ymax:g}")
    lines = [line for log in logs.values() for line in log]
    if not lines:
        raise DataError("no epoch to draw: the logs are empty so far, or end before the first epoch asked for")
    present = {name for line in lines for name, value in line.items()
               if isinstance(value, (int, float)) and name != "epoch"}
    if not present.intersection((key.replace("%s", "tr"), key.replace("%s", "va"))):
        patterns = {name[:-2] + "%s" for name in present if name.endswith("_va") and name[:-2] + "tr" in present}
        raise DataError(f"the logs have no numbers under {key!r}; {did_you_mean(key, present | patterns)}")


def _values(lines: Log, key: str) -> np.ndarray:
    """The values under ``key``, (n,) float64, NaN where a line has none."""
    values = [line.get(key) for line in lines]
    return np.array([float(v) if isinstance(v, (int, float)) and abs(v) < 1e300 else np.nan for v in values])


def _draw_run(axes: Axes, number: int, name: str, lines: Log, key: str, high_is_better: bool,
              ) -> tuple[float, float, str] | None:
    """Draws one run; returns epoch, value and colour of its best value, None where it has no finite value."""
    colour = COLOURS[number % len(COLOURS)]
    style = LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]
    epochs = np.array([_epoch(line, i) for i, line in enumerate(lines)])
    if "%s" in key:
        train = _values(lines, key.replace("%s", "tr"))
        axes.plot(epochs, train, color=colour, linestyle=style, linewidth=3.5, alpha=0.3, label="_train",
                  **_points(train))
    values = _values(lines, key.replace("%s", "va"))
    finite = np.isfinite(values)
    best, label = None, f"{_shorten(name)} (no values)"
    if finite.any():
        masked = np.where(finite, values, -np.inf if high_is_better else np.inf)
        at = int(masked.argmax() if high_is_better else masked.argmin())
        best = float(epochs[at]), float(values[at]), colour
        label = f"{_shorten(name)}: {_best_text(*best[:2])}"
    # A name that begins with _ would be left out of the legend, hence the space of no width.
    axes.plot(epochs, np.where(finite, values, np.nan), color=colour, linestyle=style, linewidth=1.4,
              label=f"\u200b{label}", **_points(values))
    return best


def _best_text(epoch: float, value: float) -> str:
    return f"{value:#.4g} @ {epoch:.0f}"


def _points(values: np.ndarray) -> dict[str, Any]:
    """Dots for the values that have no line to be seen by, since there is none before and none after them."""
    there = np.pad(np.isfinite(values), 1)
    lone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])
    return {"marker": "o", "markersize": 4, "markevery": lone.tolist()} if len(lone) else {}


def _shorten(name: str) -> str:
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half - 1]}…{name[-half:]}"


def _mark_best(axes: Axes, best: Sequence[tuple[float, float, str] | None]) -> None:
    """A dot at each best value, a dashed line from it to the right edge, and there the number, none on another."""
    marks = sorted((mark for mark in best if mark is not None), key=lambda mark: mark[1])
    if not marks:
        return
    low, high = axes.get_ylim()
    heights = _spread([(value - low) / (high - low) for _, value, _ in marks], gap=0.042)
    right = axes.get_xlim()[1]
    for (epoch, value, colour), height in zip(marks, heights, strict=True):
        axes.plot([epoch], [value], "o", color=colour, markersize=6, markeredgecolor="white", zorder=4)
        axes.plot([epoch, right], [value, value], linestyle=(0, (4, 3)), linewidth=0.8, color=colour, alpha=0.7)
        axes.annotate(_best_text(epoch, value), (1, height), xycoords="axes fraction", xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8.5, color=colour, annotation_clip=False)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights within [0, 1], moved as little as possible to be ``gap`` apart (evenly where that is too much).

    Less i · gap, such heights only have to ascend: isotonic regression by pooling neighbours that don't.
    """
    gap = min(gap, 1.0 / max(1, len(heights) - 1))
    pools: list[list[float]] = []
    for i, height in enumerate(heights):
        pools.append([height - i * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    return [min(max(value, 0.0), 1.0 - (len(heights) - 1) * gap) + i * gap for i, value in enumerate(level)]


def _legend_columns(logs: Mapping[str, Log]) -> int:
    return max(1, min(4, 115 // (max(len(_shorten(name)) for name in logs) + 22)))


def _label(figure: Figure, axes: Axes, key: str, high_is_better: bool, columns: int) -> None:
    """Axis names, and the legend below the axes, where it hides nothing."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{key.replace('_%s', '').replace('%s', '')} ({'higher' if high_is_better else 'lower'} is better)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if "%s" in key:
        handles = [Line2D([], [], color="0.4", linewidth=3.5, alpha=0.4), Line2D([], [], color="0.4", linewidth=1.4),
                   *handles]
        labels = ["training", "validation", *labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False,
                  handlelength=3)


def plot_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """True accepts against false ones, on a logarithmic axis, since it is the small shares that matter.

    Args:
        curves: (false accepts, true accepts), shares from 0 to 1, by name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    least = min((float(false[false > 0].min()) for false, _ in curves.values() if (false > 0).any()), default=1e-3)
    for number, (name, (false, true)) in enumerate(curves.items()):
        axes.step(100 * np.clip(false, least / 2, 1), 100 * true, where="post", color=COLOURS[number % len(COLOURS)],
                  label=name, linewidth=1.6)
    chance = np.geomspace(least / 2, 1, 100)
    axes.plot(100 * chance, 100 * chance, color="0.6", linestyle=(0, (4, 3)), linewidth=1, label="chance")
    axes.set(xscale="log", xlabel="false accepts (%)", ylabel="true accepts (%)", ylim=(0, 101),
             xlim=(100 * least / 2, 100))
    axes.grid(color="0.9")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)  # no corner is free of curves
    return figure


def plot_precision_recall(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Precision at recalls from 0 to 1, as many as there are values, evenly spaced.

    Args:
        curves: precisions from 0 to 1, by name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, precisions) in enumerate(curves.items()):
        axes.plot(np.linspace(0, 1, len(precisions)), precisions, color=COLOURS[number % len(COLOURS)],
                  linestyle=LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)], marker="o", markersize=3,
                  linewidth=1.6, label=name)
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8.5)
    return figure
