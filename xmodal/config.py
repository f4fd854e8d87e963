"""Experiments: the typed configuration of one, and the loading of a model file with all its mistakes in one report."""
from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn

from xmodal.errors import ExperimentError, XmodalError, did_you_mean, problems_with
from xmodal.linear import ClosedForm
from xmodal.networks import Model
from xmodal.ranges import Choices, ends, range_problems
from xmodal.start import FIELDS, Start, start_problems


@dataclass(frozen=True)
class TrainConfig:
    """How one experiment is trained. Validated when made; all mistakes are reported together.

    A model that is fitted in closed form needs only those fields that its file reads.

    Attributes:
        dim_latent: dimension of the shared space.
        batch_size: pairs per step; an epoch is cut into equal batches of at most this size.
        learning_rate: of the optimizer.
        schedule: "constant", or "cosine": up from zero during the first tenth of ``max_epochs`` and down to zero at
            their end, step by step. Patience of less than ``max_epochs`` cuts that short; a resumed run can't change
            ``max_epochs`` then.
        optimizer: "adam", or "rmsprop" (mean square decayed by 0.9, as published CorrNets were trained).
        max_epochs: the end of training at the latest.
        judge: by which validation value epochs are judged: "mrr", the mean of both directions' MRR; or "loss", which is
            better where it is lower, for models that are not trained to retrieve, such as autoencoders.
        keep: "best", the weights of the best epoch; or "last", those of the last epoch, as published protocols without
            validation have it (training then ends at ``max_epochs`` only).
        patience: epochs without a better one before training stops or refines.
        refinement_steps: how often to go back to the best model and go on with a smaller learning rate.
        lr_multiplier: the factor by which refining shrinks the learning rate.
        refinement_patience: patience after the first refinement, if that is less than ``patience``.
        l2: weight decay. Classic (default): the loss gains ``l2·Σw²``.
        decoupled: weight decay is decoupled from Adam's statistics (AdamW): ``w ← w − learning_rate·l2·w``. Not with
            RMSprop.
        clip_norm: largest norm of the gradient; None for no clipping.
        r1, r2: ridges of the views' covariances.
        rT: smoothing of the singular values in the trace norm.
        alpha: weight of the current batch in running statistics, or "auto" (see CCALayer).
        weight_tno: weight of the trace norm objective, 0 to 1; the ranking loss has the rest.
        gamma: margin of the ranking loss.
        precision: "float32", or "bf16" for towers in bfloat16 autocast (heads and losses stay as they are).
        compile: whether towers are compiled for training (torch.compile, which needs a C++ compiler).
    """

    dim_latent: int = 32
    batch_size: int = 100
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["adam", "rmsprop"] = "adam"
    max_epochs: int = 1000
    judge: Literal["mrr", "loss"] = "mrr"
    keep: Literal["best", "last"] = "best"
    patience: int = 30
    refinement_steps: int = 3
    lr_multiplier: float = 0.5
    refinement_patience: int = 10
    l2: float = 0.0
    decoupled: bool = False
    clip_norm: float | None = None
    r1: float = 1e-3
    r2: float = 1e-3
    rT: float = 1e-3  # noqa: N815 (the papers' name)
    alpha: float | Literal["auto"] = 1.0
    weight_tno: float = 0.0
    gamma: float = 0.5
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        problems = field_problems(dataclasses.asdict(self))
        if self.decoupled is True and self.optimizer == "rmsprop":
            problems.append("decoupled weight decay needs optimizer='adam', got 'rmsprop'")
        if problems:
            raise ExperimentError("; ".join(problems))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(low: float, high: float = float("inf"), above: bool = False) -> Callable[[Any], bool]:
    return lambda v: _is_number(v) and (low < v if above else low <= v) and v <= high and v != float("inf")


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda v: _is_int(v) and v >= low


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dim_latent": (_whole(1), "a whole number of at least 1"),
    "batch_size": (_whole(2), "a whole number of at least 2"),
    "learning_rate": (_number(0, above=True), "a number above 0"),
    "schedule": (lambda v: v in ("constant", "cosine"), "'constant' or 'cosine'"),
    "optimizer": (lambda v: v in ("adam", "rmsprop"), "'adam' or 'rmsprop'"),
    "max_epochs": (_whole(1), "a whole number of at least 1"),
    "judge": (lambda v: v in ("mrr", "loss"), "'mrr' or 'loss'"),
    "keep": (lambda v: v in ("best", "last"), "'best' or 'last'"),
    "patience": (_whole(1), "a whole number of at least 1"),
    "refinement_steps": (_whole(0), "a whole number of at least 0"),
    "lr_multiplier": (_number(0, 1, above=True), "a number above 0 and at most 1"),
    "refinement_patience": (_whole(1), "a whole number of at least 1"),
    "l2": (_number(0), "a number of at least 0"),
    "decoupled": (lambda v: isinstance(v, bool), "True or False"),
    "clip_norm": (lambda v: v is None or _number(0, above=True)(v), "None or a number above 0"),
    "r1": (_number(0), "a number of at least 0"),
    "r2": (_number(0), "a number of at least 0"),
    "rT": (_number(0), "a number of at least 0"),
    "alpha": (lambda v: v == "auto" or _number(0, 1, above=True)(v), "'auto' or a number above 0 and at most 1"),
    "weight_tno": (_number(0, 1), "a number from 0 to 1"),
    "gamma": (_number(0), "a number of at least 0"),
    "precision": (lambda v: v in ("float32", "bf16"), "'float32' or 'bf16'"),
    "compile": (lambda v: isinstance(v, bool), "True or False"),
}


