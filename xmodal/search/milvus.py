"""Galleries in Milvus, for more items than one machine holds: a cluster by its address, or embedded in a file."""
from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import CheckpointError, DataError, XmodalError, did_you_mean, one_line
from xmodal.features.packages import required
from xmodal.metrics.hubness import CORRECTIONS, corrected_queries, corrected_scores
from xmodal.metrics.views import as_matrix, make_view
from xmodal.nearest import nearest
from xmodal.search.blocks import check_choice, collected, sampled, texts_of, unit_blocks
from xmodal.search.gallery import BANK, Neighbours
from xmodal.search.proposing import RECALL_AT, RECALL_QUERIES

#: Seconds that Milvus may take to answer.
TIMEOUT = 20.0
COLLECTION = "xmodal"
#: Items sent at a time, at most 16 MB of vectors of 2,048 values; neighbours of a query that Milvus gives at most.
_ROWS, _MOST = 2000, 16_384
_LONGEST_ID, _LONGEST_CAPTION = 512, 60_000  # bytes


def is_milvus(place: str) -> bool:
    """Whether a gallery's place is a Milvus: an ``http(s)://`` address, or a file that ends in ``.db``."""
    return place.startswith(("http://", "https://", "tcp://")) or place.endswith(".db")


class MilvusGallery:
    """A gallery that Milvus keeps; see :class:`xmodal.search.Gallery`, whose methods it has.

    What is to be known of it (width, correction with its queries, recall, about) lies beside it in a collection
    ``<collection>_about``.

    Attributes:
        uri: a file ``x.db`` (Milvus Lite) or an address such as ``http://host:19530``.
        collection: its name there.
        dim: width of the embeddings.
        about: what the builder said of them.
        correction: ``csls``, ``inverted_softmax`` or None.
        recall: recall@10 against the exact search, measured when it was built.
    """

    kind = "milvus"

    def __init__(self, client: Any, uri: str, collection: str, said: Mapping[str, Any]) -> None:
        self._client, self.uri, self.collection = client, uri, collection
        self.dim, self.correction = int(said["dim"]), said["correction"]
        self.about, self.recall = dict(said["about"]), float(said["recall_at_10"])
        self.recall_by = str(said["recall_measured_with"])
        self._bank = None if said["bank"] is None else torch.tensor(said["bank"])
        self._next = int(said["next"])

    # -- making ------------------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, embeddings: Any, ids: Sequence[str] | None = None, *, uri: str,
              captions: Sequence[str] | None = None, collection: str = COLLECTION, queries: Any = None,
              correction: str | None = None, about: Mapping[str, Any] | None = None, token: str = "",
              timeout: float = TIMEOUT) -> MilvusGallery:
        """Writes embeddings to a collection, in place of what had its name.

        Args:
            embeddings: (n, d), an array or tensor.
            ids: n different names; row numbers by default.
            uri: a file ``x.db`` or an address.
            captions: n texts to show.
            collection: letters, digits and underscores.
            queries: embeddings (m, d) like the queries to come; by default the items themselves.
            correction: ``csls`` or ``inverted_softmax``.
            about: what to keep with it.
            token: ``user:password`` or an API key of a cluster.
            timeout: seconds to wait for an answer.

        Raises:
            DataError: Milvus doesn't answer or refuses; nothing to search in; ids that aren't different. All but what
                Milvus refuses is told before the old collection is dropped.
        """
        if correction is not None:
            check_choice("correction", correction, CORRECTIONS)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{,99}", collection):
            raise DataError(f"a collection's name is of letters, digits and underscores, got {collection[:40]!r}")
        items = as_matrix(embeddings, "embeddings")
        names = texts_of(ids, len(items), "ids")
        names = [str(row) for row in range(len(items))] if names is None else names
        _check_ids(names)
        shown = texts_of(captions, len(items), "captions")
        asked = None if queries is None else sampled([as_matrix(queries, "queries").float()], BANK)
        if correction is not None and asked is None:
            raise DataError(f"{correction} needs queries like those to come: give their embeddings")
        if asked is not None and asked.shape[1] != items.shape[1]:
            raise DataError(f"embeddings have {items.shape[1]} values, queries {asked.shape[1]}")
        bank = None if correction is None or asked is None else \
            sampled([make_view(asked, "queries").unit], RECALL_QUERIES)
        units = collected(unit_blocks(items, correction, bank))
        said = {"dim": items.shape[1], "correction": correction, "about": dict(about or {}), "recall_at_10": 1.0,
                "recall_measured_with": "items themselves" if queries is None else "queries", "next": 0,
                "bank": None if bank is None else bank.tolist()}
        client = _connected(uri, token, timeout)
        with _told(uri):
            _create(client, collection, units.shape[1])
        gallery = cls(client, uri, collection, said)
        gallery._insert(units, names, shown)
        sample = sampled([items if asked is None else asked], RECALL_QUERIES)
        gallery._measure(sample, units)
        gallery._write_about()
        return gallery

    @classmethod
    def load(cls, uri: str, *, collection: str = COLLECTION, token: str = "", timeout: float = TIMEOUT
             ) -> MilvusGallery:
        """A gallery that :meth:`build` wrote.

        Raises:
            DataError: Milvus doesn't answer.
            CheckpointError: there is no such collection, or it was made by something else.
        """
        client = _connected(uri, token, timeout)
        with _told(uri):
            if not (client.has_collection(collection) and client.has_collection(f"{collection}_about")):
                known = [name.removesuffix("_about") for name in client.list_collections() if name.endswith("_about")]
                hint = did_you_mean(collection, known) if known else "build one first (run_search.py --build)"
                raise CheckpointError(f"{uri} has no gallery {collection!r}: {hint}")
            rows = client.query(f"{collection}_about", filter="", limit=_MOST, output_fields=["part", "text"])
        try:
            said = json.loads("".join(row["text"] for row in sorted(rows, key=lambda row: row["part"])))
            return cls(client, uri, collection, said)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the gallery {collection!r} of {uri} is damaged: build it again") from error

    def _insert(self, units: Tensor, names: Sequence[str], captions: Sequence[str] | None) -> None:
        texts = [""] * len(names) if captions is None else [_cut(text) for text in captions]
        for start in range(0, len(names), _ROWS):
            rows = range(start, min(start + _ROWS, len(names)))
            with _told(self.uri):
                self._client.insert(self.collection, [
                    {"id": names[row], "row": self._next + row, "caption": texts[row], "vector": units[row].tolist()}
                    for row in rows])
        self._next += len(names)

    def _measure(self, queries: Tensor, units: Tensor) -> None:
        k = min(RECALL_AT, len(units))
        wanted = nearest(self._as_queries(queries), units, k).scores[:, -1:] - 1e-5
        scores = self.query(queries, k).scores
        self.recall = float(((scores / 2 if self.correction else scores) >= wanted).double().mean())

    def _write_about(self) -> None:
        said = {"dim": self.dim, "correction": self.correction, "about": self.about, "recall_at_10": self.recall,
                "recall_measured_with": self.recall_by, "next": self._next,
                "bank": None if self._bank is None else self._bank.tolist()}
        text, name = json.dumps(said), f"{self.collection}_about"
        parts = [text[at:at + _LONGEST_CAPTION] for at in range(0, len(text), _LONGEST_CAPTION)]
        with _told(self.uri):
            if self._client.has_collection(name):
                self._client.drop_collection(name)
            kind = required("pymilvus").DataType
            schema = self._client.create_schema(auto_id=False)
            schema.add_field("part", kind.INT64, is_primary=True)
            schema.add_field("text", kind.VARCHAR, max_length=65_535)
            schema.add_field("vector", kind.FLOAT_VECTOR, dim=2)  # Milvus has no collections without vectors
            _create_with(self._client, name, schema)
            self._client.insert(name, [{"part": number, "text": part, "vector": [0.0, 1.0]}
                                       for number, part in enumerate(parts)])

    # -- asking ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many items can be found."""
        with _told(self.uri):
            counted = self._client.query(self.collection, filter="", output_fields=["count(*)"])
        return int(counted[0]["count(*)"])

    def query(self, vectors: Any, k: int = 10) -> Neighbours:
        """The ``k`` items nearest to each query; see :meth:`xmodal.search.Gallery.query`.

        Raises:
            DataError: queries of another width, an empty gallery, ``k`` beyond its items, no answer.
            NumericalError: queries that are not finite.
        """
        queries = torch.as_tensor(vectors)
        queries = self._as_queries(queries[None] if queries.ndim == 1 else queries)
        count = len(self)
        if not count:
            raise DataError("the gallery is empty")
        if not 1 <= k <= min(count, _MOST):
            raise DataError(f"k must be from 1 to {min(count, _MOST):,}, got {k:,}")
        hits: list[list[Any]] = []
        for part in queries.split(100):
            with _told(self.uri):
                hits += self._client.search(self.collection, data=part.tolist(), limit=k,
                                            output_fields=["row", "caption"])
        scores, rows = torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        for number, found in enumerate(hits):
            scores[number, :len(found)] = torch.tensor([float(hit["distance"]) for hit in found])
            rows[number, :len(found)] = torch.tensor([int(hit["entity"]["row"]) for hit in found])
        return Neighbours(corrected_scores(scores) if self.correction else scores, rows,
                          [[hit["id"] for hit in found] + [""] * (k - len(found)) for found in hits],
                          [[hit["entity"]["caption"] for hit in found] + [""] * (k - len(found)) for found in hits])

    def _as_queries(self, vectors: Any) -> Tensor:
        matrix = as_matrix(vectors, "query")
        if matrix.shape[1] != self.dim:
            raise DataError(f"the gallery holds embeddings of {self.dim} values, a query has {matrix.shape[1]}")
        unit = make_view(matrix, "query").unit
        return corrected_queries(unit) / math.sqrt(2) if self.correction else unit

    def origins(self, count: int) -> Tensor:
        """See :meth:`xmodal.search.Gallery.origins`; rows stay as they are, whatever is removed."""
        return torch.arange(count)

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(self, embeddings: Any, ids: Sequence[str], captions: Sequence[str] | None = None) -> None:
        """Adds items (n, d) with ids that are new.

        Raises:
            DataError: another width, or ids that are repeated or there already.
        """
        matrix = as_matrix(embeddings, "embeddings")
        if matrix.shape[1] != self.dim:
            raise DataError(f"the gallery holds embeddings of {self.dim} values, these have {matrix.shape[1]}")
        names = texts_of(ids, len(matrix), "ids") or []
        _check_ids(names)
        taken = self._known(names)
        if taken:
            raise DataError(f"id {min(taken)!r} is in the gallery already: remove it first")
        self._insert(collected(unit_blocks(matrix, self.correction, self._bank)), names,
                     texts_of(captions, len(matrix), "captions"))
        self._write_about()

    def remove(self, ids: Iterable[str]) -> None:
        """Takes items out.

        Raises:
            DataError: an id that isn't there; nothing is removed then.
        """
        names = [str(name) for name in ids]
        known = self._known(names)
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(f"there is no item {missing[0]!r} in the gallery")
        with _told(self.uri):
            self._client.delete(self.collection, ids=names)

    def _known(self, names: Sequence[str]) -> set[str]:
        known: set[str] = set()
        for start in range(0, len(names), _ROWS):
            with _told(self.uri):
                known |= {row["id"] for row in self._client.query(self.collection, ids=list(names[start:start + _ROWS]),
                                                                  output_fields=["id"])}
        return known

    def describe(self) -> dict[str, Any]:
        """Kind, size and recall, as JSON."""
        return {"kind": self.kind, "items": len(self), "dim": self.dim, "correction": self.correction,
                "recall_at_10": self.recall, "recall_measured_with": self.recall_by}


