"""What closed-form methods need to know of the data: covariances where there are many rows, the rows where few."""
from __future__ import annotations

from numbers import Real
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xmodal.covariance import PairCovariance, ViewCovariance
from xmodal.errors import DataError, NumericalError

#: Items of view 1 and of view 2: pairs, or items without a partner where one is None.
Part = tuple[Tensor | None, Tensor | None]


class ViewStatistics(NamedTuple):
    """One view: its moments, in coordinates of their own where it has fewer rows than columns."""

    mean: Tensor  #: (d,) mean of all items, weighted
    S: Tensor  #: (q, q) covariance of all items, weighted; q = d, or the number of items if that is less
    variances: Tensor  #: (d,) of the columns
    constant: Tensor  #: (d,) bool: columns whose variance is rounding; they are 0 in S and in the cross-covariance
    basis: Tensor | None  #: (d, q) orthonormal, the span of the centred items; None where q = d
    items: int  #: how many


class PairSums:
    """All that is kept of paired views in one pass, and of items without a partner.

    Rows are kept as they come while that takes less room than the covariances would, so that views far wider than
    there are pairs never need a matrix of their width squared (the dual form); then they are summed up. Items without
    a partner count in the mean and the covariance of their view, pairs alone make the cross-covariance.

    Args:
        device: where the sums live.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._widths: list[int | None] = [None, None]
        self._rows: list[Part] | None = []  # None when there are covariances
        self._pairs: PairCovariance | None = None
        self._alone: list[ViewCovariance | None] = [None, None]  # made when the first such item comes
        self.n_pairs, self.n_alone = 0, [0, 0]

    def add(self, x: Tensor | None, y: Tensor | None) -> None:
        """A batch of pairs (n, d1), (n, d2); with one of them None, of items without a partner.

        Raises:
            DataError: widths other than before, or different numbers of rows.
        """
        for i, z in enumerate((x, y)):
            if z is not None:
                self._check_width(i, z)
        if x is not None and y is not None and len(x) != len(y):
            raise DataError(f"expected as many rows of view1 as of view2; got {len(x)} and {len(y)}")
        self._count(x, y)
        if self._rows is not None and self._rows_take_more():
            self._sum_up()
        if self._rows is None:
            self._add_to_covariances(x, y)
        else:  # copied: whoever passed them may use their memory again
            self._rows.append((None if x is None else x.detach().clone(), None if y is None else y.detach().clone()))

    def _check_width(self, view: int, z: Tensor) -> None:
        expected = self._widths[view]
        if z.ndim != 2 or (expected is not None and z.shape[1] != expected):
            raise DataError(f"view{view + 1} must have {expected or 'some'} columns as before; got rows of shape "
                            f"{tuple(z.shape[1:])}")
        self._widths[view] = z.shape[1]

    def merge(self, other: PairSums) -> None:
        """Adds what another accumulator has seen, perhaps in another process.

        Raises:
            DataError: it is this one, or has other widths.
        """
        if other is self:
            raise DataError("can't merge with itself: its pairs would count twice")
        for i, (mine, theirs) in enumerate(zip(self._widths, other._widths, strict=True)):
            if mine is not None and theirs is not None and mine != theirs:
                raise DataError(f"can't merge: view{i + 1} has a width of {mine} here and of {theirs} there")
        if other._rows is not None:
            for x, y in other._rows:
                self.add(x, y)
            return
        self._widths = list(other._widths)
        if self._rows is not None:
            self._sum_up()
        if self._pairs is None or other._pairs is None:
            return
        self._pairs.merge(other._pairs)
        for view, alone in enumerate(other._alone):
            if alone is not None:
                self._covariance_alone(view, len(alone.mean)).merge(alone)
        self.n_pairs += other.n_pairs
        self.n_alone = [a + b for a, b in zip(self.n_alone, other.n_alone, strict=True)]

    def _count(self, x: Tensor | None, y: Tensor | None) -> None:
        if x is not None and y is not None:
            self.n_pairs += len(x)
        elif x is not None:
            self.n_alone[0] += len(x)
        elif y is not None:
            self.n_alone[1] += len(y)

    def _rows_take_more(self) -> bool:
        d1, d2 = self._widths
        if d1 is None or d2 is None:
            return False
        rows = d1 * (self.n_pairs + self.n_alone[0]) + d2 * (self.n_pairs + self.n_alone[1])
        return rows > d1 * d1 + d2 * d2 + d1 * d2

    def _sum_up(self) -> None:
        d1, d2 = self._widths
        if d1 is None or d2 is None:
            raise DataError("one of the views has no items yet")
        rows, self._rows = self._rows or [], None
        self._pairs = PairCovariance(d1, d2, self.device)
        for x, y in rows:
            self._add_to_covariances(x, y)

    def _add_to_covariances(self, x: Tensor | None, y: Tensor | None) -> None:
        if x is not None and y is not None and self._pairs is not None:
            self._pairs.update(x, y)
        elif x is not None:
            self._covariance_alone(0, x.shape[1]).update(x)
        elif y is not None:
            self._covariance_alone(1, y.shape[1]).update(y)

    def _covariance_alone(self, view: int, width: int) -> ViewCovariance:
        covariance = self._alone[view]
        if covariance is None:
            covariance = self._alone[view] = ViewCovariance(width, self.device)
        return covariance

    # -- what comes of it -------------------------------------------------------------------------------------------

    def statistics(self, unpaired_weight: float | Literal["auto"] = "auto"
                   ) -> tuple[ViewStatistics, ViewStatistics, Tensor]:
        """Both views and their cross-covariance (q1, q2), all float64.

        Args:
            unpaired_weight: what an item without a partner counts in mean and covariance of its view, from 0 to 1,
                where a paired one counts 1. "auto": together as many as the view has columns, at most 1 each.

        Raises:
            DataError: fewer than two pairs.
        """
        if self.n_pairs < 2:
            raise DataError(f"a covariance needs at least two pairs, got {self.n_pairs}")
        weights = [_weight(unpaired_weight, *view) for view in zip(self._widths, self.n_alone, strict=True)]
        view1, view2, S12 = self._of_covariances(weights) if self._rows is None else self._of_rows(self._rows, weights)
        for name, values in (("view1", view1.variances), ("view2", view2.variances), ("the pairs", S12)):
            if not bool(torch.isfinite(values).all()):
                raise NumericalError(f"the covariance of {name} is not finite: scale the features down")
        return view1, view2, S12

    def _of_covariances(self, weights: list[float]) -> tuple[ViewStatistics, ViewStatistics, Tensor]:
        if self._pairs is None:
            raise DataError("nothing has been summed up")
        views = []
        for view, alone, weight in zip((self._pairs.view1, self._pairs.view2), self._alone, weights, strict=True):
            mean, S = view.mean, view.S
            if alone is not None and weight * alone.count > 0:
                extra = weight * alone.count
                total = view.count + extra
                delta = alone.mean - mean
                S.mul_(view.count - 1).add_(alone.S, alpha=weight * (alone.count - 1))
                S.addr_(delta, delta, alpha=view.count * extra / total).div_(total - 1)
                mean = mean + delta * (extra / total)
            variances = S.diagonal().clone()
            constant = _constant(mean, variances)
            S[constant] = 0
            S[:, constant] = 0
            items = view.count + (0 if alone is None else alone.count)
            views.append(ViewStatistics(mean, S, variances, constant, None, items))
        S12 = self._pairs.S12
        S12[views[0].constant] = 0
        S12[:, views[1].constant] = 0
        return views[0], views[1], S12

    def _of_rows(self, rows: list[Part], weights: list[float]) -> tuple[ViewStatistics, ViewStatistics, Tensor]:
        paired = [(x, y) for x, y in rows if x is not None and y is not None]
        views, coordinates = [], []
        for i in (0, 1):
            alone = [row[i] for row in rows if row[1 - i] is None] if weights[i] > 0 else []
            Z = torch.cat([z.to(self.device, torch.float64)
                           for z in (*(pair[i] for pair in paired), *alone) if z is not None])
            w = torch.ones(len(Z), dtype=torch.float64, device=self.device)
            w[self.n_pairs:] = weights[i]
            mean = w @ Z / w.sum()
            Z -= mean
            variances = w @ Z.square() / (w.sum() - 1)
            constant = _constant(mean, variances)
            Z[:, constant] = 0
            basis = None
            if len(Z) < Z.shape[1]:
                basis, triangle = torch.linalg.qr(Z.mT)
                Z = triangle.mT
            S = (w[:, None] * Z).mT @ Z / (w.sum() - 1)
            views.append(ViewStatistics(mean, S, variances, constant, basis, len(Z)))
            coordinates.append(Z[:self.n_pairs])
        A, B = (Z - Z.mean(dim=0) for Z in coordinates)  # the pairs' own mean: others may lie elsewhere
        return views[0], views[1], A.mT @ B / (self.n_pairs - 1)


def _constant(mean: Tensor, variances: Tensor) -> Tensor:
    """Which columns are the same everywhere, as far as float64 sums can tell."""
    return variances <= (1e-14 * mean).square()


def _weight(wanted: float | Literal["auto"], width: int | None, alone: int) -> float:
    if wanted == "auto":
        return min(1.0, (width or 0) / alone) if alone else 0.0
    if not isinstance(wanted, Real) or not 0 <= wanted <= 1:
        raise DataError(f"unpaired_weight must be 'auto' or a number from 0 to 1, got {wanted!r}")
    return float(wanted)
