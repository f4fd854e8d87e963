"""A run, its data and its galleries together: what users ask with, in either view, and what they find in the other."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.data import PairedData, StreamedView, load_data
from xmodal.data.fetch import sha256_of
from xmodal.data.pairs import View
from xmodal.data.readers import ItemReader, is_picture, read_numbers
from xmodal.errors import CheckpointError, DataError, did_you_mean
from xmodal.evaluator import HUB_BANK, embed
from xmodal.metrics import DIRECTIONS
from xmodal.nearest import spread_rows
from xmodal.runs import TrainedRun
from xmodal.search.gallery import Gallery, Neighbours
from xmodal.search.milvus import MilvusGallery

_NUMBERS = re.compile(r"\s*[-+.\d][-+.\deE]*(\s*[,;\s]\s*[-+.\d][-+.\deE]*)+\s*")
_FILES = (".npy", ".h5", ".hdf5", ".npz", ".wav")


class Query(NamedTuple):
    """What is asked: ``shown`` to the user, the ``view`` that it is of, its ``items`` (n, *shape), and the ``row`` in
    the split where it is one of its items."""

    shown: str
    view: int
    items: Tensor
    row: int | None = None


#: What queries are looked up in.
AnyGallery = Gallery | MilvusGallery


class Lookup:
    """Asks a run's galleries.

    Args:
        run: whose model embeds queries and items.
        data: that it was trained on.
        split: whose items are the galleries, and are what ids and rows are of.
        run_code: see :class:`xmodal.data.readers.ItemReader`.
    """

    def __init__(self, run: TrainedRun, data: PairedData, split: str = "test", run_code: bool = False) -> None:
        self.run, self.data, self.split = run, data, data.split(split)
        self.readers = {view: ItemReader(data, view, run_code) for view in (1, 2)}
        self._embedded: tuple[Tensor, Tensor] | None = None
        self._galleries: dict[int, AnyGallery] = {}
        self._pairs = self.split.pair_table().numpy()

    # -- galleries ---------------------------------------------------------------------------------------------------

    def gallery(self, view: int) -> AnyGallery:
        """The gallery of a view: the one in use, or else an exact one of the split's items, in memory."""
        if view not in self._galleries:
            self._galleries[view] = Gallery.build(self.embedded(view), self.names(view), captions=self.captions(view),
                                                  about=self.about(view)).to(self.run.device)
        return self._galleries[view]

    @property
    def opened(self) -> set[int]:
        """The views whose galleries are at hand."""
        return set(self._galleries)

    def use(self, gallery: AnyGallery, view: int, place: str) -> None:
        """Looks up items of a view in a gallery that was built before.

        Raises:
            CheckpointError: it was built by another run, or of the other view.
        """
        about, own = gallery.about, self.about(view)
        if about.get("view") != view:
            raise CheckpointError(f"{place} is a gallery of view {about.get('view')}, the query asks for view {view}")
        if about.get("weights") != own["weights"]:
            raise CheckpointError(f"{place} was made by another run ({about.get('run')}, weights "
                                  f"{str(about.get('weights'))[:12]}), not by {own['run']} as it is now "
                                  f"({own['weights'][:12]}): build it again")
        self._galleries[view] = gallery

    def embedded(self, view: int) -> Tensor:
        """The split's items of a view, embedded: (n, d)."""
        if self._embedded is None:
            z1, z2 = embed(self.run.model, self.split, device=self.run.device, precision=self.run.precision)
            self._embedded = z1.cpu(), z2.cpu()
        return self._embedded[view - 1]

    def likely_queries(self, view: int) -> Tensor:
        """Embeddings of a view's training items, which stand for queries to come: 10,000 pairs at most."""
        train = self.data.train
        some = train.select(spread_rows(len(train), HUB_BANK))
        return embed(self.run.model, some, device=self.run.device, precision=self.run.precision)[view - 1].cpu()

    def about(self, view: int) -> dict[str, Any]:
        """What a gallery of this run's items keeps to be recognised by."""
        file = self.run.folder.file(self.run.weights)
        return {"run": self.run.name, "weights": sha256_of(file), "view": view, "split": self.split.name,
                "data": self.data.name, "fingerprint": self.data.fingerprint}

    # -- the split's items -------------------------------------------------------------------------------------------

    def names(self, view: int) -> list[str] | None:
        """Ids of a view's items; None where there are none that are all different.

        A view-2 item goes by its partner's id if it has one partner and this no other.
        """
        ids = self.split.ids
        if ids is None or view == 1:
            return ids if ids is not None and len(set(ids)) == len(ids) else None
        return _of_partners(ids, self._pairs, len(self.split.view2))

    def captions(self, view: int) -> list[str] | None:
        """Texts to show for a view's items; those of their first partners, where they have none of their own."""
        own, other = (self.split.caption1, self.split.caption2)[::1 if view == 1 else -1]
        if own is not None or other is None:
            return own
        partner = _first_partners(self._pairs[:, ::1 if view == 1 else -1], self._size(view))
        return [other[row] if row >= 0 else "" for row in partner.tolist()]

    def partners(self, view: int, row: int) -> list[int]:
        """Rows in the other view that match an item."""
        one, other = view - 1, 2 - view
        return [int(found) for found in self._pairs[self._pairs[:, one] == row, other]]

    def _size(self, view: int) -> int:
        return len(self.split.view1 if view == 1 else self.split.view2)

    # -- queries -----------------------------------------------------------------------------------------------------

    def read(self, text: str, view: int | None = None) -> list[Query]:
        """What a user typed, as queries: an id of the split, a file, a row of the split, numbers, or else a sentence.

        ``row:``, ``id:`` and ``text:`` in front say which; ``FILE:ROW`` takes a row of a ``.npy`` file, or of a split
        of a ``.h5`` or ``.npz`` file; ``FILE.wav@SECONDS`` a place in a recording.

        Args:
            text: what was typed.
            view: that it is of; None takes view 1 where that can read it, else view 2.

        Raises:
            DataError: it is nothing that can be looked up; says what can.
        """
        kind, _, rest = text.partition(":")
        if kind in ("row", "id", "text") and rest:
            return [getattr(self, f"_{kind}")(rest.strip(), view)]
        if self.split.ids is not None and text.strip() in self.split.ids:  # they may read as numbers or as files
            return [self._id(text.strip(), view)]
        file = _file_of(text)
        if file is not None:
            return self._of_file(*file, view)
        if text.strip().isdecimal():
            return [self._row(text.strip(), view)]
        if _NUMBERS.fullmatch(text):
            return [self._numbers(text, view)]
        if _is_file(text):
            raise DataError(f"{text} is a file of no kind that can be looked up; text:{text} looks up the words")
        return [self._text(text, view)]

    def item(self, row: int, view: int) -> Query:
        """An item of the split.

        Raises:
            DataError: there is none of that number.
        """
        count = self._size(view)
        if not 0 <= row < count:
            raise DataError(f"view {view} of the {self.split.name} split has items 0 to {count - 1:,}, got {row:,}")
        names, captions = self.names(view), self.captions(view)
        shown = names[row] if names is not None else f"row {row}"
        return Query(f"{shown}: {captions[row]}" if captions is not None else shown, view,
                     _taken(self.split.view1 if view == 1 else self.split.view2, [row]), row)

    def _row(self, text: str, view: int | None) -> Query:
        if not text.isdecimal() or len(text) > 18:
            raise DataError(f"row {text!r}: expected a whole number")
        return self.item(int(text), view or 1)

    def _id(self, text: str, view: int | None) -> Query:
        ids = self.split.ids or []
        if text not in ids:
            hint = did_you_mean(text, ids) if ids else "its items have none"
            raise DataError(f"there is no item {text!r} in the {self.split.name} split; {hint}")
        row = ids.index(text)
        if view != 2:
            return self.item(row, 1)
        partners = self.partners(1, row)
        if not partners:
            raise DataError(f"{text!r} has no partner in view 2")
        return self.item(partners[0], 2)

    def _text(self, text: str, view: int | None) -> Query:
        return Query(text, chosen := self._reader_of("text", view, text), self.readers[chosen].text(text))

    def _numbers(self, text: str, view: int | None) -> Query:
        try:
            values = np.array([float(part) for part in re.split(r"[,;\s]+", text.strip())], dtype=np.float32)
        except ValueError as error:
            raise DataError(f"{text[:40]!r} are no numbers") from error
        return self._items(values, view, f"{len(values)} numbers")[0]

    def _items(self, values: Any, view: int | None, shown: str) -> list[Query]:
        """Items as they are, of the first view that they fit."""
        failures = []
        for one in (1, 2) if view is None else (view,):
            try:
                items = self.readers[one].numbers(values)
            except DataError as error:
                failures.append(error)
                continue
            many = len(items) > 1
            return [Query(f"{shown}:{row}" if many else shown, one, item[None]) for row, item in enumerate(items)]
        raise failures[0] if len(failures) == 1 else DataError("; ".join(map(str, failures)))

    def _of_file(self, path: Path, row: int | None, at: float | None, view: int | None) -> list[Query]:
        if not path.is_file():
            raise DataError(f"no file {path}" + (f", and no item of that name in the {self.split.name} split"
                                                 if self.split.ids is not None else ""))
        shown, suffix = path.name, path.suffix.lower()
        if is_picture(path):
            return [Query(shown, one := self._reader_of("picture", view, shown), self.readers[one].picture(path))]
        if suffix == ".wav":
            return [Query(shown, one := self._reader_of("sound", view, shown), self.readers[one].sound(path, at))]
        if suffix == ".npy":
            values = read_numbers(path)
            return self._items(values if row is None else _one_row(values, row, path), view,
                               shown if row is None else f"{shown}:{row}")
        if row is None:
            raise DataError(f"{path} holds many items: give one, {path}:ROW")
        trained = self.run.about["data"].get("views") if suffix != ".npz" else None
        other = load_data(str(path), views=trained).split(self.split.name if self.split.name != "train" else "test")
        items = other.view1 if (view or 1) == 1 else other.view2
        if not 0 <= row < len(items):
            raise DataError(f"{path}: {other.name} view {view or 1} has items 0 to {len(items) - 1:,}, got {row:,}")
        return self._items(_taken(items, [row])[0], view or 1, f"{shown}:{row}")

    def _reader_of(self, what: str, view: int | None, text: str) -> int:
        """The view that reads a kind of query."""
        for one in (1, 2) if view is None else (view,):
            if what in self.readers[one].reads:
                return one
        reads = "; ".join(f"{self.readers[one].name} reads {', '.join(sorted(self.readers[one].reads))}"
                          for one in ((1, 2) if view is None else (view,)))
        raise DataError(f"{text[:60]!r} is no row and no id of the {self.split.name} split, and no {what} can be read: "
                        f"{reads}" if what == "text" else f"{text[:60]!r}: no {what} can be read: {reads}")

    # -- asking ------------------------------------------------------------------------------------------------------

    def find(self, query: Query, k: int = 10) -> Neighbours:
        """What a query finds in the other view."""
        return self.gallery(3 - query.view).query(self.run.embed(query.view, query.items), k)

    def partner_rows(self, query: Query) -> set[int]:
        """Rows of the other view's gallery that hold a query's partners, where it is an item of the split and that is
        what is searched."""
        if query.row is None:
            return set()
        partners = torch.tensor(self.partners(query.view, query.row), dtype=torch.int64)
        return set(torch.isin(self.origins(3 - query.view), partners).nonzero().flatten().tolist())

    def origins(self, view: int) -> Tensor:
        """Which items of the split the first rows of a view's gallery hold, (m,) int64; rows from m on are of none."""
        gallery = self.gallery(view)
        return gallery.origins(self._size(view) if gallery.about.get("split") == self.split.name else 0)

    def direction(self, query: Query) -> str:
        """``V1_to_V2`` or ``V2_to_V1``."""
        return DIRECTIONS[query.view - 1]


