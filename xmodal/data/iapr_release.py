"""IAPR TC-12 from its public release: the photographs and their annotations, in the layout of ImageCLEF.

M. Grubinger, P. Clough, H. Müller, T. Deselaers: The IAPR TC-12 benchmark: a new evaluation resource for visual
information systems. OntoImage 2006.
"""
from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xmodal.data.captions import storable
from xmodal.data.fetch import Say
from xmodal.data.folder import PictureFolder
from xmodal.data.image_text import (
    ImageText,
    TextView,
    split_rows,
    write_image_text,
)
from xmodal.data.problems import Problems
from xmodal.errors import DataError
from xmodal.features.choices import image_encoders, text_encoders
from xmodal.features.texts import Codes

LICENCE = "free of charge and without copyright restrictions, says the release; see its README"
#: What is made into the text of a photograph, in this order. Places and dates say little of what it shows.
TEXT_FIELDS = ("TITLE", "DESCRIPTION", "NOTES")


class Annotation(NamedTuple):
    """What a file says of a photograph: where its picture lies, and its text."""

    image: str
    text: str


def prepare_release(path: Path, images: Path, annotations: Path, *, sizes: tuple[int, int], seed: int, width: int,
                    say: Say = print, image_features: Sequence[str] = ("efficientnet",),
                    text_features: Sequence[str] = ("tfidf",)) -> None:
    """Write the data set to the HDF5 file ``path``, with the published split.

    The photographs that have both a picture and a text, in the order of their numbers, are permuted with NumPy's
    ``RandomState(seed)``; the first validate, the next test, the rest train. The text is title, description and notes.

    Args:
        path: the file to write.
        images: the folder that holds ``images/NN/NNNNN.jpg``, or the folder ``images`` itself.
        annotations: the folder ``annotations_complete_eng``, with ``NN/NNNNN.eng``, or one that holds it.
        sizes: how many validate and how many test.
        seed: of the permutation.
        width: the most words of TF-IDF.
        say: prints a line of progress.
        image_features: see :func:`xmodal.features.choices.image_encoders`.
        text_features: see :func:`xmodal.features.choices.text_encoders`.

    Raises:
        DataError: a folder of another layout, or fewer photographs than are held out.
        OSError: the disk is full or the folder can't be written to.
    """
    encoders = image_encoders(image_features)
    text_makers = {**text_encoders(text_features, words=width), "codes": Codes()}
    problems = Problems()
    folder = PictureFolder(images / "images" if (images / "images").is_dir() else images, problems)
    texts = {}
    for place, annotation in read_annotations(annotations, problems):
        found = folder.find(annotation.image, place, problems)
        if found and found in texts:
            problems.add("further annotations of a photograph, left out", f"{place}: {found}")
        elif found:
            texts[found] = annotation.text
    for name in sorted(folder.paths.keys() - texts.keys()):
        problems.add("photographs without an annotation", name)
    order = sorted(texts, key=lambda name: (int("".join(re.findall(r"\d+", Path(name).stem)) or 0), name))
    try:
        ids, pictures = folder.encode(order, encoders, problems, say)
    finally:
        problems.tell(say, path.with_suffix(".problems.tsv"))
    if len(ids) <= sum(sizes):
        raise DataError(f"{len(ids):,} photographs with a text were found, of which {sizes[0]:,} are to validate and "
                        f"{sizes[1]:,} to test; expected about 20,000")
    side = np.zeros(len(ids), dtype=np.int64)
    permuted = np.random.RandomState(seed).permutation(len(ids))
    side[permuted[:sizes[0]]] = 1
    side[permuted[sizes[0]:sum(sizes)]] = 2
    said = [texts[name] for name in ids]
    items = ImageText(ids, {name: TextView(said, maker) for name, maker in text_makers.items()},
                      np.arange(len(ids))[:, None].repeat(2, axis=1), split_rows(side, side))
    write_image_text(path, items, pictures, {
        "name": "iapr", "version": "release", "source": "public release of IAPR TC-12", "licence": LICENCE,
        "split_seed": seed, "note": f"{len(ids):,} photographs of the release, split as published; the features are "
                                    "not the published ones"})


def read_annotations(folder: Path, problems: Problems) -> list[tuple[str, Annotation]]:
    """The annotations below a folder, in Latin-1, each with its file's place; those without a text are left out.

    Raises:
        DataError: no such folder, or no ``.eng`` file in it.
    """
    if not folder.is_dir():
        raise DataError(f"--annotations {folder}: no such folder")
    files = sorted(file for file in folder.rglob("*.eng") if file.is_file())
    if not files:
        raise DataError(f"--annotations {folder} holds no .eng files; expected annotations_complete_eng with folders "
                        "00, 01, ...")
    found = []
    for file in files:
        place = file.relative_to(folder).as_posix()
        content = storable(file.read_bytes().decode("latin-1"))
        image = _field(content, "IMAGE").replace("\\", "/").removeprefix("images/")
        text = " ".join(part for part in (_field(content, name) for name in TEXT_FIELDS) if part)
        if not image:
            problems.add("annotations that name no picture", place)
        elif not text:
            problems.add("annotations without a text", place)
        else:
            found.append((place, Annotation(image, text)))
    return found


def _field(content: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", content, re.DOTALL | re.IGNORECASE)
    return " ".join(html.unescape(found[1]).split()) if found else ""
