"""The model card of a run: valid metadata whatever names hold, true statements, examples that run as they stand."""
from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.checkpoint import RunFolder
from xmodal.cli import console, run_eval, run_train
from xmodal.cli.card import training_commands
from xmodal.data import load_data, write_h5
from xmodal.report.card import model_card

MODELS = Path(__file__).parent.parent / "models"
MODEL = str(MODELS / "digits_ccal_cont.py")
TRAIN = ["--model", MODEL, "--data", "digits"]
ABOUT = {"experiment": "x", "tag": None, "seed": 3, "device": "cpu", "config": {"dim_latent": 4},
         "data": {"spec": "toy", "name": "toy", "title": "toy", "fingerprint": "f" * 64, "licence": "CC BY-SA 3.0",
                  "view1_shape": [4], "view2_shape": [2, 3], "pairs": {"train": 9, "test": 5, "test_hard": 6}}}
VALUES = {"r1": 25.0, "r5": 50.0, "r10": 75.0, "r25": 100.0, "median_rank": 1e-5, "mrr": 0.5, "n_queries": 400,
          "n_gallery": 400}
METRICS = {"V1_to_V2": VALUES, "V2_to_V1": {**VALUES, "mrr": None}, "split": "test", "n_pairs": 400, "dim": 4,
           "sum_correlation": 3.5, "canonical_correlation": 3.25}
NASTY = ["a: b", "- x", "#", "%", "'\"`{[*&!|>", "---\n...", "yes", "1e-05", "\ttab", "back\\slash", "\x85\u2028\ufeff",
         "\ud800", "😀 é", "```\n# x", "", "=", "a" * 500, "\0"]


def front(text: str) -> dict[str, Any]:
    """The metadata, read by a strict reader."""
    yaml = pytest.importorskip("yaml")
    head = text.split("---\n")[1]
    assert text.startswith("---\n") and f"---\n{head}---\n\n# " in text
    content = yaml.safe_load(head)
    assert isinstance(content, dict)
    return content


def card(name: str = "x", about: dict[str, Any] = ABOUT, metrics: dict[str, Any] | None = METRICS, **options: Any
         ) -> str:
    given = {"docstring": "What it is.", "folder": "runs/x", "commands": ["xmodal train"], **options}
    model = {"class": "TwoTower", "head": "CCALayer", "parameters": 12345}
    log = [{"epoch": 1, "mrr_va": 0.25, "seconds": 2.0, "best": True}, {"epoch": 2, "seconds": 3.0, "best": False}]
    return model_card(name, about, model, log, metrics, **given)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    assert run_train.main([*TRAIN, "--seed", "5", "--tag", "it's", "--set", "max_epochs=2", "--set", "l2=0.5"]) == 0
    capsys.readouterr()
    return RunFolder("runs/digits_ccal_cont-it's")


# -- the text ----------------------------------------------------------------------------------------------------------


def test_it_says_what_the_run_is():
    text = card()
    for said in ("> What it is.", "`TwoTower` with head `CCALayer`, 12,345 parameters", "items of shape 2 × 3",
                 "Licence of the data: CC BY-SA 3.0", "f" * 64, "9 train, 5 test, 6 test_hard", "`dim_latent=4`",
                 "2 in 5 s; the weights are those of epoch 1, validation MRR 0.2500",
                 "| V1_to_V2 (view 1 asks for view 2) | 25.00 | 50.00 | 75.00 | 100.00 | 0.00 | 0.500 |",
                 "Sum correlation 3.50, canonical correlation 3.25 of at most 4",
                 "standard error of up to 2.5 points", "further test pairs test_hard."):
        assert said in text, said
    assert "synthetic" not in text


def test_its_metadata_are_those_of_a_model_card():
    head = front(card())
    assert head["license"] == "cc-by-sa-3.0" and head["library_name"] == "xmodal" and head["datasets"] == ["toy"]
    forth, back = head["model-index"][0]["results"]
    assert {entry["type"]: entry["value"] for entry in forth["metrics"]} == {
        "recall_at_1": 25.0, "recall_at_5": 50.0, "recall_at_10": 75.0, "recall_at_25": 100.0, "mrr": 0.5,
        "median_rank": 1e-5}
    assert "mrr" not in {entry["type"] for entry in back["metrics"]} and forth["dataset"]["revision"] == "f" * 64
    unknown = {**ABOUT, "data": {**ABOUT["data"], "licence": "ask them"}}
    assert "license" not in front(card(about=unknown)) and "model-index" not in front(card(metrics=None))


def test_the_hub_reads_it():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card()).data
    assert data.library_name == "xmodal" and data.model_name == "x"
    assert {(result.metric_type, result.metric_value) for result in data.eval_results} >= {("mrr", 0.5)}


@pytest.mark.parametrize("text", NASTY)
def test_it_is_valid_whatever_names_hold(text):
    data = {**ABOUT["data"], **dict.fromkeys(("name", "title", "source", "licence", "version", "spec"), text)}
    about = {**ABOUT, "experiment": text, "tag": text, "device": text, "git_commit": text,
             "data": {**data, "views": [text, text]}, "versions": {"torch": text}}
    written = card(text, about, docstring=text, folder=text, commands=[text])
    head = front(written)
    expected = text.replace("\ud800", "?")
    assert head["datasets"] == [expected] and head["model-index"][0]["name"] == expected
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == expected
    written.encode("utf-8")
    body = written.split("---\n\n# ", 1)[1]
    assert [line for line in body.splitlines() if line.startswith("## ")] == [
        "## The model", "## How it was trained", "## Results", "## How to use it", "## How to train it again",
        "## Limits"]


