"""The figures of a report, as SVG that stands in the page itself and takes on its colours. Drawing only."""
from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from xmodal.report.curves import COLOURS, plot_curves
from xmodal.report.html import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches, at 72 points each: a phone is about 370 points wide.
WIDTH, HEIGHT = 5.2, 3.1
#: What is drawn in these becomes the page's own ink, which is another by night.
INK, MUTED, LINE = "#1b1f24", "#59616b", "#d5dade"
#: Of the classes that have most items; seen on white and on black.
CLASS_COLOURS = (*COLOURS[:4], *COLOURS[5:], "#AA4499", "#8C8C1E", "#7A6CD8", "#44AA99")
OTHERS = "#8a9099"
#: Upper ends of the bins of ranks, then their tenfold and so on.
_RANK_ENDS = (1, 2, 5, 10, 25, 50)
_HUB_ENDS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000, 1_000_000)
_RASTER_DPI = 150


# -- from matplotlib to the page -----------------------------------------------------------------------------------

@contextmanager
def page_style() -> Iterator[None]:
    """Inside the block matplotlib draws as the page does."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "font.size": 10, "axes.edgecolor": MUTED, "axes.labelcolor": INK,
                     "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK,
                     "ytick.labelcolor": INK, "grid.color": LINE, "axes.spines.top": False,
                     "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9.5,
                     "axes.labelsize": 10, "axes.axisbelow": True, "savefig.dpi": _RASTER_DPI}):
        yield


def new_figure(height: float = HEIGHT) -> Figure:
    """A figure of the page's width that belongs to no window."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as an ``svg`` element, the same for the same figure.

    Matplotlib writes a document; here go its header, comments, metadata and the ids that nothing refers to. The
    others begin with ``name``, so that figures of one page don't take each other's, and the inks become the page's.
    """
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", text)
    view_box = re.findall(r'viewBox="([\d. ]+)"', text)[0]
    text = re.sub(r"^<svg[^>]*>", f'<svg viewBox="{view_box}" role="img" aria-label="{escape(alt)}">', text)
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    names = {one or other for one, other in used}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in names else "", text)
    text = re.sub(r'href="#', f'href="#{name}-', re.sub(r"url\(#", f"url(#{name}-", text))
    for ink, ours in ((INK, "--ink"), (MUTED, "--muted"), (LINE, "--line"), ("#000000", "--ink")):
        text = text.replace(ink, f"var({ours})")
    return Markup(re.sub(r"\s*\n\s*", "\n", text).strip())


def draw(name: str, alt: str, draw_into: Any, *arguments: Any, height: float = HEIGHT) -> Markup:
    """What ``draw_into(figure, *arguments)`` draws, as :func:`inline_svg`."""
    with page_style():
        figure = new_figure(height)
        draw_into(figure, *arguments)
        return inline_svg(figure, name, alt)


# -- what is drawn -------------------------------------------------------------------------------------------------

def rank_histogram(figure: Figure, ranks: Mapping[str, np.ndarray], n_gallery: Mapping[str, int]) -> None:
    """Percent of the queries by rank of their best match, in bins that widen; both directions side by side.

    Args:
        figure: where.
        ranks: (q,) by direction.
        n_gallery: by direction.
    """
    ends = rank_ends(max(n_gallery.values()))
    shares = {direction: binned(values, ends) for direction, values in ranks.items()}
    _paired_bars(figure, shares, [bin_name(ends, i, first=1) for i in range(len(ends))], "rank of the best match",
                 "queries (%)")


def hub_histogram(figure: Figure, counts: Mapping[str, np.ndarray]) -> None:
    """Percent of the gallery by how many queries have an item among their nearest; (n,) by direction of the query."""
    most = max(int(values.max()) for values in counts.values())
    ends = [end for i, end in enumerate(_HUB_ENDS) if i == 0 or _HUB_ENDS[i - 1] < most]
    shares = {direction: binned(values, ends) for direction, values in counts.items()}
    _paired_bars(figure, shares, [bin_name(ends, i, first=0) for i in range(len(ends))],
                 "queries that have the item among their nearest", "gallery items (%)")


def rank_ends(n: int) -> list[int]:
    """Upper ends of bins of ranks: 1, 2, 5, 10, 25, 50, 100, 250, … up to at least ``n``."""
    ends = list(_RANK_ENDS)
    while ends[-1] < n:
        ends.append(ends[-3] * 10)
    return [end for i, end in enumerate(ends) if i == 0 or ends[i - 1] < n]


def binned(values: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Percent of ``values`` in each bin, the upper end of which belongs to it."""
    counts = np.bincount(np.searchsorted(ends, values, side="left").clip(max=len(ends) - 1), minlength=len(ends))
    return 100.0 * counts / len(values)


def bin_name(ends: Sequence[int], i: int, first: int) -> str:
    """``6–10``; beyond a thousand ``1k–2.5k``, which is short and not wrong by much."""
    low, high = (first if i == 0 else ends[i - 1] + 1), ends[i]
    if low >= high:
        return short_number(high)
    return f"{low}–{high}" if high < 1000 else f"{short_number(low - 1)}–{short_number(high)}"


