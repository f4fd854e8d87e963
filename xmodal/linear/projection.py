"""What a method in closed form has found."""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from xmodal.errors import CheckpointError


class Projection(NamedTuple):
    """What was fitted: ``z1 = (x − mean1) U``, ``z2 = (y − mean2) V``; float64."""

    mean1: Tensor  #: (q1,)
    mean2: Tensor  #: (q2,)
    U: Tensor  #: (q1, k)
    V: Tensor  #: (q2, k)
    correlations: Tensor  #: (k,) of the fitted pairs, as the method regularises them

    @classmethod
    def stored(cls, tensors: Mapping[str, Tensor], owner: str, n_components: int | None) -> Projection:
        """A projection from its stored tensors, by name.

        Args:
            tensors: may hold others as well.
            owner: whose they are, for errors.
            n_components: how many there must be; None allows any number.

        Raises:
            CheckpointError: tensors are missing, or don't fit together.
        """
        for name, ndim in zip(cls._fields, (1, 1, 2, 2, 1), strict=True):
            if name not in tensors:
                raise CheckpointError(f"{owner} has no {name}")
            tensor = tensors[name]
            real = isinstance(tensor, Tensor) and tensor.is_floating_point()
            if not real or tensor.ndim != ndim or len(tensor) == 0:
                raise CheckpointError(f"{name} of {owner} must be a real tensor of {ndim} dimension{'s'[:ndim - 1]}")
        found = cls(*(tensors[name].double() for name in cls._fields))
        d1, d2, k = len(found.mean1), len(found.mean2), len(found.correlations)
        if n_components not in (None, k):
            raise CheckpointError(f"{k} components were stored, and n_components is {n_components}")
        if found.U.shape != (d1, k) or found.V.shape != (d2, k):
            raise CheckpointError(f"U {tuple(found.U.shape)} and V {tuple(found.V.shape)} don't fit means of {d1} and "
                                  f"{d2} values and {k} correlations")
        return found
