"""Does an experiment fit the data? Tried before anything is written."""
from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xmodal.data import Batch, PairedData, pair_batches
from xmodal.diagnosis import largest_values
from xmodal.distributed import alone
from xmodal.errors import DataError, ExperimentError, NumericalError, XmodalError
from xmodal.layers import Embedded
from xmodal.linear import ClosedForm
from xmodal.networks import Model, evaluating
from xmodal.objectives import loss_of_pairs
from xmodal.start import Start
from xmodal.trainer.closed_form import check_closed_form
from xmodal.trainer.starting import start_from


def check_experiment(model: Model | ClosedForm, objective: nn.Module | None, data: PairedData,
                     start: Start | None = None) -> None:
    """A whole step on two pairs with copies of model and objective (or a fit to few pairs, where that is in closed
    form): mistakes surface before anything is written.

    Args:
        model, objective, data: what is to be trained on what.
        start: what training is to start from, if ``model`` hasn't got it yet.

    Raises:
        ExperimentError: says which part doesn't fit.
        DataError: a training split of one pair.
        CheckpointError: what to start from is missing.
    """
    if start is not None:
        model = copy.deepcopy(model)
        start_from(start, model)
    if len(data.train) < 2:
        raise DataError("the train split has 1 pair; training needs at least 2")
    if isinstance(model, ClosedForm):
        return check_closed_form(model, objective, data)
    if objective is None:
        raise ExperimentError(f"{type(model).__name__} needs an objective: build_objective = None is for models that "
                              "are fitted in closed form")
    if not any(p.requires_grad for p in model.parameters()):
        frozen = sum(p.numel() for p in model.parameters())
        raise ExperimentError("the model has no parameters to train" + (
            f": all {frozen:,} are frozen (START with a larger last, or last=None, trains some)" if frozen else ""))
    few = data.train.take(2)
    batch = next(pair_batches(few, 2))
    state = torch.get_rng_state()
    try:
        with warnings.catch_warnings(), alone():
            warnings.simplefilter("ignore")  # two pairs are few for any head
            _trial_step(copy.deepcopy(model).cpu().train(), copy.deepcopy(objective).cpu(), batch, few.labels)
    except NumericalError as error:
        raise NumericalError(f"training can't start: {error}; {largest_values(batch)}") from error
    except ExperimentError as error:
        head = type(getattr(model, "head", model)).__name__
        text = str(error).replace("this one does not", f"{head} does not")
        raise ExperimentError(text.replace("this model does not", f"{type(model).__name__} does not")) from error
    finally:
        torch.set_rng_state(state)


def _trial_step(model: Model, objective: nn.Module, batch: Batch, labels: Tensor | None) -> None:
    shapes = f"items of shape {tuple(batch.view1.shape[1:])} and {tuple(batch.view2.shape[1:])}"
    with _blaming("the model", shapes):
        embedded = model(batch.view1, batch.view2)
    if not isinstance(embedded, Embedded):
        raise ExperimentError(f"the model's forward must return xmodal.Embedded, got {type(embedded).__name__}")
    with _blaming("the objective", shapes):
        loss = loss_of_pairs(objective, embedded, batch.pairs, labels)
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        if isinstance(loss, Tensor) and loss.ndim == 0:
            got = "one without a gradient"
        raise ExperimentError(f"the objective must return a scalar tensor that depends on the model, got {got}")
    with _blaming("the gradient of the objective", shapes):
        loss.backward()
    with _blaming("the model", shapes), evaluating(model):
        widths = model.embed_view1(batch.view1).shape[1:], model.embed_view2(batch.view2).shape[1:]
    if widths[0] != widths[1] or len(widths[0]) != 1:
        raise ExperimentError(f"both views must be embedded into one space (n, d), got (n, *{tuple(widths[0])}) and "
                              f"(n, *{tuple(widths[1])})")


@contextmanager
def _blaming(part: str, shapes: str) -> Iterator[None]:
    try:
        yield
    except XmodalError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ExperimentError(f"{part} can't take a step on {shapes}: {type(error).__name__}: {error}") from error
