"""The optimizer of an experiment."""
from __future__ import annotations

import torch
from torch import nn

from xmodal.config import TrainConfig


def make_optimizer(modules: list[nn.Module], config: TrainConfig) -> torch.optim.Optimizer:
    """Adam over all parameters, with classic L2 (loss + ``l2·Σw²``, gradient ``2·l2·w``) or decoupled decay."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if config.decoupled:
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.l2, fused=fused)
    return torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=2 * config.l2, fused=fused)
