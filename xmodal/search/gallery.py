"""Galleries: the embeddings of one view, kept so that queries of the other find their nearest among them."""
from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.atomic import replacing
from xmodal.data.fetch import sha256_of
from xmodal.errors import CheckpointError, DataError, did_you_mean
from xmodal.metrics.hubness import CORRECTIONS, corrected_gallery, corrected_queries, corrected_scores, favour
from xmodal.metrics.views import as_matrix, make_view
from xmodal.nearest import Nearest, first_largest, nearest
from xmodal.search.codes import BEST
from xmodal.search.indexes import KINDS, Effort, Index, load_index, make_index, sampled
from xmodal.search.storage import DESCRIPTION, FORMAT, map_array, read_description, read_json, write_array

#: Neighbours by which recall is measured, and queries that measure it, at most.
RECALL_AT, RECALL_QUERIES = 10, 1000
#: How much of the way from the recall asked for to 1 is added to it when effort is chosen.
MARGIN = 0.3
#: Queries that stand for those to come, at most, when hubs are corrected for.
BANK = 10_000
_BLOCK = 1 << 16
_GATHERED = 1 << 24  # values of candidates held at a time


class Neighbours(NamedTuple):
    """What queries found, best first.

    ``scores`` (q, k) float32 cosines (less what hubs are favoured by, where the gallery corrects for that), −inf where
    an approximate gallery found fewer · ``rows`` (q, k) int64, −1 there · ``ids`` q lists of k names (row numbers as
    texts, where the gallery has no ids) · ``captions`` q lists of k texts to show, "" where there are none.
    """

    scores: Tensor
    rows: Tensor
    ids: list[list[str]]
    captions: list[list[str]]


