"""Towers: the network of one view. Each function takes the shape of one item and returns an ``nn.Module`` that maps
(n, *shape) to (n, dim)."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from xmodal.errors import ExperimentError

Shape = Sequence[int]


def _initialised(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Weights of variance 1/fan_in (He et al. 2015 with gain 1, the published models' initialisation), no bias."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(shape: Shape, hidden: Sequence[int], dim: int, *, batch_norm: bool = True, dropout: float = 0.0,
        nonlinearity: Callable[[], nn.Module] = nn.ELU) -> nn.Sequential:
    """Fully connected tower: for each hidden width linear, batch norm, nonlinearity, dropout; a linear layer last.

    Args:
        shape: of one item, such as ``(392,)`` or ``(1, 28, 14)``; it is flattened.
        hidden: widths of the hidden layers; none gives one linear map.
        dim: width of the output.
        batch_norm: whether hidden layers are batch-normalised before the nonlinearity.
        dropout: probability with which a hidden unit is dropped.
        nonlinearity: makes the activation module.
    """
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()] if len(shape) != 1 else []
    for fan_in, fan_out in pairwise(widths):
        layers.append(_initialised(nn.Linear(fan_in, fan_out, bias=not batch_norm)))
        if batch_norm:
            layers.append(nn.BatchNorm1d(fan_out))
        layers.append(nonlinearity())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    layers.append(_initialised(nn.Linear(widths[-1], dim)))
    return nn.Sequential(*layers)


def conv_tower(shape: Shape, channels: Sequence[int], dim: int, *, convolutions: int = 2,
               nonlinearity: Callable[[], nn.Module] = nn.ELU) -> nn.Sequential:
    """Convolutional tower: blocks of 3×3 convolutions with batch norm and nonlinearity, each block ended by 2×2 max
    pooling; then a 1×1 convolution to ``dim`` channels, batch norm, and the average over all positions.

    Args:
        shape: of one item, ``(channels, height, width)`` or ``(height, width)``.
        channels: filters of each block.
        dim: width of the output.
        convolutions: how many a block has.
        nonlinearity: makes the activation module.

    Raises:
        ExperimentError: an item that is no image, or too small for so many poolings.
    """
    if len(shape) not in (2, 3):
        raise ExperimentError(f"conv_tower needs items of shape (channels, height, width), got {tuple(shape)}")
    if min(shape[-2:]) < 2 ** len(channels):
        raise ExperimentError(f"conv_tower: {len(channels)} blocks halve an item of {shape[-2]}×{shape[-1]} below one "
                              f"pixel; use at most {int(math.log2(min(shape[-2:])))} blocks")
    fan_in = shape[0] if len(shape) == 3 else 1
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))] if len(shape) == 2 else []
    for width in channels:
        for _ in range(convolutions):
            layers += [_initialised(nn.Conv2d(fan_in, width, 3, padding=1, bias=False)), nn.BatchNorm2d(width),
                       nonlinearity()]
            fan_in = width
        layers.append(nn.MaxPool2d(2))
    layers += [_initialised(nn.Conv2d(fan_in, dim, 1, bias=False)), nn.BatchNorm2d(dim), nn.AdaptiveAvgPool2d(1),
               nn.Flatten()]
    return nn.Sequential(*layers)
