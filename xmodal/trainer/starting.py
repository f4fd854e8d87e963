"""Takes over the weights of another run, and keeps frozen parts as they are."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from xmodal.checkpoint import RunFolder
from xmodal.distributed import alone
from xmodal.errors import CheckpointError, ExperimentError, did_you_mean
from xmodal.linear import ClosedForm
from xmodal.networks import Model
from xmodal.start import Start, frozen_by

#: So many names are shown.
_SHOWN = 4


@dataclass(frozen=True)
class Started:
    """What a training has of another run; the first three go into the resume state as plain values.

    Attributes:
        frozen: names of the model's parameters that don't train.
        slow: names of those that train at ``rate``.
        rate: factor of the learning rate for these.
        about: what ``config.json`` says about it.
        note: what the screen says.
    """

    frozen: Sequence[str] = ()
    slow: Sequence[str] = ()
    rate: float = 1.0
    about: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"frozen": list(self.frozen), "slow": list(self.slow), "rate": self.rate}

    def parameters(self, model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
        """The parameters of these names.

        Raises:
            KeyError: the model has none of a name.
        """
        own = dict(model.named_parameters(remove_duplicate=False))
        return [own[name] for name in names]

    def freeze(self, model: nn.Module) -> None:
        """Takes the frozen parameters out of training."""
        for parameter in self.parameters(model, self.frozen):
            parameter.requires_grad_(False)


def start_from(start: Start, model: Model | ClosedForm) -> Started:
    """Fills ``model`` with what it has in common with the best weights of ``start.run``, and freezes what ``start``
    says.

    Raises:
        CheckpointError: the run is missing, unfinished or damaged.
        ExperimentError: no weights agree, or the model has no part ``start.into``.
    """
    if isinstance(model, ClosedForm):
        raise ExperimentError(f"{type(model).__name__} is fitted in closed form and can't start from {start.run}: "
                              "leave START out")
    about, content = _read(RunFolder(start.run))
    path = RunFolder(start.run).file(RunFolder.WEIGHTS)
    try:
        tensors = {start.prefix + name: tensor for name, tensor in load(content).items()}
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    own = model.state_dict()
    _require_part(model, start)
    loaded = _agreeing(own, tensors)
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if not weights.intersection(loaded):  # statistics alone are nothing to start from
        raise ExperimentError(f"no weights in {path} agree in name and shape with the model: it has "
                              f"{_first(tensors, sorted(tensors))}, the model {_first(own, own, start.prefix)}")
    model.load_state_dict({**own, **{name: tensors[name] for name in loaded}})
    new = [name for name in own if name not in set(loaded)]
    frozen = frozen_by(start, model, loaded)
    slow = sorted(weights.intersection(loaded).difference(frozen)) if start.rate != 1 else []
    started = Started(frozen, slow, start.rate, note=_note(start, loaded, new, frozen), about={
        "run": start.run, "experiment": about.get("experiment"), "fingerprint": about["data"]["fingerprint"],
        "sha256": hashlib.sha256(content).hexdigest(), "last": start.last, "rate": start.rate, "into": start.into,
        "loaded": loaded, "new": new})
    started.freeze(model)
    return started


def _read(run: RunFolder) -> tuple[dict[str, Any], bytes]:
    """The run's ``config.json``, and its weights' file as it is."""
    about, path = run.config(), run.file(RunFolder.WEIGHTS)
    with alone():  # each process reads for itself, as it does with data
        state = run.load_resume()
    progress = state.get("progress") if state is not None else None
    if isinstance(progress, Mapping) and not progress.get("finished"):
        raise CheckpointError(f"{run.path} is not finished: run_train.py --resume goes on with it, and START takes "
                              "finished runs only")
    try:
        return about, path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: no epoch of it was finished; run_train.py --resume goes on with "
                              "it") from error


def _require_part(model: nn.Module, start: Start) -> None:
    names = [name for name, _ in model.named_modules() if name]
    if start.into and start.into not in names:
        close = did_you_mean(start.into, [name for name, _ in model.named_children()])
        raise ExperimentError(f"Start: {type(model).__name__} has no part {start.into!r}: {close}")


def _agreeing(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names that both have with one shape. A single number is not there where the rest of its module isn't."""
    same = {name: name.rpartition(".")[0] for name, tensor in own.items()
            if name in tensors and tensors[name].shape == tensor.shape}
    whole = {module for name, module in same.items() if own[name].ndim}
    other = {name.rpartition(".")[0] for name, tensor in own.items() if tensor.ndim} - whole
    return [name for name, module in same.items() if module not in other] if whole else []


def _first(tensors: Mapping[str, Tensor], order: Iterable[str], prefix: str = "") -> str:
    """The first names with their shapes, as far as they are for this part."""
    return _some([f"{name} {tuple(tensors[name].shape)}" for name in order if name.startswith(prefix)]) or "none"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _note(start: Start, loaded: Sequence[str], new: Sequence[str], frozen: Sequence[str]) -> str:
    parts = [f"started from {start.run}: {len(loaded)} tensors loaded"]
    parts += [f"{len(frozen)} of them frozen"] if frozen else []
    rest = "the rest at" if frozen else "at"
    parts += [f"{rest} {start.rate:g} of the learning rate"] if start.rate != 1 else []
    return ", ".join([*parts, f"new: {_some(new)}" if new else "nothing new"])


def started_before(state: Mapping[str, Any], run: RunFolder, model: nn.Module) -> Started:
    """What the training to resume once started from; its frozen parameters are frozen again.

    Raises:
        CheckpointError: the state makes no sense, or is another model's.
    """
    try:
        started = Started(**state.get("start", {}))
        started.freeze(model)
        started.parameters(model, started.slow)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(run, error) from error
    return started


def damaged(run: RunFolder, error: Exception) -> CheckpointError:
    """The error about a resume state that can't be taken up."""
    return CheckpointError(f"{run.file(RunFolder.RESUME)} is damaged ({type(error).__name__}: {error}): --overwrite "
                           "starts again")


@contextmanager
def kept_in_eval(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block these modules stay in eval mode, whoever puts the model into train mode."""
    for module in modules:
        module.eval()
        module.train = partial(_stay, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("train", None)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, False)
