"""The optimizer of an experiment."""
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.config import TrainConfig


def make_optimizer(modules: Iterable[nn.Module], config: TrainConfig, slow: Iterable[nn.Parameter] = (),
                   rate: float = 1.0) -> torch.optim.Optimizer:
    """The optimizer over all parameters, with classic L2 (loss + ``l2·Σw²``, gradient ``2·l2·w``) or decoupled decay.

    RMSprop decays its mean square by 0.9 (Tieleman and Hinton 2012, and Keras; torch's own default is 0.99).

    Args:
        modules: whose parameters; frozen ones are left out.
        config: optimizer, learning rate and decay.
        slow: those with a rate of ``rate`` times the learning rate. They are a second group; what each group's
            learning rate is multiplied by is its ``rate``.
        rate: of the slow ones.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    behind = {id(parameter) for parameter in slow}
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in behind]}]
    if behind:
        groups.append({"params": [p for p in parameters if id(p) in behind], "lr": config.learning_rate * rate,
                       "rate": rate})
        groups[0]["rate"] = 1.0  # of every group or of none
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.learning_rate, alpha=0.9, eps=1e-7, weight_decay=2 * config.l2)
    if config.decoupled:
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.l2, fused=fused)
    return torch.optim.Adam(groups, lr=config.learning_rate, weight_decay=2 * config.l2, fused=fused)


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """Whether what was loaded into an optimizer is what it keeps: torch looks at it only when a step is taken.

    Raises:
        ValueError: it isn't.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor) or value.shape not in (parameter.shape, torch.Size([])):
                    raise ValueError(f"{name} of a parameter of shape {tuple(parameter.shape)} is "
                                     f"{tuple(value.shape) if isinstance(value, Tensor) else value!r}")


WARM_UP = 0.1  # of the training


def scheduled(config: TrainConfig, done: float) -> float:
    """What the learning rate is multiplied by when the fraction ``done`` of ``max_epochs`` is over."""
    if config.schedule == "constant":
        return 1.0
    if done < WARM_UP:
        return done / WARM_UP
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
