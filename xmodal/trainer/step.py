"""From a batch to its loss, in one process or in several, as written or compiled."""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.distributed import explained, gather_rows, size
from xmodal.errors import ExperimentError
from xmodal.evaluator import tower_precision
from xmodal.layers.batch_norm import share_batch_norms
from xmodal.networks import Model, compiled_towers
from xmodal.objectives import loss_of_pairs


class Step(nn.Module):
    """What is differentiated, and what DistributedDataParallel looks after.

    Args:
        model, objective: what is trained by what.
        precision: of the towers.
        labels: classes of the view-1 items of the training split, for objectives that ask for them.
    """

    def __init__(self, model: Model, objective: nn.Module, precision: str, labels: Tensor | None = None) -> None:
        super().__init__()
        self.model, self.objective, self.precision, self.labels = model, objective, precision, labels

    def forward(self, view1: Tensor, view2: Tensor, pairs: Tensor) -> Tensor:
        """The loss of the whole batch, given this process's part of it."""
        with tower_precision(self.precision, view1.device):
            embedded = self.model(view1, view2)
        pairs, = gather_rows(pairs)
        if len(embedded.view1) != len(pairs):
            raise ExperimentError(f"{type(self.model).__name__} can't be trained by several processes: in train mode "
                                  "its forward must gather the parts of a batch (xmodal.distributed.gather_rows)")
        return loss_of_pairs(self.objective, embedded, pairs, self.labels)


def make_step(model: Model, objective: nn.Module, precision: str, labels: Tensor | None = None) -> nn.Module:
    """The step of this process; several share the batch norms of ``model`` and take the mean of their gradients."""
    step = Step(model, objective, precision, labels)
    if size() == 1:
        return step
    share_batch_norms(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for broadcast_buffers
        return DistributedDataParallel(step, broadcast_buffers=False, static_graph=True)


def backward(loss: Tensor) -> None:
    """The gradients of a loss; where several processes exchange them, one that is gone is said in a line."""
    with explained("gradients", "gloo", "nccl", "connection", "timed out") if size() > 1 else nullcontext():
        loss.backward()


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside the block towers are compiled, if that is wanted.

    Raises:
        ExperimentError: they can't be.
    """
    if not wanted:
        yield
        return
    from torch._dynamo.exc import BackendCompilerFailed, Unsupported  # takes a second to import

    try:
        with compiled_towers(model):
            yield
    except (BackendCompilerFailed, Unsupported) as error:
        raise ExperimentError("the towers can't be compiled (torch.compile needs a C++ compiler, on GPUs Triton); "
                              f"train without --compile: {str(error).splitlines()[0]}") from error
