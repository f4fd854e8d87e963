"""Indexes that propose candidates faster than all items can be compared; a gallery scores these exactly.

Each has an effort that trades time for recall: what the index itself takes, and how many candidates it proposes.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from xmodal.data.fetch import sha256_of
from xmodal.errors import CheckpointError, DataError, did_you_mean, one_line
from xmodal.features.packages import required
from xmodal.search.blocks import sampled
from xmodal.search.codes import BEST, BinaryCodes, make_codes, nearest_codes

GRAPH, LISTS, HASHES = "hnsw", "ivfpq", "codes"
KINDS = ("exact", GRAPH, LISTS, HASHES)
#: Vectors added at a time.
BLOCK = 50_000
_LINKS, _BUILD_EFFORT = 32, 100  # of graphs
_CENTRES = 256  # of a byte


class Effort(NamedTuple):
    """How hard to look: ``search`` is the index's own measure, ``shortlist`` candidates are scored exactly."""

    search: int
    shortlist: int


_EFFORTS = {
    GRAPH: tuple(Effort(search, max(20, search)) for search in
                 (16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512, 1024)),
    LISTS: tuple(Effort(search, shortlist) for search, shortlist in
                 ((1, 50), (2, 50), (4, 100), (8, 100), (12, 100), (16, 200), (24, 200), (32, 400), (64, 800),
                  (128, 1600), (256, 3200))),
    HASHES: tuple(Effort(0, shortlist) for shortlist in (20, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)),
}


class Index(ABC):
    """Proposes rows of a gallery for unit queries.

    Attributes:
        kind: one of ``KINDS``.
        efforts: from quick to thorough.
    """

    kind: str
    efforts: Sequence[Effort]

    @abstractmethod
    def add(self, vectors: Tensor) -> None:
        """Takes in unit vectors (n, d) as the next rows."""

    @abstractmethod
    def anew(self, vectors: Tensor) -> Index:
        """An index of the same kind over these vectors (n, d)."""

    @abstractmethod
    def candidates(self, queries: Tensor, effort: Effort, allowed: Tensor | None) -> Tensor:
        """Rows (q, shortlist) int64 for queries (q, d), −1 where there are no more; only ``allowed`` ones."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes the index to a file."""

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """How much memory it takes."""


class FaissIndex(Index):
    """An index of FAISS: :func:`graph_of` or :func:`lists_of`.

    Args:
        kind: ``hnsw`` or ``ivfpq``.
        index: of FAISS, fitted.
    """

    def __init__(self, kind: str, index: Any) -> None:
        self.kind, self.index, self.efforts = kind, index, _EFFORTS[kind]

    def add(self, vectors: Tensor) -> None:
        """Takes in unit vectors (n, d) as the next rows."""
        for block in vectors.split(BLOCK):
            self.index.add(np.ascontiguousarray(block.numpy()))

    def anew(self, vectors: Tensor) -> FaissIndex:
        """An index of the same kind over these vectors (n, d); lists that these are too few for stay as they are."""
        sample = sampled([vectors])
        if self.kind == LISTS and len(sample) < _CENTRES:
            index = FaissIndex(self.kind, required("faiss").clone_index(self.index))
            index.index.reset()
        else:
            index = graph_of(sample) if self.kind == GRAPH else lists_of(sample, len(vectors))
        index.add(vectors)
        return index

    def candidates(self, queries: Tensor, effort: Effort, allowed: Tensor | None) -> Tensor:
        """Rows (q, shortlist) int64 for queries (q, d), −1 where there are no more; only ``allowed`` ones."""
        faiss = required("faiss")
        options: dict[str, Any] = {"efSearch" if self.kind == GRAPH else "nprobe": effort.search}
        if allowed is not None:
            bits = np.packbits(allowed.numpy(), bitorder="little")  # FAISS keeps a pointer to it
            options["sel"] = faiss.IDSelectorBitmap(bits)
        parameters = (faiss.SearchParametersHNSW if self.kind == GRAPH else faiss.SearchParametersIVF)(**options)
        rows = self.index.search(queries.numpy(), min(effort.shortlist, self.index.ntotal), params=parameters)[1]
        return torch.from_numpy(rows)

    def save(self, path: Path) -> None:
        """Writes the index to a file."""
        path.write_bytes(required("faiss").serialize_index(self.index).data)

    @property
    def n_bytes(self) -> int:
        """How much memory it takes."""
        return len(required("faiss").serialize_index(self.index))