#: Fields of whole numbers.
WHOLE = frozenset(each.name for each in dataclasses.fields(TrainConfig) if each.type == "int")

#: Fields that only a model file can give an effect; the trainer reads the others, for models that it trains.
_FOR_THE_FILE = {"dim_latent", "r1", "r2", "rT", "alpha", "weight_tno", "gamma"}


def field_problems(values: Mapping[str, Any]) -> list[str]:
    """Every mistake in the given fields of a :class:`TrainConfig`, a phrase each; empty when there is none."""
    return problems_with(values, _RULES)


@dataclass(frozen=True)
class Experiment:
    """A model file, loaded: its configuration and its two functions."""

    name: str
    config: TrainConfig
    build_model: Callable[[tuple[int, ...], tuple[int, ...]], Model | ClosedForm]
    build_objective: Callable[[], nn.Module | None]  #: gives None for a model fitted in closed form
    source: str  #: the text of the file
    views: tuple[str, str] | None = None  #: the names of the views that it is for, where data hold several
    search: Mapping[str, Choices] = field(default_factory=dict)  #: what to search each field in (run_tune.py)
    start: Start | None = None  #: the run whose weights training begins with; needed by nothing else


def load_experiment(path: str | Path, overrides: Mapping[str, Any] | None = None, name: str | None = None,
                    search: Mapping[str, Choices] | None = None) -> Experiment:
    """Loads ``models/<name>.py``.

    Args:
        path: the model file. It is Python and is run, like any script that you start.
        overrides: fields of its ``CONFIG`` to replace, before its functions look at it.
        name: of the experiment; default the file's.
        search: fields to search, beside those in its ``SEARCH`` or in their place. What is overridden is not searched.

    Raises:
        ExperimentError: the file is missing or wrong; every mistake that can be seen is in the one message.
    """
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        folder = path.parent if path.parent.is_dir() else Path("models")
        near = [str(p) for p in folder.glob("*.py")]
        hint = did_you_mean(str(folder / path.name), near) if near else \
            "model files come with a clone of the repository, not with the package: write one (docs/your_own_model.md)"
        raise ExperimentError(f"cannot read the model file {path}: {error.strerror}; {hint}") from error
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not a text file: {error.reason} at byte {error.start}") from error
    except ValueError as error:  # a NUL character
        raise ExperimentError(f"cannot read the model file {path}: {error}") from error
    problems = _mistakes_in_source(source, path) + field_problems(overrides or {})
    if not problems:
        module = _run(path, source)
        problems = _mistakes_in_module(module) or [*_unread(_changed(overrides or {}, module), module, source),
                                                   *_mistakes_in_search(module, search or {}, source)]
    if problems:
        raise ExperimentError(f"{path}: {len(problems)} mistake{'s'[:len(problems) > 1]}: " + "; ".join(problems))
    if overrides:
        vars(module)["CONFIG"] = dataclasses.replace(module.CONFIG, **overrides)
    build_objective = _no_objective if module.build_objective is None else \
        _users(module.build_objective, path, (nn.Module,), "a torch.nn.Module whose forward takes (Embedded, pairs)")
    return Experiment(name or path.stem, module.CONFIG,
                      _users(module.build_model, path, (nn.Module, ClosedForm),
                             "a torch.nn.Module, or an estimator of xmodal.linear"), build_objective, source,
                      vars(module).get("VIEWS"),
                      {field: choices for field, choices in _searched(module, search or {}).items()
                       if field not in (overrides or {})}, vars(module).get("START"))


