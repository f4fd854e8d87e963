"""What the methods without a network share: scikit-learn's estimator interface, and the toolkit's model interface."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from xmodal.covariance import pearson
from xmodal.data.batches import lone_batches, pair_batches
from xmodal.data.checks import check_finite
from xmodal.data.pairs import PairSplit
from xmodal.errors import CheckpointError, DataError
from xmodal.linear.inputs import (
    Rows,
    block_rows,
    checked_table,
    flat_items,
    is_read_by_blocks,
    lone_blocks,
    paired_blocks,
)
from xmodal.linear.projection import Projection
from xmodal.linear.sums import PairSums, ViewStatistics

Self = TypeVar("Self", bound="ClosedForm")
Pairs = Iterable[tuple[Tensor, Tensor]]
#: Pairs that are read from a split at a time.
FIT_BATCH = 1000


class ClosedForm(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A two-view method that is fitted by one pass over the data and a decomposition.

    It can be used in two ways.

    *As a scikit-learn estimator* on arrays: ``fit(X, Y)``, ``partial_fit``, ``transform``, ``score``, in pipelines and
    grid searches. View 2 takes the place of ``y``, and ``fit_transform(X, Y)`` returns the coordinates of ``X`` alone,
    which is what a pipeline hands on. Inheritance is how scikit-learn shares its interface, so this is a base class.

    *As a model of the toolkit* on tensors: ``fit_split``, ``fit_batches``, ``embed_view1``, ``embed_view2``,
    ``state_dict``. It is what ``build_model`` of a model file returns whose ``build_objective`` is None.
    """

    n_components: int | None
    device: str
    unpaired_weight: float | Literal["auto"] = "auto"
    n_features_in_: int
    n_features2_in_: int
    _sums: PairSums | None = None  # here and not in __init__, which scikit-learn keeps for parameters
    _projection: Projection | None = None

    # -- what a method adds -----------------------------------------------------------------------------------------

    def _solve(self, view1: ViewStatistics, view2: ViewStatistics, S12: Tensor) -> Projection:
        raise NotImplementedError

    def _map_view1(self, x: Tensor) -> Tensor:
        """Items (n, d1) to the features that are projected (n, q1)."""
        return x

    def _map_view2(self, y: Tensor) -> Tensor:
        return y

    def _prepare(self, rows1: Rows, rows2: Rows) -> None:
        """Looks at the data before they are summed up."""

    def _prepare_from(self, batches: Pairs, lone1: Iterable[Tensor], lone2: Iterable[Tensor]
                      ) -> tuple[Pairs, Iterable[Tensor], Iterable[Tensor]]:
        """Likewise for batches that can be read once; returns all of them, those looked at included."""
        return batches, lone1, lone2

    # -- fitting arrays ---------------------------------------------------------------------------------------------

    def fit(self: Self, X: Any, Y: Any = None, pairs: Any = None) -> Self:
        """Fits to paired views, read block by block.

        Args:
            X: (n1, d1) view 1: an array, memory map, data frame, tensor or HDF5 dataset of any real dtype.
            Y: (n2, d2) view 2; (n2,) counts as one column.
            pairs: (m, 2) pair table: item ``pairs[i, 0]`` of X matches item ``pairs[i, 1]`` of Y; by default row i
                matches row i. Items that it does not name have no partner: they count in the mean and covariance of
                their view only (semi-paired fitting), by ``unpaired_weight``.

        Raises:
            DataError: shapes that don't fit, NaN or infinite values, fewer than two pairs. It is a ValueError.
        """
        rows1, rows2 = self._rows1(X, reset=True), self._rows2(Y, reset=True)
        table = checked_table(pairs, rows1, rows2)
        with self._undone_by_errors():
            self._start()
            self._prepare(rows1, rows2)
            self._add(paired_blocks(rows1, rows2, table), lone_blocks(rows1, table, 0), lone_blocks(rows2, table, 1))
            self._fitted()
        return self

    def partial_fit(self: Self, X: Any = None, Y: Any = None, pairs: Any = None) -> Self:
        """Adds rows to what was fitted before; the decomposition waits until it is needed.

        In any order and cut in any way, the same rows give what :meth:`fit` gives at once, up to rounding. The rows are
        read twice, first to be checked: all of them are added or none.

        Args:
            X: (n, d1) view 1, or None where ``Y`` are items without a partner.
            Y: (n, d2) view 2, or None where ``X`` are items without a partner.
            pairs: (m, 2) pair table, as in :meth:`fit`, of these rows.
        """
        if X is None and Y is None:
            raise DataError("partial_fit needs X, Y or both")
        if pairs is not None and (X is None or Y is None):
            raise DataError("a pair table needs both X and Y")
        self._refuse_what_was_loaded("partial_fit")
        if self._sums is not None:
            return self._add_rows(X, Y, pairs)
        with self._undone_by_errors():
            self.__dict__.pop("n_features2_in_", None)
            self._start()
            return self._add_rows(X, Y, pairs, first=True)

    def _add_rows(self: Self, X: Any, Y: Any, pairs: Any, first: bool = False) -> Self:
        """All of the rows, or none where some are wrong."""
        rows1 = None if X is None else self._rows1(X, reset=not hasattr(self, "n_features_in_") or first, least=1)
        rows2 = None if Y is None else self._rows2(Y, reset=not hasattr(self, "n_features2_in_"), least=1)
        for rows in (rows1, rows2):
            for _ in rows.blocks(block_rows(rows.width)) if rows is not None else ():
                pass  # read, and so checked
        if rows1 is not None and rows2 is not None:
            table = checked_table(pairs, rows1, rows2)
            if first:
                self._prepare(rows1, rows2)
            self._add(paired_blocks(rows1, rows2, table), lone_blocks(rows1, table, 0), lone_blocks(rows2, table, 1))
        elif rows1 is not None:
            self._add((), rows1.blocks(block_rows(rows1.width)), ())
        elif rows2 is not None:
            self._add((), (), rows2.blocks(block_rows(rows2.width)))
        return self

    def _refuse_what_was_loaded(self, name: str) -> None:
        if self._sums is None and self._projection is not None:
            raise DataError(f"{name} can't add to what was loaded: only the projection is stored, not the sums")

    def merge(self: Self, other: ClosedForm) -> Self:
        """Adds the pairs that another one of the same kind was fitted to, perhaps in another process.

        Raises:
            DataError: the other one is of another kind, not fitted, or has other widths; this one was loaded.
        """
        if type(other) is not type(self):
            raise DataError(f"{type(self).__name__} can't merge with {type(other).__name__}")
        if other._sums is None:
            raise DataError("merge needs an estimator that was fitted in this session")
        self._refuse_what_was_loaded("merge")
        if self._sums is None:
            self._start()
        for name in ("n_features_in_", "n_features2_in_", "feature_names_in_"):
            if not hasattr(self, name) and hasattr(other, name):
                setattr(self, name, getattr(other, name))
        self._started().merge(other._sums)
        self._projection = None
        return self

    # -- fitting batches --------------------------------------------------------------------------------------------

    def fit_batches(self: Self, batches: Pairs, lone1: Iterable[Tensor] = (), lone2: Iterable[Tensor] = ()) -> Self:
        """Fits to pairs that come in batches of tensors, each read once.

        Args:
            batches: pairs (n, *shape1), (n, *shape2); items are flattened. A batch may reuse the memory of the one
                before.
            lone1: batches of view-1 items without a partner.
            lone2: batches of view-2 items without a partner.

        Raises:
            DataError: as :meth:`fit`.
        """
        with self._undone_by_errors():
            self._start()
            self._add(*self._prepare_from(self._flat_pairs(batches), self._flat_items(lone1, self._flat1, "view1"),
                                          self._flat_items(lone2, self._flat2, "view2")))
            self._fitted()
        return self

    def _flat_pairs(self, batches: Pairs) -> Iterator[tuple[Tensor, Tensor]]:
        """Flattened and checked."""
        for i, (x, y) in enumerate(batches):
            if i == 0:
                self.n_features_in_, self.n_features2_in_ = math.prod(x.shape[1:]), math.prod(y.shape[1:])
            check_finite(x, f"view1 of batch {i + 1}")
            check_finite(y, f"view2 of batch {i + 1}")
            yield self._flat1(x), self._flat2(y)

    @staticmethod
    def _flat_items(batches: Iterable[Tensor], flat: Callable[[Tensor], Tensor], name: str) -> Iterator[Tensor]:
        for i, items in enumerate(batches):
            check_finite(items, f"{name} of batch {i + 1} of items without a partner")
            yield flat(items)

    def _flat1(self, x: Tensor) -> Tensor:
        return flat_items("view1", x, getattr(self, "n_features_in_", None))

    def _flat2(self, y: Tensor) -> Tensor:
        return flat_items("view2", y, getattr(self, "n_features2_in_", None))

    def fit_split(self: Self, split: PairSplit, *, seed: int = 0, progress: Callable[[int], None] | None = None
                  ) -> Self:
        """Fits to a split of a data set, of any size, items without a partner included.

        Args:
            split: in memory or streamed.
            seed: of the order of pairs, which matters where features are chosen by the first ones.
            progress: called with the number of batches so far, of ``n_batches(split, FIT_BATCH)``.

        Raises:
            DataError: as :meth:`fit`.
        """
        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for done, batch in enumerate(pair_batches(split, FIT_BATCH, seed=seed, device=self.device), start=1):
                yield batch.view1, batch.view2
                if progress is not None:
                    progress(done)

        return self.fit_batches(pairs(), *(lone_batches(split, view, FIT_BATCH, self.device) for view in (1, 2)))

    def _start(self) -> None:
        self._sums, self._projection = PairSums(self.device), None

    def _started(self) -> PairSums:
        if self._sums is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        return self._sums

    def _add(self, batches: Pairs, lone1: Iterable[Tensor], lone2: Iterable[Tensor]) -> None:
        sums, self._projection = self._started(), None
        for x, y in batches:
            sums.add(self._map_view1(x), self._map_view2(y))
        for x in lone1:
            sums.add(self._map_view1(x), None)
        for y in lone2:
            sums.add(None, self._map_view2(y))

    @contextmanager
    def _undone_by_errors(self) -> Iterator[None]:
        """A fit that fails is none."""
        try:
            yield
        except BaseException:
            self._sums = self._projection = None
            for name in ("n_features_in_", "n_features2_in_", "feature_names_in_"):
                self.__dict__.pop(name, None)
            raise

    # -- what was fitted --------------------------------------------------------------------------------------------

    def _fitted(self) -> Projection:
        if self._projection is None:
            with torch.no_grad():
                self._projection = self._solve(*self._started().statistics(self.unpaired_weight))
        return self._projection

    def __sklearn_is_fitted__(self) -> bool:
        return self._projection is not None or self._sums is not None

    @property
    def n_pairs_(self) -> int:
        """How many pairs it was fitted to; not known of what was loaded."""
        if self._sums is None and self._projection is not None:
            raise AttributeError("n_pairs_ is not stored with a projection")
        return self._started().n_pairs

    @property
    def correlations_(self) -> np.ndarray:
        """(k,) correlations of the fitted pairs' coordinates; those of CCA fall, and are lowered by the ridges."""
        return _array(self._fitted().correlations)

    @property
    def U_(self) -> np.ndarray:  # noqa: N802 (the papers' name)
        """(d1, k) projection of centred view 1; of its features, for kernels."""
        return _array(self._fitted().U)

    @property
    def V_(self) -> np.ndarray:  # noqa: N802
        """(d2, k) projection of centred view 2."""
        return _array(self._fitted().V)

    @property
    def mean1_(self) -> np.ndarray:
        """(d1,) mean of view 1."""
        return _array(self._fitted().mean1)

    @property
    def mean2_(self) -> np.ndarray:
        """(d2,) mean of view 2."""
        return _array(self._fitted().mean2)

    @property
    def _n_features_out(self) -> int:
        return self._fitted().U.shape[1]

    # -- embedding --------------------------------------------------------------------------------------------------

    def embed_view1(self, x: Tensor) -> Tensor:
        """(n, *shape1) to (n, k) float64 coordinates; needs nothing of view 2."""
        fitted = self._fitted()
        with torch.no_grad():
            return (self._map_view1(self._flat1(x)).to(fitted.U) - fitted.mean1) @ fitted.U

    def embed_view2(self, y: Tensor) -> Tensor:
        """(n, *shape2) to (n, k) float64 coordinates; needs nothing of view 1."""
        fitted = self._fitted()
        with torch.no_grad():
            return (self._map_view2(self._flat2(y)).to(fitted.V) - fitted.mean2) @ fitted.V

    def transform(self, X: Any, Y: Any = None) -> Any:
        """(n, d1) to (n, k) float64 coordinates; with ``Y`` (n2, d2), those of both views."""
        self._fitted()
        rows1 = self._rows1(X, reset=False, least=1)
        z1 = np.concatenate([self.embed_view1(x).cpu().numpy() for x in rows1.blocks(block_rows(rows1.width))])
        return z1 if Y is None else (z1, self.transform_view2(Y))

    def transform_view2(self, Y: Any) -> np.ndarray:
        """(n, d2) to (n, k) float64 coordinates."""
        self._fitted()
        rows2 = self._rows2(Y, reset=False, least=1)
        return np.concatenate([self.embed_view2(y).cpu().numpy() for y in rows2.blocks(block_rows(rows2.width))])

    def score(self, X: Any, Y: Any) -> float:
        """The sum over dimensions of the correlations of these pairs' coordinates: out of sample, where the pairs are
        not the fitted ones. At most k."""
        z1, z2 = self.transform(X), self.transform_view2(Y)
        if len(z1) != len(z2):
            raise DataError(f"expected as many rows of view1 as of view2; got {len(z1)} and {len(z2)}")
        return float(pearson(torch.tensor(np.array(z1)), torch.from_numpy(z2)).sum())

    # -- as a model of the toolkit ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that embedding needs, by name."""
        return {name: tensor.clone() for name, tensor in self._fitted()._asdict().items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is not that.
        """
        found = Projection.stored(tensors, type(self).__name__, self.n_components)
        unknown = [name for name in tensors if name not in Projection._fields and not self._is_part(name)]
        if unknown:
            raise CheckpointError(f"{type(self).__name__} has nothing by the name of {unknown[0]}")
        self._projection, self._sums = found, None
        self.n_features_in_, self.n_features2_in_ = len(found.mean1), len(found.mean2)

    def _is_part(self, name: str) -> bool:
        """Whether a tensor of this name belongs to the state besides the projection."""
        return False

    def to(self: Self, device: torch.device | str) -> Self:
        """Moves what was fitted."""
        self._projection = Projection(*(tensor.to(device) for tensor in self._fitted()))
        return self

    # -- checks -----------------------------------------------------------------------------------------------------

    def _rows1(self, X: Any, reset: bool, least: int = 2) -> Rows:
        if not is_read_by_blocks(X):
            X = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=least)
        return self._of_known_width(Rows(X, "X", least), "n_features_in_", reset)

    def _rows2(self, Y: Any, reset: bool, least: int = 2) -> Rows:
        if Y is None:
            raise DataError(f"{type(self).__name__} requires y to be passed, but the target y is None: view 2 "
                            "takes its place")
        if not is_read_by_blocks(Y):
            Y = check_array(Y, dtype="numeric", ensure_2d=False, ensure_all_finite=False, ensure_min_samples=least,
                            input_name="Y")
        if len(Y.shape) == 1:
            Y = (Y if isinstance(Y, Tensor) else np.asarray(Y))[:, None]
        return self._of_known_width(Rows(Y, "Y", least), "n_features2_in_", reset)

    def _of_known_width(self, rows: Rows, attribute: str, reset: bool) -> Rows:
        """Takes the width over, or compares it."""
        if reset:
            setattr(self, attribute, rows.width)
        elif rows.width != getattr(self, attribute):  # in scikit-learn's words
            raise DataError(f"{rows.name} has {rows.width} features, but {type(self).__name__} is expecting "
                            f"{getattr(self, attribute)} features as input")
        return rows

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = tags.target_tags.multi_output = True
        return tags


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy().copy()
    return array
