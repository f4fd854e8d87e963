"""What every model returns, and what every head asks of its inputs."""
from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmodal.errors import DataError, ExperimentError


class Embedded(NamedTuple):
    """What every model returns for a batch of n pairs."""

    view1: Tensor  #: (n, d) coordinates in the shared space
    view2: Tensor  #: (n, d)
    correlations: Tensor | None = None  #: (d,) canonical correlations of this batch; CCA heads only
    extras: Mapping[str, Tensor] = MappingProxyType({})  #: what particular objectives ask for, by name


class LengthNorm(nn.Module):
    """Rows of length (almost) one: ``z / √(‖z‖² + ε²)``, finite with a finite gradient at zero."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, z: Tensor) -> Tensor:
        wide = z.to(result_dtype(z))  # ε² underflows in float16
        return (wide * torch.rsqrt(wide.square().sum(dim=1, keepdim=True) + self.eps**2)).to(z.dtype)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"


def check_widths(name: str, dim: int, a: Tensor, b: Tensor) -> None:
    for view, z in (("view1", a), ("view2", b)):
        if z.ndim != 2 or z.shape[1] != dim:
            raise ExperimentError(f"{name}({dim}) expects tower outputs of shape (n, {dim}); "
                                  f"{view} has {tuple(z.shape)}")
        if not z.is_floating_point():
            raise ExperimentError(f"{name} expects tower outputs of a floating dtype; {view} has {z.dtype}")
    if len(a) != len(b):
        raise DataError(f"{name} expects as many rows of view1 as of view2; got {len(a)} and {len(b)}")
    if len(a) == 0:
        raise DataError(f"{name} got a batch without rows; it needs at least one pair")


def result_dtype(*inputs: Tensor) -> torch.dtype:
    """Heads answer in the inputs' own precision, float32 at the least."""
    dtype = torch.float32
    for z in inputs:
        dtype = torch.promote_types(dtype, z.dtype)
    return dtype


def least_precision(*inputs: Tensor) -> float:
    """Relative precision of the least precise input."""
    return max(torch.finfo(z.dtype).eps for z in inputs)
