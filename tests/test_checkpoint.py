"""The run folder: whole files or none, strict weights, and no unpickling."""
from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from xmodal import checkpoint
from xmodal.checkpoint import RunFolder, environment, load_strictly
from xmodal.errors import CheckpointError

ABOUT = {"config": {"l2": 0.0}, "seed": 3, "data": {"fingerprint": "abc"}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "x")
    folder.create(ABOUT, "CONFIG = None\n")
    return folder


def leftovers(run: RunFolder) -> list[Path]:
    return list(run.path.glob(".*"))


def test_a_new_run_says_what_it_was_started_with(run):
    assert run.config() == ABOUT
    assert run.file(run.EXPERIMENT).read_text() == "CONFIG = None\n"


def test_a_run_is_not_overwritten_by_accident(run):
    with pytest.raises(CheckpointError, match=r"--resume continues it, --tag NAME .* --overwrite"):
        run.create(ABOUT, "")
    run.save_weights(nn.Linear(1, 1).state_dict())
    run.write_json("metrics_n5.json", {})
    run.create({**ABOUT, "seed": 4}, "", overwrite=True)
    assert run.config()["seed"] == 4
    assert not run.file(run.WEIGHTS).exists() and not run.file("metrics_n5.json").exists()


def test_overwriting_leaves_files_of_the_users_own_alone(run):
    run.file("notes.txt").write_text("mine")
    run.create(ABOUT, "", overwrite=True)
    assert run.file("notes.txt").read_text() == "mine"


def test_weights_round_trip_with_their_header(run):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    run.save_weights(model.state_dict(), epoch=7)
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    assert run.load_weights(other) == {"epoch": "7"}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_tied_weights_survive(run):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    run.save_weights(model.state_dict())
    run.load_weights(model)
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize(("other", "expected"), [
    (nn.Linear(3, 2), r"weight is \(2, 4\) there and \(2, 3\) in the model"),
    (nn.Linear(4, 2, bias=False), r"1 unexpected \(first: bias\)"),
    (nn.Sequential(nn.Linear(4, 2)), r"2 missing \(first: 0.bias\); 2 unexpected"),
])
def test_weights_of_another_model_are_refused(run, other, expected):
    run.save_weights(nn.Linear(4, 2).state_dict())
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=expected):
        run.load_weights(other)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_load_strictly_reports_all_kinds_at_once():
    with pytest.raises(CheckpointError) as caught:
        load_strictly(nn.Linear(3, 2), {"weight": torch.zeros(1, 1), "extra": torch.zeros(1)}, "file")
    assert all(word in str(caught.value) for word in ("missing (first: bias)", "unexpected (first: extra)", "(1, 1)"))


@pytest.mark.parametrize("cut", [0, 5, 8, 60, -1])
def test_truncated_weights_are_one_clear_error(run, cut):
    run.save_weights(nn.Linear(4, 2).state_dict())
    whole = run.file(run.WEIGHTS).read_bytes()
    run.file(run.WEIGHTS).write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match=r"is damaged|does not fit"):
        run.load_weights(nn.Linear(4, 2))


def test_missing_weights_say_what_to_do(run):
    with pytest.raises(CheckpointError, match="no epoch of it was finished"):
        run.load_weights(nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"run refine_cca\.py first"):
        run.load_weights(nn.Linear(1, 1), checkpoint.REFINED)


def test_resume_state_round_trip_and_its_absence(run):
    assert run.load_resume() is None
    state = {"progress": {"epoch": 1, "log": [{"a": 0.5}]}, "model": {"w": torch.ones(2)}}
    run.save_resume(state)
    loaded = run.load_resume()
    assert loaded["progress"] == state["progress"] and torch.equal(loaded["model"]["w"], torch.ones(2))


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil-was-here"),)


def test_nothing_is_ever_unpickled(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (lambda path: torch.save({"x": Evil()}, path),
                  lambda path: path.write_bytes(pickle.dumps(Evil(), protocol=2))):
        write(run.file(run.RESUME))
        with pytest.raises(CheckpointError, match="is damaged"):
            run.load_resume()
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00", "{}", '{"config": 3, "seed": 1, "data": {}}', "[" * 10_000,
                                     '{"config": {}, "seed": 1, "data": {"fingerprint": 5}}',
                                     '{"config": {}, "seed": -1, "data": {"fingerprint": "5"}}'])
def test_damaged_configuration_is_one_clear_error(run, content):
    run.file(run.CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=r"is damaged|lacks"):
        run.config()


def test_a_run_that_is_not_there_offers_close_names(run):
    with pytest.raises(CheckpointError, match=r"did you mean x\?"):
        RunFolder(run.path.parent / "xx").config()
    with pytest.raises(CheckpointError, match=r"train it first with run_train\.py"):
        RunFolder(run.path / "nothing").config()


@pytest.mark.parametrize("write", [
    lambda run: run.write_json("metrics.json", {"a": 2}),
    lambda run: run.write_log([{"epoch": 2}]),
    lambda run: run.save_weights(nn.Linear(2, 2).state_dict()),
    lambda run: run.save_resume({"progress": 2}),
], ids=["json", "log", "weights", "resume"])
def test_a_full_disk_leaves_the_old_file_whole(run, write, monkeypatch):
    write(run)
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(run)
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before


def test_environment_names_versions_and_commit():
    about = environment()
    assert about["versions"]["torch"] == torch.__version__
    assert {"python", "xmodal", "numpy"} <= about["versions"].keys()
    json.dumps(about)


def test_what_is_no_number_is_null_in_json(run):
    run.write_json("metrics.json", {"map": float("nan"), "list": [1.0, float("inf")], "n": 3})
    run.write_log([{"loss_va": float("nan")}])
    assert json.loads(run.file("metrics.json").read_text()) == {"map": None, "list": [1.0, None], "n": 3}
    assert json.loads(run.file(run.LOG).read_text()) == {"loss_va": None}


def test_outside_of_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git_commit"] is None
