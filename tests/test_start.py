"""Starting from another run's weights: what is loaded, what then trains and how fast; resuming needs it no more."""
from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together
from test_distributed import Widened, assert_same, pairs
from test_trainer import CONFIG, Recorder, StopAfter, same_weights, started_run
from torch import nn

from xmodal import distributed
from xmodal.checkpoint import RunFolder
from xmodal.cli import run_eval, run_search, run_train, run_tune
from xmodal.config import TrainConfig, load_experiment
from xmodal.errors import CheckpointError, ExperimentError
from xmodal.layers import CCALayer, LearnedProjection
from xmodal.linear import LinearCCA
from xmodal.networks import TwoTower
from xmodal.objectives import PairwiseRanking, TraceNorm
from xmodal.start import FIELDS, Start, frozen_by, frozen_modules, layers_of, start_problems
from xmodal.towers import conv_tower, mlp, text_tower
from xmodal.trainer import fit, make_optimizer, start_from
from xmodal.trainer.starting import kept_in_eval


def towers(seed: int = 0, hidden: int = 16, dim: int = 5, head: nn.Module | None = None) -> TwoTower:
    """Two hidden layers with batch norm and dropout, one output layer, and a learned projection."""
    torch.manual_seed(seed)
    return TwoTower(mlp((12,), [hidden, 8], dim, dropout=0.2), mlp((9,), [hidden, 8], dim, dropout=0.2),
                    head or LearnedProjection(dim))


@pytest.fixture
def source(correlated_pairs, tmp_path) -> str:
    run = started_run(tmp_path / "source")
    fit(towers(seed=1), PairwiseRanking(), correlated_pairs, CONFIG, run=run, seed=5)
    return str(run.path)


def weights_of(run: str) -> dict[str, torch.Tensor]:
    model = towers()
    RunFolder(run).load_weights(model)
    return {name: value.clone() for name, value in model.state_dict().items()}


# -- what an experiment file says ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("values", "expected"), [
    ({"run": ""}, "Start: run must be the name of a run folder"), ({"run": 3}, "got 3"), ({"run": "a\0"}, "must be"),
    ({"last": -1}, "Start: last must be None or a whole number of at least 0, got -1"), ({"last": 1.0}, "got 1.0"),
    ({"last": True}, "got True"), ({"rate": 0}, "Start: rate must be a number above 0 and at most 1, got 0"),
    ({"rate": 1.1}, "got 1.1"), ({"rate": float("nan")}, "got nan"), ({"rate": "a"}, "got 'a'"),
    ({"into": None}, "Start: into must be the name of a part of the model, got None"),
    ({"lst": 1}, "unknown field 'lst' of Start: did you mean last?")])
def test_wrong_values(values, expected):
    problems = start_problems(values)
    assert len(problems) == 1 and expected in problems[0]
    if values.keys() <= set(FIELDS):
        with pytest.raises(ExperimentError, match=r"^Start: "):
            Start(**{"run": "runs/x", **values})


def test_all_mistakes_of_a_start_at_once():
    with pytest.raises(ExperimentError) as caught:
        Start("", last=-1, rate=2.0, into=3)  # type: ignore[arg-type]
    assert [part.split(" must ")[0] for part in str(caught.value).split("; ")] == [f"Start: {name}" for name in FIELDS]
    assert Start("runs/x") == Start("runs/x", None, 1.0, "") and Start("r", into="base").prefix == "base."


# -- layers ------------------------------------------------------------------------------------------------------------

