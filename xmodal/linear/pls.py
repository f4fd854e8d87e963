"""The two baselines that whiten nothing: PLS, and no projection at all."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import cast

import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from xmodal.errors import CheckpointError, DataError
from xmodal.linalg import fix_signs, leading_svd
from xmodal.linear.cca import components, in_columns
from xmodal.linear.closed_form import ClosedForm, Pairs
from xmodal.linear.projection import Projection
from xmodal.linear.sums import PairSums, ViewStatistics


class PLS(ClosedForm):
    """Partial least squares by one SVD of the cross-covariance (PLS-SVD; Sampson et al. 1989, Wegelin 2000).

    It finds orthonormal directions of largest *covariance*, CCA those of largest *correlation*. It is the limit of
    CCA with an infinite ridge: robust with few pairs, and led by whichever columns vary most.

    Args:
        n_components: how many directions to keep; default as many as there can be.
        svd_solver, device: as for :class:`xmodal.LinearCCA`.

    Attributes:
        correlations_: (k,) of the coordinates of the fitted pairs, in the order of falling covariance.
    """

    unpaired_weight = 0.0  # directions depend on pairs alone

    def __init__(self, n_components: int | None = None, *, svd_solver: str = "auto", device: str = "cpu") -> None:
        self.n_components, self.svd_solver, self.device = n_components, svd_solver, device

    def _solve(self, view1: ViewStatistics, view2: ViewStatistics, S12: Tensor) -> Projection:
        E, covariances, F = leading_svd(S12, components(self.n_components, S12), self.svd_solver)
        deviations = (E * (view1.S @ E)).sum(dim=0).sqrt() * (F * (view2.S @ F)).sum(dim=0).sqrt()
        correlations = torch.where(deviations > 0, covariances / deviations, 0.0).clamp(max=1.0)
        U, V = fix_signs(in_columns(view1, E), in_columns(view2, F))
        return Projection(view1.mean, view2.mean, U, V, correlations)


class Identity(ClosedForm):
    """Nothing learned: items are compared as they are, which needs views of one width. What every method has to beat.

    Fitting checks the pairs and counts them; there are no directions and no correlations.

    Args:
        device: as for :class:`xmodal.LinearCCA`.
    """

    _width: int | None = None

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device

    def _start(self) -> None:
        super()._start()
        self._width = None

    def _add(self, batches: Pairs, lone1: Iterable[Tensor], lone2: Iterable[Tensor]) -> None:
        sums = self._started()
        for _ in chain(lone1, lone2):
            pass  # read, and so checked
        for x, y in batches:
            if len(x) != len(y):
                raise DataError(f"expected as many rows of view1 as of view2; got {len(x)} and {len(y)}")
            if x.shape[1] != y.shape[1] or x.shape[1] != (self._width or x.shape[1]):
                raise DataError("Identity compares items as they are, which needs views of one width; got "
                                f"{self._width or x.shape[1]} and {y.shape[1]} values")
            self._width = x.shape[1]
            sums.n_pairs += len(x)

    def _fitted(self) -> Projection:
        """There is none, but there must have been pairs."""
        if self._sums is not None and self._sums.n_pairs < 2:
            raise DataError(f"Identity needs at least two pairs, as all methods do; got {self._sums.n_pairs}")
        if self._width is None:
            raise NotFittedError("this Identity is not fitted yet: call fit first")
        return Projection(*(torch.zeros(0),) * 5)

    def merge(self, other: ClosedForm) -> Identity:
        """Adds the count of pairs of another one."""
        super().merge(other)
        width = cast(Identity, other)._width
        if self._width not in (None, width):
            raise DataError(f"can't merge: views have a width of {self._width} here and of {width} there")
        self._width = width
        self._started().n_pairs += cast(PairSums, other._sums).n_pairs
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return self._width is not None

    @property
    def _n_features_out(self) -> int:
        return self._width or 0

    def embed_view1(self, x: Tensor) -> Tensor:
        """(n, *shape) to (n, d) float64, the values as they are."""
        self._fitted()
        return self._flat1(x).double()

    def embed_view2(self, y: Tensor) -> Tensor:
        """(n, *shape) to (n, d) float64, the values as they are."""
        return self.embed_view1(y)

    def state_dict(self) -> dict[str, Tensor]:
        """The width, which is all there is."""
        self._fitted()
        return {"width": torch.tensor(self._width)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is not that.
        """
        if set(tensors) != {"width"} or tensors["width"].dtype != torch.int64 or tensors["width"].ndim != 0 \
                or int(tensors["width"]) < 1:
            raise CheckpointError("Identity keeps a width, a whole number, and nothing else")
        self._sums, self._projection = None, Projection(*(torch.zeros(0),) * 5)
        self._width = self.n_features_in_ = self.n_features2_in_ = int(tensors["width"])

    def to(self, device: torch.device | str) -> Identity:
        """Nothing to move."""
        return self
