"""Drawings made into pictures; what is no drawing is refused in words of ours."""
from __future__ import annotations

import io

import numpy as np
import pytest

from xmodal.features.pictures import UnusablePictureError
from xmodal.features.svg import draw_svg

pytest.importorskip("resvg_py")
image = pytest.importorskip("PIL.Image")

RECTANGLE = (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">'
             b'<rect width="4" height="8" fill="#ff0000"/></svg>')


def test_a_rectangle_covers_its_half_on_white():
    pixels = np.asarray(image.open(io.BytesIO(draw_svg(RECTANGLE, 16))).convert("RGB"))
    assert pixels.shape == (16, 16, 3)
    assert (pixels[:, :8] == (255, 0, 0)).all() and (pixels[:, 8:] == 255).all()


@pytest.mark.parametrize("content", [b"", b"no drawing", b"\xff\xfe\x00", RECTANGLE[:40]])
def test_what_is_no_drawing_is_refused(content):
    with pytest.raises(UnusablePictureError, match="it is no SVG drawing, or a damaged one"):
        draw_svg(content, 16)
