"""``from_folder``: a folder of pictures and a table of captions of one's own."""
from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from xmodal.data.captions import Caption, read_captions, storable
from xmodal.data.fetch import Say
from xmodal.data.image_text import (
    BATCH,
    THUMBNAIL,
    Encoded,
    ImageText,
    TextView,
    encode_pictures,
    split_rows,
    write_image_text,
)
from xmodal.data.pairs import SPLITS
from xmodal.data.problems import Problems
from xmodal.data.splitting import SPLIT_SEED, split_groups
from xmodal.errors import DataError
from xmodal.features.choices import image_encoders, text_encoders
from xmodal.features.images import ImageEncoder
from xmodal.features.pictures import SUFFIXES, Picture, UnusablePictureError, read_picture
from xmodal.features.texts import Codes

WORDS = 2048


def prepare(path: Path, *, say: Say = print, images: Path, captions: Path,
            image_features: Sequence[str] = ("efficientnet",), text_features: Sequence[str] = ("tfidf",),
            keep_unpaired: bool = False) -> None:
    """Write a data set of one's own to the HDF5 file ``path``.

    View-1 items are pictures, view-2 items captions; a picture may have several. 80 % of the pictures train, 10 %
    validate, 10 % test, unless the table has a column ``split``. Pictures that look the same and pictures with the
    same caption stay on one side. Vectorisers are fitted on the training captions alone and stored with the data.

    Whatever is wrong with single items is counted, said with examples and listed in the file ``NAME.problems.tsv``
    beside ``path``; these items are left out.

    Args:
        path: the file to write.
        say: prints a line of progress.
        images: a folder of PNG, JPEG and WebP files, with folders in it or without.
        captions: see :func:`xmodal.data.captions.read_captions`. Pictures are named by their paths within the folder;
            the name of the file is enough where it is the only one of that name, with or without suffix.
        image_features: see :func:`xmodal.features.choices.image_encoders`; the first is what is read by default.
        text_features: see :func:`xmodal.features.choices.text_encoders`, likewise. The view ``codes`` (UTF-8 bytes) is
            always there.
        keep_unpaired: keep pictures without captions and captions without pictures as items without a partner.

    Raises:
        DataError: a folder or a table that is none; too few pairs are left; packages are missing.
        OSError: the disk is full or the folder can't be written to.
    """
    encoders = image_encoders(image_features)
    text_makers = {**text_encoders(text_features, words=WORDS), "codes": Codes()}
    problems, told_in = Problems(), path.with_suffix(".problems.tsv")
    try:
        kept, ids, pictures = _read(images, captions, encoders, keep_unpaired, problems, say)
        side1, side2, how = _sides(kept, pictures.thumbnails, problems)
    except DataError:
        if problems:  # they may be the reason
            problems.tell(say, told_in)
        raise
    problems.tell(say, told_in)
    texts = [caption.text for caption, _ in kept]
    pairs = np.array([(picture, i) for i, (_, picture) in enumerate(kept) if picture >= 0],
                     dtype=np.int64).reshape(-1, 2)
    items = ImageText(ids, {name: TextView(texts, maker) for name, maker in text_makers.items()}, pairs,
                      split_rows(side1, side2))
    write_image_text(path, items, pictures, {"name": path.stem, "source": storable(
        f"pictures of {images.resolve().name}, captions of {captions.name}"), "note": how,
        "split_seed": None if any(caption.split for caption, _ in kept) else SPLIT_SEED})


def _read(images: Path, captions: Path, encoders: Mapping[str, ImageEncoder], keep_unpaired: bool, problems: Problems,
          say: Say) -> tuple[list[tuple[Caption, int]], list[str], Encoded]:
    """Captions, each with the row of its picture or -1 for none; names of the pictures; the pictures."""
    table = read_captions(captions, problems)
    folder = PictureFolder(images, problems)
    wanted = _without_repeats(table, folder, problems)
    used = {name for _, name in wanted if name}
    for name in sorted(folder.paths.keys() - used):
        problems.add("pictures without captions" + (", kept" if keep_unpaired else ""), name)
    ids, pictures = folder.encode(sorted(folder.paths if keep_unpaired else used), encoders, problems, say)
    row = {name: i for i, name in enumerate(ids)}
    kept = [(caption, row.get(name, -1)) for caption, name in wanted if name in row or (keep_unpaired and not name)]
    return kept, ids, pictures


def _without_repeats(table: Sequence[Caption], folder: PictureFolder, problems: Problems) -> list[tuple[Caption, str]]:
    """Captions and the names of their pictures, "" for none; those that name a picture as they may not are left out."""
    found: dict[tuple[str, str, str], tuple[Caption, str]] = {}
    for caption in table:
        name = folder.find(caption.picture, f"line {caption.line}", problems)
        if name is None:
            continue
        if found.setdefault((name, "" if name else caption.picture, caption.text), (caption, name))[0] is not caption:
            problems.add("captions given twice for one picture", f"{caption.picture} (line {caption.line})")
    return list(found.values())


