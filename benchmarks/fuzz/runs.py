"""Run folders with damaged files, and logs."""
from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load, save

from benchmarks.fuzz.arrays import small_arrays
from benchmarks.fuzz.harness import Answer, Case, WrongError, answer, canary
from benchmarks.fuzz.mutations import ODD_NUMBERS, ODD_TEXTS, Malicious, damaged, odd_json, odd_value
from xmodal.checkpoint import REFINED, RunFolder
from xmodal.cli import plot_log, refine_cca, run_eval, run_train
from xmodal.data.files import write_arrays

Files = dict[str, bytes]
MODELS = {
    "net": ("CCALayer, PairwiseRanking, TrainConfig, TwoTower",
            "TwoTower(mlp(view1_shape, [3], 2), mlp(view2_shape, [3], 2),\n                    "
            "CCALayer(2, r1=CONFIG.r1, alpha=CONFIG.alpha))",
            "PairwiseRanking(margin=CONFIG.gamma)"),
    "nested": ("CorrNet, CorrNetObjective, TrainConfig",
               "CorrNet(mlp(view1_shape, [], 2), mlp(view2_shape, [], 2), mlp((2,), [], 5), mlp((2,), [], 3))",
               "CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0.02)"),
    "cca": ("LinearCCA, TrainConfig", "LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2)", None),
    "kernel": ("KernelCCA, TrainConfig", "KernelCCA(CONFIG.dim_latent, kernel='rbf', r1=0.1, r2=0.1)", None)}


def model_source(name: str) -> str:
    """The text of a small model file."""
    imports, model, objective = MODELS[name]
    end = "build_objective = None" if objective is None else f"def build_objective():\n    return {objective}"
    return (f"from xmodal import {imports}\nfrom xmodal.towers import mlp\n\n"
            "CONFIG = TrainConfig(dim_latent=2, batch_size=6, max_epochs=2, learning_rate=1e-2)\n\n\n"
            f"def build_model(view1_shape, view2_shape):\n    return {model}\n\n\n{end}\n")


def small_data(folder: Path) -> Path:
    """A prepared data set of twelve training pairs."""
    path = folder / "toy.h5"
    arrays = {key: value / 100 if "_view" in key else value for key, value in small_arrays(4, rich=True).items()}
    write_arrays(path, arrays, {"name": "toy"})
    return path


def trained_runs(folder: Path, data: Path) -> dict[str, Files]:
    """The files of a small run of every kind of model, a re-estimated projection included where there can be one."""
    runs = {}
    for name in MODELS:
        model = folder / f"{name}.py"
        model.write_text(model_source(name), encoding="utf-8")
        options = ["--model", str(model), "--data", str(data), "--runs", str(folder / "runs"), "--device", "cpu"]
        if answer(lambda options=options: run_train.main(options)).code:
            raise WrongError(f"{name} can't be trained")
        answer(lambda options=options: refine_cca.main(options))
        answer(lambda options=options: run_eval.main(options))
        run = folder / "runs" / name
        runs[name] = {path.name: path.read_bytes() for path in sorted(run.iterdir()) if path.name != ".lock"}
    return runs


def run_folder(folder: Path) -> Case:
    """A run with one or two damaged files is evaluated, re-estimated or resumed."""
    data = small_data(folder)
    runs = trained_runs(folder, data)

    def options(name: str, here: Path) -> list[str]:
        return ["--model", str(folder / f"{name}.py"), "--data", str(data), "--runs", str(here / "runs"), "--device",
                "cpu"]

    expected = {}
    for name, files in runs.items():
        write_run(folder / "whole" / "runs" / name, files)
        whole = [*options(name, folder / "whole"), "--json"]
        expected[name] = json.loads(answer(lambda whole=whole: run_eval.main(whole)).out)

    def case(rng: random.Random, here: Path) -> str:
        name = rng.choice(sorted(runs))
        files, changed = dict(runs[name]), set()
        command = rng.choice((run_eval.main, run_eval.main, refine_cca.main, run_train.main))
        for _ in range(rng.choice((1, 1, 1, 2))):
            file = rng.choice([one for one in files if one != "metrics.json"])
            if command is run_train.main and rng.random() < 0.5:
                file = RunFolder.RESUME if RunFolder.RESUME in files else file
            changed.add(file)
            files[file] = _damaged_file(rng, file, runs[name][file], canary(here))
            if rng.random() < 0.03:
                del files[file]
                break
        if command is run_train.main and _trains_long(files):
            command = run_eval.main
        write_run(here / "runs" / name, files)
        arguments = options(name, here)
        if command is run_eval.main:
            arguments += ["--json", *rng.choice(([], [], [], ["--estimate_UV"], ["--ci"], ["--split", "valid"]))]
        elif command is run_train.main:
            arguments += ["--resume", *rng.choice(([], [], ["--set", "max_epochs=3"]))]
        found = answer(lambda: command(arguments))
        if command is run_eval.main and found.code == 0:
            same = arguments[-1] == "--json" and not changed & {RunFolder.WEIGHTS, RunFolder.EXPERIMENT}
            check_metrics(found, expected[name] if same else None)
        return found.outcome

    return case


