"""Means and covariances of two paired views: of one batch, blended over batches, or exact over any number.

:class:`Moments` is a value (what a CCA needs to know of a data set); :class:`ViewCovariance` and
:class:`PairCovariance` accumulate.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal.errors import DataError

#: Covariances are summed in blocks of at least so many rows, of which only the upper ones are computed.
_BLOCK_COLUMNS = 128


class Moments(NamedTuple):
    """Means (d1,), (d2,) and covariances (d1, d1), (d2, d2), (d1, d2) of two paired views."""

    mean1: Tensor
    mean2: Tensor
    S11: Tensor
    S22: Tensor
    S12: Tensor

    def detach(self) -> Moments:
        return Moments(*(m.detach() for m in self))


def batch_moments(A: Tensor, B: Tensor) -> Moments:
    """Sample moments of a batch of pairs, ``S = Aᵀ A/(n − 1)`` for centred ``A``; a single row has covariance 0.

    Args:
        A: (n, d1), B: (n, d2), row i of one belongs to row i of the other.
    """
    mean1, mean2 = A.mean(dim=0), B.mean(dim=0)
    A, B = A - mean1, B - mean2
    scale = 1.0 / max(len(A) - 1, 1)
    return Moments(mean1, mean2, A.mT @ A * scale, B.mT @ B * scale, A.mT @ B * scale)


def blend(old: Moments, new: Moments, alpha: float) -> Moments:
    """Moments of the mixture of two populations with weights ``1 − alpha`` and ``alpha``.

    By the law of total covariance: ``S = (1−α) S_old + α S_new + α(1−α) δ δᵀ`` with ``δ`` the difference of the
    means. As a mixture of joint covariances it is again one, so that canonical correlations stay within [0, 1].
    """
    if alpha == 1.0:
        return new
    d1, d2 = new.mean1 - old.mean1, new.mean2 - old.mean2
    between = alpha * (1 - alpha)

    def mix(a: Tensor, b: Tensor) -> Tensor:
        return (1 - alpha) * a + alpha * b

    return Moments(mix(old.mean1, new.mean1), mix(old.mean2, new.mean2),
                   mix(old.S11, new.S11) + between * torch.outer(d1, d1),
                   mix(old.S22, new.S22) + between * torch.outer(d2, d2),
                   mix(old.S12, new.S12) + between * torch.outer(d1, d2))


def pearson(A: Tensor, B: Tensor) -> Tensor:
    """(d,) float64 Pearson correlations of the columns of (n, d) with those of (n, d); 0 where one is constant.

    A column counts as constant when its spread is within rounding of its magnitude. Columns of any scale neither
    under- nor overflow. NaN gives NaN. The gradient is finite, constant columns included.
    """
    (A, norm1, constant1), (B, norm2, constant2) = _centred_columns(A), _centred_columns(B)
    r = (A * B).sum(dim=0) / (norm1 * norm2)
    return r.masked_fill(constant1 | constant2, 0.0).clamp(-1.0, 1.0)


def _centred_columns(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns as float64 at a largest magnitude of 1, centred; their norms, 1 for constant ones; which are constant."""
    eps = torch.finfo(A.dtype).eps
    A = A.double()
    A = A / A.detach().abs().amax(dim=0).clamp(min=1e-300)
    A = A - A.mean(dim=0)
    squares = A.square().sum(dim=0)
    constant = squares <= (4 * eps) ** 2 * len(A)
    return A, squares.masked_fill(constant, 1.0).sqrt(), constant