#: What a model file must define, and how.
_REQUIRED = {"CONFIG": "`CONFIG = TrainConfig(...)`", "build_model": "`def build_model(view1_shape, view2_shape)`",
             "build_objective": "`def build_objective()` (`build_objective = None` for a closed form)"}


def _no_objective() -> None:
    """``build_objective`` of a model that is fitted in closed form."""


def _mistakes_in_source(source: str, path: Path) -> list[str]:
    """What can be told without running the file: syntax, missing names, arguments, literal configuration values."""
    try:
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        return [f"{where}{error.args[0]}"]
    except (MemoryError, RecursionError):
        return ["too deeply nested"]
    problems = []
    names = {leaf.id for leaf in ast.walk(tree) if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store)}
    for leaf in ast.walk(tree):
        if isinstance(leaf, ast.FunctionDef | ast.ClassDef):
            names.add(leaf.name)
        elif isinstance(leaf, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in leaf.names)
    if "*" not in names:  # what that brings shows when the file runs
        problems += _missing(names)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            problems += _wrong_arguments(node)
    for leaf in ast.walk(tree):
        called = getattr(leaf.func, "id", getattr(leaf.func, "attr", "")) if isinstance(leaf, ast.Call) else ""
        if isinstance(leaf, ast.Call) and called == "TrainConfig":
            problems += field_problems(_literal_keywords(leaf.keywords, _RULES))
        elif isinstance(leaf, ast.Call) and called == "Start":
            given = [ast.keyword(name, value) for name, value in zip(FIELDS, leaf.args, strict=False)]
            problems += start_problems(_literal_keywords([*given, *leaf.keywords], FIELDS))
    return problems


def _missing(names: Container[str]) -> list[str]:
    return [f"{name} is missing; write {how}" for name, how in _REQUIRED.items() if name not in names]


def _wrong_arguments(node: ast.FunctionDef) -> list[str]:
    expected = {"build_model": 2, "build_objective": 0}.get(node.name)
    positional = len(node.args.posonlyargs) + len(node.args.args)
    required = positional - len(node.args.defaults)
    if expected is None or (required <= expected and (node.args.vararg or expected <= positional)):
        return []
    shown = {2: "the shapes (view1_shape, view2_shape)", 0: "no arguments"}[expected]
    return [f"line {node.lineno}: {node.name} takes {shown}, not {positional} argument(s)"]


def _literal_keywords(keywords: Iterable[ast.keyword], known: Container[str]) -> dict[str, Any]:
    """Literal keyword arguments of a call. Those that are none can only be checked later, but for their names."""
    values: dict[str, Any] = {}
    for keyword in keywords:
        if keyword.arg is None:
            continue
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, MemoryError, RecursionError):
            if keyword.arg not in known:
                values[keyword.arg] = None
    return values