# -- in the run folder -------------------------------------------------------------------------------------------------


def test_training_writes_it_and_evaluation_adds_results(run, capsys):
    text = run.file("card.md").read_text()
    assert "Not evaluated on test pairs yet" in text and "model-index" not in text and "Seed: 5" in text
    evaluate = [*TRAIN, "--tag", "it's"]
    assert run_eval.main([*evaluate, "--n_test", "50"]) == 0 and run.file("card.md").read_text() == text
    assert run_eval.main(evaluate) == 0
    assert run.file("card.md").read_text().count("| by chance | 0.25 | 1.25 | 2.50 | 6.25 | 200.50 | 0.016 |") == 2
    text = run.file("card.md").read_text()
    metrics = json.loads(run.file("metrics.json").read_text())
    results = front(text)["model-index"][0]["results"]
    for result, direction in zip(results, ("V1_to_V2", "V2_to_V1"), strict=True):
        values = {entry["type"]: entry["value"] for entry in result["metrics"]}
        assert values["mrr"] == pytest.approx(metrics[direction]["mrr"], abs=1e-6)
        assert direction in result["task"]["name"]
    assert f"canonical correlation {metrics['canonical_correlation']:.2f} of at most 24" in text
    assert run_train.main([*evaluate, "--resume"]) == 0     # finished: nothing changes
    assert run.file("card.md").read_text() == text


def test_further_training_removes_it_until_it_ends(run, monkeypatch, capsys):
    assert run_eval.main([*TRAIN, "--tag", "it's"]) == 0
    assert "## Results\n\nOn 400 test pairs" in run.file("card.md").read_text()
    assert run_train.main([*TRAIN, "--tag", "it's", "--resume", "--set", "max_epochs=3"]) == 0
    text = run.file("card.md").read_text()
    assert "Not evaluated" in text and "Epochs: 3 in" in text
    run.clear_results()
    assert not run.file("card.md").exists()
    assert run_train.main([*TRAIN, "--tag", "it's", "--overwrite", "--set", "max_epochs=1"]) == 0
    assert "Epochs: 1 in" in run.file("card.md").read_text()


def test_closed_forms_and_synthetic_data_have_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_up = dataclasses.replace(load_data("digits"), synthetic=True, fingerprint="").with_fingerprint()
    write_h5(made_up, tmp_path / "made_up.h5")
    assert run_train.main(["--model", str(MODELS / "digits_cca.py"), "--data", "made_up.h5"]) == 0
    text = Path("runs/digits_cca/card.md").read_text()
    assert "`LinearCCA`, fitted in closed form" in text and "**The data are synthetic:**" in text
    assert "The data are made up." in text and "synthetic-data" in front(text)["tags"]


def test_the_example_runs_as_it_stands(run, capsys):
    code, = re.findall(r"```python\n(.*?)```", run.file("card.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    exec(code, {})
    assert re.fullmatch(r"tensor\(\[( *\d+, ){4} *\d+\]\)\n", capsys.readouterr().out)


def test_the_command_trains_the_same_again(run, capsys):
    lines, = re.findall(r"```sh\n(.*?)```", run.file("card.md").read_text(), re.DOTALL)
    copy, train = (shlex.split(line) for line in lines.splitlines())
    assert copy == ["cp", str(run.file("experiment.py")), "digits_ccal_cont.py"]
    assert train == ["xmodal", "train", "--model", "digits_ccal_cont.py", "--data", "digits", "--seed", "5",
                     "--tag", "it's", "--set", "max_epochs=2", "--set", "l2=0.5"]
    Path(copy[2]).write_bytes(Path(copy[1]).read_bytes())
    assert console.main([*train[1:], "--runs", "again"]) == 0
    again = Path("again/digits_ccal_cont-it's/weights.safetensors")
    assert again.read_bytes() == run.file("weights.safetensors").read_bytes()


def test_views_and_streaming_are_part_of_the_command(run):
    about = run.config()
    about["data"] |= {"views": ["en", "de"], "streamed": True, "spec": "my data.h5"}
    command = training_commands(run, {**about, "tag": None})[1]
    assert "--data 'my data.h5'" in command and "--views en de" in command and command.endswith("--stream")
    assert "--tag" not in command


def test_damaged_metrics_are_told(run, capsys):
    run.file("metrics.json").write_text('{"V1_to_V2": {}}')
    assert run_train.main([*TRAIN, "--tag", "it's", "--resume"]) == 2
    assert "metrics.json is damaged: remove it" in capsys.readouterr().err


def test_what_chose_the_epoch_is_said_where_no_test_result_is_known():
    assert "validation MRR above chose the epoch and is therefore optimistic" in card(metrics=None)
    by_loss = card(about={**ABOUT, "config": {"dim_latent": 4, "judge": "loss"}}, metrics=None)
    assert "the validation loss chose the epoch." in by_loss and "optimistic" not in by_loss
