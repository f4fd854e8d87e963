"""What goes from codes back to items: encoders backwards with the same weights, dictionaries, and unpooling that
remembers where the maxima were."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, max_pool2d, max_unpool2d

from xmodal.errors import ExperimentError
from xmodal.towers.encoders import Shape, initialised, picture_size


def tied_decoder(encoder: nn.Module, nonlinearity: Callable[[], nn.Module] | None = None,
                 output: Callable[[], nn.Module] | None = None) -> nn.Module:
    """A decoder that goes an encoder of linear layers backwards with the same weights, transposed: ``g(Wᵀh + c)``.

    The weights are shared, not copied: a step on either is a step on both. Biases are the decoder's own.

    Args:
        encoder: its linear layers count, in their order; :func:`mlp` makes such ones. Other layers (nonlinearities,
            batch norm, dropout) are not mirrored.
        nonlinearity: makes the activation between layers; that is one less than there are linear layers.
        output: makes the activation at the end, such as ``nn.Sigmoid``; none by default.

    Raises:
        ExperimentError: no linear layer, or several and no nonlinearity between them, or a layer with weights that is
            neither linear nor batch norm.
    """
    layers = [layer for _, layer in encoder.named_modules(remove_duplicate=False) if isinstance(layer, nn.Linear)]
    others = [type(layer).__name__ for layer in encoder.modules() if not isinstance(layer, nn.Linear | nn.BatchNorm1d)
              and any(True for _ in layer.parameters(recurse=False))]
    if not layers or others:
        raise ExperimentError("tied_decoder needs an encoder of linear layers, such as mlp makes"
                              + (f"; this one has {others[0]}" if others else ""))
    if len(layers) > 1 and nonlinearity is None:
        raise ExperimentError(f"tied_decoder: the encoder has {len(layers)} linear layers; say which nonlinearity the "
                              "decoder has between them")
    steps: list[nn.Module] = []
    for position, layer in reversed(list(enumerate(layers))):
        steps.append(_Transposed(layer))
        if position > 0 and nonlinearity is not None:
            steps.append(nonlinearity())
    return nn.Sequential(*steps, *([output()] if output is not None else []))


class _Transposed(nn.Module):
    """``h W + c`` for the ``W`` (k, d) of a linear layer that maps d values to k, with a bias ``c`` (d,) of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(layer.in_features))
        self._layers = (layer,)  # in a tuple the layer is no submodule, so its weights are counted and saved once

    def forward(self, h: Tensor) -> Tensor:
        return linear(h, self._layers[0].weight.mT, self.bias)

    def extra_repr(self) -> str:
        layer = self._layers[0]
        return f"{layer.out_features}, {layer.in_features}, tied"


class Dictionary(nn.Module):
    """A decoder whose items are sums of atoms of length one, ``x̂ = D h`` (Olshausen and Field 1996): a code can't be
    made small by making the atoms large.

    Args:
        dim: how many atoms, the width of codes; more than values are allowed.
        shape: of one item.
    """

    def __init__(self, dim: int, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.randn(math.prod(shape), dim))

    @property
    def atoms(self) -> Tensor:
        """(values, dim), columns of length one; a column of zeros stays zero."""
        lengths: Tensor = self.weight.norm(dim=0)
        return self.weight / lengths.clamp(min=torch.finfo(self.weight.dtype).tiny)

    def forward(self, codes: Tensor) -> Tensor:
        """(n, dim) to (n, *shape)."""
        items: Tensor = linear(codes, self.atoms).unflatten(1, self.shape)
        return items

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.shape}"


