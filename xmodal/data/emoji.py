"""``emoji``: what three artists drew for each emoji, and what it is called in 28 languages."""
from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
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
from xmodal.data.splitting import SPLIT_SEED, split_groups
from xmodal.errors import DataError
from xmodal.features.choices import image_encoders, text_encoders
from xmodal.features.texts import Codes, TfIdf

PACKAGES = {"names": "emojibase-data@17.0.0", "noto": "emoji-datasource-google@16.0.0", "openmoji": "openmoji@17.0.0",
            "twemoji": "@twemoji/svg@15.0.0"}
ARTISTS = ("noto", "openmoji", "twemoji")
LICENCE = ("names MIT (emojibase); pictures: Noto Apache 2.0 or OFL 1.1 (Google), OpenMoji CC BY-SA 4.0 "
           "(openmoji.org), Twemoji CC BY 4.0 (Twitter and contributors)")
WORDS, CHARACTERS = 4096, 8192
_BASE = "en"
_PLACES = {"noto": ("img/google/64/", ".png"), "openmoji": ("color/svg/", ".svg"), "twemoji": ("", ".svg")}
_LEFT_OUT = ("component", "flags")  # parts of other emoji; the names of flags are those of countries
_JOINED = {"200d", "fe0f"}
_PERSONS = {"1f468", "1f469", "1f9d1"}  # man, woman, person
_GENDERS = {"2640", "2642"}


@dataclass(frozen=True)
class Emoji:
    """One emoji: its code points in hexadecimal, its class, and by language what it is called."""

    code: str
    kind: str
    texts: Mapping[str, str]

    @property
    def family(self) -> str:
        """The same for man, woman and person doing the same, who look much alike: they must not be split."""
        parts = [part for part in self.code.split("-") if part not in _GENDERS]
        rest = [part for part in parts if part not in _PERSONS]
        return "-".join(rest) or "person"


def prepare(path: Path, *, say: Say = print, source: Path | None = None,
            image_features: Sequence[str] = ("efficientnet_layers",), text_features: Sequence[str] = (),
            zero_shot: bool = False) -> None:
    """Write the data set to the HDF5 file ``path``.

    View-1 items are pictures, view-2 items are emoji; a pair table says which pictures show which emoji. The views of
    side 2 are ``en`` and 27 other languages (TF-IDF of words and of characters), ``codes`` (English, UTF-8 bytes) and
    those of ``text_features``. Labels are the subgroups of Unicode, such as ``animal-bird``. Emoji that share a name
    in any language, or a picture, and man, woman and person doing the same, are on the same side of the split.

    Args:
        path: the file to write.
        say: prints a line of progress.
        source: a folder with the packages' archives, as ``npm pack`` makes them; nothing is downloaded then.
        image_features: see :func:`xmodal.features.choices.image_encoders`; the first is what is read by default.
        text_features: of the English texts, beside those that there are always: see
            :func:`xmodal.features.choices.text_encoders`.
        zero_shot: hold out whole subgroups, so that what is tested on is of no class that was trained on.

    Raises:
        DataError: a package can't be had or is damaged; a Python package is missing.
        OSError: the disk is full or the folder can't be written to.
    """
    encoders = image_encoders(image_features, small=True)
    english = {"codes": Codes(), **text_encoders(text_features)}
    with npm_packages(PACKAGES, say=say, source=source) as packages:
        emoji = read_emoji(packages["names"])
        ids, pictures, pairs = _read_pictures({artist: packages[artist] for artist in ARTISTS}, emoji)
    side = _sides(emoji, pictures, pairs, zero_shot)
    base = [one.texts[_BASE] for one in emoji]
    texts = {language: TextView(base if language == _BASE else [one.texts[language] for one in emoji],
                                TfIdf(WORDS, CHARACTERS)) for language in emoji[0].texts}
    texts |= {name: TextView(base, encoder) for name, encoder in english.items()}
    items = ImageText(ids, texts, pairs, split_rows(side[pairs[:, 1]], side),
                      class_numbers([one.kind for one in emoji])[pairs[:, 1]])
    held_out = "subgroups held out entirely (zero-shot)" if zero_shot else "emoji with a name or picture in common kept"
    write_image_text(path, items, encode_pictures(pictures, encoders, say), {
        "name": "emoji", "version": "1", "source": ", ".join(PACKAGES.values()), "licence": LICENCE,
        "split_seed": SPLIT_SEED, "note": f"split 80/10/10 with seed {SPLIT_SEED}, {held_out}"
                                          + ("" if zero_shot else " together")})


