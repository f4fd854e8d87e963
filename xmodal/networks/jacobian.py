"""How strongly a code answers to its item: the norm of the Jacobian, exactly or by a random direction."""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

#: Functions that map each value on its own.
_ELEMENTWISE = (nn.ELU, nn.GELU, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh)


def squared_jacobian(encoder: nn.Module, items: Tensor) -> Tensor:
    """(n,) squared Frobenius norm of ``∂h/∂x`` at each of the items (n, *shape), differentiable.

    An encoder of one linear layer and a function of each of its values has it in closed form, ``Σ_j f′(a_j)² ‖W_j‖²``
    (Rifai et al. 2011, ICML, equation 3 for the sigmoid). Any other is asked in one random direction of codes each
    time: ``‖Jᵀv‖²`` with v standard normal, whose expectation it is (Hutchinson 1990); in eval mode the direction is
    always the same. The encoder runs once more for that, in eval mode, where a code depends on its own item alone
    (batch norm by its running statistics, no dropout), and its gradient takes a second derivative.
    """
    with torch.enable_grad():
        layer = _single_layer(encoder)
        return _estimated(encoder, items) if layer is None else _exact(*layer, items)


def _single_layer(encoder: nn.Module) -> tuple[nn.Linear, nn.Module] | None:
    """The linear layer and the function behind it, if there is nothing else."""
    parts = [part for part in _in_order(encoder) if not isinstance(part, nn.Flatten | nn.Identity)]
    if len(parts) == 1:
        parts.append(nn.Identity())
    if len(parts) == 2 and isinstance(parts[0], nn.Linear) and isinstance(parts[1], _ELEMENTWISE):
        return parts[0], parts[1]
    return None


def _in_order(encoder: nn.Module) -> Iterator[nn.Module]:
    """The modules that items pass through, those of nested sequences one by one."""
    if isinstance(encoder, nn.Sequential):
        for part in encoder:
            yield from _in_order(part)
    else:
        yield encoder


def _exact(layer: nn.Linear, function: nn.Module, items: Tensor) -> Tensor:
    before = linear(items.flatten(1), layer.weight, layer.bias)
    if not before.requires_grad:
        before.requires_grad_()
    slope, = torch.autograd.grad(function(before.clone()).sum(), before, create_graph=True)  # it may work in place
    return slope.square() @ layer.weight.square().sum(dim=1)


def _estimated(encoder: nn.Module, items: Tensor) -> Tensor:
    items = items.detach().requires_grad_()
    draw = None if encoder.training else torch.Generator(items.device).manual_seed(0)
    modes = {module: module.training for module in encoder.modules()}
    try:
        code: Tensor = type(encoder).forward(encoder.eval(), items)  # as written: compiled it has no second derivative
    finally:
        for module, training in modes.items():
            module.training = training
    direction = torch.randn(code.shape, generator=draw, device=code.device, dtype=code.dtype)
    gradient, = torch.autograd.grad((code * direction).sum(), items, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)
