"""How a model is run: in eval mode, or with its towers compiled."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from xmodal.layers import CCALayer, CCAReadout, LearnedProjection, LengthNorm
from xmodal.layers.batch_norm import SharedBatchNorm


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Eval mode without gradients inside the block; every submodule's own mode is restored after it. What is no
    network has no modes."""
    modes = {}
    if isinstance(model, nn.Module):
        modes = {module: module.training for module in model.modules()}
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def compiled_towers(model: nn.Module) -> Iterator[None]:
    """Inside the block the parts of a model that are networks, all but its head and norm, run as :func:`torch.compile`
    makes them, and so do those of a model that is a part of another; names, weights and modes are what they were.

    ``nn.Module.compile`` would leave an ``nn.Sequential`` as it is: dynamo skips what is defined in torch itself.
    """
    parts = _networks(model)
    exchanging: list[nn.Module] = [module for part in parts for module in part.modules()
                                   if module is not part and isinstance(module, SharedBatchNorm)]  # not to be traced
    for module in exchanging:
        module.forward = torch.compiler.disable(partial(_forward, type(module).forward, module))
    for part in parts:
        part.forward = torch.compile(partial(_forward, type(part).forward, part))
    try:
        yield
    finally:
        for module in {*exchanging, *parts}:
            del module.forward


def _networks(model: nn.Module) -> list[nn.Module]:
    parts: list[nn.Module] = []
    for part in model.children():
        if not isinstance(part, CCALayer | CCAReadout | LearnedProjection | LengthNorm | nn.Identity):
            parts += _networks(part) if hasattr(part, "embed_view1") else [part]
    return parts


def _forward(forward: Callable[..., Tensor], part: nn.Module, *items: Tensor) -> Tensor:
    return forward(part, *items)
