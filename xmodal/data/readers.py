"""What users have (a sentence, a picture, sound, numbers) made into items of a view, by the encoders of the data."""
from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xmodal.data.pairs import PairedData, as_view
from xmodal.data.streamed import StreamedView
from xmodal.errors import DataError, one_line
from xmodal.features.images import image_encoder
from xmodal.features.pictures import SUFFIXES, UnusablePictureError, read_picture
from xmodal.features.sounds import read_wave, sound_encoder
from xmodal.features.texts import text_encoder

#: How large pictures are read that become small ones; values of a query's file at most.
_DRAWN, _MOST_VALUES = 256, 1 << 26
_TEXTS, _PICTURES, _SOUNDS = ("tfidf", "sentences", "codes", "named", "joined"), ("hog", "network"), ("spectrogram",)
#: Networks that are made by this toolkit or by libraries, with weights that these name, and not by a function or from
#: a place that the data name (timm also knows hf-hub:USER/MODEL and local-dir:PATH).
_KNOWN = re.compile(r"efficientnet|efficientnet_layers|(timm|torchvision):[\w.-]+", re.ASCII)


class ItemReader:
    """Makes items of one view of a data set.

    Args:
        data: their encoder says how raw items became the view.
        view: 1 or 2.
        run_code: whether an encoder may be made by calling a function that the data file names (``MODULE:FUNCTION``).

    Attributes:
        drawn: channels, height and width, where the view's items are pictures themselves; None elsewhere.
        reads: what can be read: some of ``text``, ``picture``, ``sound``, and always ``numbers``.
    """

    def __init__(self, data: PairedData, view: int, run_code: bool = False) -> None:
        self.view = view
        self.shape = data.view1_shape if view == 1 else data.view2_shape
        self.name = (data.view1_name if view == 1 else data.view2_name) or f"view {view}"
        self._state = _encoder_state(data, view)
        self._run_code = run_code
        self._encoder: Any = None
        self.drawn = _drawn_shape(data, view) if not self._state else None
        self._light_on_dark: bool | None = None
        self._some = data.train.view1 if view == 1 else data.train.view2
        kind = self._state.get("kind")
        self.reads = {"numbers"} | {name for name, kinds in (("text", _TEXTS), ("picture", _PICTURES),
                                                             ("sound", _SOUNDS)) if kind in kinds}
        if self.drawn is not None:
            self.reads.add("picture")

    def read(self, raw: Iterable[str | Path]) -> Tensor:
        """Raw items as items (n, *shape): texts, or the paths of pictures and ``.wav`` files.

        A path is a :class:`pathlib.Path`; where the view reads files and no texts, strings are paths, too.

        Raises:
            DataError: one of them can't be read, or the view reads none of its kind; or there are none.
        """
        given: list[str | Path] = [raw] if isinstance(raw, str | Path) else [*raw]
        if not given or not all(isinstance(item, str | Path) for item in given):
            raise DataError(f"expected texts, or paths of pictures or recordings; got {_kinds(given)}")
        if "text" not in self.reads and self.reads & {"picture", "sound"}:
            given = [Path(item) for item in given]
        if all(isinstance(item, str) for item in given):
            return self.texts([str(item) for item in given])
        return torch.cat([self.texts([item]) if isinstance(item, str) else self.file(item) for item in given])

    def file(self, path: Path) -> Tensor:
        """A picture or a ``.wav`` file as an item (1, *shape).

        Raises:
            DataError: it is neither, can't be read, or the view reads none of its kind.
        """
        if not path.is_file():
            raise DataError(f"no file {path}")
        if is_picture(path):
            return self.picture(path)
        if path.suffix.lower() == ".wav":
            return self.sound(path)
        raise DataError(f"{path}: expected a picture ({', '.join(SUFFIXES)}) or a .wav file")

    def text(self, text: str) -> Tensor:
        """A sentence as an item (1, *shape); see :meth:`texts`."""
        return self.texts([text])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Sentences as items (n, *shape).

        Raises:
            DataError: the view reads no texts, its encoder is missing or names code, a text is empty, or nothing of
                it is known to the encoder.
        """
        if not all(text.strip() for text in texts):
            raise DataError("the query is empty" if len(texts) == 1 else "a text is empty")
        items = self._checked(self._encoded("text", text_encoder, [*texts]))
        for text, item in zip(texts, items, strict=True):
            if not item.any():  # whatever is found for it would be what is found for any other
                raise DataError(f"nothing of {textwrap.shorten(text, 60)!r} was in the texts that the encoder of "
                                f"{self.name} was made from: other words?")
        return items

    def picture(self, source: Path | bytes) -> Tensor:
        """A PNG, JPEG or WebP file, or its content, as an item (1, *shape).

        A view that holds small pictures themselves gets the picture in its size; where it has one channel, it is
        turned into its negative if it is light where the view's items are dark.

        Raises:
            DataError: no picture, or the view reads none.
        """
        self._refuse("picture")
        encoder = None if self.drawn is not None else self._made("picture", image_encoder)
        try:
            read = read_picture(source, _DRAWN, "pad") if encoder is None else read_picture(source, encoder.size)
        except UnusablePictureError as error:
            raise DataError(f"{'the picture' if isinstance(source, bytes) else source}: {error}") from error
        pixels = torch.from_numpy(read.pixels)
        if encoder is None:
            return self._checked(self._small(pixels.float() / 255))
        return self._checked(self._encoded("picture", image_encoder, pixels[None]))

    def sound(self, source: Path | bytes, at: float | None = None) -> Tensor:
        """A WAV file, or its content, as an item (1, *shape): the excerpt ``at`` so many seconds, or in its middle.

        Raises:
            DataError: no recording, or the view reads none.
        """
        self._refuse("sound")
        return self._checked(self._encoded("sound", sound_encoder, read_wave(source), at)[None])

    def numbers(self, values: Any) -> Tensor:
        """Items of the view as they are, (n, *shape) or one of them, flat or not.

        Raises:
            DataError: another number of values than an item has.
        """
        array = as_view(values, "query")
        if not isinstance(array, Tensor):
            raise DataError("a query must be an array")
        width = int(np.prod(self.shape))
        if array.shape in (self.shape, (width,)):
            array = array.reshape(1, *self.shape)
        if array.numel() == 0 or array.shape[1:] not in (self.shape, (width,)):
            raise DataError(f"{self.name} has items of {' × '.join(map(str, self.shape))} values, the query has "
                            f"{' × '.join(map(str, array.shape)) or 'none'}")
        return self._checked(array.reshape(-1, *self.shape))

    def _refuse(self, what: str) -> None:
        if what not in self.reads:
            raise DataError(f"{self.name} reads {' and '.join(sorted(self.reads))}, no {what}: its data store no "
                            "encoder for it")

    def _made(self, what: str, make: Callable[[Mapping[str, Any]], Any]) -> Any:
        """The encoder, made once; a file's damaged state is told."""
        self._refuse(what)
        if self._encoder is None:
            function = code_of(self._state)
            if function and not self._run_code:
                raise DataError(f"the encoder of {self.name} calls {function}, which the data file names: --run_code "
                                "allows it, if you trust the file")
            with self._blamed():
                self._encoder = make(self._state)
        return self._encoder

    def _encoded(self, what: str, make: Callable[[Mapping[str, Any]], Any], *given: Any) -> Tensor:
        """What the encoder makes of what is given."""
        encoder = self._made(what, make)
        with self._blamed():
            return torch.as_tensor(encoder(*given))

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Whatever goes wrong inside is the stored encoder's fault: its state may hold anything."""
        try:
            yield
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise DataError(f"the stored encoder of {self.name} is damaged ({one_line(error)[:100]}); prepare the data "
                            "again") from error

    def _checked(self, items: Tensor) -> Tensor:
        items = items.to(torch.float32)
        if items.shape[1:] != self.shape or not items.isfinite().all():
            raise DataError(f"the query became {tuple(items.shape[1:])} values, not finite or not as many as "
                            f"{self.name} has ({tuple(self.shape)}): were the data prepared otherwise?")
        return items

    def _small(self, pixels: Tensor) -> Tensor:
        """A picture (3, s, s) from 0 to 1, padded to a square with white, in the form of the view's items."""
        channels, height, width = self.drawn or (3, 1, 1)
        side = pixels.shape[1]
        tall, wide = (side, round(side * width / height)) if height >= width else (round(side * height / width), side)
        top, left = (side - tall) // 2, (side - wide) // 2
        middle = pixels[None, :, top:top + tall, left:left + wide]
        small = interpolate(middle, (height, width), mode="area")
        if channels == 1:
            small = small.mean(dim=1, keepdim=True)
            if self._is_light_on_dark() != (float(small.median()) < 0.5):
                small = 1 - small
        return small.reshape(1, *self.shape)

    def _is_light_on_dark(self) -> bool:
        if self._light_on_dark is None:
            rows = torch.arange(min(100, len(self._some)))
            some = self._some.gather(rows) if isinstance(self._some, StreamedView) else self._some[rows]
            self._light_on_dark = float(some.median()) < 0.5
        return self._light_on_dark


