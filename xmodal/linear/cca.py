"""Linear CCA of any number of pairs."""
from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

from xmodal.data import PairSplit
from xmodal.errors import DataError
from xmodal.linalg import EXACT, cca_solution, fix_signs
from xmodal.linear.closed_form import ClosedForm
from xmodal.linear.projection import Projection
from xmodal.linear.sums import ViewStatistics


class LinearCCA(ClosedForm):
    """Linear CCA of two views (Hotelling 1936) from one pass over the pairs: the baseline of every deep model.

    Means and covariances are summed up blockwise in float64, so that any number of pairs needs memory for the
    covariances only; both views are whitened by Cholesky factors, and one SVD of the whitened cross-covariance gives
    the directions. Where a view has fewer items than columns, coordinates in the span of its items take the place of
    the columns (the dual form), and nothing of width × width is made.

    Coordinates have unit variance on the fitted pairs (with no ridge and no items without a partner), fall by
    correlation, and each column of ``U_`` has its entry of largest magnitude positive.

    Args:
        n_components: how many canonical directions to keep; default as many as there can be.
        r1, r2: ridges added to the views' covariances, relative to the mean variance of a view's columns, so that they
            mean the same for any scale (canonical ridge, Vinod 1976). Columns that are constant, or combinations of
            others, are handled by them, with a warning that says which. A floor of rounding size is always added.
        unpaired_weight: what an item without a partner counts in the mean and covariance of its view, from 0 (nothing)
            to 1 (as much as a paired one); semi-paired fitting. By default as many of them as the view has columns,
            together: they decide where pairs are few and fade as pairs get many.
        svd_solver: "exact"; "randomized", for few components of wide views; "auto" (see
            :func:`xmodal.linalg.leading_svd`).
        device: where the sums and the decomposition are computed, such as "cuda".

    Attributes:
        correlations_: (k,) canonical correlations of the fitted pairs, lowered by the ridges; at most 1, where items
            without a partner would lead beyond.
        U_, V_: (d1, k), (d2, k) projections of the centred views.
        mean1_, mean2_: (d1,), (d2,).
        n_pairs_: how many pairs it was fitted to.
    """

    def __init__(self, n_components: int | None = None, r1: float = 1e-3, r2: float = 1e-3, *,
                 unpaired_weight: float | Literal["auto"] = "auto", svd_solver: str = "auto",
                 device: str = "cpu") -> None:
        self.n_components, self.r1, self.r2 = n_components, r1, r2
        self.unpaired_weight, self.svd_solver, self.device = unpaired_weight, svd_solver, device

    def _solve(self, view1: ViewStatistics, view2: ViewStatistics, S12: Tensor) -> Projection:
        check_ridges(self.r1, self.r2)
        k = components(self.n_components, S12)
        for name, view, r in (("view1", view1, self.r1), ("view2", view2, self.r2)):
            warn_of_degenerate(name, view, r)
        scale1, scale2 = mean_deviation(view1), mean_deviation(view2)  # to solve it in units that float64 likes
        solution = cca_solution(view1.S.div_(scale1**2), view2.S.div_(scale2**2), S12.div_(scale1).div_(scale2),
                                self.r1, self.r2, k, svd_solver=self.svd_solver)
        U, V = fix_signs(in_columns(view1, solution.U) / scale1, in_columns(view2, solution.V) / scale2)
        return Projection(view1.mean, view2.mean, U, V, solution.correlations)


def check_ridges(r1: float, r2: float) -> None:
    if not all(isinstance(r, Real) and 0 <= r < float("inf") for r in (r1, r2)):
        raise DataError(f"r1 and r2 must be numbers of at least 0, got {r1} and {r2}")


def components(wanted: int | None, S12: Tensor) -> int:
    """How many dimensions to keep; at most those of the smaller side of the cross-covariance.

    Raises:
        DataError: more are asked for, or none.
    """
    most = min(S12.shape)
    if wanted is None:
        return most
    if not isinstance(wanted, Integral) or not 1 <= wanted <= most:
        raise DataError(f"n_components must be a whole number from 1 to {most} (the columns, or items, of the smaller "
                        f"view); got {wanted}")
    return int(wanted)


def sides(split: PairSplit, unpaired_weight: float | Literal["auto"]) -> tuple[int, int]:
    """How many directions each view of a split has: its columns, or its rows where these are fewer.

    Args:
        split: what is to be fitted to.
        unpaired_weight: of items without a partner, which are no rows with 0.
    """
    table = split.pair_table()
    alone = [len(view) - len(table[:, i].unique()) for i, view in enumerate((split.view1, split.view2))]
    columns = (math.prod(view.shape[1:]) for view in (split.view1, split.view2))
    one, two = (min(width, len(table) + (n if unpaired_weight != 0 else 0))
                for width, n in zip(columns, alone, strict=True))
    return one, two


def mean_deviation(view: ViewStatistics) -> float:
    """The root of the mean variance of a view's columns; 1 for a constant view."""
    return float(view.variances.mean().sqrt()) or 1.0


def in_columns(view: ViewStatistics, directions: Tensor) -> Tensor:
    """Directions (q, k) in the view's own columns (d, k)."""
    return directions if view.basis is None else view.basis @ directions


def warn_of_degenerate(name: str, view: ViewStatistics, r: float) -> None:
    """One warning that names the columns for which only the ridge stands between the fit and a division by zero."""
    findings = []
    if bool(view.constant.any()):
        findings.append(_listed(view.constant, "is constant", "are constant"))
    hardly = ~view.constant & (view.variances <= 4 * len(view.mean) * EXACT * view.variances.mean())
    if r == 0 and bool(hardly.any()):  # the floor that is always added hides them; what a ridge hides is meant to be
        findings.append(_listed(hardly, "hardly varies beside the others", "hardly vary beside the others"))
    if view.basis is not None:
        findings.append(f"there are {view.items} items for {len(view.mean)} columns")
    else:
        dependent = determined_by_others(view.S, ~view.constant & ~hardly)
        if bool(dependent.any()):
            findings.append(_listed(dependent, "is a combination of others", "are combinations of others"))
    if findings:
        ridge = f"the ridge of {r:g} keeps the fit finite" if r > 0 else \
            "there is no ridge, and what such columns contribute is arbitrary: a ridge above 0 would help"
        warnings.warn(f"{name}: {'; '.join(findings)}; {ridge}", UserWarning, stacklevel=2)


def determined_by_others(S: Tensor, among: Tensor) -> Tensor:
    """(d,) bool: which columns are linear combinations of those before them, by what a Cholesky factor leaves.

    Args:
        S: (d, d) covariance.
        among: (d,) bool, the columns to look at; those of positive variance.
    """
    scale = S.diagonal()[among].sqrt()
    correlation = S[among][:, among] / scale / scale[:, None]
    d = len(correlation)
    correlation.diagonal().add_(16 * d * EXACT)
    L, info = torch.linalg.cholesky_ex(correlation)
    found = torch.zeros_like(among)
    if int(info) == 0:  # not finite otherwise, and the fit says so
        found[among] = L.diagonal().square() <= max(1e-10, 64 * d * EXACT)
    return found


def _listed(which: Tensor, singular: str, plural: str) -> str:
    numbers = which.nonzero().flatten().tolist()
    shown = ", ".join(str(number) for number in numbers[:5]) + (", ..." if len(numbers) > 5 else "")
    return f"column {shown} {singular}" if len(numbers) == 1 else f"{len(numbers)} columns ({shown}) {plural}"