def test_layers_are_modules_with_weights_and_norms_belong_to_the_one_before():
    assert [[type(module).__name__ for module in layer] for layer in layers_of(mlp((4,), [3, 2], 2, dropout=0.1))] == [
        ["Linear", "BatchNorm1d"], ["Linear", "BatchNorm1d"], ["Linear"]]
    assert [[type(module).__name__ for module in layer] for layer in layers_of(conv_tower((1, 8, 8), [2, 3], 4))] == [
        ["Conv2d", "BatchNorm2d"]] * 5
    assert [[type(module).__name__ for module in layer] for layer in layers_of(text_tower((9,), [4], 2))] == [
        ["Embedding"], ["Conv1d", "BatchNorm1d"], ["Linear"]]
    norms = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3), nn.PReLU(), nn.RMSNorm(3), nn.Linear(3, 3))
    assert [[type(module).__name__ for module in layer] for layer in layers_of(norms)] == [
        ["Linear", "PReLU", "RMSNorm", "LayerNorm"], ["Linear"]]
    assert [[type(module).__name__ for module in layer] for layer in layers_of(LearnedProjection(3))] == [
        ["LearnedProjection"]]
    assert layers_of(CCALayer(3)) == layers_of(nn.ReLU()) == []
    assert len(layers_of(nn.BatchNorm1d(3))) == 1


@pytest.mark.parametrize(("last", "frozen"), [
    (None, []), (0, ["0", "1", "4", "5", "8", "head"]), (1, ["0", "1", "4", "5"]), (2, ["0", "1"]), (3, []), (9, [])])
def test_what_last_freezes(last, frozen):
    model = towers()
    names = [name for name, _ in model.named_parameters()]
    expected = [name for name in names
                if ("head" if name.startswith("head") else name.split(".")[1]) in frozen]
    assert frozen_by(Start("r", last=last), model, names) == expected
    assert frozen_by(Start("r", last=last), model, []) == []


def test_what_was_not_loaded_trains_and_shared_weights_are_one():
    model = towers()
    assert frozen_by(Start("r", last=0), model, ["tower1.0.weight"]) == ["tower1.0.weight"]
    tower = mlp((4,), [3], 2)
    twins = TwoTower(tower, tower, LearnedProjection(2))
    names = list(twins.state_dict())
    assert sorted(frozen_by(Start("r", last=1), twins, names)) == sorted(
        f"{side}.{name}" for side in ("tower1", "tower2") for name in ("0.weight", "1.weight", "1.bias"))


def test_frozen_modules_are_those_with_frozen_parameters_only():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False), nn.Dropout(), nn.ReLU()),
                          nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()), nn.Dropout())
    assert frozen_modules(model) == []
    model[1].requires_grad_(False)
    assert frozen_modules(model) == [model[1], model[1][0], model[1][1]]
    model.requires_grad_(True)[0][0].requires_grad_(False)
    assert frozen_modules(model) == [model[0], model[0][0], model[0][1]]
    with kept_in_eval(frozen_modules(model)):
        model.train()
        assert [module.training for module in model.modules()] == [True] + [False] * 5 + [True] * 5
    assert all("train" not in vars(module) for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())


# -- loading -----------------------------------------------------------------------------------------------------------

def test_what_agrees_in_name_and_shape_is_loaded(source):
    """The narrower model shares only layers that don't depend on the width of the space."""
    own, theirs = towers(seed=3, dim=4), weights_of(source)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    started = start_from(Start(source), own)
    loaded, new = started.about["loaded"], started.about["new"]
    assert new == [f"{side}.8.{kind}" for side in ("tower1", "tower2") for kind in ("weight", "bias")] + [
        f"head.{name}" for name in ("U", "V", "mean1", "mean2", "count")]
    assert set(loaded) | set(new) == set(before) and len(loaded) == 24
    for name, value in own.state_dict().items():
        assert torch.equal(value, theirs[name] if name in loaded else before[name]), name
    assert started.note == (f"started from {source}: 24 tensors loaded, new: tower1.8.weight, tower1.8.bias, "
                            "tower2.8.weight, tower2.8.bias and 5 more")
    assert all(parameter.requires_grad for parameter in own.parameters())