def _kinds(given: Sequence[Any]) -> str:
    return " and ".join(sorted({type(item).__name__ for item in given})) or "nothing"


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture."""
    return path.suffix.lower() in SUFFIXES


def read_numbers(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file; nothing is unpickled.

    Raises:
        DataError: there is none, or it is damaged or too large.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers make NumPy raise nearly anything
        raise DataError(f"{path} can't be read as .npy: {one_line(error)[:200]}") from error
    if array.size > _MOST_VALUES:
        raise DataError(f"{path} has {array.size:,} values, more than {_MOST_VALUES:,}: give a row, {path}:ROW")
    return np.asarray(array)


def code_of(state: Mapping[str, Any]) -> str:
    """The ``MODULE:FUNCTION`` that an encoder would call; "" where it needs none."""
    parts = state.get("parts", [])
    if state.get("kind") == "joined" and isinstance(parts, list):
        return next((found for part in parts if isinstance(part, dict) and (found := code_of(part))), "")
    name = str(state.get("name", ""))
    if state.get("kind") == "named" or (state.get("kind") == "network" and not _KNOWN.fullmatch(name)):
        return name
    return ""


def _encoder_state(data: PairedData, view: int) -> dict[str, Any]:
    text = data.encoder1 if view == 1 else data.encoder2
    try:
        state = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise DataError(f"the stored encoder of view {view} is damaged; prepare the data again")
    return state


def _drawn_shape(data: PairedData, view: int) -> tuple[int, int, int] | None:
    """Channels, height and width, where the items of a view are pictures themselves."""
    shape, picture, rising = ((data.view1_shape, data.picture1, data.rising1) if view == 1 else
                              (data.view2_shape, data.picture2, data.rising2))
    if rising:
        return None  # a spectrogram
    if picture is not None:
        return 1, *picture
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[0], shape[1], shape[2]
    return (1, shape[0], shape[1]) if len(shape) == 2 else None