def write_run(path: Path, files: Files) -> None:
    """The files of a run in their folder."""
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)


def check_metrics(found: Answer, expected: dict[str, Any] | None) -> None:
    """Metrics that can be, and where nothing that counts was damaged the right ones.

    Raises:
        WrongError: they are not.
    """
    metrics = json.loads(found.out, parse_constant=float)
    for direction in ("V1_to_V2", "V2_to_V1"):
        values = metrics[direction]
        if not 0 < values["mrr"] <= 1 or not all(0 <= values[f"r{k}"] <= 100 for k in (1, 5, 10, 25)):
            raise WrongError(f"metrics that can't be: {values}")
        if expected is not None:
            wrong = [key for key, value in expected[direction].items()
                     if key != "chance" and not math.isclose(values[key], value, rel_tol=1e-5, abs_tol=1e-6)]
            if wrong:
                raise WrongError(f"{direction} {wrong[0]} is {values[wrong[0]]}, not {expected[direction][wrong[0]]}")


def _trains_long(files: Files) -> bool:
    """Whether a resumed run would rightly train for a long time."""
    try:
        config = json.loads(files[RunFolder.CONFIG])["config"]
        return float(config.get("max_epochs", 1000)) > 5 or config.get("compile") is not False
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return False


def _damaged_file(rng: random.Random, name: str, content: bytes, forbidden: Path) -> bytes:
    if rng.random() < 0.35:
        return damaged(rng, content)
    if name == RunFolder.CONFIG:
        return odd_json(rng, json.loads(content))
    if name == RunFolder.RESUME:
        return odd_resume(rng, content, forbidden)
    if name in (RunFolder.WEIGHTS, REFINED):
        return odd_weights(rng, content)
    return damaged(rng, content)


