"""Galleries: the embeddings of one view, kept so that queries of the other find their nearest among them."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.errors import DataError, did_you_mean
from xmodal.metrics.hubness import CORRECTIONS, corrected_queries, corrected_scores
from xmodal.metrics.views import as_matrix, make_view
from xmodal.nearest import Nearest, nearest
from xmodal.search.blocks import check_choice, collected, gather, sampled, texts_of, unit_blocks
from xmodal.search.codes import BEST
from xmodal.search.indexes import KINDS, Effort, Index, make_index
from xmodal.search.proposing import RECALL_QUERIES, propose, tuned
from xmodal.search.storage import map_array, new_name, read_gallery, write_array, write_gallery

#: Queries that stand for those to come, at most, when hubs are corrected for.
BANK = 10_000


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
        self._built_from = self._rows
        self._dropped: list[int] = []        # rows of those built from that are gone for good

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
            recall: what recall@10 to reach; the least effort is kept that does, and 30 % more of the way to 1, since
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
        file = None if path is None else Path(path) / new_name("vectors")
        if file is None:
            parts = [collected(blocks)]
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
            self._effort, self.recall = tuned(self._index, self._parts, sampled([asked], RECALL_QUERIES), recall)
            self.recall_by = "items themselves" if own else "queries"

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
        if self._index is None or self._effort is None or exact:
            found = nearest(queries.to(self._parts[0].device), self._parts, k, allowed=allowed)
            found = Nearest(found.scores.cpu(), found.rows.cpu())
        else:
            found = propose(self._index, self._effort, self._parts, queries, k, allowed)
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

    def name(self, row: int) -> str:
        """The id of a row, its number where there are none, "" for −1."""
        if row < 0:
            return ""
        return str(row) if self.ids is None else self.ids[row]

    def caption(self, row: int) -> str:
        """The text to show of a row, "" where there is none."""
        return self.captions[row] if self.captions is not None and row >= 0 else ""

    def origins(self, count: int) -> Tensor:
        """Which of the ``count`` items that it was built from the first m rows hold: (m,) int64. Rows from m on were
        added since. None are known (m = 0) where it was built from another number of items."""
        if count != self._built_from:
            return torch.arange(0)
        left = torch.ones(count, dtype=torch.bool)
        left[self._dropped] = False
        return left.nonzero().flatten()

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
        added = collected(unit_blocks(matrix, self.correction, self._bank)).to(self._parts[0].device)
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
            DataError: nothing is left to be saved, or another process is writing there.
            OSError: the disk is full or the folder can't be written to.
        """
        if not len(self):
            raise DataError("the gallery is empty")
        self._compact()
        said = {**self.describe(), "built_from": self._built_from, "about": self.about}
        write_gallery(Path(path), said, self._parts, file=self._file, ids=self.ids, captions=self.captions,
                      bank=self._bank, index=self._index, dropped=self._dropped)

    def _compact(self) -> None:
        """Drops removed rows for good; all of it or, where that fails, nothing."""
        if self._gone is None or not bool(self._gone.any()):
            return
        alive = (~self._gone).nonzero().flatten()
        kept, rows = gather(self._parts, alive), alive.tolist()
        index = None if self._index is None else self._index.anew(kept)
        ids, captions = ([texts[row] for row in rows] if texts is not None else None
                         for texts in (self.ids, self.captions))
        origins = self.origins(self._built_from)
        self._dropped = self._dropped + origins[self._gone[:len(origins)]].tolist()
        self._parts, self._index, self.ids, self.captions = [kept], index, ids, captions
        self._gone = self._row_of = self._file = None

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = True) -> Gallery:
        """A gallery that :meth:`save` wrote.

        Args:
            path: its folder.
            mapped: leave the vectors on disk, memory-mapped; else they are read into memory.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        stored = read_gallery(Path(path))
        said = stored.said
        gallery = cls([stored.vectors if mapped else stored.vectors.clone()], said["kind"], ids=stored.ids,
                      captions=stored.captions, about=said["about"], index=stored.index, bank=stored.bank,
                      correction=said.get("correction"))
        gallery._file = stored.file if mapped else None
        gallery._built_from, gallery._dropped = said.get("built_from", gallery._rows), stored.dropped
        if stored.index is not None:
            gallery._effort = Effort(int(said["effort"]), int(said["shortlist"]))
        gallery.recall, gallery.recall_by = float(said["recall_at_10"]), str(said["recall_measured_with"])
        return gallery