def _read_pictures(packages: Mapping[str, Package], emoji: Sequence[Emoji]
                   ) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Names of the pictures, the pictures and the pair table; the same picture for the same emoji counts once."""
    found: dict[tuple[int, bytes], tuple[str, np.ndarray]] = {}
    for artist, package in packages.items():
        places = pictures_of(package, artist)
        drawn = [(row, places[one.code]) for row, one in enumerate(emoji) if one.code in places]
        pictures = in_order(package.read_all, [place for _, place in drawn],
                            partial(packed_picture, package=package.name))
        for (row, _), picture in zip(drawn, pictures, strict=True):
            found.setdefault((row, picture.tobytes()), (f"{emoji[row].code} {artist}", picture))
    if not found:
        raise DataError(f"{', '.join(PACKAGES.values())} hold no picture of an emoji that has a text in every language")
    order = sorted(found, key=lambda key: key[0])  # stable: artists in their order
    pairs = np.array([(i, row) for i, (row, _) in enumerate(order)], dtype=np.int64)
    return [found[key][0] for key in order], [found[key][1] for key in order], pairs


def _sides(emoji: Sequence[Emoji], pictures: Sequence[np.ndarray], pairs: np.ndarray, zero_shot: bool) -> np.ndarray:
    """0 (train), 1 (valid) or 2 (test) for each emoji."""
    if zero_shot:
        return split_groups([[one.kind] for one in emoji])
    keys: list[list[Hashable]] = [[one.family, *one.texts.items()] for one in emoji]
    for picture, row in pairs.tolist():
        keys[row].append(pictures[picture].tobytes())
    return split_groups(keys)


def read_emoji(names: Package, languages: Sequence[str] | None = None) -> list[Emoji]:
    """The emoji that are no flags and no parts of others, without skin tones, that have a text in every language.

    A text is the name, then the keywords that it doesn't hold already.

    Args:
        names: the package ``emojibase-data``.
        languages: some of its languages; None is all of them, English first.

    Raises:
        DataError: the package has no such language, or is damaged.
    """
    known = [name.split("/")[0] for name in names.names(end="/data.json")]
    languages = languages or [_BASE, *sorted({*known} - {_BASE})]
    if unknown := [language for language in languages if language not in known]:
        raise DataError(f"{names.name} has no language {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    tables: dict[str, Any] = {}
    texts: dict[str, dict[str, str]] = {}
    for language in languages:
        with names.content(f"{language}/data.json") as tables[language]:
            texts[language] = {entry["hexcode"]: _text(entry) for entry in tables[language]}
    emoji = []
    with names.content("meta/groups.json") as meta:
        for entry in tables[languages[0]]:
            group = meta["groups"].get(str(entry.get("group")))
            if group is None or group in _LEFT_OUT:
                continue
            said = {language: texts[language].get(entry["hexcode"], "") for language in languages}
            if all(said.values()):
                emoji.append(Emoji(_code(entry["hexcode"]), str(meta["subgroups"][str(entry["subgroup"])]), said))
    return emoji


def _text(entry: Mapping[str, object]) -> str:
    name = str(entry["label"])
    tags = [str(tag) for tag in entry.get("tags") or ()]  # type: ignore[attr-defined]
    return ", ".join([name, *(tag for tag in tags if tag.casefold() not in name.casefold())])


def _code(hexcode: str) -> str:
    """Without what only joins or asks for colours: packages differ in whether they write it."""
    return "-".join(part for part in hexcode.lower().split("-") if part not in _JOINED)


def pictures_of(package: Package, artist: str) -> dict[str, str]:
    """Where in a package the picture of each code lies."""
    start, end = _PLACES[artist]
    return {_code(name[len(start):-len(end)]): name for name in package.names(start, end)
            if re.fullmatch(r"[0-9A-Fa-f-]+", name[len(start):-len(end)])}
