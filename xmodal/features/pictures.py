"""Pictures from files of the usual kinds, made into arrays of one size."""
from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from xmodal.errors import one_line
from xmodal.features.packages import required

#: Larger pictures are not decoded: 16 bytes of header can ask for gigabytes.
MOST_PIXELS = 120_000_000
#: Progressive JPEGs have about 10 scans, each of which takes a pass over all pixels and may take no more than 10 bytes.
MOST_SCANS = 200
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
Fit = Literal["crop", "pad"]

# About sizes, which are checked here, and about damaged metadata. Once, since many threads may read pictures.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION = 0x0112
#: What EXIF says about how the camera was held, undone; of ``PIL.Image.Transpose``.
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
          7: "TRANSVERSE", 8: "ROTATE_90"}


class UnusablePictureError(Exception):
    """A picture can't be read; says why."""


@dataclass(frozen=True)
class Picture:
    """A picture: ``pixels`` (3, size, size) uint8 RGB, and what was ``odd`` about its file ("" mostly)."""

    pixels: np.ndarray
    odd: str = ""


def read_picture(source: Path | bytes, size: int, fit: Fit = "crop") -> Picture:
    """Decode a PNG, JPEG or WebP file, upright, in RGB, ``size`` × ``size`` pixels.

    What is transparent becomes white. Of an animation the first frame is taken, of several pictures in one JPEG file
    the first, CMYK is converted; all three are told in ``odd``. Of 16 bits the upper 8 count. JPEG files are decoded
    at a fraction of their size where that is enough.

    Args:
        source: a file, or its content.
        size: of the result, in pixels.
        fit: ``crop`` fills the square with the middle of the picture, ``pad`` shows all of it on white.

    Raises:
        UnusablePictureError: no file, no picture, damaged, cut short, of more than 120 million pixels or 200 scans.
        DataError: Pillow is not installed; names the extra.
    """
    image_module = required("PIL.Image")
    file: IO[bytes]
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115 closed below
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UnusablePictureError(f"it can't be opened ({getattr(error, 'strerror', '') or one_line(error)})") \
            from error
    try:
        with file, image_module.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            return _decoded(image, size, fit)
    except UnusablePictureError:
        raise
    except image_module.DecompressionBombError as error:
        raise UnusablePictureError(f"it has more than {MOST_PIXELS:,} pixels") from error
    except image_module.UnidentifiedImageError as error:
        raise UnusablePictureError("it is no PNG, JPEG or WebP file") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise UnusablePictureError(f"it is damaged ({one_line(error)})") from error


def _decoded(image: Any, size: int, fit: Fit) -> Picture:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UnusablePictureError(f"it has {width:,} × {height:,} pixels, more than {MOST_PIXELS:,}")
    if image.info.get("progressive"):
        _check_scans(image.fp)
    odd = []
    if getattr(image, "n_frames", 1) > 1:
        odd.append("several pictures: the first" if image.format == "MPO" else "animated: first frame")
    if image.mode == "CMYK":
        odd.append("CMYK")
    image.draft("RGB", (2 * size, 2 * size))
    image.load()
    squared = _square(_rgb(_upright(image)), size, fit)
    return Picture(np.ascontiguousarray(np.moveaxis(np.asarray(squared), 2, 0)), ", ".join(odd))


def _check_scans(file: IO[bytes]) -> None:
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")  # nothing else looks like that, but for embedded previews
    file.seek(place)
    if scans > MOST_SCANS:
        raise UnusablePictureError(f"it has {scans:,} scans, more than {MOST_SCANS:,}")


def _upright(image: Any) -> Any:
    """Turned as EXIF says. Unlike ImageOps.exif_transpose, it neither writes metadata nor copies large pictures."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # damaged metadata are no damaged picture
        turn = None
    return image.transpose(required("PIL.Image").Transpose[turn]) if turn else image


def _rgb(image: Any) -> Any:
    """In RGB, on white."""
    image_module, clear = required("PIL.Image"), image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits of grey
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if clear is not None:
            grey[values == clear] = 255
        image = image_module.fromarray(grey)
    elif "A" in image.mode or clear is not None:
        image = image.convert("RGBA")
        white = image_module.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Any, size: int, fit: Fit) -> Any:
    """``size`` × ``size`` pixels."""
    how = required("PIL.Image").Resampling.LANCZOS
    if fit == "crop":
        return required("PIL.ImageOps").fit(image, (size, size), how)
    longer = max(image.size)
    inner = [max(1, round(side / longer * size)) for side in image.size]  # ImageOps.pad loses lines
    white = required("PIL.Image").new("RGB", (size, size), "white")
    white.paste(image.resize(inner, how), tuple(round((size - side) / 2) for side in inner))
    return white
