"""What a data set is to this toolkit: two views, a table of which items match, three splits, a fingerprint."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.checks import check_finite, check_range
from xmodal.data.hashing import ArrayHash
from xmodal.data.streamed import StreamedView, open_h5
from xmodal.errors import DataError, one_line

SPLITS = ("train", "valid", "test")
#: How the names of further test splits begin.
FURTHER = "test_"
View = Tensor | StreamedView


@dataclass(frozen=True, eq=False)
class PairSplit:
    """One split: the items of two views and which of them match.

    Checked when made: lengths, dtypes, the pair table's bounds, finite values (streamed views are checked as they
    are read), at least one pair.

    Attributes:
        name: ``train``, ``valid``, ``test`` or another; errors name it.
        view1: (n1, *item_shape) float32 in memory, or a :class:`StreamedView`.
        view2: (n2, *item_shape), likewise.
        pairs: (m, 2) int64: view-1 item ``pairs[i, 0]`` matches view-2 item ``pairs[i, 1]``. None means that item i
            matches item i. It carries 1:n (an image with five captions); an item in no row has no partner.
        labels: (n1,) int64 classes of the view-1 items.
        ids: names of the view-1 items.
        caption1: text to show for each view-1 item.
        caption2: text to show for each view-2 item.
        thumbnails1: pictures (n1, channels, height, width) to show of the view-1 items, where the view itself holds
            something else, such as features.
        thumbnails2: likewise of the view-2 items.

    Raises:
        DataError: one line that names the split, the view and what is wrong.
    """

    name: str
    view1: View
    view2: View
    pairs: Tensor | None = None
    labels: Tensor | None = None
    ids: list[str] | None = None
    caption1: list[str] | None = None
    caption2: list[str] | None = None
    thumbnails1: View | None = None
    thumbnails2: View | None = None

    def __post_init__(self) -> None:
        for key in ("view1", "view2"):
            _check_view(self.name, key, getattr(self, key))
        n1, n2 = len(self.view1), len(self.view2)
        if self.pairs is not None:
            _check_pairs(self.name, self.pairs, n1, n2)
        elif n1 != n2:
            raise DataError(f"{self.name}: view1 has {n1:,} items and view2 {n2:,}; without a pair table (pairs) "
                            "they must be as many")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (n1,)):
            raise DataError(f"{self.name} labels must be int64 of shape ({n1},), one for each view1 item; got "
                            f"{_dtype(self.labels)} of shape {tuple(self.labels.shape)}")
        for key, count in (("ids", n1), ("caption1", n1), ("caption2", n2), ("thumbnails1", n1), ("thumbnails2", n2)):
            shown = getattr(self, key)
            if shown is not None and len(shown) != count:
                raise DataError(f"{self.name} {key} must have {count:,} entries, one for each item; got {len(shown):,}")

    def __repr__(self) -> str:
        shapes = " and ".join(f"{tuple(view.shape)}{'' if isinstance(view, Tensor) else ' on disk'}"
                              for view in (self.view1, self.view2))
        more = [key for key in ("pairs", "labels", "ids", "caption1", "caption2", "thumbnails1", "thumbnails2")
                if getattr(self, key) is not None]
        return (f"PairSplit({self.name!r}: {len(self):,} pairs, views of shape {shapes}"
                + (f", with {', '.join(more)})" if more else ")"))

    @classmethod
    def of(cls, name: str, view1: Any, view2: Any, pairs: Any = None, labels: Any = None,
           ids: Sequence[str] | None = None, caption1: Sequence[str] | None = None,
           caption2: Sequence[str] | None = None) -> PairSplit:
        """A split from arrays or nested lists of any real dtype; values become float32, tables int64."""
        def texts(values: Sequence[str] | None) -> list[str] | None:
            if values is not None and (isinstance(values, str) or not isinstance(values, Iterable)
                                       or getattr(values, "ndim", 1) != 1):
                raise DataError(f"{name}: ids and captions must be lists of texts; got {type(values).__name__}")
            return None if values is None else [str(value) for value in values]

        return cls(name, as_view(view1, f"{name} view1"), as_view(view2, f"{name} view2"),
                   None if pairs is None else as_integers(pairs, f"{name} pairs"),
                   None if labels is None else as_integers(labels, f"{name} labels"),
                   texts(ids), texts(caption1), texts(caption2))

    @property
    def view1_shape(self) -> tuple[int, ...]:
        """Shape of one view-1 item, such as ``(4096,)``."""
        return tuple(self.view1.shape[1:])

    @property
    def view2_shape(self) -> tuple[int, ...]:
        """Shape of one view-2 item."""
        return tuple(self.view2.shape[1:])

    @property
    def n_pairs(self) -> int:
        """How many pairs the split has."""
        return len(self.view1) if self.pairs is None else len(self.pairs)

    @property
    def is_streamed(self) -> bool:
        """Whether a view stays on disk."""
        return isinstance(self.view1, StreamedView) or isinstance(self.view2, StreamedView)

    def __len__(self) -> int:
        return self.n_pairs

    def pair_table(self) -> Tensor:
        """The pair table (m, 2) int64, made if the split has none."""
        if self.pairs is not None:
            return self.pairs
        return torch.arange(self.n_pairs)[:, None].expand(-1, 2).contiguous()

    def all_items(self) -> PairSplit:
        """Every item of both views, whoever its partner is, for models that need no pairs.

        Row i of the pair table names view-1 item ``i % n1`` and view-2 item ``i % n2``: the longer view's items once,
        the shorter one's as often as it takes. Where both have as many items there is no table.
        """
        n1, n2 = len(self.view1), len(self.view2)
        if n1 == n2:
            return self if self.pairs is None else dataclasses.replace(self, pairs=None)
        rows = torch.arange(max(n1, n2))
        return dataclasses.replace(self, pairs=torch.stack([rows % n1, rows % n2], dim=1))

    def take(self, n: int) -> PairSplit:
        """The first ``n`` pairs, without the items that none of them names; if there are no more, all of the split.

        Raises:
            DataError: ``n`` is less than 1.
        """
        if n < 1:
            raise DataError(f"can't take {n} pairs of {self.name}; ask for at least 1")
        if n >= self.n_pairs:
            return self
        return self.select(torch.arange(n))

    def select(self, rows: Tensor, name: str | None = None) -> PairSplit:
        """The pairs in ``rows`` (int64) of the table, in that order.

        Items that no kept pair names are dropped, the others keep their order, and the table is written anew; a
        split without a table has none afterwards.
        """
        if self.pairs is None:
            used1 = used2 = rows
            pairs = None
        else:
            kept = self.pairs[rows]
            used1, new1 = torch.unique(kept[:, 0], return_inverse=True)
            used2, new2 = torch.unique(kept[:, 1], return_inverse=True)
            pairs = torch.stack([new1, new2], dim=1)

        def texts(values: list[str] | None, used: Tensor) -> list[str] | None:
            return None if values is None else [values[i] for i in used.tolist()]

        return PairSplit(name or self.name, _select(self.view1, used1), _select(self.view2, used2), pairs,
                         None if self.labels is None else self.labels[used1], texts(self.ids, used1),
                         texts(self.caption1, used1), texts(self.caption2, used2),
                         None if self.thumbnails1 is None else _select(self.thumbnails1, used1),
                         None if self.thumbnails2 is None else _select(self.thumbnails2, used2))


@dataclass(frozen=True, eq=False)
class PairedData:
    """A data set: splits of one shape, and where they come from.

    Attributes:
        name: what the user calls it.
        train: what models and projections are fitted on.
        valid: what the best epoch is chosen by.
        test: what results are reported on.
        version: of the source.
        source: where it came from.
        licence: what its owners allow.
        split_seed: what the split was drawn with; None if the source fixes the split.
        fingerprint: SHA-256 over the arrays, see :func:`fingerprint`; :func:`xmodal.data.load_data` always sets it.
        synthetic: whether the values are made up.
        note: what a command should tell the user about it, such as ``split 80/10/10 with seed 23``.
        picture1: height and width, where an item of view 1 is a picture stored flat (row after row).
        picture2: likewise of view 2.
        rising1: whether the rows of a picture in view 1 go from bottom to top, as those of spectrograms do.
        rising2: likewise of view 2.
        view1_name: what view 1 is called, where a file holds several to choose from, such as ``efficientnet``.
        view2_name: likewise of view 2.
        encoder1: how raw items become view 1, as JSON text for :mod:`xmodal.features`.
        encoder2: likewise of view 2.
        further: test splits beside ``test``, such as harder ones; their names begin with ``test_``.

    Raises:
        DataError: the splits don't have items of one shape, a picture has another size than the items, or a further
            split has another name.
    """

    name: str
    train: PairSplit
    valid: PairSplit
    test: PairSplit
    version: str = ""
    source: str = ""
    licence: str = ""
    split_seed: int | None = None
    fingerprint: str = ""
    synthetic: bool = False
    note: str = ""
    picture1: tuple[int, int] | None = None
    picture2: tuple[int, int] | None = None
    rising1: bool = False
    rising2: bool = False
    view1_name: str = ""
    view2_name: str = ""
    encoder1: str = ""
    encoder2: str = ""
    further: tuple[PairSplit, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "further", tuple(sorted(self.further, key=lambda split: split.name)))  # as in files
        names = [split.name for split in self.further]
        if len(set(names)) < len(names) or not all(name.startswith(FURTHER) for name in names):
            raise DataError(f"further test splits need different names that begin with {FURTHER}; got "
                            f"{', '.join(names)}")
        for split in (self.valid, self.test, *self.further):
            for key in ("view1", "view2"):
                expected, got = getattr(self.train, f"{key}_shape"), getattr(split, f"{key}_shape")
                if got != expected:
                    raise DataError(f"{split.name} {key} has items of shape {got}, but train {key} {expected}; "
                                    "all splits must have one shape")
        _check_picture("1", self.picture1, self.view1_shape)
        _check_picture("2", self.picture2, self.view2_shape)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in zip(self.split_names(), self.splits(),
                                                                            strict=True))
        return (f"PairedData({self.title!r}: {sizes} pairs, items of shape {self.view1_shape} and {self.view2_shape}, "
                f"fingerprint {self.fingerprint[:12] or 'not computed'})")

    @property
    def view1_shape(self) -> tuple[int, ...]:
        """Shape of one view-1 item."""
        return self.train.view1_shape

    @property
    def view2_shape(self) -> tuple[int, ...]:
        """Shape of one view-2 item."""
        return self.train.view2_shape

    @property
    def title(self) -> str:
        """The name to print: ``iapr (synthetic)`` where values are made up."""
        return f"{self.name} (synthetic)" if self.synthetic else self.name

    def splits(self) -> tuple[PairSplit, ...]:
        """Train, valid, test, and the further test splits."""
        return self.train, self.valid, self.test, *self.further

    def split(self, name: str) -> PairSplit:
        """``train``, ``valid``, ``test``, or a further test split.

        Raises:
            DataError: there is none of that name; says which there are.
        """
        splits = dict(zip(self.split_names(), self.splits(), strict=True))
        if name not in splits:
            raise DataError(f"{self.name} has no split {name!r}; it has {', '.join(splits)}")
        return splits[name]

    def split_names(self) -> tuple[str, ...]:
        """What :meth:`splits` are called in files and commands."""
        return *SPLITS, *(split.name for split in self.further)

    def with_fingerprint(self) -> PairedData:
        """This data set with its fingerprint, computed if it isn't known yet."""
        return self if self.fingerprint else dataclasses.replace(self, fingerprint=fingerprint(self))