def odd_weights(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with another header, or other tensors."""
    kind = rng.randrange(4)
    size = struct.unpack("<Q", content[:8])[0]
    if kind == 0:
        header = odd_json(rng, json.loads(content[8:8 + size]))
        return struct.pack("<Q", len(header)) + header + content[8 + size:]
    if kind == 1:
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 8, 10**8, 2**63, 2**64 - 1))) + content[8:]
    tensors = load(content)
    name = rng.choice(sorted(tensors))
    tensors[name] = _odd_tensor(rng, tensors[name])
    if rng.random() < 0.2:
        tensors[rng.choice(("extra", "", "U", "tower1.0.weight", "é"))] = torch.ones(2)
    if rng.random() < 0.2:
        del tensors[name]
    return save(tensors)


def _odd_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """Of another type or shape, or of values that no model has."""
    kinds: list[Callable[[], torch.Tensor]] = [
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
        lambda: torch.full_like(tensor, float("inf")) if tensor.is_floating_point() else tensor * -1,
        lambda: tensor * rng.choice((0, 1e30, -1)) if tensor.is_floating_point() else tensor * 0,
        lambda: tensor.double(), lambda: tensor.half(), lambda: tensor.to(torch.int32), lambda: tensor > 0,
        lambda: tensor[None].contiguous(), lambda: torch.zeros(0), lambda: torch.zeros(()), lambda: torch.ones(3, 3),
        lambda: tensor.to(torch.float8_e4m3fn), lambda: tensor.to(torch.bfloat16),
        lambda: tensor.flatten()[:-1].clone() if tensor.numel() > 1 else torch.ones(5)]
    return rng.choice(kinds)()


def odd_resume(rng: random.Random, content: bytes, forbidden: Path) -> bytes:
    """A state of training with odd values, or one whose pickle would make the file ``forbidden``."""
    kind = rng.randrange(10)
    if kind == 0:
        return pickle.dumps(Malicious(forbidden), protocol=rng.randrange(6))
    if kind in (1, 2):
        evil = pickle.dumps(rng.choice((Malicious(forbidden), {"progress": Malicious(forbidden)})), protocol=2)
        return _with_pickle(content, evil)
    if kind == 3:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            inner = next(file.read(name) for name in file.namelist() if name.endswith("data.pkl"))
        return _with_pickle(content, _other_globals(rng, inner) if rng.random() < 0.5 else damaged(rng, inner))
    state = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(rng.choice((1, 1, 2))):
        state = _odd_state(rng, state)
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=rng.random() < 0.9)
    return buffer.getvalue()


def _with_pickle(content: bytes, inner: bytes) -> bytes:
    """The archive that ``torch.save`` wrote, with another pickle in it."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, inner if name.endswith("data.pkl") else old.read(name))
    return changed.getvalue()


def _other_globals(rng: random.Random, inner: bytes) -> bytes:
    """The pickle, asking for another function."""
    names = [argument for opcode, argument, _ in pickletools.genops(inner) if opcode.name == "GLOBAL"]
    old = rng.choice(names).replace(" ", "\n").encode()
    other = rng.choice((b"builtins\nopen", b"os\nsystem", b"builtins\neval", b"torch\nload",
                        b"torch._utils\n_rebuild_tensor",
                        b"collections\nOrderedDict", b"numpy\nload", b"torch.hub\nload"))
    return inner.replace(b"c" + old, b"c" + other)


def _odd_state(rng: random.Random, value: Any) -> Any:
    """``value`` with something in it replaced, left out or added, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        kind = rng.randrange(8)
        if kind == 0:
            return {name: part for name, part in value.items() if name != key}
        if kind == 1:
            return {**value, rng.choice((*ODD_TEXTS, 3, None)): odd_value(rng)}
        return {**value, key: _odd_state(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _odd_state(rng, value[at]), *value[at + 1:]]
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        return _odd_tensor(rng, value)
    return rng.choice(ODD_NUMBERS) if rng.random() < 0.3 else odd_value(rng)


# -- logs ------------------------------------------------------------------------------------------------------

def logs(folder: Path) -> Case:
    """Odd logs and options of ``plot_log``."""
    lines = [json.dumps(_log_line(epoch)) for epoch in range(1, 7)]
    (folder / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for suffix in ("png", "svg", "pdf"):  # what is imported here needn't be imported in each child
        answer(lambda suffix=suffix: plot_log.main([str(folder), "--out", str(folder / f"a.{suffix}")]))

    def case(rng: random.Random, here: Path) -> str:
        names = []
        for number in range(rng.choice((1, 1, 1, 2, 12))):
            name = rng.choice((f"run{number}", f"run{number}", f"{number}é", f"{number} $x_", f"{number}{{%s",
                               "_hidden"))
            (here / name).mkdir(exist_ok=True)
            file = rng.choice(("log.jsonl", "log.jsonl", "log.jsonl", "log.jsonl", "kept.jsonl"))
            (here / name / file).write_bytes(_odd_log(rng, lines))
            names.append(name if file == "log.jsonl" and rng.random() < 0.5 else f"{name}/{file}")
        arguments = [*names, "--out", rng.choice(("a.png", "a.svg", "a.svg", "a.svg", "a.svg", "a.pdf"))]
        if rng.random() < 0.05:
            arguments[-1] = rng.choice(("a.jpg", "a", "x/a.png", *ODD_TEXTS))
        for option, values in (("--key", ("mrr_va", "%s", "loss_%s", "%", "%%s", "epoch", "", "best", "\0", "$x$",
                                          "odd")),
                               ("--max_epoch", ("1", "3", "0", "-1", "99999999999999999999", "x", "1e3")),
                               ("--ymin", ("0", "nan", "inf", "-1e308", "1e-320", "x", "0.5")),
                               ("--ymax", ("1", "nan", "-inf", "1e308", "1e-320", "0.5", "0.5000000000000001")),
                               ("--watch", ("0", "nan", "-1", "1", "1e-9"))):
            if rng.random() < 0.07:
                arguments += [option, rng.choice(values)]
        if rng.random() < 0.3:
            arguments.append("--high_is_better")
        whole = rng.random() < 0.25  # drawing takes most of the time, and nearly all that can go wrong comes before
        with nullcontext() if whole else mock.patch("matplotlib.figure.Figure.savefig", _save_nothing):
            return answer(lambda: plot_log.main(arguments, pause=lambda seconds: None, max_polls=2)).outcome

    return case


def _save_nothing(figure: Any, path: Path, **options: Any) -> None:
    path.touch()


def _log_line(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "loss_tr": 1.0 / epoch, "loss_va": 1.1 / epoch, "mrr_tr": 0.1 * epoch,
            "mrr_va": 0.09 * epoch,
            "median_rank_tr": 3.0, "median_rank_va": 4.0, "lr": 0.01, "seconds": 0.5, "refit_pairs": 12,
            "patience_left": 3, "best": epoch < 5}


def _odd_log(rng: random.Random, lines: list[str]) -> bytes:
    text = "".join(line + "\n" for line in lines).encode()
    kind = rng.randrange(8)
    if kind == 0:
        return text
    if kind <= 2:
        return damaged(rng, text)
    if kind == 3:
        return rng.choice((b"", b"\n\n", b"null\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n{}\n", b"{}\n{}\n", b"\0\n",
                           b"1\n",
                           b'{"epoch": ' + b"1" * 5000 + b"}\n{}\n", text.replace(b"\n", b"\r\n"), text * 20))
    parts = [line.encode() for line in lines]
    for _ in range(rng.choice((1, 1, 2, 6))):
        at = rng.randrange(len(parts))
        line = _log_line(at + 1)
        if rng.random() < 0.7:
            key = rng.choice(("mrr_va", "mrr_tr", "mrr_va", "epoch", "best", "loss_va", "odd"))
            parts[at] = json.dumps(line | {key: rng.choice((*ODD_NUMBERS, odd_value(rng), None, True))}).encode()
        else:
            parts[at] = odd_json(rng, line)
    return b"\n".join(parts) + rng.choice((b"", b"\n"))