def _of_partners(ids: Sequence[str], pairs: np.ndarray, count: int) -> list[str] | None:
    partner = _first_partners(pairs[:, ::-1], count)
    if len(pairs) != count or (partner < 0).any() or len(set(partner.tolist())) < count:
        return None
    names = [ids[row] for row in partner.tolist()]
    return names if len(set(names)) == count else None


def _first_partners(pairs: np.ndarray, count: int) -> np.ndarray:
    """The first partner of each of ``count`` items in column 0, −1 where there is none."""
    partner = np.full(count, -1, dtype=np.int64)
    partner[pairs[::-1, 0]] = pairs[::-1, 1]
    return partner


def _file_of(text: str) -> tuple[Path, int | None, float | None] | None:
    """The file that a query names, its row and its place in seconds; None where it names none."""
    path, row, at = Path(text), None, None
    if found := re.fullmatch(r"(.+\.(?:npy|npz|h5|hdf5)):(\d{1,18})", text, flags=re.IGNORECASE):
        path, row = Path(found[1]), int(found[2])
    elif found := re.fullmatch(r"(.+\.wav)@(\d+(?:\.\d*)?)", text, flags=re.IGNORECASE):
        path, at = Path(found[1]), float(found[2])
    return (path, row, at) if is_picture(path) or path.suffix.lower() in _FILES else None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _one_row(values: np.ndarray, row: int, path: Path) -> np.ndarray:
    if values.ndim < 2 or row >= len(values):
        raise DataError(f"{path} has {len(values) if values.ndim > 1 else 1:,} rows, there is no row {row:,}")
    one: np.ndarray = values[row]
    return one


def _taken(view: View, rows: Sequence[int]) -> Tensor:
    chosen = torch.tensor(rows)
    return view.gather(chosen) if isinstance(view, StreamedView) else view[chosen]


def run_galleries(run: TrainedRun, view: int, split: str) -> Path:
    """The folder in a run where the gallery of a view is kept."""
    name = f"gallery_{DIRECTIONS[2 - view]}"
    return run.folder.file(name if split == "test" else f"{name}_{split}")


def as_json(query: Query, found: Neighbours, direction: str, partners: Sequence[int] = ()) -> Mapping[str, Any]:
    """A query and what it found."""
    neighbours = [{"place": place, "score": round(score, 6), "row": row, "id": name, "caption": caption,
                   "partner": row in partners}
                  for place, (score, row, name, caption) in enumerate(
                      zip(found.scores[0].tolist(), found.rows[0].tolist(), found.ids[0], found.captions[0],
                          strict=True), start=1) if row >= 0]
    return {"query": query.shown, "view": query.view, "direction": direction, "row": query.row,
            "partners": sorted(partners), "neighbours": neighbours}