def fingerprint(data: PairedData) -> str:
    """SHA-256 over views, pair tables and labels of all splits, see :class:`ArrayHash`; texts don't count.

    Of a streamed view, the stored values are hashed block by block.
    """
    total = ArrayHash()
    for split_name, split in zip(data.split_names(), data.splits(), strict=True):
        for key in ("view1", "view2", "pairs", "labels"):
            value = getattr(split, key)
            if isinstance(value, Tensor):
                total.add(f"{split_name}_{key}", value.detach().cpu().numpy())
            elif isinstance(value, StreamedView):
                if value.rows is not None:
                    raise DataError(f"a selection of {value.path} has no fingerprint of its own")
                with open_h5(value.path) as file:
                    total.add(f"{split_name}_{key}", file[value.key], value.scale)
    return total.hexdigest()


def as_view(values: Any, where: str) -> View:
    """Feature values of any real dtype as float32 with items first; streamed views as they are.

    Raises:
        DataError: text, objects, complex or ragged values; no items or no axis of features; numbers that float32 can't
            hold.
    """
    if isinstance(values, StreamedView):
        return values
    array = _real_array(values, where, "iufb", "numbers")
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(_owned(array, np.float32))
    tensor = tensor.detach().to(torch.float32)
    check_range(values if isinstance(values, Tensor) else array, tensor, where)
    return tensor