class Around(nn.Module):
    """A model that has another one in it, as a verification network has."""

    def __init__(self, base: TwoTower) -> None:
        super().__init__()
        self.base, self.judge = base, nn.Linear(5, 5)

    def forward(self, x, y):
        embedded = self.base(x, y)
        return embedded._replace(view1=self.judge(embedded.view1), view2=self.judge(embedded.view2))

    def embed_view1(self, x):
        return self.judge(self.base.embed_view1(x))

    def embed_view2(self, y):
        return self.judge(self.base.embed_view2(y))

    def refit(self, batches, train_mode=False):
        return self.base.refit(batches, train_mode)


def test_weights_go_into_a_part(source, correlated_pairs):
    model = Around(towers(seed=3))
    started = start_from(Start(source, last=0, into="base"), model)
    assert all(torch.equal(model.base.state_dict()[name], value) for name, value in weights_of(source).items())
    assert started.about["new"] == ["judge.weight", "judge.bias"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["judge.weight", "judge.bias"]
    fit(model, PairwiseRanking(), correlated_pairs, CONFIG)
    after, before = model.base.state_dict(), weights_of(source)
    assert all(torch.equal(after[name], before[name]) for name in before if name not in (
        "head.mean1", "head.mean2", "head.count"))
    for start in (Start(source, into="bas"), Start(source, into="nothing")):
        with pytest.raises(ExperimentError, match=r"^Start: Around has no part '(bas|nothing)': (did|known)"):
            start_from(start, Around(towers()))


def test_nothing_that_agrees_names_both_sides(source):
    other = TwoTower(nn.Linear(12, 5), nn.Linear(9, 5), CCALayer(5, alpha="auto"))
    with pytest.raises(ExperimentError) as caught:
        start_from(Start(source), other)
    text = str(caught.value)
    assert "it has head.U (5, 5), head.V" in text and "the model tower1.weight (5, 12)" in text and "\n" not in text
    with pytest.raises(ExperimentError, match="leave START out"):
        start_from(Start(source), LinearCCA(3))


def test_a_run_that_is_missing_unfinished_or_damaged(source, correlated_pairs, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no run in .*sourc: did you mean source\?"):
        start_from(Start(source[:-1]), towers())
    begun = started_run(tmp_path / "begun")
    with pytest.raises(CheckpointError, match="no epoch of it was finished"):
        start_from(Start(str(begun.path)), towers())
    fit(towers(), PairwiseRanking(), correlated_pairs, CONFIG, run=begun, display=StopAfter(9))
    with pytest.raises(CheckpointError, match=r"is not finished: run_train\.py --resume"):
        start_from(Start(str(begun.path)), towers())
    Path(source, "weights.safetensors").write_bytes(b"nothing of this kind")
    with pytest.raises(CheckpointError, match="is damaged"):
        start_from(Start(source), towers())


# -- training ----------------------------------------------------------------------------------------------------------

def test_a_start_without_a_step_is_the_source(source, correlated_pairs):
    """With a learning rate of next to nothing what was loaded is what comes out, but for statistics."""
    model = towers(seed=3)
    config = dataclasses.replace(CONFIG, learning_rate=1e-30, max_epochs=1)
    fit(model, PairwiseRanking(), correlated_pairs, config, start=Start(source, last=1))
    theirs = weights_of(source)
    assert all(torch.equal(value, theirs[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("head", [LearnedProjection, CCALayer])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_frozen_layers_keep_weights_and_norms_and_the_others_move(source, correlated_pairs, last, head):
    model = towers(seed=3, head=head(5, alpha=0.5 if head is LearnedProjection else "auto"))
    if last == 0:  # something has to train
        model.tower2 = mlp((9,), [7], 5)
    fit(model, PairwiseRanking(), correlated_pairs, CONFIG, start=Start(source, last=last))
    theirs = weights_of(source)
    still = {0: ["tower1.0", "tower1.1", "tower1.4", "tower1.5", "tower1.8"],
             1: [f"tower{side}.{i}" for side in (1, 2) for i in (0, 1, 4, 5)],
             2: [f"tower{side}.{i}" for side in (1, 2) for i in (0, 1)]}[last]
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] in still or (last == 0 and name in ("head.U", "head.V")):
            assert torch.equal(value, theirs[name]), name
        elif name.startswith("tower") and name in theirs and theirs[name].shape == value.shape:
            assert not torch.equal(value, theirs[name]), name
    if last and head is LearnedProjection:
        assert not torch.equal(model.head.U, theirs["head.U"])


def test_what_a_user_freezes_keeps_its_batch_norm(correlated_pairs):
    model = towers()
    model.tower1.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, PairwiseRanking(), correlated_pairs, CONFIG)
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("tower1")} == same


@pytest.mark.parametrize("config", [{}, {"decoupled": True, "l2": 0.1}, {"optimizer": "rmsprop"}, {"l2": 0.1}])
def test_the_rate_scales_the_step_of_what_was_loaded(config):
    """The first step of Adam and of RMSprop is in proportion to the learning rate, whatever the gradient."""
    def step(slow: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        before = [parameter.detach().double().clone() for parameter in model.parameters()]
        optimizer = make_optimizer([model], TrainConfig(learning_rate=1e-3, **config),
                                   model[0].parameters() if slow else (), 0.1)
        model(torch.ones(5, 3)).square().sum().backward()
        optimizer.step()
        return [parameter.detach().double() - old for parameter, old in zip(model.parameters(), before, strict=True)]

    whole, slowed = step(False), step(True)
    assert all(torch.allclose(b, 0.1 * a, rtol=2e-3, atol=1e-8)
               for a, b in zip(whole[:2], slowed[:2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], slowed[2:], strict=True))


@pytest.mark.parametrize("fresh", [False, True])
def test_the_rate_multiplies_schedule_and_refinement(source, correlated_pairs, monkeypatch, fresh):
    seen: list[list[float]] = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *a, **k: seen.append(
        [group["lr"] for group in self.param_groups if group["params"]]) or step(self, *a, **k))
    config = dataclasses.replace(CONFIG, learning_rate=0.1, max_epochs=12, patience=1, refinement_steps=2,
                                 lr_multiplier=0.1)
    model = towers(seed=3, dim=4 if fresh else 5)
    result = fit(model, PairwiseRanking(), correlated_pairs, config, start=Start(source, rate=0.01))
    assert {round(line["lr"], 9) for line in result.log} >= {0.1, 0.01}
    rates = [line["lr"] for line in result.log for _ in range(4)]
    assert seen == [pytest.approx([rate, 0.01 * rate] if fresh else [0.01 * rate]) for rate in rates]


@pytest.mark.parametrize("batches", [1, 4, 9, 21])
@pytest.mark.parametrize("start", [{"last": 1}, {"rate": 0.1}, {"last": 2, "rate": 0.3}])
def test_resumed_training_is_an_undisturbed_one_without_the_source(source, correlated_pairs, tmp_path, batches, start):
    config = dataclasses.replace(CONFIG, max_epochs=8, patience=1, refinement_steps=3)
    undisturbed = towers(seed=3)
    whole = fit(undisturbed, PairwiseRanking(), correlated_pairs, config, seed=3, start=Start(source, **start))
    run = started_run(tmp_path / "r")
    fit(towers(seed=3), PairwiseRanking(), correlated_pairs, config, seed=3, run=run, display=StopAfter(batches),
        start=Start(source, **start))
    shutil.rmtree(source)
    for resumed_start in (Start(source, **start), None):
        resumed = towers(seed=77)
        copied = RunFolder(shutil.copytree(run.path, tmp_path / f"copy-{resumed_start is None}"))
        result = fit(resumed, PairwiseRanking(), correlated_pairs, config, seed=3, run=copied, resume=True,
                     start=resumed_start)
        assert same_weights(resumed, undisturbed)
        assert [line["loss_tr"] for line in result.log] == [line["loss_tr"] for line in whole.log]
        assert [line["lr"] for line in result.log] == [line["lr"] for line in whole.log]


def test_a_resume_before_the_first_state_starts_again(source, correlated_pairs, tmp_path):
    run = started_run(tmp_path / "r")
    resumed, display = towers(seed=3), Recorder()
    fit(resumed, PairwiseRanking(), correlated_pairs, CONFIG, run=run, resume=True, start=Start(source, last=1),
        display=display)
    undisturbed = towers(seed=3)
    fit(undisturbed, PairwiseRanking(), correlated_pairs, CONFIG, start=Start(source, last=1))
    assert same_weights(resumed, undisturbed) and len(display.notes) >= 2


@pytest.mark.parametrize("damage", [{"start": 5}, {"start": {"frozen": ["nothing"]}}, {"start": {"slow": ["nothing"]}},
                                    {"start": {"unknown": 1}}, {"start": {"frozen": 3}}])
def test_a_start_in_the_state_that_makes_no_sense_is_damage(source, correlated_pairs, tmp_path, damage):
    run = started_run(tmp_path / "r")
    fit(towers(), PairwiseRanking(), correlated_pairs, CONFIG, run=run, display=StopAfter(9), start=Start(source, 1))
    run.save_resume(run.load_resume() | damage)
    with pytest.raises(CheckpointError, match=r"resume\.pt is damaged .*--overwrite starts again"):
        fit(towers(), PairwiseRanking(), correlated_pairs, CONFIG, run=run, resume=True)


def test_all_frozen_is_said_with_what_to_do(source, correlated_pairs):
    with pytest.raises(ExperimentError, match=r"no parameters to train: all \d+ are frozen \(START with a larger last"):
        fit(towers(), PairwiseRanking(), correlated_pairs, CONFIG, start=Start(source, last=0))


def test_config_json_says_where_the_weights_are_from(source, correlated_pairs, tmp_path):
    run, display = started_run(tmp_path / "r"), Recorder()
    fit(towers(seed=3), PairwiseRanking(), correlated_pairs, CONFIG, run=run, start=Start(source, last=1, rate=0.5),
        display=display)
    about = run.config()["start"]
    assert (about["run"], about["last"], about["rate"], about["into"], about["new"]) == (source, 1, 0.5, "", [])
    assert len(about["sha256"]) == 64 and len(about["loaded"]) == 33
    assert display.notes[0] == (f"started from {source}: 33 tensors loaded, 12 of them frozen, the rest at 0.5 of the "
                                "learning rate, nothing new")


@pytest.mark.slow
def test_compiled_towers_with_frozen_layers(source, correlated_pairs):
    config = dataclasses.replace(CONFIG, compile=True, max_epochs=3)
    model = towers(seed=3)
    fit(model, PairwiseRanking(), correlated_pairs, config, start=Start(source, last=1))
    theirs = weights_of(source)
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items()
               if name.split(".")[1] in ("0", "1", "4", "5"))
    assert not torch.equal(model.tower1[8].weight, theirs["tower1.8.weight"])
    assert all("train" not in vars(module) and "forward" not in vars(module) for module in model.modules())


def precise(seed: int, width2: int = 16) -> TwoTower:
    """In float64 and without dropout, so that a difference is a mistake."""
    torch.manual_seed(seed)
    return TwoTower(Widened(mlp((12,), [16, 8], 5)), Widened(mlp((9,), [width2, 8], 5)), LearnedProjection(5).double())


def trained_together(folder: str) -> None:
    """Each way of starting, kept by the first process."""
    with distributed.joined():
        found = {}
        ways: dict[str, tuple[dict[str, Any], int]] = {"last": ({"last": 1}, 16), "rate": ({"rate": 0.1}, 16),
                                                       "a fresh tower": ({"last": 0}, 7)}
        for name, (start, width2) in ways.items():
            model = precise(3, width2)
            fit(model, PairwiseRanking(), pairs(), dataclasses.replace(CONFIG, max_epochs=3), seed=3,
                start=Start(f"{folder}/source", **start))
            found[name] = dict(model.state_dict())
        if distributed.rank() == 0:
            torch.save(found, f"{folder}/{distributed.size()}.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes")
def test_several_processes_start_as_one_does(tmp_path):
    fit(precise(1), PairwiseRanking(), pairs(), CONFIG, run=started_run(tmp_path / "source"), seed=5)
    for count in (1, 2):
        together(trained_together, count, str(tmp_path))
    one, two = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2))
    assert_same(one, two)
    theirs = precise(1)
    RunFolder(tmp_path / "source").load_weights(theirs)
    before = theirs.state_dict()
    for name in before:
        if name.startswith("tower1"):
            assert torch.equal(two["a fresh tower"][name], before[name]), name
    assert not torch.equal(two["rate"]["tower1.tower.0.weight"], before["tower1.tower.0.weight"])


