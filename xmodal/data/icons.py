"""``icons``: the icons of Tabler and of Material Design, and what they are called."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.data.fetch import Say
from xmodal.data.image_text import (
    ImageText,
    TextView,
    class_numbers,
    encode_pictures,
    in_order,
    packed_picture,
    split_rows,
    write_image_text,
)
from xmodal.data.npm import Package, npm_packages
from xmodal.data.pairs import FURTHER
from xmodal.data.splitting import SPLIT_SEED, split_groups
from xmodal.errors import DataError
from xmodal.features.choices import image_encoders, text_encoders
from xmodal.features.texts import Codes

PACKAGES = {"tabler": "@tabler/icons@3.51.0", "mdi": "@mdi/svg@7.4.47"}
LICENCE = "Tabler Icons MIT (Paweł Kuna); Material Design Icons Apache 2.0 (Pictogrammers and Google)"
WORDS = 2048


@dataclass(frozen=True)
class Icon:
    """One name of one set: its class ("" if it has none), its text, and the files that are drawn of it by style."""

    set: str
    name: str
    kind: str
    text: str
    files: Mapping[str, str]

    @property
    def first_word(self) -> str:
        """What the split goes by: ``arrow-left`` and ``arrow-right`` look too much alike to be split."""
        return self.name.partition("-")[0]


def prepare(path: Path, *, say: Say = print, source: Path | None = None,
            image_features: Sequence[str] = ("efficientnet_layers",), text_features: Sequence[str] = ("tfidf",),
            zero_shot: bool = False) -> None:
    """Write the data set to the HDF5 file ``path``.

    View-1 items are pictures, view-2 items are names; an outlined and a filled icon of one name share their text. The
    first word of the name decides the split, in both sets alike. The further test splits ``test_tabler`` and
    ``test_mdi`` hold the test icons of one set each.

    Args:
        path: the file to write.
        say: prints a line of progress.
        source: a folder with the packages' archives, as ``npm pack`` makes them; nothing is downloaded then.
        image_features: see :func:`xmodal.features.choices.image_encoders`; the first is what is read by default.
        text_features: see :func:`xmodal.features.choices.text_encoders`, likewise. The view ``codes`` (UTF-8 bytes) is
            always there.
        zero_shot: hold out whole categories, so that what is tested on is of no class that was trained on; icons
            without a category are left out. Labels are the categories.

    Raises:
        DataError: a package can't be had or is damaged; a Python package is missing.
        OSError: the disk is full or the folder can't be written to.
    """
    encoders = image_encoders(image_features, small=True)
    text_makers = {**text_encoders(text_features, words=WORDS), "codes": Codes()}
    with npm_packages(PACKAGES, say=say, source=source) as packages:
        icons = [*read_tabler(packages["tabler"]), *read_mdi(packages["mdi"])]
        if zero_shot:
            icons = [icon for icon in icons if icon.kind]
        icons, ids, pictures, pairs = _read_pictures(packages, icons)
    side = split_groups([[icon.kind if zero_shot else icon.first_word] for icon in icons])
    texts = [icon.text for icon in icons]
    owner = pairs[:, 1]
    splits = split_rows(side[owner], side)
    for name in PACKAGES:
        member = np.array([icon.set == name for icon in icons])
        if (splits["test"][1] & member).any():
            splits[f"{FURTHER}{name}"] = (splits["test"][0] & member[owner], splits["test"][1] & member)
    labels = class_numbers([icon.kind for icon in icons])[owner] if zero_shot else None
    items = ImageText(ids, {name: TextView(texts, encoder) for name, encoder in text_makers.items()}, pairs, splits,
                      labels)
    how = "category, categories held out entirely (zero-shot)" if zero_shot else "first word of the name"
    write_image_text(path, items, encode_pictures(pictures, encoders, say), {
        "name": "icons", "version": "1", "source": ", ".join(PACKAGES.values()), "licence": LICENCE,
        "split_seed": SPLIT_SEED, "note": f"split 80/10/10 with seed {SPLIT_SEED} by the {how}"})


def _read_pictures(packages: Mapping[str, Package], icons: Sequence[Icon]
                   ) -> tuple[list[Icon], list[str], list[np.ndarray], np.ndarray]:
    """The icons with a picture that no icon before them has, names of their pictures, these and the pair table."""
    kept: list[Icon] = []
    ids: list[str] = []
    pictures: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    seen: set[bytes] = set()
    for key, package in packages.items():
        files = [(icon, style, file) for icon in icons if icon.set == key for style, file in icon.files.items()]
        drawn = in_order(package.read_all, [file for _, _, file in files],
                         partial(packed_picture, package=package.name))
        for (icon, style, _), picture in zip(files, drawn, strict=True):
            if picture.tobytes() in seen:
                continue
            seen.add(picture.tobytes())
            if not kept or kept[-1] is not icon:
                kept.append(icon)
            pairs.append((len(ids), len(kept) - 1))
            ids.append(f"{key} {icon.name}{f' {style}' if style else ''}")
            pictures.append(picture)
    if not kept:
        raise DataError(f"{', '.join(PACKAGES.values())} hold no icon that can be used")
    return kept, ids, pictures, np.array(pairs, dtype=np.int64)


def read_tabler(package: Package) -> list[Icon]:
    """The icons of ``@tabler/icons``: outlined, and for some filled, too."""
    icons = []
    with package.content("icons.json") as content:
        for name, about in content.items():
            files = {style: f"icons/{style}/{name}.svg" for style in about["styles"]}
            files = {style: file for style, file in files.items() if file in package}
            if files:
                text = ", ".join(dict.fromkeys([name.replace("-", " "), *map(str, about["tags"])]))
                icons.append(Icon("tabler", name, str(about.get("category") or ""), text, files))
    return icons


def read_mdi(package: Package) -> list[Icon]:
    """The icons of ``@mdi/svg`` that are not about to be removed."""
    icons = []
    with package.content("meta.json") as content:
        for about in content:
            file = f"svg/{about['name']}.svg"
            if about.get("deprecated") or file not in package:
                continue
            words: list[Any] = [about["name"].replace("-", " "),
                                *(alias.replace("-", " ") for alias in about["aliases"]), *about["tags"]]
            icons.append(Icon("mdi", about["name"], (about["tags"] or [""])[0], ", ".join(dict.fromkeys(words)),
                              {"": file}))
    return icons
