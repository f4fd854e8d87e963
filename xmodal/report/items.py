"""Items of a data set on a page: pictures, texts, or values as small bars. Formatting only."""
from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmodal.report.html import Markup, element, escape, foreign

#: A picture's longer side at most, in pixels; larger ones are made smaller.
MOST_PIXELS = 96
#: More values than this become the least and the greatest of each of so many stretches.
STRETCHES = 128
#: Up to so many values stand as bars.
MOST_BARS = 64
LONGEST_TEXT = 400
_WIDTH, _HEIGHT = 128.0, 48.0


@dataclass(frozen=True)
class Item:
    """An item, as people see it.

    Attributes:
        name: what it is called on the page, such as ``view 1, item 17``.
        content: a picture (h, w) or (h, w, 3) uint8, or values (k,) on the scale ``low`` to ``high``, or a text.
        low, high: ends of the scale of values.
        said: a caption to show below a picture or values.
        notes: further short lines, such as an id or a class.
    """

    name: str
    content: np.ndarray | str
    low: float = 0.0
    high: float = 1.0
    said: str = ""
    notes: Sequence[str] = ()

    @property
    def is_text(self) -> bool:
        return isinstance(self.content, str)


def item_html(item: Item, *marks: object, right: bool = False, tag: str = "li") -> Markup:
    """An item, with ``marks`` above it, and framed where it is ``right``."""
    top = [element("span", mark, class_="mark" if right else None) for mark in marks]
    texts = [element("span", foreign(shorten(text)), class_="said")
             for text in (item.content if isinstance(item.content, str) else "", item.said) if text]
    notes = [element("span", foreign(shorten(note, 80))) for note in item.notes]
    shown = [] if isinstance(item.content, str) else [_drawn(item, item.content)]
    return element(tag, *top, *shown, *texts, *notes, class_="item right" if right else "item")


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    return text if len(text) <= longest else text[:longest - 2].rstrip() + " …"


def _drawn(item: Item, content: np.ndarray) -> Markup:
    if content.dtype == np.uint8:
        return picture(content, item.name)
    return bars(content, item.low, item.high, item.name)


def picture(pixels: np.ndarray, alt: str) -> Markup:
    """(h, w) or (h, w, 3) uint8 as an ``img`` that holds its PNG."""
    from PIL import Image  # comes with matplotlib

    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest > MOST_PIXELS:
        width, height = (max(1, round(side * MOST_PIXELS / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return Markup(f'<img src="{source}" alt="{escape(alt)}" width="{image.width}" height="{image.height}">')


def bars(values: np.ndarray, low: float, high: float, alt: str) -> Markup:
    """Values (k,) as bars from 0 on, or as a line where these would be too many."""
    low, high = min(low, 0.0), max(high, 0.0)
    heights = (high - np.clip(np.nan_to_num(values), low, high)) / ((high - low) or 1.0) * _HEIGHT
    base = high / ((high - low) or 1.0) * _HEIGHT
    if len(values) <= MOST_BARS:
        step = _WIDTH / len(values)
        way = "".join(f"M{i * step + 0.1 * step:.4g} {base:.4g}V{y:.4g}h{0.8 * step:.4g}V{base:.4g}z"
                      for i, y in enumerate(heights))
        drawn = f'<path d="{way}" fill="currentColor"/>'
    else:
        heights = _stretched(heights)
        step = _WIDTH / (len(heights) - 1)
        way = "L".join(f"{i * step:.4g} {y:.4g}" for i, y in enumerate(heights))
        drawn = (f'<path d="M{way}" fill="none" stroke="currentColor" stroke-width="1" '
                 'vector-effect="non-scaling-stroke"/>')
    return Markup(f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
                  f'aria-label="{escape(alt)}">{drawn}</svg>')


def _stretched(values: np.ndarray) -> np.ndarray:
    """At most 2 · STRETCHES values: least and greatest of each stretch in turn, so that no peak is lost."""
    if len(values) <= 2 * STRETCHES:
        return values
    parts = np.array_split(values, STRETCHES)
    return np.array([end for part in parts for end in (part.min(), part.max())])
