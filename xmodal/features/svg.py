"""Drawings in SVG made into pictures."""
from __future__ import annotations

from xmodal.errors import one_line
from xmodal.features.packages import required
from xmodal.features.pictures import UnusablePictureError


def draw_svg(content: bytes, size: int) -> bytes:
    """A PNG file of a drawing, ``size`` × ``size`` pixels, on white (extra ``images``).

    Raises:
        UnusablePictureError: it is no SVG, or a damaged one.
        DataError: the package is not installed; names the extra.
    """
    draw = required("resvg_py").svg_to_bytes
    try:
        return bytes(draw(svg_string=content.decode("utf-8"), width=size, height=size, background="#ffffff", dpi=96.0,
                          skip_system_fonts=True))
    except (ValueError, UnicodeDecodeError) as error:
        raise UnusablePictureError(f"it is no SVG drawing, or a damaged one ({one_line(error)})") from error
