"""How strongly a code answers to its item: the norm of the Jacobian, exactly or by a random direction."""
from __future__ import annotations

import torch
from torch import Tensor, nn

#: Functions that map each value on its own.
_ELEMENTWISE = (nn.ELU, nn.GELU, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh)


def squared_jacobian(encoder: nn.Module, items: Tensor) -> Tensor:
    """(n,) squared Frobenius norm of ``∂h/∂x`` at each of the items (n, *shape), differentiable.

    An encoder of one linear layer and a function of each of its values has it in closed form, ``Σ_j f′(a_j)² ‖W_j‖²``
    (Rifai et al. 2011, ICML, equation 3 for the sigmoid). Any other is asked in one random direction of codes each
    time: ``‖Jᵀv‖²`` with v standard normal, whose expectation it is (Hutchinson 1990); in eval mode the direction is
    always the same. The encoder runs once more for that, and its gradient takes a second derivative.

    Batch norm in train mode makes a code depend on all items of the batch; the estimate then counts what the others'
    codes do to an item as well.
    """
    with torch.enable_grad():
        layer = _single_layer(encoder)
        return _estimated(encoder, items) if layer is None else _exact(*layer, items)


def _single_layer(encoder: nn.Module) -> tuple[nn.Linear, nn.Module] | None:
    """The linear layer and the function behind it, if there is nothing else."""
    parts = [part for part in (encoder if isinstance(encoder, nn.Sequential) else [encoder])
             if not isinstance(part, nn.Flatten)]
    if len(parts) == 1:
        parts.append(nn.Identity())
    if len(parts) == 2 and isinstance(parts[0], nn.Linear) and isinstance(parts[1], _ELEMENTWISE):
        return parts[0], parts[1]
    return None


def _exact(layer: nn.Linear, function: nn.Module, items: Tensor) -> Tensor:
    before = layer(items.flatten(1))
    if not before.requires_grad:
        before.requires_grad_()
    slope, = torch.autograd.grad(function(before).sum(), before, create_graph=True)
    return slope.square() @ layer.weight.square().sum(dim=1)


def _estimated(encoder: nn.Module, items: Tensor) -> Tensor:
    items = items.detach().requires_grad_()
    code = encoder(items)
    draw = None if encoder.training else torch.Generator(code.device).manual_seed(0)
    direction = torch.randn(code.shape, generator=draw, device=code.device, dtype=code.dtype)
    gradient, = torch.autograd.grad((code * direction).sum(), items, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)
