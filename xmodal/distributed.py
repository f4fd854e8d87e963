"""Several processes, one training: who is who, and what they exchange. In one process all of this does nothing.

``torchrun --nproc_per_node=N run_train.py …`` starts N processes, on one machine or many. Each takes its part of every
batch through the towers; what the towers give is gathered, so that head and objective see the whole batch in each
process and everything that depends on them (statistics, loss, when to stop) is the same everywhere. Nothing that a
single process computes differs by more than rounding.
"""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.covariance import PairCovariance
from xmodal.errors import ProcessError

#: So long a process waits for the others in the middle of training, in seconds; XMODAL_TIMEOUT sets another time.
TIMEOUT = 50
#: And so long where they may have different amounts to do, such as reading data.
LONG_TIMEOUT = 3600

_active = False  # between `joined` and its end, and not within `alone`


def launched() -> bool:
    """Whether torchrun, or something like it, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1) > 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _active else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _active else 1


def local_rank() -> int:
    """The number of this process among those on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _active else 0


def local_size() -> int:
    """How many processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1) if _active else 1


@contextmanager
def joined() -> Iterator[None]:
    """Inside the block this process works together with the others that it was launched with, if there are any.

    Tensors on the CPU are exchanged by gloo, those on GPUs by NCCL.

    Raises:
        ProcessError: the others can't be reached, or one of them is gone.
    """
    global _active
    if not launched() or _active:
        yield
        return
    seconds = _timeout()
    with explained("start"):
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                                timeout=timedelta(seconds=seconds))
    _active = True
    try:
        yield
    finally:
        _active = False
        dist.destroy_process_group()


def _timeout() -> int:
    text = os.environ.get("XMODAL_TIMEOUT", str(TIMEOUT))
    if not text.isdigit() or int(text) < 1:
        raise ProcessError(f"XMODAL_TIMEOUT must be a whole number of seconds, got {text!r}")
    return int(text)


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process does everything by itself and exchanges nothing."""
    global _active
    before, _active = _active, False
    try:
        yield
    finally:
        _active = before


@contextmanager
def explained(step: str, *signs: str) -> Iterator[None]:
    """What torch raises where a process has ended or hangs becomes one line; given ``signs``, if one is in it."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if signs and not any(sign in str(error).lower() for sign in signs):
            raise
        raise ProcessError(f"another process of this training ended or hangs ({step}): see what it printed; --resume "
                           "continues, with any number of processes") from error


def part_of(count: int) -> tuple[int, int]:
    """Where this process's part of ``count`` things begins and ends; parts are contiguous and near-equal."""
    return share(count, rank(), size())


def share(count: int, number: int, parts: int) -> tuple[int, int]:
    """Where part ``number`` of ``parts`` begins and ends; the longer parts come first."""
    length, longer = divmod(count, parts)
    low = number * length + min(number, longer)
    return low, low + length + (number < longer)


# -- exchanging tensors ------------------------------------------------------------------------------------------------


def gather_rows(*parts: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, those of process 0 first, of each of several tensors (n, ...) with as many rows.

    Differentiable, on the condition that every process goes on to compute *the same* from the result: the gradient of
    a process's own rows is then all there is to know, times the number of processes, over which
    DistributedDataParallel takes the mean.
    """
    if size() == 1:
        return parts
    lengths = _lengths(len(parts[0]))
    if all(part.ndim == 2 and part.dtype == parts[0].dtype for part in parts):  # side by side they are one message
        whole = _gathered(torch.cat(parts, dim=1), lengths)
        return tuple(whole.split([part.shape[1] for part in parts], dim=1))
    return tuple(_gathered(part, lengths) for part in parts)


def _lengths(length: int) -> list[int]:
    own = torch.tensor([length], dtype=torch.int64)
    found = [torch.empty_like(own) for _ in range(size())]
    with explained("gather"):
        dist.all_gather(found, own)
    return [int(each) for each in found]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, lengths: list[int]) -> Tensor:
        ctx.low, ctx.length = sum(lengths[:rank()]), len(part)
        dtype = torch.float32 if part.dtype in (torch.bfloat16, torch.float16) else part.dtype  # gloo has neither
        padded = part.new_zeros((max(lengths), *part.shape[1:]), dtype=dtype)
        padded[:len(part)] = part
        found = [torch.empty_like(padded) for _ in lengths]
        with explained("gather"):
            dist.all_gather(found, padded)
        rows = torch.cat([each[:length] for each, length in zip(found, lengths, strict=True)])
        return rows.to(part.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.low:ctx.low + ctx.length] * size(), None


_gathered: Callable[[Tensor, list[int]], Tensor] = _GatherRows.apply


def add_up(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; differentiable, whatever each of them computes from it."""
    return value if size() == 1 else _added_up(value)


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        with explained("sum"):
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _added_up(gradient)


_added_up: Callable[[Tensor], Tensor] = _AddUp.apply


def merge_moments(covariance: PairCovariance) -> PairCovariance:
    """What the accumulators of all processes have seen together."""
    if size() == 1:
        return covariance
    state = covariance.state()
    merged = PairCovariance(len(covariance.mean1), len(covariance.mean2), device=covariance.mean1.device)
    for other in gather_rows(state[None])[0]:
        merged.merge(PairCovariance.from_state(other, len(covariance.mean1), len(covariance.mean2)))
    return merged


# -- agreeing ----------------------------------------------------------------------------------------------------------


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if size() == 1:
        return number
    value = torch.tensor([number], dtype=torch.int64)
    with explained("agree"):
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def same_everywhere(text: str) -> bool:
    """Whether all processes give the same; all get the same answer."""
    return not largest(int(from_first(text.encode()) != text.encode()))


def from_first(content: bytes | None) -> bytes | None:
    """What process 0 gives, in every process; what the others give is ignored."""
    if size() == 1:
        return content
    length = torch.tensor([-1 if content is None else len(content)], dtype=torch.int64)
    with explained("broadcast"):
        dist.broadcast(length, 0)
        if int(length) < 0:
            return None
        values = torch.empty(int(length), dtype=torch.uint8)
        if rank() == 0 and content:
            values.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        if len(values):
            dist.broadcast(values, 0)
    return values.numpy().tobytes()


def wait_for_all() -> None:
    """Returns when every process has got here, each of which may take an hour longer than the others."""
    if size() > 1:
        with explained("wait"):
            dist.monitored_barrier(timeout=timedelta(seconds=LONG_TIMEOUT))


def first_to_say(text: str) -> bool:
    """Whether no other process has asked this of the same text: an error that all of them run into is said once."""
    if not dist.is_available() or not dist.is_initialized():
        return True
    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.add(f"said {hashlib.sha256(text.encode()).hexdigest()}", 1) == 1)
    except (RuntimeError, ValueError):  # process 0 keeps the store, and may be gone
        return True