def _sides(kept: Sequence[tuple[Caption, int]], thumbnails: np.ndarray, problems: Problems
           ) -> tuple[np.ndarray, np.ndarray, str]:
    """0 (train), 1 (valid) or 2 (test) for each picture and each caption, and how that was decided."""
    if any(caption.split for caption, _ in kept):
        return *_given_sides(kept, len(thumbnails), problems), "split as the table says"
    alone = [i for i, (_, picture) in enumerate(kept) if picture < 0]
    keys: list[list[Hashable]] = [[thumbnail.tobytes()] for thumbnail in thumbnails]
    for caption, picture in kept:
        if picture >= 0:
            keys[picture].append(caption.text.casefold())
    keys += [[kept[i][0].text.casefold()] for i in alone]
    side_of: dict[Hashable, int] = {}
    for partners in (True, False):  # apart, so that each split gets pairs; what is like an item with partner follows it
        new = [key for key in keys if (len(key) > 1) == partners and key[0] not in side_of]
        for key, where in zip(new, split_groups(new) if new else (), strict=True):
            side_of.update(dict.fromkeys(key, int(where)))
    side = np.array([side_of[key[0]] for key in keys], dtype=np.int64)
    side2 = np.array([side[picture] for _, picture in kept], dtype=np.int64)
    side2[alone] = side[len(thumbnails):]
    return side[:len(thumbnails)], side2, (f"split 80/10/10 with seed {SPLIT_SEED}; pictures that look the same or "
                                           "share a caption are kept together")


def _given_sides(kept: Sequence[tuple[Caption, int]], n: int, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """A picture is where the first of its captions that names a split is; captions that name none are with it."""
    side1 = np.full(n, -1, dtype=np.int64)
    for caption, picture in kept:
        if picture >= 0 and side1[picture] < 0 and caption.split:
            side1[picture] = SPLITS.index(caption.split)
    side1 = np.maximum(side1, 0)
    side2 = np.zeros(len(kept), dtype=np.int64)
    for i, (caption, picture) in enumerate(kept):
        own = side1[picture] if picture >= 0 else 0
        side2[i] = SPLITS.index(caption.split) if caption.split else own
        if picture >= 0 and side2[i] != own:
            problems.add("captions of a picture that is in another split, left without a partner",
                         f"{caption.picture} (line {caption.line})")
    return side1, side2


class PictureFolder:
    """The pictures below a folder, found by path, by name, or by name without suffix.

    Attributes:
        paths: of the pictures, by their names within the folder (with ``/``, whatever the system).
    """

    def __init__(self, folder: Path, problems: Problems) -> None:
        if not folder.is_dir():
            raise DataError(f"--images {folder}: no such folder")
        self.paths: dict[str, Path] = {}
        self._short: dict[str, list[str]] = {}
        inside = folder.resolve()
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            place = path.relative_to(folder)
            name = place.as_posix()
            if not path.resolve().is_relative_to(inside):
                problems.add("links that lead out of the folder, left out", name)
                continue
            if name != storable(name):
                problems.add("pictures with names that are not UTF-8, left out", name)
                continue
            self.paths[name] = path
            for short in {_composed(one) for one in (name, place.name, place.stem, place.with_suffix("").as_posix())}:
                self._short.setdefault(short, []).append(name)
        if not self.paths:
            raise DataError(f"--images {folder} holds no pictures ({', '.join(SUFFIXES)})")

    def encode(self, names: Sequence[str], encoders: Mapping[str, ImageEncoder], problems: Problems, say: Say
               ) -> tuple[list[str], Encoded]:
        """The names of those pictures that can be read, in order, and what the encoders make of them."""
        ids: list[str] = []
        size = max([THUMBNAIL, *(encoder.size for encoder in encoders.values())])
        files = [(name, self.paths[name]) for name in names]
        encoded = encode_pictures(read_pictures(files, size, ids, problems), encoders, say)
        return ids, encoded

    def find(self, name: str, where: str, problems: Problems) -> str | None:
        """The picture that a table calls ``name``, as a key of ``paths``: "" if there is none, None if the name is no
        good. Either is noted."""
        if name in self.paths:
            return name
        if PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts or "\0" in name:
            problems.add("names that climb out of the folder, left out", f"{name} ({where})")
            return None
        wanted = PurePosixPath(name.replace("\\", "/")).as_posix()
        found = [wanted] if wanted in self.paths else self._short.get(_composed(wanted), [])
        if len(found) > 1:
            problems.add("names that several pictures have, left out", f"{name}: {', '.join(found[:3])} ({where})")
            return None
        if not found:
            problems.add("captions without a picture", f"{name} ({where})")
        return found[0] if found else ""


def _composed(name: str) -> str:
    """With one character for é, which file systems may write as two."""
    return unicodedata.normalize("NFC", name)


def read_pictures(files: Sequence[tuple[str, Path]], size: int, ids: list[str], problems: Problems
                  ) -> Iterator[np.ndarray]:
    """Reads the pictures that can be read, (3, size, size) uint8 each, a few at a time ahead of what is asked for.

    Args:
        files: names and paths.
        size: in pixels; the middle of a picture fills the square.
        ids: the names of the pictures that were read are added here, in order.
        problems: takes those that could not be read, and those that were odd.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:  # a picture of 100 megapixels takes half a gigabyte
        remaining = iter(files)
        waiting: list[tuple[str, Future[Picture]]] = []

        def ask(n: int) -> None:
            waiting.extend((name, pool.submit(read_picture, file, size)) for name, file in
                           itertools.islice(remaining, n))

        ask(2 * BATCH)
        while waiting:
            name, future = waiting.pop(0)
            ask(1)
            try:
                picture = future.result()
            except UnusablePictureError as error:
                problems.add("pictures that can't be read", f"{name}: {error}")
                continue
            if picture.odd:
                problems.add("odd pictures, used all the same", f"{name}: {picture.odd}")
            ids.append(name)
            yield picture.pixels
