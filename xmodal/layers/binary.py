"""Codes of plus and minus one that gradients pass through."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError


class _Sign(torch.autograd.Function):
    """Sign forwards; backwards the identity within [−1, 1] and nothing beyond, where no step would change the sign."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.where(u > 0, 1.0, -1.0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        u: Tensor
        (u,) = ctx.saved_tensors
        return gradient * (u.abs() <= 1)


_sign: Callable[[Tensor], Tensor] = _Sign.apply


def sign_through(u: Tensor) -> Tensor:
    """+1 where ``u`` > 0, else −1, with the straight-through gradient (Bengio, Léonard, Courville 2013, arXiv
    1308.3432; cut off beyond ±1 as Hubara et al. 2016, arXiv 1602.02830, equation 4, have it)."""
    return _sign(u)


def imbalance(codes: Tensor) -> Tensor:
    """Mean over bits of the squared mean of codes (n, bits) of ±1: 0 where every bit is set for half of the items."""
    return codes.mean(dim=0).square().mean()


class Bits(nn.Module):
    """Semantic hashing (Salakhutdinov and Hinton 2009): each unit of a code becomes a bit, ±1.

    *Train mode* adds normal noise to what comes in and takes the sign, with a straight-through gradient
    (:func:`sign_through`): units that are to survive the noise must move away from zero. *Eval mode* takes the sign
    alone. Two codes then agree in ``(1 + cosine) / 2`` of their bits, so cosines rank as Hamming distances do.

    Args:
        noise: its standard deviation.
    """

    def __init__(self, noise: float = 0.3) -> None:
        super().__init__()
        if not 0 <= noise < float("inf"):
            raise ExperimentError(f"Bits: noise must not be negative, got {noise}")
        self.noise = noise

    def forward(self, z: Tensor) -> Tensor:
        """(n, bits) real values to (n, bits) of ±1."""
        return sign_through(z + self.noise * torch.randn_like(z) if self.training and self.noise else z)

    def extra_repr(self) -> str:
        return f"noise={self.noise:g}"
