"""Pictures of items and of what a model restores of them. Drawing only."""
from __future__ import annotations

import textwrap
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from xmodal.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Items of more values are drawn as a line, of fewer as bars.
MOST_BARS = 64
#: Bars are numbered up to so many: more numbers don't fit below a cell.
MOST_NUMBERS = 10
DPI = 100
# All in pixels. Eight cells side by side, or eleven smaller ones, are as wide as a page of GitHub.
SHEET_CELL, STRIP_CELL = 104, 78
GAP, GROUP_GAP, MARGIN = 4, 18, 6
TITLE_LINE, LABEL, NUMBERS = 14, 18, 14
TEXT_LINE, LETTER, MOST_LINES = 12, 5.6, 9
INK = "#0072B2"
FRAME = "#D55E00"
#: What views are restored from, by models whose views share a code.
SOURCES = ("view 1 alone", "view 2 alone", "both")

#: Values of n items, or what is written in their places.
Items = Tensor | Sequence[str]
Cell = np.ndarray | str


class ViewStyle(NamedTuple):
    """How the items of a view are drawn: all on one scale, so that a pale reconstruction looks pale.

    Attributes:
        low, high: ends of the scale; what lies beyond is drawn as if it lay at the end.
        picture: height and width, where an item is a picture stored flat.
        rising: whether the rows of a picture go from bottom to top.
    """

    low: float
    high: float
    picture: tuple[int, int] | None = None
    rising: bool = False


def reconstruction_sheet(view1: Sequence[Tensor], view2: Sequence[Tensor], styles: Sequence[ViewStyle],
                         sources: Sequence[Sequence[str]] = (SOURCES, SOURCES)) -> Figure:
    """A row per pair: view 1 and what was restored of it, then view 2 likewise.

    Args:
        view1: tensors (n, *shape1): the items, and their restorings from each of the sources.
        view2: the same of view 2, (n, *shape2).
        styles: of view 1 and of view 2.
        sources: what either view was restored from.
    """
    columns = [(_arrays(values), style) for tensors, style in zip((view1, view2), styles, strict=True)
               for values in tensors]
    titles = [title for view, names in ((1, sources[0]), (2, sources[1]))
              for title in (f"view {view}", *(f"view {view} from\n{name}" for name in names))]
    rows = [[(values[i], style) for values, style in columns] for i in range(len(view1[0]))]
    return _grid(rows, titles, [], SHEET_CELL, tallest=1.2, group=len(view1))