def _connected(uri: str, token: str, timeout: float) -> Any:
    client = required("pymilvus").MilvusClient
    if not is_milvus(uri):
        raise DataError(f"Milvus: expected a file that ends in .db or an http(s):// address, got {uri!r}")
    if uri.endswith(".db"):  # whose server, in this process, logs a traceback where the client asks what it lacks
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    try:
        return client(uri, token=token, timeout=timeout)
    except Exception as error:  # pymilvus raises its own kind, grpc's and plain ones
        raise DataError(f"Milvus at {uri} does not answer: {_reason(error)}") from error


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """What Milvus says of a mistake or a lost connection, in one line."""
    try:
        yield
    except XmodalError:
        raise
    except Exception as error:  # pymilvus raises its own kind, grpc's and plain ones
        raise DataError(f"Milvus at {uri}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return one_line(Exception(str(getattr(error, "message", "") or error)))[:300]


def _create(client: Any, name: str, width: int) -> None:
    """An empty collection of that name, whatever was there."""
    if client.has_collection(name):
        client.drop_collection(name)
    kind = required("pymilvus").DataType
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", kind.VARCHAR, is_primary=True, max_length=_LONGEST_ID)
    schema.add_field("row", kind.INT64)
    schema.add_field("caption", kind.VARCHAR, max_length=65_535)
    schema.add_field("vector", kind.FLOAT_VECTOR, dim=width)
    _create_with(client, name, schema)


def _create_with(client: Any, name: str, schema: Any) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _check_ids(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise DataError("ids must be different")
    for name in names:
        raw = name.encode(errors="replace")
        if not 1 <= len(raw) <= _LONGEST_ID or raw.decode() != name:
            raise DataError(f"Milvus takes ids of 1 to {_LONGEST_ID} bytes of UTF-8, got {name[:40]!r}")


def _cut(text: str) -> str:
    """At most so many bytes as Milvus takes; what can't be encoded becomes a question mark."""
    return text.encode(errors="replace")[:_LONGEST_CAPTION].decode(errors="ignore")
