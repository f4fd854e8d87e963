"""Codes of plus and minus one that gradients pass through."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Sign(torch.autograd.Function):
    """Sign forwards; backwards the identity within [−1, 1] and nothing beyond, where no step would change the sign."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.where(u > 0, 1.0, -1.0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradient * (u.abs() <= 1)


def sign_through(u: Tensor) -> Tensor:
    """+1 where ``u`` > 0, else −1, with the straight-through gradient (Bengio, Léonard, Courville 2013, arXiv
    1308.3432; cut off beyond ±1 as Hubara et al. 2016, arXiv 1602.02830, equation 4, have it)."""
    signs: Tensor = _Sign.apply(u)
    return signs


def imbalance(codes: Tensor) -> Tensor:
    """Mean over bits of the squared mean of codes (n, bits) of ±1: 0 where every bit is set for half of the items."""
    return codes.mean(dim=0).square().mean()
