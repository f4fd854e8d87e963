"""Pictures against Pillow itself, and files that are damaged, cut short, enormous or something else."""
from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import DataError
from xmodal.features.pictures import MOST_PIXELS, SUFFIXES, UnusablePictureError, read_picture

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")
ImageSequence = pytest.importorskip("PIL.ImageSequence")
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # as the module has it; pytest takes away its filters
LANCZOS = Image.Resampling.LANCZOS
KINDS = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}


def noise(width: int, height: int, colours: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, colours) if colours > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(width: int, height: int) -> Image.Image:
    """A picture that JPEG keeps: red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    pixels[..., 2] = 100
    return Image.fromarray(pixels)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def channels_first(image: Image.Image) -> np.ndarray:
    return np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colours: int, *chunks: bytes) -> bytes:
    """A PNG file put together by hand; ``colours`` as in its header: 0 grey, 2 RGB, 3 palette."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


# the usual kinds

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize(("width", "height"), [(48, 48), (90, 48), (30, 60), (61, 37)])
def test_is_what_pillow_makes_of_it(kind, fit, width, height):  # of 96 × 96 pixels a JPEG would be decoded at half
    data = stored(Image.fromarray(noise(width, height)), kind, **KINDS[kind])
    with Image.open(io.BytesIO(data)) as image:
        expected = {"crop": ImageOps.fit, "pad": ImageOps.pad}[fit](image, (24, 24), LANCZOS, **(
            {"color": "white"} if fit == "pad" else {}))
    picture = read_picture(data, 24, fit)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.shape == (3, 24, 24)
    assert picture.pixels.flags.c_contiguous and picture.odd == ""
    np.testing.assert_array_equal(picture.pixels, channels_first(expected))


def test_a_picture_of_the_wanted_size_stays_as_it_is():
    pixels = noise(32, 32)
    for kind in ("PNG", "WEBP"):
        for fit in ("crop", "pad"):
            picture = read_picture(stored(Image.fromarray(pixels), kind, **KINDS[kind]), 32, fit)
            np.testing.assert_array_equal(picture.pixels, np.moveaxis(pixels, 2, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_paths_and_contents_give_the_same(tmp_path, kind):
    data = stored(Image.fromarray(noise(40, 30)), kind, **KINDS[kind])
    path = tmp_path / "picture of another name.bin"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_picture(path, 16).pixels, read_picture(data, 16).pixels)


def test_files_are_closed(tmp_path, monkeypatch):
    opened, real = [], Path.open
    (tmp_path / "good.png").write_bytes(stored(smooth(8, 8)))
    (tmp_path / "bad.png").write_bytes(stored(smooth(8, 8))[:40])
    monkeypatch.setattr(Path, "open", lambda self, *how: opened.append(real(self, *how)) or opened[-1])
    read_picture(tmp_path / "good.png", 4)
    with pytest.raises(UnusablePictureError):
        read_picture(tmp_path / "bad.png", 4)
    assert [file.closed for file in opened] == [True, True]


def test_suffixes_are_those_of_the_kinds():
    assert {Image.registered_extensions()[suffix] for suffix in SUFFIXES} == set(KINDS)


def test_large_jpegs_are_decoded_at_a_fraction_and_look_the_same():
    data = stored(smooth(1000, 800), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = channels_first(ImageOps.fit(image, (32, 32), LANCZOS)).astype(int)
    assert np.abs(read_picture(data, 32).pixels - expected).max() <= 4


# crop and pad

@pytest.mark.parametrize("turned", [False, True])
def test_crop_takes_the_middle_and_pad_shows_all_on_white(turned):
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, :20], pixels[:, 20:40], pixels[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    data = stored(Image.fromarray(np.swapaxes(pixels, 0, 1) if turned else pixels))
    cropped, padded = (np.moveaxis(read_picture(data, 60, fit).pixels, 0, 2) for fit in ("crop", "pad"))
    if turned:
        cropped, padded = np.swapaxes(cropped, 0, 1), np.swapaxes(padded, 0, 1)
    assert (cropped[:, 10:-10] == (0, 255, 0)).all()  # red and blue are left and right of it
    np.testing.assert_array_equal(padded[20:40], pixels)
    assert (padded[:20] == 255).all() and (padded[40:] == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_of_one_pixel(shape, fit):
    pixels = read_picture(stored(Image.new("RGB", shape, (10, 20, 30))), 8, fit).pixels
    assert pixels[:, 4, 4].tolist() == [10, 20, 30]
    if fit == "crop":
        assert (pixels == np.array([10, 20, 30])[:, None, None]).all()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 20000)])