def _run(path: Path, source: str) -> ModuleType:
    """Executes a model file as a module of its own, so that two runs never share state."""
    spec = importlib.util.spec_from_loader(f"xmodal_experiment_{path.stem}", loader=None, origin=str(path))
    if spec is None:
        raise ExperimentError(f"{path} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[spec.name] = module  # @dataclass and sys.modules[__name__] look the module up by name
    with _blaming(path):
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever the user's file raises inside becomes an :class:`ExperimentError` with its line, and what it prints
    goes to stderr: stdout belongs to the commands."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        frame = error.__traceback__
        lines = []
        while frame is not None:
            if frame.tb_frame.f_code.co_filename == str(path):
                lines.append(frame.tb_lineno)
            frame = frame.tb_next
        where = f"line {lines[-1]}: " if lines else ""
        what = "" if isinstance(error, XmodalError) else f"{type(error).__name__}: "
        raise ExperimentError(f"{path}: {where}{what}{_said(error)}") from error


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a class of the user's file, whose text fails in turn
        return "an error without a text"


def _users(function: Callable[..., Any], path: Path, expected: tuple[type, ...], described: str
           ) -> Callable[..., Any]:
    """A function of the user's file that fails like the file itself, and must return what it promises."""
    def call(*arguments: Any) -> Any:
        with _blaming(path):
            result = function(*arguments)
        if not isinstance(result, expected):
            raise ExperimentError(f"{path}: {function.__name__} must return {described}, got {type(result).__name__}")
        return result

    return call


def _mistakes_in_module(module: ModuleType) -> list[str]:
    names = vars(module)  # not getattr: a file may define __getattr__
    problems = _missing(names)
    if not isinstance(names.get("CONFIG", TrainConfig()), TrainConfig):
        problems.append(f"CONFIG must be a TrainConfig, got {type(names['CONFIG']).__name__}")
    problems += [f"{name} must be a function, got {type(names[name]).__name__}"
                 for name in ("build_model", "build_objective") if name in names and not callable(names[name])
                 and not (name == "build_objective" and names[name] is None)]
    views = names.get("VIEWS")
    if views is not None and not (isinstance(views, tuple) and len(views) == 2
                                  and all(isinstance(name, str) and name for name in views)):
        problems.append(f'VIEWS must be two names, such as ("pixels", "codes"), got {views!r}')
    start = names.get("START")
    if start is not None and not isinstance(start, Start):
        problems.append(f'START must be a Start, such as Start("runs/mnist_halves_infonce"), got {start!r}')
    elif start is not None and "build_objective" in names and names["build_objective"] is None:
        problems.append("START has no effect: a model that is fitted in closed form starts from nothing")
    return problems


def _changed(overrides: Mapping[str, Any], module: ModuleType) -> list[str]:
    return [name for name, value in overrides.items() if value != getattr(module.CONFIG, name)]


def _unread(names: Iterable[str], module: ModuleType, source: str) -> list[str]:
    """Fields that would change nothing: those for the model file alone, in one that never reads them."""
    for_the_file = _RULES.keys() if module.build_objective is None else _FOR_THE_FILE
    return [f"{name} has no effect: nothing in the file reads CONFIG.{name}" for name in names
            if name in for_the_file and not re.search(rf"CONFIG\s*\.\s*{name}\b", source)]


def _searched(module: ModuleType, search: Mapping[str, Choices]) -> dict[str, Choices]:
    return {**vars(module).get("SEARCH", {}), **search}


def _mistakes_in_search(module: ModuleType, search: Mapping[str, Choices], source: str) -> list[str]:
    """What is wrong with ``SEARCH``, and with what a command adds to it: the ends of a range, and each value of a list,
    must be allowed where the field stands."""
    own = vars(module).get("SEARCH", {})
    if not isinstance(own, dict) or not all(isinstance(name, str) for name in own):
        return [f'SEARCH must be a dictionary, such as {{"gamma": Range(0.1, 1.0)}}, got {own!r}']
    problems = []
    for name, choices in _searched(module, search).items():
        wrong = [f"{name} {problem}" for problem in range_problems(choices)] if name in _RULES else []
        if not wrong:
            wrong = [problem for end in (ends(choices) if name in _RULES else [None])
                     for problem in field_problems({name: end})]
        problems += [f"SEARCH: {problem}" for problem in dict.fromkeys(wrong or _unread([name], module, source))]
    return problems


def parse_override(text: str) -> tuple[str, Any]:
    """``"learning_rate=1e-2"`` to ``("learning_rate", 0.01)``; the value is a Python literal or a bare word."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ExperimentError(f"--set needs field=value, such as learning_rate=0.01; got {text!r}")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two of deep nesting
        return name.strip(), value.strip()
