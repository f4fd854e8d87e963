"""Writes a run's model card from what its folder holds, so that training and evaluation write the same one."""
from __future__ import annotations

import ast
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from xmodal.checkpoint import RunFolder
from xmodal.config import load_experiment
from xmodal.linear import ClosedForm
from xmodal.networks import Model
from xmodal.report.card import model_card


def write_card(run: RunFolder, model: Model | ClosedForm) -> None:
    """Writes ``card.md``; test results are in it where there is a ``metrics.json``.

    Raises:
        XmodalError: something in the folder is damaged.
        OSError: the folder can't be written to.
    """
    about = run.config()
    source = run.file(RunFolder.EXPERIMENT).read_text(encoding="utf-8")
    run.write_card(model_card(
        run.path.resolve().name, about, describe_model(model), run.log(), run.metrics(),
        docstring=ast.get_docstring(ast.parse(source)) or "", folder=run.path.as_posix(),
        commands=training_commands(run, about)))


def describe_model(model: Model | ClosedForm) -> dict[str, Any]:
    """Class, head and number of parameters; no head and no parameters for a method in closed form."""
    if not isinstance(model, nn.Module):
        return {"class": type(model).__name__, "head": None, "parameters": None}
    head = getattr(model, "head", None)
    return {"class": type(model).__name__, "head": type(head).__name__ if isinstance(head, nn.Module) else None,
            "parameters": sum(parameter.numel() for parameter in model.parameters())}


def run_options(about: Mapping[str, Any], runs: Path = Path("runs")) -> tuple[list[str], list[str]]:
    """The options that name a run: a copy of its own model file and its data; its tag and the folder of its folder."""
    data, tag = about["data"], about.get("tag")
    return (["--model", f"{about.get('experiment') or 'experiment'}.py",
             "--data", str(data.get("spec", data.get("name")))],
            [*(["--tag", str(tag)] if tag else []), *([] if runs == Path("runs") else ["--runs", str(runs)])])


def training_commands(run: RunFolder, about: Mapping[str, Any], runs: Path = Path("runs")) -> list[str]:
    """Shell lines that train the same again: its own model file, and ``--set`` for each field that differs from it.

    They name ``xmodal``, whoever is asking: they travel to those who installed it, and a clone's environment has it.

    Args:
        run: that was trained.
        about: its ``config.json``.
        runs: the folder to train it in.
    """
    data, (what, where) = about["data"], run_options(about, runs)
    defaults = dataclasses.asdict(load_experiment(run.file(RunFolder.EXPERIMENT), name=about.get("experiment")).config)
    command = ["xmodal", "train", *what, "--seed", str(about["seed"]), *where]
    if isinstance(data.get("views"), list):
        command += ["--views", *map(str, data["views"])]
    for field, value in about["config"].items():
        if _plain(defaults.get(field)) != _plain(value):
            command += ["--set", f"{field}={value}"]
    command += ["--stream"] if data.get("streamed") else []
    return [shlex.join(["cp", run.file(RunFolder.EXPERIMENT).as_posix(), what[1]]), shlex.join(command)]


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    return list(value) if isinstance(value, tuple) else value