def test_lines_are_not_lost(shape):
    data = stored(Image.new("RGB", shape, "black"))
    assert (read_picture(data, 64, "crop").pixels == 0).all()
    padded = read_picture(data, 64, "pad").pixels
    assert (padded == 0).sum() == 3 * 64 and (padded == 255).sum() == 3 * 64 * 63


# kinds of pixels

def on_white(rgba: np.ndarray) -> np.ndarray:
    """The formula, one pixel after the other."""
    result = np.empty((*rgba.shape[:2], 3))
    for place in np.ndindex(*rgba.shape[:2]):
        share = rgba[place][3] / 255
        result[place] = rgba[place][:3] * share + 255 * (1 - share)
    return result


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_becomes_white(kind):
    rgba = noise(16, 16, 4)
    rgba[:4, :, 3], rgba[4:8, :, 3] = 0, 255
    data = stored(Image.fromarray(rgba), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    pixels = np.moveaxis(read_picture(data, 16).pixels, 0, 2)
    assert (pixels[:4] == 255).all()
    np.testing.assert_array_equal(pixels[4:8], rgba[4:8, :, :3])
    np.testing.assert_allclose(pixels, on_white(rgba), atol=1)


def test_grey_with_transparency():
    values = noise(16, 16, 2)
    image = Image.merge("LA", [Image.fromarray(values[..., i].copy()) for i in (0, 1)])
    expected = on_white(np.concatenate([values[..., :1].repeat(3, axis=2), values[..., 1:]], axis=2))
    np.testing.assert_allclose(np.moveaxis(read_picture(stored(image), 16).pixels, 0, 2), expected, atol=1)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "I;16"])
def test_a_transparent_colour_becomes_white(mode):
    dark = np.zeros((8, 8), dtype=np.uint8)
    dark[:, 4:] = 1 if mode == "P" else 40
    clear: object = 0
    if mode == "RGB":
        image, clear = Image.fromarray(dark[..., None].repeat(3, axis=2)), (0, 0, 0)
    elif mode == "I;16":
        image, clear = Image.fromarray(dark.astype(np.uint16) * 256 + 7), 7
    elif mode == "1":
        image = Image.fromarray(dark > 50)
    elif mode == "P":
        image = Image.fromarray(dark).convert("P")
        image.putpalette([9, 9, 9, 40, 40, 40])
    else:
        image = Image.fromarray(dark)
    data = stored(image, transparency=clear)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == mode and "transparency" in opened.info
    pixels = read_picture(data, 8).pixels
    assert (pixels[:, :, :4] == 255).all()
    assert (pixels[:, :, 4:] == (255 if mode == "1" else 40)).all()


