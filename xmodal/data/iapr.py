"""``iapr``: image and text features of IAPR TC-12, with the protocol of Dorfer et al. 2018.

M. Dorfer, J. Schlüter, A. Vall, F. Korzeniowski, G. Widmer: End-to-end cross-modality retrieval with CCA projections
and pairwise ranking loss. International Journal of Multimedia Information Retrieval 7 (2018).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xmodal.data.checks import check_finite
from xmodal.data.fetch import Say, download, sha256_of
from xmodal.data.files import read_h5, write_h5
from xmodal.data.gaussian import linear_gaussian
from xmodal.data.iapr_release import prepare_release
from xmodal.data.npz import load_member, npz_keys
from xmodal.data.pairs import PairedData, PairSplit
from xmodal.errors import DataError

URL = "http://www.cp.jku.at/people/dorfer/cca_layer/iapr.npz"


@dataclass(frozen=True)
class Protocol:
    """Which rows go where. The defaults are the published ones; tests use smaller ones."""

    n_rows: int = 19_996
    image_width: int = 4096
    text_width: int = 2048
    n_valid: int = 1_000
    n_test: int = 2_000
    seed: int = 23


PUBLISHED = Protocol()


def prepare(path: Path, *, say: Say = print, source: Path | None = None, url: str | None = None,
            synthetic: bool = False, legacy_normalisation: bool = False, images: Path | None = None,
            annotations: Path | None = None, image_features: Sequence[str] | None = None,
            text_features: Sequence[str] | None = None, protocol: Protocol | None = None) -> None:
    """Write the data set to the HDF5 file ``path``.

    Args:
        path: the file to write.
        say: prints a line of progress.
        source: the file ``iapr.npz``, or the folder that holds it; nothing is downloaded then.
        url: where to download it from, in place of the published address. The download is kept beside ``path`` in
            ``downloads/`` and used again the next time.
        synthetic: write made-up data of the full shape, see :func:`synthetic_data`.
        legacy_normalisation: see :func:`from_arrays`.
        images: with ``annotations``, the public release in place of the published features, see
            :func:`xmodal.data.iapr_release.prepare_release`.
        annotations: its annotations.
        image_features: of the release; ``efficientnet`` by default.
        text_features: of the release; ``tfidf`` by default.
        protocol: other sizes than the published ones.

    Raises:
        DataError: the file can't be had, is damaged, or has other shapes.
        OSError: the disk is full or the folder can't be written to.
    """
    protocol = protocol or PUBLISHED
    if images is not None or annotations is not None:
        if images is None or annotations is None:
            raise DataError("the release of IAPR TC-12 needs both --images and --annotations")
        if source is not None or url is not None or synthetic or legacy_normalisation:
            raise DataError("--images and --annotations read the release; leave out --source, --url, --synthetic and "
                            "--legacy_normalisation")
        prepare_release(path, images, annotations, sizes=(protocol.n_valid, protocol.n_test), seed=protocol.seed,
                        width=protocol.text_width, say=say, image_features=image_features or ("efficientnet",),
                        text_features=text_features or ("tfidf",))
        return
    if image_features or text_features:
        raise DataError("--image_features and --text_features are for the release: give --images and --annotations")
    if synthetic:
        if source is not None or url is not None:
            raise DataError("--synthetic makes its own data; leave out --source and --url")
        if _is_real(path):
            raise DataError(f"{path} holds real data, which made-up ones would replace: --out FILE writes elsewhere")
        data = synthetic_data(protocol, legacy_normalisation=legacy_normalisation)
    elif source is not None:
        file = Path(source) / "iapr.npz" if Path(source).is_dir() else Path(source)
        data = read_source(file, protocol, say=say, legacy_normalisation=legacy_normalisation)
    else:
        data = _from_network(path.parent / "downloads" / "iapr.npz", url or URL, protocol, say, legacy_normalisation)
    write_h5(data, path)


def _is_real(path: Path) -> bool:
    """Whether a readable data set of real values is there already."""
    try:
        return path.is_file() and not read_h5(path, stream=True).synthetic
    except DataError:
        return False


def _from_network(file: Path, url: str, protocol: Protocol, say: Say, legacy_normalisation: bool) -> PairedData:
    if file.is_file():
        say(f"using {file}, downloaded before (remove it to download again)")
    else:
        download(url, file, say=say)
    try:
        return read_source(file, protocol, say=say, legacy_normalisation=legacy_normalisation, origin=url)
    except DataError:
        file.unlink(missing_ok=True)  # what came is no good, and would be used again
        raise


def read_source(file: Path, protocol: Protocol = PUBLISHED, *, say: Say = print, legacy_normalisation: bool = False,
                origin: str = "a local file") -> PairedData:
    """The data set from the published file: ``images`` (>= n_rows, 4096) and ``tfidf`` (n_rows, 2048).

    No checksum was ever published, so that of the file is reported and stored with the data.

    Raises:
        DataError: the file is missing, damaged, or its arrays have other names or shapes.
    """
    if not file.is_file():
        raise DataError(f"no file {file}; --source takes iapr.npz or the folder that holds it")
    digest = sha256_of(file)
    say(f"SHA-256 of {file.name}: {digest}")
    keys = npz_keys(file)
    missing = [key for key in ("images", "tfidf") if key not in keys]
    if missing:
        raise DataError(f"{file} lacks {' and '.join(missing)}; expected images and tfidf (found: "
                        f"{', '.join(keys) or 'nothing'})")
    images, text = load_member(file, "images"), load_member(file, "tfidf")
    if text.ndim == 3 and text.shape[1] == 1:
        text = text[:, 0, :]
    return from_arrays(images, text, protocol, legacy_normalisation=legacy_normalisation,
                       source=f"features of Dorfer et al. 2018 from {origin}, SHA-256 {digest}")


def from_arrays(images: np.ndarray, text: np.ndarray, protocol: Protocol = PUBLISHED, *,
                legacy_normalisation: bool = False, source: str = "", synthetic: bool = False) -> PairedData:
    """Normalise and split.

    The first ``n_rows`` images belong to the texts (flipped versions may follow). Rows are permuted with NumPy's
    ``RandomState(23)``; the first 1,000 validate, the next 2,000 test, the rest train. Images are divided by their
    maximum, texts scaled from min-max to 0-1, each by one number for all features.

    Args:
        images: (>= n_rows, image_width), any real dtype.
        text: (n_rows, text_width).
        protocol: the sizes.
        legacy_normalisation: take maximum and minimum from all rows given, test rows and flipped images included, as
            the published code did. By default they come from the training rows alone, so that test values may fall
            a little outside of 0-1.
        source: where the arrays come from.
        synthetic: whether they are made up.

    Raises:
        DataError: other shapes, values that aren't finite, or constant features.
    """
    if images.ndim != 2 or len(images) < protocol.n_rows or images.shape[1] != protocol.image_width:
        raise DataError(f"images must have shape (at least {protocol.n_rows}, {protocol.image_width}); got "
                        f"{images.shape}")
    if text.shape != (protocol.n_rows, protocol.text_width):
        raise DataError(f"tfidf must have shape ({protocol.n_rows}, {protocol.text_width}); got {text.shape}")
    for name, array in (("images", images), ("tfidf", text)):
        if array.dtype.kind not in "iuf":
            raise DataError(f"{name} must hold numbers; got dtype {array.dtype}")
        if array.dtype.kind == "f":
            native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
            check_finite(torch.from_numpy(native), name)
    order = np.random.RandomState(protocol.seed).permutation(protocol.n_rows)
    held_out = protocol.n_valid + protocol.n_test
    rows = {"train": order[held_out:], "valid": order[:protocol.n_valid], "test": order[protocol.n_valid:held_out]}
    if legacy_normalisation:
        top, low, high = images.max(), text.min(), text.max()
    else:
        top, low, high = images[rows["train"]].max(), text[rows["train"]].min(), text[rows["train"]].max()
    if top <= 0 or high <= low:
        raise DataError(f"can't scale: the largest image value is {top}, text values are {low} to {high}")

    def split(name: str) -> PairSplit:
        image_rows = images[rows[name]].astype(np.float32)
        text_rows = text[rows[name]].astype(np.float32)
        image_rows /= np.float32(top)
        text_rows -= np.float32(low)
        text_rows /= np.float32(high) - np.float32(low)
        return PairSplit.of(name, image_rows, text_rows, ids=[str(row) for row in rows[name]])

    scaled_by = "all rows (legacy)" if legacy_normalisation else "the training rows"
    return PairedData("iapr", split("train"), split("valid"), split("test"), version="1", source=source,
                      licence="see the owners of IAPR TC-12" if not synthetic else "none, made up",
                      split_seed=protocol.seed, synthetic=synthetic, note=f"normalised by {scaled_by}")


def synthetic_data(protocol: Protocol = PUBLISHED, *, legacy_normalisation: bool = False) -> PairedData:
    """A stand-in of the full shape, for trying commands and their speed; it says nothing about the real data.

    Views are drawn by :func:`xmodal.data.gaussian.linear_gaussian` (128 shared coordinates, canonical correlations
    0.7 * (1 - i / 128), or as many as fit), then treated like the real ones. The scaling is one affine map a view,
    which leaves canonical correlations as they are.
    """
    n_shared = min(128, protocol.image_width, protocol.text_width)
    images, text = linear_gaussian(protocol.n_rows, protocol.image_width, protocol.text_width, n_shared=n_shared,
                                   seed=protocol.seed)
    return from_arrays(images, text, protocol, legacy_normalisation=legacy_normalisation, synthetic=True,
                       source=f"linear-Gaussian generator, {n_shared} canonical correlations "
                              f"0.7 * (1 - i / {n_shared})")