def as_integers(values: Any, where: str) -> Tensor:
    """Whole numbers of any integer dtype as int64."""
    array = _real_array(values, where, "iu", "whole numbers")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{where} has values beyond int64")
    return torch.from_numpy(_owned(array, np.int64))


def _real_array(values: Any, where: str, kinds: str, expected: str) -> np.ndarray:
    try:
        array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) and values.is_floating_point() \
            else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{where} is not a rectangular array: {one_line(error)}") from error
    if array.dtype.kind not in kinds:
        raise DataError(f"{where} must hold {expected}; got dtype {array.dtype}")
    return array


def _owned(array: np.ndarray, dtype: Any) -> np.ndarray:
    """In native byte order, C-contiguous and writable, which torch asks for; copied only where needed."""
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which check_range reports
        native = np.ascontiguousarray(array, dtype=dtype)
    return native if native.flags.writeable else native.copy()


def _check_view(split: str, key: str, view: Any) -> None:
    if not isinstance(view, Tensor | StreamedView):
        raise DataError(f"{split} {key} must be a float32 tensor or a StreamedView; got {type(view).__name__} "
                        "(PairSplit.of takes arrays)")
    shape = tuple(view.shape)
    if len(shape) < 2 or 0 in shape[1:]:
        raise DataError(f"{split} {key} must have shape (items, features, ...); got {shape}")
    if shape[0] == 0:
        raise DataError(f"{split} is empty: {key} has no items")
    if isinstance(view, Tensor):
        if view.dtype != torch.float32:
            raise DataError(f"{split} {key} must be float32; got {_dtype(view)} (PairSplit.of converts)")
        check_finite(view, f"{split} {key}")