def test_palettes_with_half_transparent_colours():
    image = Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (4, 1))).convert("P")
    image.putpalette([0, 0, 0, 100, 0, 0, 0, 200, 0, 0, 0, 250])
    pixels = read_picture(stored(image, transparency=bytes([0, 255, 128, 255])), 4).pixels
    expected = np.array([[255, 255, 255], [100, 0, 0], [127, 228, 127], [0, 0, 250]])
    np.testing.assert_allclose(pixels[:, 0].T, expected, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_black_and_white_grey_and_palettes(mode):
    image = Image.fromarray(noise(16, 16)).convert(mode)
    np.testing.assert_array_equal(read_picture(stored(image), 16).pixels, channels_first(image))


def test_of_sixteen_bits_the_upper_eight_count():
    values = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    values[0, :4] = 0, 255, 256, 65535
    pixels = read_picture(stored(Image.fromarray(values)), 16).pixels
    np.testing.assert_array_equal(pixels, np.broadcast_to(values // 256, (3, 16, 16)))
    assert pixels[0, 0, :4].tolist() == [0, 0, 1, 255]
    rows = b"".join(b"\0" + values[i].astype(">u2").repeat(3).tobytes() for i in range(16))  # Pillow can't write these
    same = read_picture(png(16, 16, 16, 2, chunk(b"IDAT", zlib.compress(rows))), 16)
    np.testing.assert_array_equal(same.pixels, pixels)


def test_cmyk_is_converted_and_told():
    image = smooth(32, 32)
    picture = read_picture(stored(image.convert("CMYK"), "JPEG", quality=95), 32)
    assert picture.odd == "CMYK"
    assert np.abs(picture.pixels.astype(int) - channels_first(image)).max() < 16


# upright

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_are_turned_as_pillow_turns_them(kind, orientation, fit):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(smooth(40, 20), kind, exif=exif, **KINDS[kind])
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    assert upright.size == ((40, 20) if orientation < 5 else (20, 40))
    expected = stored(upright, "PNG")
    np.testing.assert_array_equal(read_picture(data, 20, fit).pixels, read_picture(expected, 20, fit).pixels)


@pytest.mark.parametrize("exif", [b"Exif\0\0nothing of the sort", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01",
                                  b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"x",
                                  b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_metadata_are_no_damaged_picture(kind, exif):
    plain, odd = (stored(smooth(40, 20), kind, **KINDS[kind], **more) for more in ({}, {"exif": exif}))
    np.testing.assert_array_equal(read_picture(odd, 20).pixels, read_picture(plain, 20).pixels)


def test_metadata_that_make_pillow_raise_are_no_damaged_picture(monkeypatch):
    def fail(self: object) -> None:
        raise struct.error("unpack requires a buffer of 2 bytes")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read_picture(stored(smooth(8, 8)), 8).odd == ""


# several pictures in one file

@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken_and_told(kind):
    frames = [Image.fromarray(noise(16, 16, seed=i)) for i in range(3)]
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **KINDS[kind])
    picture = read_picture(data, 16)
    assert picture.odd == "animated: first frame"
    np.testing.assert_array_equal(picture.pixels, channels_first(frames[0]))


def test_a_jpeg_of_several_pictures_is_told_but_is_no_animation():
    data = stored(smooth(32, 32), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    picture = read_picture(data, 32)
    assert picture.odd == "several pictures: the first"
    assert np.abs(picture.pixels.astype(int) - channels_first(smooth(32, 32))).max() < 16


# no pictures

@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_kinds_are_refused(kind):
    with pytest.raises(UnusablePictureError, match=r"^it is no PNG, JPEG or WebP file$"):
        read_picture(stored(smooth(16, 16), kind), 16)


@pytest.mark.parametrize("data", [b"", b"\0", b"A text about pictures.\n" * 50, b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF",
                                  b"RIFF\0\0\0\0WAVE", b"\xff\xd8\xff"])
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(UnusablePictureError):
            read_picture(source, 16)


def test_what_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(UnusablePictureError, match=r"^it can't be opened \(No such file or directory\)$"):
        read_picture(tmp_path / "none.png", 16)
    with pytest.raises(UnusablePictureError, match=r"^it can't be opened"):
        read_picture(tmp_path, 16)
    with pytest.raises(UnusablePictureError, match=r"^it can't be opened .*null"):
        read_picture(Path("a\0b.png"), 16)


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match=r'^Pillow .*xmodal\[images\]'):
        read_picture(b"", 16)


# enormous pictures

def memory_of(source: bytes | Path) -> int:
    """Bytes that Python and NumPy took at most while the picture was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(UnusablePictureError, match="pixels"):
            read_picture(source, 64)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (12000, 12000), (MOST_PIXELS + 1, 1), (2**31 - 1,) * 2])
def test_enormous_pictures_are_refused_by_their_headers(monkeypatch, width, height):
    def decoded(*_: object) -> None:
        pytest.fail("decoded")
    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    assert memory_of(png(width, height, 8, 2, chunk(b"IDAT", zlib.compress(b"nearly nothing")))) < 2**22


def test_a_jpeg_and_a_webp_that_promise_too_much(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    jpeg = bytearray(stored(Image.new("L", (8, 8)), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5:place + 9] = struct.pack(">HH", 65500, 65500)
    assert memory_of(bytes(jpeg)) < 2**22
    webp = bytearray(stored(Image.new("L", (8, 8)), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 11_999 + (10_000 << 14))
    assert memory_of(bytes(webp)) < 2**22


def test_a_jpeg_of_thousands_of_scans_is_refused():
    data = stored(smooth(64, 64), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda"):-2]
    read_picture(data[:-2] + scan * 20 + b"\xff\xd9", 16)
    with pytest.raises(UnusablePictureError, match=r"^it has 5,\d{3} scans, more than 200$"):
        read_picture(data[:-2] + scan * 5000 + b"\xff\xd9", 16)


def test_text_that_unfolds_to_gigabytes_is_refused():
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27), 9))
    rows = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    with pytest.raises(UnusablePictureError, match="damaged"):
        read_picture(png(1, 1, 8, 2, bomb, rows), 16)


def test_pictures_just_small_enough_are_read(monkeypatch):
    monkeypatch.setattr("xmodal.features.pictures.MOST_PIXELS", 200)
    assert (read_picture(stored(Image.new("L", (20, 10), 255)), 8).pixels == 255).all()
    with pytest.raises(UnusablePictureError, match=r"^it has 67 × 3 pixels, more than 200$"):
        read_picture(stored(Image.new("L", (67, 3), 255)), 8)


WITHOUT_WARNINGS = """
import sys
from pathlib import Path
from xmodal.features.pictures import UnusablePictureError, read_picture
try:
    read_picture(Path(sys.argv[1]), 8)
except UnusablePictureError as error:
    print(error)
"""


def test_warnings_of_pillow_are_neither_shown_nor_errors(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(12_000, 12_000, 8, 2, chunk(b"IDAT", b"")))
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", WITHOUT_WARNINGS, str(path)],
                          capture_output=True, encoding="utf-8", cwd=Path(__file__).parent.parent, check=False,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8"})  # the warning is a RuntimeWarning
    assert done.stdout == "it has 12,000 × 12,000 pixels, more than 120,000,000\n" and done.stderr == ""


# damaged files

def several() -> dict[str, bytes]:
    image, frames = Image.fromarray(noise(24, 20)), [Image.fromarray(noise(24, 20, seed=i)) for i in (1, 2)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010e] = 6, "a description"
    return {"png": stored(image, exif=exif), "palette": stored(image.convert("P"), transparency=3),
            "apng": stored(image, save_all=True, append_images=frames), "jpeg": stored(image, "JPEG", exif=exif),
            "progressive": stored(image, "JPEG", progressive=True), "cmyk": stored(image.convert("CMYK"), "JPEG"),
            "mpo": stored(image, "MPO", save_all=True, append_images=frames), "webp": stored(image, "WEBP", exif=exif),
            "lossless": stored(image, "WEBP", lossless=True),
            "animated": stored(image, "WEBP", save_all=True, append_images=frames)}


SEVERAL = list(several())


@pytest.mark.parametrize("name", SEVERAL)
def test_files_cut_short_are_refused_unless_all_pixels_are_there(name):
    data = several()[name]
    whole, refused = read_picture(data, 16).pixels, 0
    for length in range(0, len(data), 7):
        try:
            assert np.abs(read_picture(data[:length], 16).pixels.astype(int) - whole).max() == 0, length
        except UnusablePictureError as error:
            assert "\n" not in str(error)
            refused = length
    assert refused > len(data) / 4  # of animations and the like the first frame may be whole


@pytest.mark.parametrize("name", SEVERAL)
@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_refused_or_read_but_nothing_else(name, seed):
    chance, data = random.Random(seed), bytearray(several()[name])
    for _ in range(chance.randint(1, 8)):
        start = chance.randrange(min(len(data), chance.choice([64, len(data)])))
        if chance.random() < 0.7:
            data[start] = chance.randrange(256)
        else:
            data[start:start + chance.randint(0, 9)] = chance.randbytes(chance.randint(0, 9))
    if name in ("png", "palette", "apng") and chance.random() < 0.8:
        data = with_right_sums(bytes(data))
    try:
        with mock.patch("xmodal.features.pictures.MOST_PIXELS", 1_000_000):    # damaged headers ask for seconds
            picture = read_picture(bytes(data), 16, chance.choice(["crop", "pad"]))
        assert picture.pixels.shape == (3, 16, 16) and picture.pixels.dtype == np.uint8
    except UnusablePictureError as error:
        assert "\n" not in str(error) and str(error).startswith("it ")


def with_right_sums(data: bytes) -> bytearray:
    """The PNG file with check sums that fit, so that damage gets beyond them."""
    result, place = bytearray(data), 8
    while place + 12 <= len(result):
        length = struct.unpack_from(">I", result, place)[0]
        if place + 12 + length > len(result):
            break
        struct.pack_into(">I", result, place + 8 + length, zlib.crc32(result[place + 4:place + 8 + length]))
        place += 12 + length
    return result


@given(data=st.binary(max_size=200), start=st.sampled_from([
    b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1",
    b"\xff\xd8\xff\xdb", b"RIFF\x20\0\0\0WEBPVP8 ", b"RIFF\x20\0\0\0WEBPVP8L", b"RIFF\x20\0\0\0WEBPVP8X"]))
def test_random_bytes_are_no_picture(start, data):
    with pytest.raises(UnusablePictureError):
        read_picture(start + data, 16)


@pytest.mark.parametrize("error", [struct.error("x"), zlib.error("x"), AssertionError("x"), MemoryError(), EOFError(),
                                   RecursionError("x"), NotImplementedError("x"), KeyError("x"), OSError("two\nlines")])
def test_whatever_a_decoder_raises_becomes_one_error_of_one_line(monkeypatch, error):
    def fail(self: object) -> None:
        raise error
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UnusablePictureError, match=r"^it is damaged \(.+\)$"):
        read_picture(stored(smooth(8, 8)), 8)


def test_a_user_who_interrupts_is_heard(monkeypatch):
    def fail(self: object) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(KeyboardInterrupt):
        read_picture(stored(smooth(8, 8)), 8)
