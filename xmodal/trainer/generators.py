"""Where the generators of random numbers stand, of all processes, so that a resumed training draws the same numbers."""
from __future__ import annotations

import torch
from torch import Tensor

from xmodal.distributed import gather_rows, rank, size


def generator_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """States of torch's generator, (processes, bytes) uint8 in the order of their numbers; those of CUDA's where the
    device is one."""
    cuda = device.type == "cuda"
    own = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if cuda else [])]
    states = gather_rows(*(state[None] for state in own))
    return states[0], states[1] if cuda else None


def set_generators(states: Tensor, cuda_states: Tensor | None, device: torch.device, seed: int) -> None:
    """Where each process was, if they are as many as before; else the further ones draw numbers of their own."""
    number = rank()
    if number == 0 or len(states) == size():
        torch.set_rng_state(states[number].clone())  # torch crashes on a row of a tensor
        if device.type == "cuda" and cuda_states is not None:
            torch.cuda.set_rng_state(cuda_states[number].clone(), device)
    else:
        torch.manual_seed(seed + number)
