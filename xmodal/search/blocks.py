"""Embeddings as galleries take them in, block by block, and as they hold them: parts of rows, one after the other."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import DataError, did_you_mean
from xmodal.metrics.hubness import corrected_gallery, favour
from xmodal.metrics.views import as_matrix, make_view
from xmodal.nearest import spread_rows

#: Rows that something is fitted to, at most.
SAMPLE = 100_000
_BLOCK = 1 << 16


def unit_blocks(embeddings: Any, correction: str | None, bank: Tensor | None) -> Iterator[Tensor]:
    """Rows of length one, float32 on the CPU, a block at a time; with what corrects for hubs.

    Args:
        embeddings: (n, d), an array or tensor; or blocks of such rows.
        correction: one of ``xmodal.metrics.hubness.CORRECTIONS``, or None.
        bank: (m, d) queries that hubs are corrected by.

    Raises:
        DataError: nothing there, wrong shapes, blocks or a bank of another width.
        NumericalError: values that are not finite; says which rows.
    """
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


def collected(blocks: Iterable[Tensor]) -> Tensor:
    """All blocks as one.

    Raises:
        DataError: there are none.
    """
    rows = list(blocks)
    if not rows:
        raise DataError("no embeddings: there is nothing to search in")
    return torch.cat(rows)


def sampled(parts: Sequence[Tensor], most: int = SAMPLE) -> Tensor:
    """At most ``most`` rows, evenly spread."""
    return gather(parts, spread_rows(sum(map(len, parts)), most))


def gather(parts: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Rows (k, d) of parts that are one after the other, by their numbers (k,) in all of them together."""
    if len(parts) == 1:
        return parts[0][rows]
    out = parts[0].new_empty((len(rows), parts[0].shape[1]))
    first = 0
    for part in parts:
        inside = (rows >= first) & (rows < first + len(part))
        out[inside] = part[rows[inside] - first]
        first += len(part)
    return out


def texts_of(values: Sequence[str] | None, count: int, what: str) -> list[str] | None:
    """Ids or captions as texts, None where there are none.

    Raises:
        DataError: another number of them than items.
    """
    if values is None:
        return None
    if len(values) != count:
        raise DataError(f"{what}: expected one for each of {count:,} items, got {len(values):,}")
    return [str(value) for value in values]


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    """Raises unless a value is one of those known.

    Raises:
        DataError: it isn't; names close ones.
    """
    if value not in known:
        raise DataError(f"{what} {value!r}: {did_you_mean(value, known)}")
