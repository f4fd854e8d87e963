"""run_tune.py as a user types it: the best of a few trials, again and again, and never a test pair."""
from __future__ import annotations

import csv
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

import numpy as np

from xmodal.cli import console, run_train, run_tune
from xmodal.cli.trials import TrialTable
from xmodal.data import PairSplit, load_data
from xmodal.ranges import Range
from xmodal.tuning import Trial, TuneFolder
from xmodal.tuning import loop as tuning_loop

ROOT = Path(__file__).parent.parent
MODEL = str(ROOT / "models" / "digits_ccal_cont.py")
CLOSED = str(ROOT / "models" / "digits_cca.py")
TUNE = ["--model", MODEL, "--data", "digits", "--set", "max_epochs=2"]
FOLDER = Path("runs/digits_ccal_cont-tune")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    return tmp_path


def failure(capsys) -> str:
    """The one line of an error."""
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def trials(folder: Path = FOLDER) -> list[dict]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def without_time(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in ("seconds", "attempts")} for line in lines]


def test_a_search_says_what_was_best_and_how_to_train_it(capsys):
    assert run_tune.main([*TUNE, "--trials", "3"]) == 0
    out = capsys.readouterr().out
    assert {path.name for path in FOLDER.iterdir()} == {"search.json", "experiment.py", "trials.jsonl", "trials.csv",
                                                        "best.json", ".lock"}
    best = json.loads((FOLDER / "best.json").read_text())
    assert best["value"] == max(trial["value"] for trial in trials()) == trials()[best["number"] - 1]["value"]
    assert best["trials"] == {"total": 3, "done": 3, "pruned": 0, "failed": 0} and best["importance"] is None
    assert best["own_value"] == trials()[0]["value"] and best["fixed"] == {"max_epochs": 2}
    assert all(len(line) <= 80 for line in out.splitlines() if str(ROOT) not in line)
    assert out.count("*") >= 1 and f"validation MRR {best['value']:.4f}" in out and "Test : left alone" in out
    with (FOLDER / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [trial["value"] for trial in trials()]
    assert [row["seed"] for row in rows] == ["23", "24", "25"] and "learning_rate" in rows[0]


def test_the_command_at_the_end_trains_the_best_trial(capsys):
    """Oracle: run_train.py with the printed options comes to the same validation MRR, bit for bit."""
    run_tune.main([*TUNE, "--trials", "3", "--tag", "a b"])
    printed = capsys.readouterr().out.partition("train with them:\n")[2].partition("kept in")[0]
    command = shlex.split(printed.replace("\\\n", ""))
    best = json.loads(Path("runs/digits_ccal_cont-a b-tune/best.json").read_text())
    assert command[:2] == ["python", "run_train.py"]
    assert printed.replace("\\\n", " ").split() == " ".join(best["command"]).split()
    assert run_train.main(command[2:]) == 0
    log = Path("runs/digits_ccal_cont-a b-tuned/log.jsonl").read_text().splitlines()
    assert max(json.loads(line)["mrr_va"] for line in log) == best["value"]


def test_the_command_at_the_end_is_the_users_own(capsys):
    assert console.main(["tune", *TUNE, "--trials", "1"]) == 0
    assert "  xmodal train --model" in capsys.readouterr().out.replace("\\\n   ", "")
    assert json.loads((FOLDER / "best.json").read_text())["command"][:2] == ["xmodal", "train"]


def test_the_first_trial_is_the_file_itself(capsys):
    run_tune.main([*TUNE, "--trials", "1"])
    run_train.main(["--model", MODEL, "--data", "digits", "--set", "max_epochs=2"])
    log = Path("runs/digits_ccal_cont/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["mrr_va"] for line in log] == trials()[0]["curve"]


def test_the_same_command_goes_on(capsys):
    assert run_tune.main([*TUNE, "--trials", "2"]) == 0
    assert run_tune.main([*TUNE, "--trials", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 trials (2 of them before)" in out and "best of 3 trials" in out
    in_parts = without_time(trials())
    assert run_tune.main([*TUNE, "--trials", "3"]) == 0
    assert "(3 of them before)" in capsys.readouterr().out and without_time(trials()) == in_parts
    assert run_tune.main([*TUNE, "--trials", "3", "--overwrite"]) == 0
    assert without_time(trials()) == in_parts
    assert run_tune.main([*TUNE, "--trials", "2", "--overwrite", "--seed", "4"]) == 0
    assert [trial["seed"] for trial in trials()] == [4, 5]


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--seed", "4"], "holds a search with another --seed (23, now 4): --tag NAME starts another one"),
    (["--seeds", "2"], "holds a search with another --seeds (1, now 2)"),
    (["--set", "l2=0.1"], "holds a search in other ranges (SEARCH, --search)"),
    (["--set", "rT=0.1"], "holds a search with other values of --set"),
    (["--search", "gamma=0.1:0.9"], "holds a search in other ranges"),
    (["--prune_after", "3"], "holds a search with another --prune_after (10, now 3)"),
    (["--data", "other.npz"], "holds a search on other data"),
    (["--model", "digits_ccal_cont.py"], "holds a search for another version of the model file"),
])
def test_another_search_is_refused(arguments, expected, capsys):
    run_tune.main([*TUNE, "--trials", "1"])
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    Path("digits_ccal_cont.py").write_text(Path(MODEL).read_text().replace("[256, 128]", "[64]"))
    np.savez("other.npz", view1=np.random.rand(300, 32), view2=np.random.rand(300, 32))
    capsys.readouterr()
    assert run_tune.main([*TUNE, "--trials", "2", *arguments]) == 2
    assert expected in failure(capsys)
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == before


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--model", str(ROOT / "models" / "digits_learned_cont.py")], "has nothing to search: give it SEARCH = {"),
    (["--set", "judge=loss"], "compares trials by validation MRR, and"),
    (["--search", "gamma"], "--search needs FIELD=LOW:HIGH"),
    (["--search", "gama=0.1:1"], "unknown field 'gama': did you mean gamma"),
    (["--search", "gamma=1:0.1", "r1=0:1:log"], "2 mistakes: SEARCH: gamma must range"),
    (["--search", "gamma=0.1:1", "--search", "gamma=0.2:1"], "--search has gamma more than once"),
    (["--search", "gamma=0.1:1", "--set", "gamma=1"], "gamma is in both --set and --search: leave one out"),
    (["--set", "max_epochs=3"], "--set has max_epochs more than once"),
    (["--data", "digit"], "did you mean digits"),
    (["--device", "gpu"], "--device gpu can't be used here"),
    (["--tag", "../x"], "--tag becomes part of a folder's name"),
])
def test_wrong_input_is_one_clear_line(arguments, expected, capsys):
    assert run_tune.main([*TUNE, "--trials", "1", *arguments]) == 2
    assert expected in failure(capsys)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("arguments", [["--trials", "0"], ["--trials", "x"], ["--trials", "1e3"], ["--seed", "-1"],
                                       ["--prune_after", "-1"], ["--trial_s", "3"]])
def test_a_wrong_option_is_one_line_too(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run_tune.main([*TUNE, *arguments])
    assert caught.value.code == 2
    failure(capsys)


@pytest.mark.parametrize("damage", [{"seed": -1}, {"seeds": 0}, {"seeds": "2"}, {"prune_after": None}])
def test_a_damaged_description_is_one_line(damage, capsys):
    run_tune.main([*TUNE, "--trials", "1"])
    about = json.loads((FOLDER / "search.json").read_text())
    (FOLDER / "search.json").write_text(json.dumps(about | damage))
    capsys.readouterr()
    assert run_tune.main([*TUNE, "--trials", "2"]) == 2
    assert f"search.json lacks a {next(iter(damage))} that can be" in failure(capsys)


def test_a_run_is_in_nobodys_way(capsys):
    run_train.main([*TUNE, "--tag", "tune"])
    capsys.readouterr()
    assert run_tune.main([*TUNE, "--trials", "1"]) == 2
    assert "runs/digits_ccal_cont-tune holds a run, not a search" in failure(capsys)


def test_a_missing_package_is_one_line_before_data_are_read(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(run_tune, "load_data", lambda *a, **k: pytest.fail("data were read"))
    assert run_tune.main([*TUNE, "--trials", "1"]) == 2
    assert 'optuna is not installed: pip install "xmodal[tune]"' in failure(capsys)


def test_several_processes_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_tune.main([*TUNE, "--trials", "1"]) == 2
    assert "works in one process: start it without torchrun" in failure(capsys)


def test_the_mean_of_several_seeds_counts(capsys):
    assert run_tune.main([*TUNE, "--trials", "2", "--seeds", "2"]) == 0
    best, out = json.loads((FOLDER / "best.json").read_text()), capsys.readouterr().out
    assert best["value"] == pytest.approx(sum(best["values"]) / 2) and len(best["values"]) == 2
    assert "seed 23, 2 each" in out and f"validation MRR {best['value']:.4f}, the mean of 2 seeds" in out


def test_json_is_nothing_but_json(capsys):
    assert run_tune.main([*TUNE, "--trials", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((FOLDER / "best.json").read_text())
    assert "mrr_va" in said.err and "Tune : digits_ccal_cont, 2 trials" in said.err


def test_what_is_searched_on_the_command_line(capsys):
    assert run_tune.main([*TUNE, "--trials", "3", "--search", "batch_size=200,400", "alpha=auto,1.0",
                          "gamma=0.3:0.4"]) == 0
    tried = [trial["params"] for trial in trials()]
    assert all(params["batch_size"] in (200, 400) and params["alpha"] in ("auto", 1.0) for params in tried)
    assert all(0.3 <= params["gamma"] <= 0.4 for params in tried) and tried[0]["learning_rate"] == 2e-3


def test_models_in_closed_form_are_searched_too(capsys):
    assert run_tune.main(["--model", CLOSED, "--data", "digits", "--trials", "2", "--prune_after", "0", "--search",
                          "dim_latent=8:24", "r1=1e-4:1e-1:log"]) == 0
    found = trials(Path("runs/digits_cca-tune"))
    assert [(trial["state"], len(trial["curve"])) for trial in found] == [("done", 1)] * 2
    assert "best of 2 trials (2 done" in capsys.readouterr().out


def test_all_trials_failing_is_one_line(capsys, monkeypatch):
    def fit(*args, **kwargs):
        raise tuning_loop.NumericalError("the loss is nan")

    monkeypatch.setattr(tuning_loop, "fit", fit)
    assert run_tune.main([*TUNE, "--trials", "2"]) == 2
    said = capsys.readouterr()
    assert said.err == "error: none of 2 trials came to its end; the last one: the loss is nan\n"
    assert said.out.count(" f ") == 2 and "      the loss is nan\n" in said.out
    assert not (FOLDER / "best.json").exists()


# -- test pairs ------------------------------------------------------------------------------------------------------

class Untouchable(PairSplit):
    """A split whose items nobody may look at, once ``armed``."""

    armed = False

    def __getattribute__(self, name: str):
        if name in ("view1", "view2", "pairs", "labels", "ids", "caption1", "caption2") and Untouchable.armed:
            raise AssertionError(f"somebody looked at {name} of the test split")
        return super().__getattribute__(name)


def test_nobody_looks_at_a_test_pair(monkeypatch, capsys):
    data = load_data("digits")
    test = data.test
    guarded = dataclasses.replace(data, test=Untouchable("test", test.view1, test.view2, labels=test.labels))
    monkeypatch.setattr(run_tune, "load_data", lambda *args, **kwargs: guarded)
    seen = []

    def fit(model, objective, data, *args, **kwargs):
        seen.append(data)
        return run_train.fit(model, objective, data, *args, **kwargs)

    monkeypatch.setattr(tuning_loop, "fit", fit)
    monkeypatch.setattr(Untouchable, "armed", True)
    assert run_tune.main([*TUNE, "--trials", "2"]) == 0
    assert len(seen) == 2 and all(each.test is each.valid and not each.further for each in seen)
    with pytest.raises(AssertionError, match="somebody looked"):
        len(guarded.test)


def test_test_pairs_change_no_trial():
    """Poison: other test pairs, and huge ones, leave every number of every trial as it was."""
    Path("poisoned.py").write_text("""
import dataclasses
from xmodal.data import PairSplit, load_data

def load():
    data = load_data("digits")
    test = PairSplit("test", data.test.view1 * 1e30, data.test.view2 * -1e30, labels=data.test.labels)
    return dataclasses.replace(data, test=test, fingerprint="")
""")
    run_tune.main([*TUNE, "--trials", "3"])
    clean = without_time(trials())
    run_tune.main([*TUNE, "--trials", "3", "--data", "poisoned.py", "--tag", "poisoned"])
    assert without_time(trials(Path("runs/digits_ccal_cont-poisoned-tune"))) == clean


# -- ends of the process ---------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_kill_9_and_sigterm_cost_the_running_trial_at_most():
    """In processes of their own, in the middle of the third trial; the end is that of an undisturbed search."""
    arguments = ["--model", MODEL, "--data", "digits", "--set", "max_epochs=8", "--trials", "4"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, str(ROOT / "run_tune.py"), *arguments], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        ended = 2 if number == signal.SIGKILL else 3
        until = time.monotonic() + 60
        while time.monotonic() < until and not ((FOLDER / "trials.jsonl").is_file() and len(trials()) > ended):
            time.sleep(0.005)
        time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert err == ""
        assert [trial["state"] for trial in trials()][:ended] == ["done"] * ended
        if number == signal.SIGTERM:
            assert process.returncode == 143 and "stopped after 3 trials; the same command goes on" in out
            assert len(trials()) == 3
    assert run_tune.main(arguments) == 0
    assert run_tune.main([*arguments, "--tag", "undisturbed"]) == 0
    assert without_time(trials()) == without_time(trials(Path("runs/digits_ccal_cont-undisturbed-tune")))


# -- the table -------------------------------------------------------------------------------------------------------

def test_a_trial_is_one_line_where_there_is_room_and_never_wider_than_80():
    few = {"learning_rate": Range(1e-4, 1e-1, log=True), "dim_latent": [16, 32], "gamma": Range(0.1, 1.0)}
    params = {"learning_rate": 1.23e-4, "dim_latent": 16, "gamma": 0.123}
    table, trial = TrialTable(few), Trial(12, "pruned", params, 3, 0.5, (), 2, (0.4, 0.5))
    assert table.header().splitlines() == ["                      learning    dim",
                                           "trial mrr_va epochs       rate latent gamma"]
    assert table.line(trial, is_best=False) == "   12 0.5000      2 p 0.000123     16 0.123"
    fields = ["r1", "r2", "rT", "l2", "learning_rate", "lr_multiplier", "weight_tno"]
    many = {name: Range(1e-4, 1e-1, log=True) for name in fields}
    table = TrialTable(many)
    failed = Trial(1, "failed", dict.fromkeys(fields, 1.23e-4), 3, reason="training stopped " * 10)
    lines = table.line(failed, is_best=False).splitlines()
    assert all(len(line) <= 80 for line in lines) and lines[0].startswith("    1             0 f r1=0.000123 r2=")
    assert lines[-1].startswith("      training stopped") and lines[-1].endswith("...")
    assert TuneFolder.BEST == "best.json"