def pair_sheet(view1: Items, view2: Items, styles: Sequence[ViewStyle], across: int = 4) -> Figure:
    """Pairs, ``across`` of them in a row: view 1 and at its right view 2.

    Args:
        view1: (n, *shape1), or n texts.
        view2: (n, *shape2), or n texts.
        styles: of view 1 and of view 2.
        across: pairs in a row; ``n`` is a multiple of it, or less.
    """
    cells = [(item, style) for pair in zip(_cells(view1), _cells(view2), strict=True)
             for item, style in zip(pair, styles, strict=True)]
    width = 2 * min(across, len(view1))
    return _grid([cells[i:i + width] for i in range(0, len(cells), width)], ["view 1", "view 2"] * (width // 2), [],
                 SHEET_CELL, tallest=1.2)


def filter_sheet(filters: Tensor, picture: tuple[int, int] | None = None, across: int = 10) -> Figure:
    """What the units of a first layer look for, ``across`` of them in a row, each on a scale of its own: grey is 0,
    white or black its largest weight.

    Args:
        filters: (n, values), (n, h, w) or (n, 1, h, w) weights.
        picture: height and width, where weights are those of pictures stored flat.
        across: filters in a row.
    """
    most = filters.flatten(1).abs().amax(dim=1).clamp(min=1e-30)
    scaled = _arrays(filters / most.view(-1, *[1] * (filters.ndim - 1)))
    cells = [(one, ViewStyle(-1.0, 1.0, picture)) for one in scaled]
    rows = [cells[i:i + across] for i in range(0, len(cells), across)]
    return _grid(rows, [""] * min(across, len(cells)), [], STRIP_CELL, tallest=1.2)


def walk_strip(view1: Tensor, view2: Tensor, steps: Sequence[float], styles: Sequence[ViewStyle]) -> Figure:
    """What codes on the way from one item to another decode to: view 1 above, view 2 below, a column per step.

    Args:
        view1: (n, *shape1).
        view2: (n, *shape2).
        steps: n numbers, 0 at one end and 1 at the other; the titles.
        styles: of view 1 and of view 2.
    """
    rows = [[(item, style) for item in _arrays(values)] for values, style in zip((view1, view2), styles, strict=True)]
    titles = [f"{'t = ' if i == 0 else ''}{step:.2g}" for i, step in enumerate(steps)]
    return _grid(rows, titles, ["view 1", "view 2"], STRIP_CELL, tallest=2.0)


def neighbour_sheet(queries: Items, partners: Items, neighbours: Sequence[Items] | Tensor, found: Tensor,
                    ranks: Sequence[float], styles: Sequence[ViewStyle]) -> Figure:
    """A row per query: the query, its partner, and what was retrieved in its place, nearest first.

    Args:
        queries: (n, *shape of the query's view), or n texts.
        partners: (n, *shape of the gallery's view), or n texts.
        neighbours: (n, k, *shape of the gallery's view), or n times k texts.
        found: (n, k) whether a neighbour is a partner of the query; these are framed.
        ranks: n ranks of the partners, written at the left.
        styles: of the query's view and of the gallery's.
    """
    query, gallery = styles
    rows = [[(one, query), (partner, gallery), *((item, gallery) for item in items)]
            for one, partner, items in zip(_cells(queries), _cells(partners), map(_cells, neighbours), strict=True)]
    titles = ["query", "its partner", *(f"{place}." for place in range(1, found.shape[1] + 1))]
    framed = {(row, 2 + place) for row, place in found.nonzero().tolist()}
    return _grid(rows, titles, [f"rank {rank:g}" for rank in ranks], SHEET_CELL, tallest=1.2, group=2, framed=framed)


def write_png(figure: Figure, file: Path) -> None:
    """Writes a figure to a PNG file, whole or not at all; letters that no font here has give one warning."""
    with replacing(file) as beside, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(beside, format="png")
    lacking = [str(one.message) for one in caught if "missing from font" in str(one.message)]
    if lacking:
        warnings.warn(f"{len(set(lacking))} letters are drawn as boxes: matplotlib's font lacks them", stacklevel=2)
    for one in caught:
        if "missing from font" not in str(one.message):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _arrays(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _cells(items: Items) -> Sequence[Cell]:
    return list(_arrays(items)) if isinstance(items, Tensor) else items


def _grid(rows: Sequence[Sequence[tuple[Cell, ViewStyle]]], titles: Sequence[str], labels: Sequence[str],
          width: int, tallest: float, group: int = 0, framed: Collection[tuple[int, int]] = ()) -> Figure:
    """Cells of one width with titles above the first row; places are counted in pixels, so that none is wasted.

    Args:
        rows: items of each row and their styles.
        titles: of the columns.
        labels: of the rows, or none.
        width: of a cell.
        tallest: the most height of a cell, as a multiple of its width.
        group: a wider gap stands before this column (0: nowhere).
        framed: rows and columns of cells with a coloured frame.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # half a second, which other commands should not pay

    heights = [max(_height(item, style, width, tallest) for item, style in row) for row in rows]
    lefts = [MARGIN + (LABEL if labels else 0) + i * (width + GAP) + (GROUP_GAP if 0 < group <= i else 0)
             for i in range(len(titles))]
    top = MARGIN + TITLE_LINE * (1 + max(title.count("\n") for title in titles))
    numbered = [_is_numbered(item, style) for item, style in rows[-1]]
    total_width = lefts[-1] + width + MARGIN
    total_height = top + sum(heights) + GAP * (len(rows) - 1) + (NUMBERS if any(numbered) else 0) + MARGIN
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    for r, (row, height) in enumerate(zip(rows, heights, strict=True)):
        y = total_height - top - sum(heights[:r + 1]) - GAP * r
        for c, (item, style) in enumerate(row):
            axes = figure.add_axes((lefts[c] / total_width, y / total_height, width / total_width,
                                    height / total_height))
            if isinstance(item, str):
                _write(axes, item, width)
            else:
                _draw(axes, item, style)
            if (r, c) in framed:
                axes.set_axis_on()
                axes.spines[:].set(color=FRAME, linewidth=2.5)
            if r == len(rows) - 1 and numbered[c] and not isinstance(item, str):
                axes.set_xticks(range(item.size))
                axes.tick_params(axis="x", length=0, pad=2, labelsize=6)
        if labels:
            figure.text((MARGIN + LABEL / 2) / total_width, (y + height / 2) / total_height, labels[r], fontsize=8,
                        rotation=90, ha="center", va="center")
    for left, title in zip(lefts, titles, strict=True):
        figure.text((left + width / 2) / total_width, 1 - (top - 3) / total_height, title, fontsize=8, ha="center",
                    va="bottom", linespacing=1.1)
    return figure


def _height(item: Cell, style: ViewStyle, width: int, tallest: float) -> int:
    if isinstance(item, str):
        return round(min(TEXT_LINE * (len(_lines(item, width)) + 0.5), width * tallest))
    picture = _as_picture(item, style)
    ratio = 0.6 if picture is None else picture.shape[0] / picture.shape[1]
    return round(width * min(max(ratio, 0.2), tallest))


def _as_picture(item: np.ndarray, style: ViewStyle) -> np.ndarray | None:
    """An item as (h, w) grey values or (h, w, 3) colours within [0, 1]; None where it is no picture."""
    if style.picture is not None:
        return item.reshape(style.picture)
    if item.ndim == 2:
        return item
    if item.ndim == 3 and item.shape[0] == 1:
        return item.squeeze(axis=0)
    if item.ndim == 3 and item.shape[0] == 3:
        return np.clip((np.moveaxis(item, 0, 2) - style.low) / ((style.high - style.low) or 1.0), 0.0, 1.0)
    return None


def as_thumbnail(item: np.ndarray, style: ViewStyle) -> np.ndarray | None:
    """An item's picture pixel by pixel, the first row at the top: (h, w) or (h, w, 3) uint8; None where it is none."""
    picture = _as_picture(item, style)
    if picture is None:
        return None
    if picture.ndim == 2:
        picture = np.clip((picture - style.low) / ((style.high - style.low) or 1.0), 0.0, 1.0)
    pixels = np.round(255.0 * np.nan_to_num(picture)).astype(np.uint8)
    return np.ascontiguousarray(pixels[::-1] if style.rising else pixels)


def _lines(text: str, width: int) -> list[str]:
    """A text folded to fit a cell, shortened if it is long."""
    return textwrap.wrap(text, int(width / LETTER), max_lines=MOST_LINES, placeholder=" …") or [""]


def _write(axes: Axes, text: str, width: int) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_axis_off()
    axes.text(0.03, 0.5, "\n".join(_lines(text, width)), fontsize=6.5, va="center", linespacing=1.25,
              transform=axes.transAxes, parse_math=False)


def _is_numbered(item: Cell, style: ViewStyle) -> bool:
    return not isinstance(item, str) and item.size <= MOST_NUMBERS and _as_picture(item, style) is None


def _draw(axes: Axes, item: np.ndarray, style: ViewStyle) -> None:
    """One item: as a picture if it is one, else as bars, or as a line where these would be too many."""
    axes.set(xticks=[], yticks=[])
    picture = _as_picture(item, style)
    if picture is not None:
        axes.imshow(picture, cmap="gray", vmin=style.low, vmax=style.high, origin="lower" if style.rising else "upper")
        axes.set_axis_off()
        return
    low, high = min(style.low, 0.0), max(style.high, 0.0)  # bars stand on 0
    margin = 0.05 * ((high - low) or 1.0)
    axes.set_ylim(low - margin, high + margin)
    axes.spines[:].set(color="0.8", linewidth=0.6)
    axes.axhline(0, color="0.6", linewidth=0.6)
    values = item.reshape(-1)
    if len(values) <= MOST_BARS:
        axes.bar(range(len(values)), values, color=INK)
    else:
        axes.plot(values, color=INK, linewidth=0.7)
    axes.set_xlim(-0.6, len(values) - 0.4)
