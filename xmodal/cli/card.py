"""Writes a run's model card from what its folder holds, so that training and evaluation write the same one."""
from __future__ import annotations

import ast
import dataclasses
import shlex
from typing import Any

from torch import nn

from xmodal.checkpoint import RunFolder
from xmodal.cli.plot_log import read_log
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
    about, log = run.config(), run.file(RunFolder.LOG)
    source = run.file(RunFolder.EXPERIMENT).read_text(encoding="utf-8")
    run.write_card(model_card(
        run.path.resolve().name, about, describe_model(model), read_log(log) if log.is_file() else [], run.metrics(),
        docstring=ast.get_docstring(ast.parse(source)) or "", folder=run.path.as_posix(),
        commands=training_commands(run, about)))


def describe_model(model: Model | ClosedForm) -> dict[str, Any]:
    """Class, head and number of parameters; no head and no parameters for a method in closed form."""
    if not isinstance(model, nn.Module):
        return {"class": type(model).__name__, "head": None, "parameters": None}
    head = getattr(model, "head", None)
    return {"class": type(model).__name__, "head": type(head).__name__ if isinstance(head, nn.Module) else None,
            "parameters": sum(parameter.numel() for parameter in model.parameters())}


def training_commands(run: RunFolder, about: dict[str, Any]) -> list[str]:
    """Shell lines that train the same again: its own model file, and ``--set`` for each field that differs from it."""
    experiment, data = str(about.get("experiment") or "experiment"), about["data"]
    defaults = dataclasses.asdict(load_experiment(run.file(RunFolder.EXPERIMENT)).config)
    changed = [f"{field}={value}" for field, value in about["config"].items() if defaults.get(field) != value]
    command = ["python", "run_train.py", "--model", f"{experiment}.py", "--data",
               str(data.get("spec", data.get("name"))), "--seed", str(about["seed"]),
               *(["--tag", str(about["tag"])] if about.get("tag") else [])]
    if isinstance(data.get("views"), list):
        command += ["--views", *map(str, data["views"])]
    command += [part for text in changed for part in ("--set", text)]
    command += ["--stream"] if data.get("streamed") else []
    return [shlex.join(["cp", run.file(RunFolder.EXPERIMENT).as_posix(), f"{experiment}.py"]), shlex.join(command)]
