"""Batch norm over a batch that several processes share."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xmodal.distributed import add_up


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
        axes = [0, *range(2, wide.ndim)]
        shape = [1, -1] + [1] * (wide.ndim - 2)
        count = add_up(wide.new_tensor([wide.numel() / max(wide.shape[1], 1)]))
        mean = add_up(wide.sum(dim=axes)) / count
        centred = wide - mean.view(shape)
        variance = add_up(centred.square().sum(dim=axes)) / count
        self._track(mean.detach(), variance.detach(), count)
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.to(wide.dtype).view(shape) + self.bias.to(wide.dtype).view(shape)
        return normed.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(self.running_var.dtype), momentum)


def share_batch_norms(model: nn.Module) -> None:
    """Puts a :class:`SharedBatchNorm` in the place of every batch norm inside ``model``."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm | nn.SyncBatchNorm):
                setattr(module, name, SharedBatchNorm.like(child))
