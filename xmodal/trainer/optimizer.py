"""The optimizer of an experiment."""
from __future__ import annotations

import math

import torch
from torch import nn

from xmodal.config import TrainConfig


def make_optimizer(modules: list[nn.Module], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters, with classic L2 (loss + ``l2·Σw²``, gradient ``2·l2·w``) or decoupled decay.

    RMSprop decays its mean square by 0.9 (Tieleman and Hinton 2012, and Keras; torch's own default is 0.99).
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config.learning_rate, alpha=0.9, eps=1e-7,
                                   weight_decay=2 * config.l2)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if config.decoupled:
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.l2, fused=fused)
    return torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=2 * config.l2, fused=fused)


WARM_UP = 0.1  # of the training


def scheduled(config: TrainConfig, done: float) -> float:
    """What the learning rate is multiplied by when the fraction ``done`` of ``max_epochs`` is over."""
    if config.schedule == "constant":
        return 1.0
    if done < WARM_UP:
        return done / WARM_UP
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