def short_number(value: float) -> str:
    """2000 as ``2k``: as long as fits below a bar."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _paired_bars(figure: Figure, shares: Mapping[str, np.ndarray], names: Sequence[str], across: str, up: str) -> None:
    axes = figure.add_subplot()
    for i, (direction, values) in enumerate(shares.items()):
        axes.bar(np.arange(len(values)) + (i - 0.5) * 0.4, values, width=0.38, color=COLOURS[i],
                 label=direction_name(direction))
    axes.set_xticks(range(len(names)), names, fontsize=9)
    if len(names) > 6:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    _finish(figure, axes, across, up)


def direction_name(direction: str) -> str:
    """``V1_to_V2`` as people read it."""
    return {"V1_to_V2": "view 1 → view 2", "V2_to_V1": "view 2 → view 1"}[direction]


def recall_curves(figure: Figure, ranks: Mapping[str, np.ndarray], chance: Mapping[str, tuple[np.ndarray, np.ndarray]]
                  ) -> None:
    """Percent of the queries with a match among the first k, against k, and what chance finds.

    Args:
        figure: where.
        ranks: (q,) by direction.
        chance: ks (c,) and what chance finds there (c,), by direction.
    """
    axes = figure.add_subplot()
    for i, (direction, values) in enumerate(ranks.items()):
        ks, by_chance = chance[direction]
        found = 100.0 * np.searchsorted(np.sort(values), ks, side="right") / len(values)
        axes.plot(ks, found, color=COLOURS[i], linewidth=1.8, label=direction_name(direction), **_lone(ks))
        axes.plot(ks, by_chance, color=COLOURS[i], linewidth=1.1, linestyle=(0, (3, 2)),
                  label="chance" if i == 0 else "_", **_lone(ks))
    axes.set_xscale("log")
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.xaxis.set_minor_formatter("")
    _finish(figure, axes, "k", "recall at k (%)", both=True)


def _lone(values: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(values) == 1 else {}


def correlation_bars(figure: Figure, pearson: np.ndarray, canonical: np.ndarray) -> None:
    """Correlation against the number of the dimension: of the stored ones, and of the canonical ones."""
    axes = figure.add_subplot()
    axes.stairs(pearson, np.arange(len(pearson) + 1) + 0.5, fill=True, color=COLOURS[0], alpha=0.45,
                label="embedding's own dimensions")
    axes.stairs(canonical, np.arange(len(canonical) + 1) + 0.5, baseline=None, color=COLOURS[1],
                linewidth=1.5 if len(canonical) <= 128 else 0.8, label="canonical dimensions")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(0.5, max(len(pearson), len(canonical)) + 0.5)
    axes.set_ylim(min(0.0, float(pearson.min()), float(canonical.min())) * 1.05, 1.02)
    _finish(figure, axes, "dimension", "correlation of the pairs")


def training_curves(figure: Figure, log: Sequence[Mapping[str, Any]], key: str) -> None:
    """A logged value over the epochs, as ``plot_log.py`` draws it."""
    plot_curves({"this run": log}, key, figure=figure)
    figure.axes[0].title.set_text("")


def scatter(figure: Figure, one: np.ndarray, two: np.ndarray, lines: int, classes: np.ndarray | None,
            axis_names: tuple[str, str] | None) -> None:
    """Pairs in a plane, view 1 as discs and view 2 as triangles; the first ``lines`` pairs joined.

    Args:
        figure: where.
        one, two: (m, 2) the two items of each pair.
        lines: how many pairs are joined.
        classes: (m,) int to colour by, or None to colour by view.
        axis_names: what the axes are, or None where they mean nothing.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    axes = figure.add_subplot()
    axes.add_collection(LineCollection(np.stack((one[:lines], two[:lines]), axis=1).tolist(), colors=OTHERS,
                                       linewidths=0.5, alpha=0.5, rasterized=True), autolim=False)
    colours, names = _class_colours(classes)
    for i, (points, marker) in enumerate(((one, "o"), (two, "^"))):
        colour = COLOURS[i] if colours is None else colours
        axes.scatter(points[:, 0], points[:, 1], s=9, marker=marker, c=colour, alpha=0.65, linewidths=0,
                     rasterized=True)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if axis_names is not None:
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    handles = [Line2D([], [], linestyle="", marker=marker, markersize=5, markeredgewidth=0,
                      color=COLOURS[i] if colours is None else MUTED, label=f"view {i + 1}")
               for i, marker in enumerate("o^")]
    handles += [Line2D([], [], linestyle="", marker="s", markersize=5.5, markeredgewidth=0, color=colour, label=name)
                for name, colour in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), handletextpad=0.1,
                  columnspacing=0.9)


def _class_colours(classes: np.ndarray | None) -> tuple[list[str] | None, dict[str, str]]:
    """A colour for each item, and what the colours mean; the rarer classes share one."""
    if classes is None:
        return None, {}
    values, counts = np.unique(classes, return_counts=True)
    common = np.sort(values[np.argsort(-counts, kind="stable")][:len(CLASS_COLOURS)])
    colours = {int(value): CLASS_COLOURS[i] for i, value in enumerate(common)}
    names = {str(value): colour for value, colour in colours.items()}
    if len(values) > len(common):
        names[f"{len(values) - len(common)} more"] = OTHERS
    return [colours.get(int(value), OTHERS) for value in classes], names


def _finish(figure: Figure, axes: Axes, across: str, up: str, both: bool = False) -> None:
    axes.set(xlabel=across, ylabel=up)
    axes.grid(axis="both" if both else "y", linewidth=0.7)
    figure.legend(loc="outside upper left", ncols=3, handlelength=1.4, columnspacing=1.2)
