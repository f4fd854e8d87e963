"""Batch norm over a batch that several processes share."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from xmodal.distributed import add_up, gather_rows


class SharedBatchNorm(_BatchNorm):
    """Batch norm by mean and variance of the rows of all processes, as one process with the whole batch has them.

    ``torch.nn.SyncBatchNorm`` does the same on GPUs only. A process may have no row at all. Eval mode is that of any
    batch norm, and so are the names of parameters and buffers.
    """

    @classmethod
    def like(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """One with the settings, parameters and buffers of ``norm``, which it shares."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        made._parameters, made._buffers, made.training = norm._parameters, norm._buffers, norm.training
        return made

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (n, channels, ...)."""
        if not self.training:
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        mean, variance, count = _shared_moments(wide.detach())
        self._track(mean, variance, count)
        weight, bias = (None if p is None else p.to(wide.dtype) for p in (self.weight, self.bias))
        return _normalise(wide, weight, bias, mean, variance, count, self.eps).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(self.running_var.dtype), momentum)


def _shared_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (channels,) over the rows and places of all processes, and how many these are, (1,)."""
    count = x.numel() // x.shape[1]
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0) if count else (x.new_zeros(x.shape[1]),) * 2
    states = gather_rows(torch.cat([mean, variance, mean.new_tensor([count])])[None])[0]
    means, variances, counts = states.split([x.shape[1], x.shape[1], 1], dim=1)
    total = counts.sum(dim=0).clamp(min=1)
    mean = (counts * means).sum(dim=0) / total
    return mean, (counts * (variances + (means - mean).square())).sum(dim=0) / total, total


class _Normalise(torch.autograd.Function):
    """``(x − mean)/√(variance + ε) · weight + bias`` with the gradient that x has through mean and variance, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor,
                count: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.affine = eps, weight is not None
        return batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        weight = weight if ctx.affine else torch.ones_like(mean)
        to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        of_bias, of_weight = (add_up(torch.stack([to_bias, to_weight])) / count).unbind()
        scale = torch.rsqrt(variance + ctx.eps)
        slope = weight * scale.square() * of_weight  # of what comes through mean and variance: slope · x + offset
        offset = weight * scale * of_bias - mean * slope
        to_x -= batch_norm(x, torch.zeros_like(mean), torch.ones_like(mean), slope, offset, False, 0.0, 0.0)
        return to_x, to_weight if ctx.affine else None, to_bias if ctx.affine else None, None, None, None, None


_normalise: Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor, Tensor, float], Tensor] = _Normalise.apply


def share_batch_norms(model: nn.Module) -> None:
    """Puts a :class:`SharedBatchNorm` in the place of every batch norm inside ``model``."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm | nn.SyncBatchNorm):
                setattr(module, name, SharedBatchNorm.like(child))
