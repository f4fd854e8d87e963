"""The encoders by the names that users give: ``--image_features`` and ``--text_features``."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from xmodal.errors import DataError
from xmodal.features.images import ColourHog, ImageEncoder, efficientnet, named_network
from xmodal.features.texts import Codes, Joined, Sentences, TextEncoder, TfIdf, named_texts


def image_encoders(names: Sequence[str], small: bool = False) -> dict[str, ImageEncoder]:
    """Encoders of pictures, by what the views that they make are called.

    Args:
        names: ``efficientnet`` and ``efficientnet_layers`` (ImageNet weights, extra ``images``), ``hog`` (colours and
            edges, no weights), ``timm:NAME``, ``torchvision:NAME``, or one's own ``MODULE:FUNCTION``.
        small: the pictures have 64 × 64 pixels; EfficientNet then looks at them in 128 × 128 instead of 224 × 224,
            which takes a third of the time.

    Raises:
        DataError: no names, one given twice, or one that is unknown or can't be made here; says why.
    """
    made: dict[str, ImageEncoder] = {}
    for name in _distinct(names):
        if name in ("efficientnet", "efficientnet_layers"):
            made[name] = efficientnet(size=128 if small else 224, layers=name.endswith("layers"))
        else:
            made[_view(name)] = ColourHog() if name == "hog" else named_network(name)
    if not made:
        raise DataError("no image features: give efficientnet, efficientnet_layers, hog, timm:NAME, torchvision:NAME "
                        "or MODULE:FUNCTION")
    return made


def text_encoders(names: Sequence[str], words: int = 2048, characters: int = 0) -> dict[str, TextEncoder]:
    """Encoders of texts, by what the views that they make are called.

    Args:
        names: ``tfidf``, ``sentences`` (MiniLM, English, extra ``text``), ``codes`` (UTF-8 bytes, for towers that read
            characters), one's own ``MODULE:FUNCTION``, or several of them side by side: ``sentences+tfidf``.
        words: of ``tfidf``.
        characters: of ``tfidf``.

    Raises:
        DataError: one is given twice, or is unknown or can't be made here; says why.
    """
    own: dict[str, Callable[[], TextEncoder]] = {"tfidf": lambda: TfIdf(words, characters), "sentences": Sentences,
                                                 "codes": Codes}

    def one(name: str) -> TextEncoder:
        return own[name]() if name in own else named_texts(name)

    return {_view(name): Joined([one(part) for part in name.split("+")]) if "+" in name else one(name)
            for name in _distinct(names)}


def _distinct(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"features {name} are given more than once")
    return names


def _view(name: str) -> str:
    """``timm:resnet18.a1_in1k`` becomes ``timm-resnet18.a1_in1k``: a slash would be a folder in HDF5."""
    return re.sub(r"[:/\s]+", "-", name)
