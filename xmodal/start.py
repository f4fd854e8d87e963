"""Starting from the weights of another run: what an experiment file says about it, and which weights then train."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from xmodal.errors import ExperimentError, problems_with

#: They belong to the layer before them.
_BESIDE = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)


@dataclass(frozen=True)
class Start:
    """From which weights a training begins, and which of them it changes; ``START`` of an experiment file.

    Loaded is what model and run have in common, by name and shape; the rest of the model stays as it was made. A
    single number, such as a count of batches, is loaded with the rest of its module. Validated when made; all mistakes
    are reported together.

    A *part* is a direct child of the model, or of ``into``: ``tower1``, ``tower2``, ``head``. A *layer* is a module
    with weights of its own, such as a linear layer, a convolution or a :class:`xmodal.LearnedProjection`, in the order
    in which the part holds them; a norm and a PReLU belong to the layer before them. A frozen layer keeps its weights
    and its norm's statistics. A head's own statistics are refitted on the new pairs all the same.

    Attributes:
        run: the run folder whose best weights are loaded, as one types it, such as ``runs/mnist_halves_infonce``.
        last: train only the last so many layers of each part of which something was loaded, and whatever wasn't
            loaded. 0 freezes all that was loaded, None nothing.
        rate: factor of the learning rate for what was loaded; what wasn't has the whole rate.
        into: the name of the part of the model that the weights are for; the model itself by default.
    """

    run: str
    last: int | None = None
    rate: float = 1.0
    into: str = ""

    def __post_init__(self) -> None:
        problems = start_problems(dataclasses.asdict(self))
        if problems:
            raise ExperimentError("; ".join(problems))

    @property
    def prefix(self) -> str:
        """What stands before the run's names in the model's."""
        return f"{self.into}." if self.into else ""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "run": (_is_path, "the name of a run folder, such as 'runs/mnist_halves_infonce'"),
    "last": (lambda v: v is None or _is_whole(v), "None or a whole number of at least 0"),
    "rate": (_is_factor, "a number above 0 and at most 1"),
    "into": (lambda v: isinstance(v, str), "the name of a part of the model"),
}
FIELDS = tuple(_RULES)


def start_problems(values: Mapping[str, Any]) -> list[str]:
    """Every mistake in the given fields of a :class:`Start`, a phrase each; empty when there is none."""
    return problems_with(values, _RULES, "Start")


# -- layers ------------------------------------------------------------------------------------------------------------


def layers_of(part: nn.Module) -> list[list[nn.Module]]:
    """The layers of a part in order, each with the norms behind it; norms before the first layer belong to it."""
    layers: list[list[nn.Module]] = []
    beside: list[nn.Module] = []  # before the first layer
    for module in part.modules():
        if isinstance(module, _BESIDE):
            (layers[-1] if layers else beside).append(module)
        elif any(True for _ in module.parameters(recurse=False)):
            layers.append([module])
    if beside:
        layers[:1] = [[*layers[0], *beside] if layers else beside]
    return layers


def frozen_by(start: Start, model: nn.Module, loaded: Collection[str]) -> list[str]:
    """The names of the model's parameters that ``start`` freezes, given the names of what was loaded."""
    if start.last is None:
        return []
    names = dict(model.named_parameters(remove_duplicate=False))
    ours = {id(parameter) for name, parameter in names.items() if name in loaded}
    trained = {id(parameter) for part in _parts(model.get_submodule(start.into))
               for layer in (part[-start.last:] if start.last else []) for module in layer
               for parameter in module.parameters(recurse=False)}
    return [name for name, parameter in names.items() if id(parameter) in ours - trained]


def _parts(model: nn.Module) -> Iterator[list[list[nn.Module]]]:
    """The layers of each part; parameters that the model itself holds are a part, too."""
    yield from (layers_of(child) for child in model.children())
    if any(True for _ in model.parameters(recurse=False)):
        yield [[model]]


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """What stays in eval mode when the model is trained: modules with parameters, all of which are frozen, and norms
    without any that belong to a frozen layer."""
    found = [module for module in model.modules() if _is_frozen(module, recurse=True)]
    for part in model.children():
        for layer in layers_of(part):
            if _is_frozen(layer[0], recurse=False):
                found += [norm for norm in layer[1:] if not any(True for _ in norm.parameters())]
    return found


def _is_frozen(module: nn.Module, recurse: bool) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters(recurse)]
    return bool(trained) and not any(trained)