class Gallery:
    """Embeddings that queries are looked up in, by cosine similarity.

    Made by :meth:`build` or :meth:`load`. Exact galleries compare each query with every item, tile by tile. Others
    let an index propose candidates, which are then scored exactly; their recall against the exact search was measured
    when they were built.

    Attributes:
        kind: ``exact``, ``hnsw``, ``ivfpq`` or ``codes``.
        dim: width of the embeddings.
        ids: names of the items by row, or None.
        captions: texts to show for them, or None.
        about: what the builder says of them (run, view, data), plain JSON.
        correction: ``csls`` or ``inverted_softmax``, or None.
        recall: recall@10 against the exact search; 1 for exact galleries.
    """

    def __init__(self, parts: Sequence[Tensor], kind: str, *, ids: list[str] | None = None,
                 captions: list[str] | None = None, about: Mapping[str, Any] | None = None, index: Index | None = None,
                 correction: str | None = None, bank: Tensor | None = None) -> None:
        self.kind, self.ids, self.captions, self.about = kind, ids, captions, dict(about or {})
        self.correction, self.recall = correction, 1.0
        self.recall_by = "exact"
        self._parts, self._index, self._bank = list(parts), index, bank
        self._effort: Effort | None = None
        self._gone: Tensor | None = None     # (n,) bool, of removed rows
        self._file: Path | None = None       # that all vectors are memory-mapped from
        self._row_of: dict[str, int] | None = None

    # -- making ------------------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, embeddings: Any, ids: Sequence[str] | None = None, *, captions: Sequence[str] | None = None,
              kind: str = "exact", queries: Any = None, correction: str | None = None, recall: float = 0.95,
              bits: int = 128, codes: str = BEST, about: Mapping[str, Any] | None = None,
              path: str | Path | None = None, seed: int = 0) -> Gallery:
        """A gallery of embeddings.

        Args:
            embeddings: (n, d), an array or tensor; or blocks of such rows, one after the other.
            ids: n different names.
            captions: n texts to show.
            kind: ``exact``; ``hnsw`` (fast, extra ``search``); ``ivfpq`` (fast and small, extra ``search``); ``codes``
                (bits in memory, see :mod:`xmodal.search.codes`; vectors best on disk).
            queries: embeddings (m, d) like the queries to come, such as the other view's of training pairs. Recall is
                measured with them, codes are fitted to them, hubs corrected by them. By default the items themselves.
            correction: ``csls`` or ``inverted_softmax``: score items without the favours of hubs.
            recall: what recall@10 to reach; the least effort is kept that does, and MARGIN more on the way to 1, since
                the queries to come are others.
            bits: of codes.
            codes: ``sign``, ``rotated``, ``learned``, or the ``best`` of them.
            about: what to keep with it: run, view, data.
            path: a folder to write to block by block; its vectors are then memory-mapped, not in memory.
            seed: of codes.

        Raises:
            DataError: nothing to search in, wrong shapes, ids that are not different, an unknown kind.
            NumericalError: embeddings that are not finite.
        """
        check_choice("gallery kind", kind, KINDS)
        if correction is not None:
            check_choice("correction", correction, CORRECTIONS)
        if not 0 < recall <= 1:
            raise DataError(f"recall must be above 0 and at most 1, got {recall:g}")
        asked = None if queries is None else sampled([as_matrix(queries, "queries").float()], BANK)
        bank = None
        if correction is not None:
            if asked is None:
                raise DataError(f"{correction} needs queries like those to come: give their embeddings")
            bank = make_view(asked, "queries").unit
        blocks = unit_blocks(embeddings, correction, bank)
        file = None if path is None else Path(path) / f"vectors-{secrets.token_hex(4)}.npy"
        if file is None:
            parts = [_collected(blocks)]
        else:
            write_array(file, blocks)
            parts = [map_array(file)]
        count = len(parts[0])
        gallery = cls(parts, kind, ids=texts_of(ids, count, "ids"), captions=texts_of(captions, count, "captions"),
                      about=about, correction=correction, bank=bank)
        gallery._file = file
        gallery._refuse_repeated_ids()
        if asked is not None and asked.shape[1] != gallery.dim:
            raise DataError(f"embeddings have {gallery.dim} values, queries {asked.shape[1]}")
        asked = sampled(parts, BANK) if asked is None else gallery._as_queries(asked)
        if kind != "exact":
            gallery._fit_index(asked, recall, bits=bits, codes=codes, seed=seed, own=queries is None)
        if path is not None:
            gallery.save(path)
        return gallery

    def _fit_index(self, asked: Tensor, recall: float, *, bits: int, codes: str, seed: int, own: bool) -> None:
        self._index = make_index(self.kind, sampled(self._parts), len(self), queries=asked, bits=bits, codes=codes,
                                 seed=seed)
        if self._index is not None:
            for part in self._parts:
                self._index.add(part)
            self._tune(self._index, sampled([asked], RECALL_QUERIES), recall)
            self.recall_by = "items themselves" if own else "queries"

    def _tune(self, index: Index, queries: Tensor, recall: float) -> None:
        """Keeps the least effort that reaches a recall, or else the greatest, and measures it."""
        k = min(RECALL_AT, len(self))
        wanted = nearest(queries, self._parts, k).scores[:, -1:] - 1e-6  # what ties with the last one counts, too
        for effort in index.efforts:
            self._effort = effort
            found = self._propose(queries, k, None)
            self.recall = float((found.scores >= wanted).double().mean())
            if self.recall >= recall + MARGIN * (1 - recall) or effort.shortlist >= len(self):
                return

    # -- asking ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many items can be found."""
        return self._rows - (0 if self._gone is None else int(self._gone.sum()))

    @property
    def _rows(self) -> int:
        return sum(map(len, self._parts))

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self._parts[0].shape[1]) - (2 if self.correction else 0)

    def query(self, vectors: Any, k: int = 10, *, exact: bool = False) -> Neighbours:
        """The ``k`` items nearest to each query.

        Args:
            vectors: (q, d), or (d,) for one.
            k: at most the number of items.
            exact: compare with every item, whatever the kind.

        Raises:
            DataError: queries of another width, an empty gallery, ``k`` beyond its items.
            NumericalError: queries that are not finite.
        """
        queries = torch.as_tensor(vectors)
        queries = self._as_queries(queries[None] if queries.ndim == 1 else queries)
        if not len(self):
            raise DataError("the gallery is empty")
        if not 1 <= k <= len(self):
            raise DataError(f"k must be from 1 to {len(self):,} (the items of the gallery), got {k:,}")
        allowed = None if self._gone is None else ~self._gone
        if self._index is None or exact:
            found = nearest(queries.to(self._parts[0].device), self._parts, k, allowed=allowed)
            found = Nearest(found.scores.cpu(), found.rows.cpu())
        else:
            found = self._propose(queries, k, allowed)
        scores = corrected_scores(found.scores) if self.correction else found.scores
        rows = found.rows.tolist()
        return Neighbours(scores, found.rows, [[self.name(row) for row in some] for some in rows],
                          [[self.caption(row) for row in some] for some in rows])

    def _as_queries(self, vectors: Any) -> Tensor:
        """Checked queries of length one, in the space that is searched."""
        matrix = as_matrix(vectors, "query")
        if matrix.shape[1] != self.dim:
            raise DataError(f"the gallery holds embeddings of {self.dim} values, a query has {matrix.shape[1]}")
        unit = make_view(matrix, "query").unit
        return corrected_queries(unit) / math.sqrt(2) if self.correction else unit

    def _propose(self, queries: Tensor, k: int, allowed: Tensor | None) -> Nearest:
        """The best of what the index proposes, scored exactly."""
        if self._index is None or self._effort is None:
            raise RuntimeError("an exact gallery has no index")
        effort = Effort(max(self._effort.search, k if self.kind == "hnsw" else 0), max(self._effort.shortlist, k))
        width = queries.shape[1]
        step = max(1, _GATHERED // (effort.shortlist * width))
        kept = []
        for part in queries.split(step):
            rows = self._index.candidates(part, effort, allowed).sort(dim=1).values  # by row, for the disk and for ties
            items = self._gather(rows.clamp(min=0).flatten()).view(*rows.shape, width)
            scores = torch.bmm(items, part[:, :, None]).squeeze(2).masked_fill_(rows < 0, -torch.inf)
            best = first_largest(scores, min(k, scores.shape[1]))
            found = rows.gather(1, best.rows).masked_fill(best.scores == -torch.inf, -1)
            missing = k - found.shape[1]
            kept.append(Nearest(torch.nn.functional.pad(best.scores, (0, missing), value=-torch.inf),
                                torch.nn.functional.pad(found, (0, missing), value=-1)))
        return Nearest(*(torch.cat(values) for values in zip(*kept, strict=True)))

    def _gather(self, rows: Tensor) -> Tensor:
        if len(self._parts) == 1:
            return self._parts[0][rows]
        out = rows.new_empty((len(rows), self._parts[0].shape[1]), dtype=torch.float32)
        first = 0
        for part in self._parts:
            inside = (rows >= first) & (rows < first + len(part))
            out[inside] = part[rows[inside] - first]
            first += len(part)
        return out

    def name(self, row: int) -> str:
        """The id of a row, its number where there are none, "" for −1."""
        if row < 0:
            return ""
        return str(row) if self.ids is None else self.ids[row]

    def caption(self, row: int) -> str:
        """The text to show of a row, "" where there is none."""
        return self.captions[row] if self.captions is not None and row >= 0 else ""

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(self, embeddings: Any, ids: Sequence[str] | None = None, captions: Sequence[str] | None = None) -> None:
        """Adds items (n, d) at the end, with ids where the gallery has some.

        Raises:
            DataError: another width, or ids that are missing, repeated or there already.
        """
        matrix = as_matrix(embeddings, "embeddings")
        if matrix.shape[1] != self.dim:
            raise DataError(f"the gallery holds embeddings of {self.dim} values, these have {matrix.shape[1]}")
        if (ids is None) != (self.ids is None):
            raise DataError("the gallery's items have ids: give ids for new ones, too" if ids is None else
                            "the gallery's items have no ids: leave them out")
        new = texts_of(ids, len(matrix), "ids")
        if new is not None and self.ids is not None:
            taken = next((name for name in new if name in self._names_alive()), None)
            if taken is not None or len(set(new)) < len(new):
                raise DataError(f"id {taken!r} is in the gallery already: remove it first" if taken is not None else
                                "ids must be different")
        texts = texts_of(captions, len(matrix), "captions")
        added = torch.cat(list(unit_blocks(matrix, self.correction, self._bank))).to(self._parts[0].device)
        if self._index is not None:
            self._index.add(added)
        if self._gone is not None:
            self._gone = torch.cat([self._gone, torch.zeros(len(added), dtype=torch.bool)])
        if self.captions is not None or texts is not None:
            self.captions = (self.captions or [""] * self._rows) + (texts or [""] * len(added))
        if new is not None and self.ids is not None:
            self.ids = self.ids + new
        self._parts.append(added)
        self._row_of = self._file = None

    def remove(self, ids: Iterable[str]) -> None:
        """Takes items out, by id (by row number, where the gallery has no ids). Rows of others stay as they are until
        the gallery is saved.

        Raises:
            DataError: an id that isn't there; nothing is removed then.
        """
        names = [str(name) for name in ids]
        known = self._names_alive()
        for name in names:
            if name not in known:
                raise DataError(f"there is no item {name!r} in the gallery; {did_you_mean(name, known)}")
        if self._gone is None:
            self._gone = torch.zeros(self._rows, dtype=torch.bool)
        self._gone[[known[name] for name in names]] = True
        self._row_of = None

    def row_of(self, name: str) -> int:
        """The row of an id.

        Raises:
            DataError: there is none.
        """
        known = self._names_alive()
        if name not in known:
            raise DataError(f"there is no item {name!r} in the gallery; {did_you_mean(name, known)}")
        return known[name]

    def _names_alive(self) -> dict[str, int]:
        if self._row_of is None:
            alive = range(self._rows) if self._gone is None else (~self._gone).nonzero().flatten().tolist()
            self._row_of = {self.name(row): row for row in alive}
        return self._row_of

    def _refuse_repeated_ids(self) -> None:
        if self.ids is not None and len(self._names_alive()) < len(self.ids):
            seen: set[str] = set()
            twice = next(name for name in self.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DataError(f"ids must be different, {twice!r} comes twice")

    def to(self, device: str | torch.device) -> Gallery:
        """Moves the vectors, for exact search on a GPU; returns the gallery."""
        self._parts = [part.to(device) for part in self._parts]
        return self

    # -- what it costs -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Kind, size, recall and what else is to be said of it, as JSON."""
        said: dict[str, Any] = {"kind": self.kind, "items": len(self), "dim": self.dim, "correction": self.correction,
                                "recall_at_10": self.recall, "recall_measured_with": self.recall_by}
        if self._index is not None and self._effort is not None:
            said |= {"effort": self._effort.search, "shortlist": self._effort.shortlist,
                     "index_bytes": self._index.n_bytes}
        return {**said, "vector_bytes": 4 * self._rows * int(self._parts[0].shape[1])}

    # -- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes a folder: ``gallery.json`` and the files that it names. What was there stays readable until the new
        one is complete. Removed items are left out, which means that an index is built again.

        Raises:
            DataError: nothing is left to be saved.
            OSError: the disk is full or the folder can't be written to.
        """
        if not len(self):
            raise DataError("the gallery is empty")
        folder = Path(path)
        self._compact()
        token = secrets.token_hex(4)
        files = {"vectors": self._vectors_file(folder, token)}
        if self._bank is not None:
            files["bank"] = f"bank-{token}.npy"
            write_array(folder / files["bank"], [self._bank])
        checksum = None
        if self._index is not None:
            files["index"] = f"index-{token}.bin"
            with replacing(folder / files["index"]) as beside:
                self._index.save(beside)
                checksum = sha256_of(beside)
        if self.ids is not None or self.captions is not None:
            files["texts"] = f"texts-{token}.json"
            with replacing(folder / files["texts"]) as beside:
                beside.write_text(json.dumps({"ids": self.ids, "captions": self.captions}), encoding="utf-8")
        said = {"format": FORMAT, **self.describe(), "about": self.about, "files": files, "index_sha256": checksum,
                "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        with replacing(folder / DESCRIPTION) as beside:
            beside.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        for old in folder.glob("*-*.*"):
            if old.name not in files.values() and old.stem.partition("-")[0] in ("vectors", "bank", "index", "texts"):
                old.unlink(missing_ok=True)

    def _vectors_file(self, folder: Path, token: str) -> str:
        """The file of the vectors, written unless they are memory-mapped from this folder already."""
        if self._file is not None and self._file.parent.absolute() == folder.absolute():
            return self._file.name
        name = f"vectors-{token}.npy"
        write_array(folder / name, self._parts)
        return name

    def _compact(self) -> None:
        """Drops removed rows for good."""
        if self._gone is None or not bool(self._gone.any()):
            return
        alive = (~self._gone).nonzero().flatten()
        kept = self._gather(alive)
        if self.ids is not None:
            self.ids = [self.ids[row] for row in alive.tolist()]
        if self.captions is not None:
            self.captions = [self.captions[row] for row in alive.tolist()]
        self._parts = [kept]
        self._gone = self._row_of = self._file = None
        if self._index is not None:
            self._index = self._index.anew(kept)

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = True) -> Gallery:
        """A gallery that :meth:`save` wrote.

        Args:
            path: its folder.
            mapped: leave the vectors on disk, memory-mapped; else they are read into memory.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        folder = Path(path)
        said = read_description(folder)
        files, kind = said["files"], said["kind"]
        file = folder / files["vectors"]
        parts = [map_array(file)]
        shape = int(parts[0].shape[0]), int(parts[0].shape[1])
        correction = said.get("correction")
        if shape != (said["items"], said["dim"] + (2 if correction else 0)):
            raise CheckpointError(f"{file} has another shape than {DESCRIPTION} says: build the gallery again")
        texts = read_json(folder / files["texts"]) if "texts" in files else {}
        for key in ("ids", "captions"):
            values = texts.get(key)
            if values is not None and (not isinstance(values, list) or len(values) != shape[0]
                                       or not all(isinstance(value, str) for value in values)):
                raise CheckpointError(f"{folder / files['texts']}: expected {shape[0]} {key}: build the gallery again")
        bank = map_array(folder / files["bank"]) if "bank" in files else None
        index = None
        if "index" in files:
            index = load_index(kind, folder / files["index"], shape, said.get("index_sha256"))
        gallery = cls(parts if mapped else [parts[0].clone()], kind, ids=texts.get("ids"), index=index, bank=bank,
                      captions=texts.get("captions"), about=said["about"], correction=correction)
        gallery._file = file if mapped else None
        if index is not None:
            gallery._effort = Effort(int(said["effort"]), int(said["shortlist"]))
        gallery.recall, gallery.recall_by = float(said["recall_at_10"]), str(said["recall_measured_with"])
        return gallery


# -- blocks of embeddings --------------------------------------------------------------------------------------------

def unit_blocks(embeddings: Any, correction: str | None, bank: Tensor | None) -> Iterator[Tensor]:
    """Rows of length one, float32 on the CPU, a block at a time; with what corrects for hubs."""
    first, width = 0, None
    for block in _blocks(embeddings) if hasattr(embeddings, "shape") else embeddings:
        matrix = as_matrix(block, "embeddings", first_row=first)
        if width not in (None, matrix.shape[1]):
            raise DataError(f"embeddings of different widths: {width} and {matrix.shape[1]}")
        width, first = matrix.shape[1], first + len(matrix)
        unit = make_view(matrix, "embeddings").unit.cpu()
        if correction is None or bank is None:
            yield unit
            continue
        if bank.shape[1] != width:
            raise DataError(f"embeddings have {width} values, queries {bank.shape[1]}")
        yield corrected_gallery(unit, favour(unit, bank, correction)) / math.sqrt(2)


def _blocks(embeddings: Any) -> Iterator[Any]:
    """An array of any kind, some rows at a time: HDF5 and memory-mapped ones are never read as a whole."""
    if len(embeddings.shape) != 2 or 0 in embeddings.shape:
        raise DataError(f"expected embeddings of shape (n, d) with n and d at least 1, got {tuple(embeddings.shape)}: "
                        "there is nothing to search in")
    for start in range(0, len(embeddings), _BLOCK):
        yield embeddings[start:start + _BLOCK]


def _collected(blocks: Iterable[Tensor]) -> Tensor:
    rows = list(blocks)
    if not rows:
        raise DataError("no embeddings: there is nothing to search in")
    return torch.cat(rows)


# -- texts and descriptions ------------------------------------------------------------------------------------------

def texts_of(values: Sequence[str] | None, count: int, what: str) -> list[str] | None:
    if values is None:
        return None
    if len(values) != count:
        raise DataError(f"{what}: expected one for each of {count:,} items, got {len(values):,}")
    return [str(value) for value in values]


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise DataError(f"{what} {value!r}: {did_you_mean(value, known)}")