class ViewCovariance:
    """Exact mean and covariance of one view that arrives in batches: one pass, O(d²) memory, float64.

    Batches are centred by their own means before they are multiplied and merged by the update of Chan, Golub and
    LeVeque (1983), so features with a large mean lose nothing to cancellation, and the order of batches, their
    sizes, or accumulators merged from several processes make no difference beyond rounding.

    Args:
        d: width of the view.
        device: where the sums live; batches are moved there.
    """

    def __init__(self, d: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(d, dtype=torch.float64, device=device)
        self._M = torch.zeros(d, d, dtype=torch.float64, device=device)  # sums of products; the lower blocks are unused

    def update(self, x: Tensor) -> None:
        """Adds a batch of items (n, d), any real dtype."""
        if len(x):
            with torch.no_grad():
                mean, A = _centred(x, self.mean.device)
                self._add(A, mean)

    def merge(self, other: ViewCovariance) -> None:
        """Adds what another accumulator has seen."""
        if other.count:
            self._M += other._M.to(self._M.device)
            self._shift(other.count, other.mean.to(self.mean.device))

    def _add(self, A: Tensor, mean: Tensor) -> None:
        """Adds ``n`` items, given centred and by their mean."""
        d = len(mean)
        step = max(_BLOCK_COLUMNS, d // 16)
        for low in range(0, d, step):  # the product is symmetric: half of it is enough
            high = min(low + step, d)
            self._M[low:high, low:].addmm_(A[:, low:high].mT, A[:, low:])
        self._shift(len(A), mean)

    def _shift(self, n: int, mean: Tensor) -> None:
        delta = mean - self.mean
        self._M.addr_(delta, delta, alpha=self.count * n / (self.count + n))
        self.mean += delta * (n / (self.count + n))
        self.count += n

    @property
    def S(self) -> Tensor:  # noqa: N802 (the papers' name)
        """(d, d) covariance so far; divisor ``count − 1``."""
        upper = self._M.triu()
        upper += upper.triu(1).mT
        return upper.div_(max(self.count - 1, 1))


class PairCovariance:
    """Exact moments of paired views that arrive in batches, as :class:`ViewCovariance` has them of one.

    Args:
        d1, d2: widths of the views.
        device: where the sums live; batches are moved there.
    """

    def __init__(self, d1: int, d2: int, device: torch.device | str = "cpu") -> None:
        self.view1, self.view2 = ViewCovariance(d1, device), ViewCovariance(d2, device)
        self._M12 = torch.zeros(d1, d2, dtype=torch.float64, device=device)  # centred sums of products

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> PairCovariance:
        """The covariance of all the given pairs; items are flattened, widths are those of the first batch.

        Raises:
            DataError: no batch.
        """
        covariance: PairCovariance | None = None
        for x, y in batches:
            x, y = x.flatten(1), y.flatten(1)
            covariance = covariance or cls(x.shape[1], y.shape[1], device=x.device)
            covariance.update(x, y)
        if covariance is None:
            raise DataError("a covariance needs at least one batch")
        return covariance

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch of pairs: ``x`` (n, d1) and ``y`` (n, d2), any real dtype.

        Raises:
            DataError: widths or lengths that don't fit.
        """
        if x.shape[1:] != self.mean1.shape or y.shape[1:] != self.mean2.shape or len(x) != len(y):
            raise DataError(f"expected batches (n, {len(self.mean1)}) and (n, {len(self.mean2)}), "
                            f"got {tuple(x.shape)} and {tuple(y.shape)}")
        if len(x) == 0:
            return
        with torch.no_grad():
            (mean1, A), (mean2, B) = (_centred(z, self.mean1.device) for z in (x, y))
            self._M12.addmm_(A.mT, B)
            self._shift(len(x), mean1, mean2)
            self.view1._add(A, mean1)
            self.view2._add(B, mean2)

    def merge(self, other: PairCovariance) -> None:
        """Adds what another accumulator has seen."""
        if other.count:
            self._M12 += other._M12.to(self._M12.device)
            self._shift(other.count, other.mean1.to(self._M12.device), other.mean2.to(self._M12.device))
            self.view1.merge(other.view1)
            self.view2.merge(other.view2)

    def state(self) -> Tensor:
        """All that this accumulator has seen as one float64 vector, to be sent to another process."""
        parts = (self.mean1, self.mean2, self.view1._M, self.view2._M, self._M12)
        count = torch.tensor([self.count], dtype=torch.float64, device=self.mean1.device)
        return torch.cat([count, *(part.flatten() for part in parts)])

    @classmethod
    def from_state(cls, state: Tensor, d1: int, d2: int) -> PairCovariance:
        """The accumulator whose :meth:`state` this is."""
        made = cls(d1, d2, device=state.device)
        parts = state[1:].split([d1, d2, d1 * d1, d2 * d2, d1 * d2])
        made.view1.count = made.view2.count = int(state[0])
        made.view1.mean, made.view2.mean = parts[0].clone(), parts[1].clone()
        made.view1._M, made.view2._M = parts[2].reshape(d1, d1).clone(), parts[3].reshape(d2, d2).clone()
        made._M12 = parts[4].reshape(d1, d2).clone()
        return made

    def _shift(self, n: int, mean1: Tensor, mean2: Tensor) -> None:
        """The part of the merged cross products that stems from different means; before the views are merged."""
        self._M12.addr_(mean1 - self.mean1, mean2 - self.mean2, alpha=self.count * n / (self.count + n))

    @property
    def count(self) -> int:
        """How many pairs there were."""
        return self.view1.count

    @property
    def mean1(self) -> Tensor:
        return self.view1.mean

    @property
    def mean2(self) -> Tensor:
        return self.view2.mean

    @property
    def S11(self) -> Tensor:  # noqa: N802 (the papers' name)
        return self.view1.S

    @property
    def S22(self) -> Tensor:  # noqa: N802
        return self.view2.S

    @property
    def S12(self) -> Tensor:  # noqa: N802
        return self._M12 / max(self.count - 1, 1)

    def moments(self) -> Moments:
        """The statistics so far, as copies; divisor ``count − 1``."""
        return Moments(self.mean1.clone(), self.mean2.clone(), self.S11, self.S22, self.S12)


def _centred(x: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (d,) and centred rows (n, d), float64 on ``device``."""
    wide = x.to(device, torch.float64)
    mean = wide.mean(dim=0)
    return mean, wide - mean if wide is x else wide.sub_(mean)