class Gain(nn.Module):
    """``g ∘ x`` with a learned factor per column, one at first.

    Args:
        dim: number of columns.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, z: Tensor) -> Tensor:
        """(n, dim) to (n, dim)."""
        return z * self.gain


def conv_autoencoder(shape: Shape, channels: Sequence[int], dim: int, *, convolutions: int = 1,
                     nonlinearity: Callable[[], nn.Module] = nn.ReLU, output: Callable[[], nn.Module] | None = None
                     ) -> tuple[nn.Sequential, nn.Sequential]:
    """A convolutional encoder and the decoder that goes it backwards, each 2×2 max pooling undone by an unpooling that
    puts values where they came from (Zeiler et al. 2011, ICCV): its *switches*.

    Switches pass between the two inside :func:`remembering`, where codes are those of the last items encoded. Elsewhere
    (samples, ways between codes) there are none, and a value goes to the upper left of its four.

    Args:
        shape: of one item, ``(channels, height, width)`` or ``(height, width)``.
        channels: filters of each block.
        dim: width of the code.
        convolutions: how many 3×3 convolutions a block has, each with batch norm and nonlinearity.
        nonlinearity: makes the activation module.
        output: makes the activation at the end, such as ``nn.Sigmoid``; none by default.

    Returns:
        Encoder, (n, *shape) to (n, dim), and decoder, (n, dim) to (n, *shape).

    Raises:
        ExperimentError: an item that is no image, whose channels come last, or too small for so many poolings.
    """
    if not channels:
        raise ExperimentError("conv_autoencoder needs at least one block, got no channels")
    depth, height, width = picture_size("conv_autoencoder", shape, len(channels))
    forth: list[nn.Module] = [nn.Unflatten(1, (1, height))] if len(shape) == 2 else []
    back: list[nn.Module] = [nn.Flatten(1, 2)] if len(shape) == 2 else []  # in the order of the encoder
    back += [output()] if output is not None else []
    for block, filters in enumerate(channels):
        for i in range(convolutions):
            before = depth if i == 0 else filters
            forth += _convolution(before, filters, nonlinearity)
            last = block == 0 and i == 0  # of the decoder: what restores the item is not bent
            back += reversed([nn.Conv2d(filters, before, 3, padding=1)] if last else
                             _convolution(filters, before, nonlinearity))
        pool = SwitchPool()
        forth.append(pool)
        back.append(Unpool(pool, (height, width)))
        depth, height, width = filters, height // 2, width // 2
    values = depth * height * width
    forth += [nn.Flatten(), initialised(nn.Linear(values, dim))]
    back += [nonlinearity(), nn.Unflatten(1, (depth, height, width)), initialised(nn.Linear(dim, values))]
    return nn.Sequential(*forth), nn.Sequential(*reversed(back))


def _convolution(before: int, after: int, nonlinearity: Callable[[], nn.Module]) -> list[nn.Module]:
    return [initialised(nn.Conv2d(before, after, 3, padding=1, bias=False)), nn.BatchNorm2d(after), nonlinearity()]


class SwitchPool(nn.Module):
    """2×2 max pooling; inside :func:`remembering` it keeps where the maxima of the last batch were."""

    def __init__(self) -> None:
        super().__init__()
        self.keeping = False
        self.switches: Tensor | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, h // 2, w // 2)."""
        if not self.keeping:
            return max_pool2d(maps, 2)
        pooled, self.switches = max_pool2d(maps, 2, return_indices=True)
        return pooled


class Unpool(nn.Module):
    """Undoes a :class:`SwitchPool`: zeros but for the maxima.

    Args:
        pool: what to undo.
        size: height and width of what it pools.
    """

    def __init__(self, pool: SwitchPool, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self._pools = (pool,)  # in a tuple it is no submodule: it is the encoder's

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h // 2, w // 2) to (n, c, h, w)."""
        switches = self._pools[0].switches
        if switches is None:
            rows, columns = (torch.arange(length, device=maps.device) for length in maps.shape[2:])
            switches = (2 * rows[:, None] * self.size[1] + 2 * columns).expand(maps.shape)
        return max_unpool2d(maps, switches, [2, 2], output_size=list(self.size))


@contextmanager
def remembering(model: nn.Module) -> Iterator[None]:
    """Inside the block the poolings of a model keep their switches for the unpoolings that follow."""
    pools = [module for module in model.modules() if isinstance(module, SwitchPool)]
    for pool in pools:
        pool.keeping = True
    try:
        yield
    finally:
        for pool in pools:
            pool.keeping, pool.switches = False, None