# -- commands ----------------------------------------------------------------------------------------------------------

EXPERIMENT = '''"""A toy."""
from xmodal import {names}
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=6, batch_size=100, max_epochs=2)
{start}

def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [20], CONFIG.dim_latent), mlp(view2_shape, [20], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return InfoNCE()
'''


def experiment(path: Path, start: str = "") -> str:
    names = "InfoNCE, LearnedProjection, Start, TrainConfig, TwoTower"
    path.write_text(EXPERIMENT.format(names=names, start=start))
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    assert run_train.main(["--model", experiment(tmp_path / "old.py"), "--data", "digits"]) == 0
    return tmp_path


def line_of_error(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_commands_start_from_a_run_and_then_do_without_it(folder, capsys):
    new = experiment(folder / "new.py", 'START = Start("runs/old", last=1)')
    assert run_train.main(["--model", new, "--data", "digits"]) == 0
    assert "started from runs/old: 21 tensors loaded, 6 of them frozen, nothing new" in capsys.readouterr().out
    about = json.loads(Path("runs/new/config.json").read_text())["start"]
    assert about["experiment"] == "old" and about["fingerprint"] == json.loads(
        Path("runs/old/config.json").read_text())["data"]["fingerprint"]
    shutil.rmtree("runs/old")
    more = ["--model", new, "--data", "digits", "--resume", "--set", "max_epochs=3"]
    assert run_train.main(more) == 0
    assert json.loads(Path("runs/new/config.json").read_text())["start"] == about
    assert run_eval.main(["--model", new, "--data", "digits"]) == 0
    assert run_search.main(["--run", "runs/new", "--query", "row:0"]) == 0
    capsys.readouterr()
    assert run_train.main(["--model", new, "--data", "digits", "--tag", "again"]) == 2
    assert "there is no run in runs/old" in line_of_error(capsys) and not Path("runs/new-again").exists()


def test_a_run_cannot_start_from_itself(folder, capsys):
    own = experiment(folder / "old.py", 'START = Start("runs/old")')
    before = {path.name: path.read_bytes() for path in Path("runs/old").iterdir()}
    assert run_train.main(["--model", own, "--data", "digits", "--overwrite"]) == 2
    assert "START names runs/old, where this training would write: --tag NAME" in line_of_error(capsys)
    assert {path.name: path.read_bytes() for path in Path("runs/old").iterdir()} == before
    assert run_train.main(["--model", own, "--data", "digits", "--tag", "more"]) == 0


def test_a_resumed_command_equals_one_at_once(folder):
    new = experiment(folder / "new.py", 'START = Start("runs/old", last=1, rate=0.3)')
    assert run_train.main(["--model", new, "--data", "digits", "--tag", "parts"]) == 0
    assert run_train.main(["--model", new, "--data", "digits", "--tag", "once", "--set", "max_epochs=4"]) == 0
    shutil.rmtree("runs/old")
    assert run_train.main(["--model", new, "--data", "digits", "--tag", "parts", "--resume", "--set",
                           "max_epochs=4"]) == 0
    parts, once = (Path(f"runs/new-{tag}/weights.safetensors").read_bytes() for tag in ("parts", "once"))
    assert parts == once


def test_trials_of_a_search_start_from_the_run(folder, capsys):
    pytest.importorskip("optuna")
    new = experiment(folder / "new.py", 'START = Start("runs/old", last=1)\nSEARCH = {"learning_rate": [1e-9, 2e-9]}')
    assert run_tune.main(["--model", new, "--data", "digits", "--trials", "2", "--json"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    old = [json.loads(line)["mrr_va"] for line in Path("runs/old/log.jsonl").read_text().splitlines()]
    assert tuned["value"] == pytest.approx(max(old), abs=0.02)  # as good as the source from the first epoch on
    shutil.rmtree("runs/old")
    assert run_tune.main(["--model", new, "--data", "digits", "--trials", "2", "--tag", "b"]) == 2
    assert "there is no run in runs/old" in capsys.readouterr().err


@pytest.mark.parametrize(("start", "expected"), [
    ('START = Start("runs/old", last=-1, rate=0)', ["2 mistakes", "Start: last must be", "Start: rate must be"]),
    ('START = Start(3, 1.5)', ["2 mistakes", "Start: run must be", "Start: last must be"]),
    ('START = Start("runs/old", lst=1)', ["unknown field 'lst' of Start: did you mean last?"]),
    ('START = Start(last=1)', ["TypeError", "run"]),
    ('START = "runs/old"', ["START must be a Start, such as Start(", "got 'runs/old'"]),
    ('START = Start("runs/" + "old", rate=1 + 1)', ["Start: rate must be"]),
])
def test_mistakes_in_start_are_those_of_the_file(tmp_path, start, expected):
    with pytest.raises(ExperimentError) as caught:
        load_experiment(experiment(tmp_path / "new.py", start))
    assert all(part in str(caught.value) for part in expected), str(caught.value)


def test_a_file_with_a_start_loads_and_builds_without_the_run(tmp_path):
    loaded = load_experiment(experiment(tmp_path / "new.py", 'START = Start("runs/nowhere", rate=0.1)'))
    assert loaded.start == Start("runs/nowhere", rate=0.1)
    assert isinstance(loaded.build_model((5,), (4,)), TwoTower)
    assert load_experiment(experiment(tmp_path / "old.py")).start is None


def test_a_closed_form_starts_from_nothing(tmp_path):
    text = ('from xmodal import LinearCCA, Start, TrainConfig\nCONFIG = TrainConfig()\nSTART = Start("r")\n\n'
            "def build_model(a, b):\n    return LinearCCA(2)\n\nbuild_objective = None\n")
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(ExperimentError, match="START has no effect"):
        load_experiment(tmp_path / "c.py")


def test_a_closed_form_source_does_not_agree(correlated_pairs, tmp_path):
    run = started_run(tmp_path / "cca")
    fit(LinearCCA(3), None, correlated_pairs, CONFIG, run=run)
    with pytest.raises(ExperimentError, match=r"no weights in .* agree in name and shape with the model: it has U \("):
        start_from(Start(str(run.path)), towers())


def test_trace_norm_with_a_fresh_head_on_frozen_towers(source, correlated_pairs):
    """Another head: the towers' last layers train under it, and its statistics are of the new pairs."""
    model: Any = towers(seed=3, head=CCALayer(5, alpha="auto"))
    result = fit(model, TraceNorm(), correlated_pairs, CONFIG, start=Start(source, last=1))
    assert int(model.head.count) == 200 and result.best_value > 0
