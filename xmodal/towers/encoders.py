"""The network of one view: perceptrons, convolutions over pictures and over characters."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError

Shape = Sequence[int]
_MONOTONE = (nn.ELU, nn.ReLU, nn.Sigmoid, nn.Tanh)


def initialised(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> nn.Module:
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
        layers.append(initialised(nn.Linear(fan_in, fan_out, bias=not batch_norm)))
        if batch_norm:
            layers.append(nn.BatchNorm1d(fan_out))
        layers.append(nonlinearity())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    layers.append(initialised(nn.Linear(widths[-1], dim)))
    return nn.Sequential(*layers)


def conv_tower(shape: Shape, channels: Sequence[int], dim: int, *, convolutions: int | Sequence[int] = 2,
               nonlinearity: Callable[[], nn.Module] = nn.ELU, hidden: Sequence[int] | None = None,
               dropout: float = 0.0) -> nn.Sequential:
    """Convolutional tower: blocks of 3×3 convolutions with batch norm and nonlinearity, each block ended by 2×2 max
    pooling; then a 1×1 convolution to ``dim`` channels, batch norm, and the average over all positions.

    Args:
        shape: of one item, ``(channels, height, width)`` or ``(height, width)``.
        channels: filters of each block.
        dim: width of the output.
        convolutions: how many a block has: one number for all, or one for each.
        nonlinearity: makes the activation module.
        hidden: in place of the average, which forgets where something was, an :func:`mlp` with these hidden widths
            over all positions. Pooling then keeps odd rows and columns.
        dropout: probability with which a unit is dropped between the last block and each layer of ``hidden``.

    Raises:
        ExperimentError: an item that is no image, whose channels come last, or too small for so many poolings; other
            numbers of blocks.
    """
    fan_in, height, width = picture_size("conv_tower", shape, len(channels))
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))] if len(shape) == 2 else []
    depths = [convolutions] * len(channels) if isinstance(convolutions, int) else list(convolutions)
    if len(depths) != len(channels) or not all(isinstance(depth, int) and depth > 0 for depth in depths):
        raise ExperimentError(f"conv_tower: {len(channels)} blocks need as many numbers of convolutions, each at least "
                              f"1; got {depths}")
    for filters, depth in zip(channels, depths, strict=True):
        for _ in range(depth):
            layers += [initialised(nn.Conv2d(fan_in, filters, 3, padding=1, bias=False)), nn.BatchNorm2d(filters),
                       nonlinearity()]
            fan_in = filters
        pooling = nn.MaxPool2d(2, ceil_mode=hidden is not None)
        if isinstance(layers[-1], _MONOTONE):  # the largest stays the largest: bend only a quarter
            layers.insert(-1, pooling)
        else:
            layers.append(pooling)
    if hidden is None:
        layers += [initialised(nn.Conv2d(fan_in, dim, 1, bias=False)), nn.BatchNorm2d(dim), nn.AdaptiveAvgPool2d(1),
                   nn.Flatten()]
    else:
        halved = 2 ** len(channels)
        layers += [nn.Dropout(dropout)] if dropout > 0 else []
        layers.append(mlp((fan_in, -(-height // halved), -(-width // halved)), hidden, dim, dropout=dropout,
                          nonlinearity=nonlinearity))
    tower = nn.Sequential(*layers)
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third less time, CPU and bfloat16
    return tower


def picture_size(name: str, shape: Shape, blocks: int) -> tuple[int, int, int]:
    """Channels, height and width of items of ``shape``, which ``blocks`` halve.

    Raises:
        ExperimentError: in the name of a tower: no such items, too small ones, or channels that come last.
    """
    if len(shape) not in (2, 3):
        raise ExperimentError(f"{name} needs items of shape (channels, height, width), got {tuple(shape)}")
    channels, height, width = (1, *shape) if len(shape) == 2 else shape
    advice = f"channels come first, as in {(width, channels, height)}: view.transpose(0, 3, 1, 2)"
    maybe_last = len(shape) == 3 and width in (1, 3, 4) and channels > 4
    if maybe_last and 1 < width < height and max(channels, height) <= 4 * min(channels, height):  # no picture's sides
        raise ExperimentError(f"{name}: items of shape {tuple(shape)} look like (height, width, channels); {advice}")
    if min(height, width) < 2**blocks:
        hint = f"; if {tuple(shape)} is (height, width, channels): {advice}" if maybe_last else ""
        raise ExperimentError(f"{name}: {blocks} blocks halve an item of {height}×{width} below one pixel; use at most "
                              f"{int(math.log2(min(height, width)))} blocks{hint}")
    return channels, height, width


def text_tower(shape: Shape, channels: Sequence[int], dim: int, *, embedding: int = 64, width: int = 3,
               nonlinearity: Callable[[], nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """Convolutional tower that reads characters (Zhang et al. 2015, arXiv 1509.01626): learned vectors of bytes, one
    convolution with batch norm and nonlinearity for each of ``channels``, the maximum over all places, a linear layer.

    Args:
        shape: of one item, ``(length,)``: UTF-8 bytes as numbers from 0 to 255, 0 where the text has ended.
        channels: filters of each convolution.
        dim: width of the output.
        embedding: width of the vectors of bytes.
        width: of the convolutions, odd.
        nonlinearity: makes the activation module.
        dropout: probability with which a unit is dropped before the last layer.

    Raises:
        ExperimentError: an item that is no text, or an even width.
    """
    if len(shape) != 1:
        raise ExperimentError(f"text_tower needs items of shape (length,), got {tuple(shape)}")
    if width < 1 or width % 2 == 0:
        raise ExperimentError(f"text_tower: width must be odd, got {width}")
    layers: list[nn.Module] = [Characters(embedding)]
    for fan_in, fan_out in pairwise([embedding, *channels]):
        layers += [initialised(nn.Conv1d(fan_in, fan_out, width, padding=width // 2, bias=False)),
                   nn.BatchNorm1d(fan_out), nonlinearity()]
    layers += [nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Dropout(dropout)]
    layers.append(initialised(nn.Linear([embedding, *channels][-1], dim)))
    return nn.Sequential(*layers)


class Characters(nn.Module):
    """Learned vectors of bytes; the byte 0, which fills a text up, is the vector 0.

    Args:
        dim: width of the vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(256, dim, padding_idx=0)

    def forward(self, codes: Tensor) -> Tensor:
        """(n, length) whole numbers from 0 to 255, of any dtype, to (n, dim, length).

        Raises:
            ExperimentError: other numbers, as features are.
        """
        given, codes = codes, codes.long()
        if codes.numel() and not (codes.min() >= 0 and codes.max() < 256 and torch.equal(codes.to(given.dtype), given)):
            raise ExperimentError("Characters needs bytes, numbers from 0 to 255: give the data's view codes (--views)")
        vectors: Tensor = self.vectors(codes)
        return vectors.mT


class Coordinates(nn.Module):
    """Appends to pictures (n, c, h, w) two channels with the row and the column of each pixel, from -1 to 1.

    A convolution sees what is there, but not where; with coordinates a network can tell a high note from a low one, and
    averaging over all positions doesn't lose it (Liu et al. 2018, CoordConv, arXiv 1807.03247).
    """

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c + 2, h, w).

        Raises:
            ExperimentError: something else than pictures.
        """
        if pictures.ndim != 4:
            raise ExperimentError("Coordinates needs pictures (n, channels, height, width), got "
                                  f"{tuple(pictures.shape)}")
        n, _, height, width = pictures.shape
        rows = torch.linspace(-1, 1, height, device=pictures.device, dtype=pictures.dtype)
        columns = torch.linspace(-1, 1, width, device=pictures.device, dtype=pictures.dtype)
        return torch.cat([pictures, rows[:, None].expand(n, 1, height, width), columns.expand(n, 1, height, width)],
                         dim=1)
