"""Methods without a network."""
from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from xmodal.covariance import PairCovariance
from xmodal.errors import DataError
from xmodal.linalg import CCASolution, cca_solution


class LinearCCA:
    """Linear CCA of two views (Hotelling 1936) from one pass over the pairs: the baseline of every deep model.

    Args:
        n_components: how many canonical directions to keep; default as many as the narrower view has values.
        r1, r2: ridges, relative to the mean variance of the view's values, so that they mean the same for any scale.
    """

    def __init__(self, n_components: int | None = None, r1: float = 1e-3, r2: float = 1e-3) -> None:
        self.n_components, self.r1, self.r2 = n_components, r1, r2
        self._covariance: PairCovariance | None = None
        self._solution: CCASolution | None = None

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> LinearCCA:
        """Fits to pairs that come in batches (n, *shape1), (n, *shape2); items are flattened.

        Raises:
            DataError: fewer than two pairs.
        """
        covariance = PairCovariance.of(batches)
        S11, S22, S12 = covariance.S11, covariance.S22, covariance.S12
        self._solution = cca_solution(S11, S22, S12, self.r1 * float(S11.diagonal().mean()),
                                      self.r2 * float(S22.diagonal().mean()), self.n_components)
        self._covariance = covariance
        return self

    @property
    def correlations(self) -> Tensor:
        """(k,) canonical correlations of the fitted pairs, descending."""
        return self._fitted()[1].correlations

    def embed_view1(self, x: Tensor) -> Tensor:
        """(n, *shape1) to (n, k) float64 canonical coordinates."""
        covariance, solution = self._fitted()
        return (x.flatten(1).double() - covariance.mean1) @ solution.U

    def embed_view2(self, y: Tensor) -> Tensor:
        """(n, *shape2) to (n, k) float64 canonical coordinates."""
        covariance, solution = self._fitted()
        return (y.flatten(1).double() - covariance.mean2) @ solution.V

    def _fitted(self) -> tuple[PairCovariance, CCASolution]:
        if self._covariance is None or self._solution is None:
            raise DataError("LinearCCA is not fitted yet: call fit first")
        return self._covariance, self._solution