def graph_of(sample: Tensor) -> FaissIndex:
    """HNSW (Malkov and Yashunin 2016, arXiv 1603.09320) over vectors of 8 bits a value, whose range is that of the
    sample (m, d); still empty. efSearch is the effort."""
    faiss = required("faiss")
    index = faiss.IndexHNSWSQ(sample.shape[1], faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILD_EFFORT
    index.train(sample.numpy())
    return FaissIndex(GRAPH, index)


def lists_of(sample: Tensor, count: int) -> FaissIndex:
    """Inverted lists of product-quantised vectors (Jégou, Douze, Schmid 2011, IEEE PAMI 33): IVF-PQ, a byte for each
    four dimensions; about 4·√count lists, fitted to a sample (m, d), still empty. The number of lists looked through is
    the effort.

    Raises:
        DataError: the sample is too small to fit 256 centres.
    """
    faiss = required("faiss")
    if len(sample) < _CENTRES:
        raise DataError(f"an ivfpq gallery needs {_CENTRES} items or more, got {len(sample):,}; exact is as fast there")
    lists = int(min(4 * count ** 0.5, len(sample) / 39))  # 39 vectors a list is what FAISS asks for
    d = sample.shape[1]
    parts = next(parts for parts in range(max(1, d // 4), 0, -1) if d % parts == 0)
    quantizer = faiss.IndexFlatIP(d)
    index = faiss.IndexIVFPQ(quantizer, d, max(1, lists), parts, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # no warnings on stderr
    index.train(sample.numpy())
    return FaissIndex(LISTS, index)


class Hashes(Index):
    """Binary codes, compared by Hamming distance; the length of the shortlist is the effort."""

    def __init__(self, codes: BinaryCodes, packed: Tensor | None = None) -> None:
        self.kind, self.efforts, self.codes = HASHES, _EFFORTS[HASHES], codes
        self.packed = torch.empty(0, -(-codes.bits // 8), dtype=torch.uint8) if packed is None else packed

    def add(self, vectors: Tensor) -> None:
        """Takes in unit vectors (n, d) as the next rows."""
        self.packed = torch.cat([self.packed, *(self.codes.of_items(block) for block in vectors.split(BLOCK))])

    def anew(self, vectors: Tensor) -> Hashes:
        """The same codes, of these vectors (n, d)."""
        index = Hashes(self.codes)
        index.add(vectors)
        return index

    def candidates(self, queries: Tensor, effort: Effort, allowed: Tensor | None) -> Tensor:
        """Rows (q, shortlist) int64 for queries (q, d), −1 where there are no more; only ``allowed`` ones."""
        return nearest_codes(self.codes.of_queries(queries), self.packed, min(effort.shortlist, len(self.packed)),
                             allowed).rows

    def save(self, path: Path) -> None:
        """Writes the codes and how they are made to a file."""
        path.write_bytes(save({"packed": self.packed, **self.codes.state()}))

    @property
    def n_bytes(self) -> int:
        """How much memory the codes take."""
        return self.packed.numel()


def make_index(kind: str, sample: Tensor, count: int, *, queries: Tensor | None = None, bits: int = 128,
               codes: str = BEST, seed: int = 0) -> Index | None:
    """An empty index fitted to a sample of unit vectors (m, d); None for ``exact``.

    Raises:
        DataError: no such kind, FAISS is not installed, or the sample is too small.
    """
    if kind not in KINDS:
        raise DataError(f"gallery kind {kind!r}: {did_you_mean(kind, KINDS)}")
    if kind == GRAPH:
        return graph_of(sample)
    if kind == LISTS:
        return lists_of(sample, count)
    return Hashes(make_codes(sample, bits, codes, queries, seed)) if kind == HASHES else None


def load_index(kind: str, path: Path, shape: tuple[int, int], checksum: object) -> Index:
    """What :meth:`Index.save` wrote, for a gallery of this shape.

    FAISS trusts what it reads. The checksum tells damage from what was written; what strangers wrote with a checksum
    of their own it can't tell: load their galleries only if these are exact or of codes.

    Raises:
        CheckpointError: the file is missing, damaged, or of another gallery.
    """
    count, d = shape
    try:
        damaged = sha256_of(path) != checksum
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({one_line(error)}): build the gallery again") from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: build the gallery again")
    try:
        if kind == HASHES:
            state = load_file(path)
            index: Index = Hashes(BinaryCodes.of_state(state), state["packed"])
            fits = state["packed"].shape[0] == count and state["projection"].shape[0] == d
        else:
            found = required("faiss").deserialize_index(np.fromfile(path, dtype=np.uint8))
            index = FaissIndex(kind, found)
            fits = (found.ntotal, found.d) == shape
    except DataError:
        raise
    except Exception as error:  # FAISS and safetensors raise kinds of their own
        raise CheckpointError(f"{path} can't be read ({one_line(error)}): build the gallery again") from error
    if not fits:
        raise CheckpointError(f"{path} is of another gallery: build it again")
    return index