def _check_pairs(split: str, pairs: Tensor, n1: int, n2: int) -> None:
    if pairs.dtype != torch.int64 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise DataError(f"{split} pairs must be int64 of shape (pairs, 2); got {_dtype(pairs)} of shape "
                        f"{tuple(pairs.shape)}")
    if len(pairs) == 0:
        raise DataError(f"{split} is empty: its pair table has no rows")
    for column, count in ((0, n1), (1, n2)):
        indices = pairs[:, column]
        outside = ((indices < 0) | (indices >= count)).nonzero().flatten()
        if len(outside):
            row = int(outside[0])
            raise DataError(f"{split} pairs row {row} names view{column + 1} item {int(indices[row])}, but there are "
                            f"only items 0 to {count - 1} ({len(outside):,} such rows)")


def _check_picture(view: str, picture: Any, item_shape: tuple[int, ...]) -> None:
    """``picture`` is None, or height and width of as many values as an item has."""
    if picture is None:
        return
    good = isinstance(picture, tuple) and len(picture) == 2 and all(type(n) is int and n > 0 for n in picture)
    if not good or math.prod(picture) != math.prod(item_shape):
        raise DataError(f"picture{view} must be (height, width) of the {math.prod(item_shape):,} values of a "
                        f"view{view} item; got {str(picture)[:40]!r}")


def _select(view: View, rows: Tensor) -> View:
    if isinstance(view, StreamedView):
        return view.select(rows)
    if len(rows) and torch.equal(rows, torch.arange(int(rows[0]), int(rows[0]) + len(rows))):
        return view[int(rows[0]):int(rows[0]) + len(rows)]  # no copy
    return view[rows]


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def named_arrays(data: PairedData) -> Iterator[tuple[str, str, Any]]:
    """(split, key, value) of everything that ``data`` holds, in the order of the file formats."""
    for split_name, split in zip(data.split_names(), data.splits(), strict=True):
        for key in ("view1", "view2", "pairs", "labels", "ids", "caption1", "caption2"):
            value = getattr(split, key)
            if value is not None:
                yield split_name, key, value
