"""run_compare as a user types it, in this process; for every mistake one line and code 2."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from xmodal.cli import run_compare, run_eval, run_train
from xmodal.comparison import compare_runs
from xmodal.comparison.rows import name_of, open_runs, rows_of
from xmodal.errors import DataError

MODELS = Path(__file__).parent.parent / "models"


def train(model: str, *options: str, data: str = "digits") -> None:
    assert run_train.main(["--model", str(MODELS / f"digits_{model}.py"), "--data", data, *options]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two seeds of an experiment, one run each of two others."""
    folder = tmp_path_factory.mktemp("compare")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for seed in "12":
            train("ccal_cont", "--seed", seed, "--tag", f"s{seed}", "--set", "max_epochs=2")
        train("ccal_cont", "--tag", "wide", "--set", "max_epochs=1", "--set", "dim_latent=8")
        train("cca")
        assert run_eval.main(["--model", str(MODELS / "digits_ccal_cont.py"), "--data", "digits", "--tag", "s1"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def runs(trained, monkeypatch, capsys) -> list[str]:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    capsys.readouterr()
    return sorted(str(path) for path in Path("runs").iterdir())


def failure(capsys) -> str:
    """The one line of an error."""
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and not printed.out, printed
    return printed.err


def test_runs_of_one_experiment_make_a_row(runs, capsys):
    assert run_compare.main([*runs, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in printed["rows"]}
    both = rows["digits_ccal_cont (dim_latent=24, max_epochs=2)"]
    assert rows.keys() - {both["name"]} == {"digits_cca", "digits_ccal_cont (dim_latent=8, max_epochs=1)"}
    assert both["seeds"] == [1, 2] and both["runs"] == ["runs/digits_ccal_cont-s1", "runs/digits_ccal_cont-s2"]
    values = both["V1_to_V2"]["mrr"]["values"]
    assert both["V1_to_V2"]["mrr"]["mean"] == pytest.approx(np.mean(values))
    assert both["V1_to_V2"]["mrr"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert rows["digits_cca"]["V2_to_V1"]["mrr"]["std"] is None and rows["digits_cca"]["epochs"]["mean"] == 1
    low, high = both["interval"]["V2_to_V1"]
    assert low < both["V2_to_V1"]["mrr"]["mean"] < high
    assert len(printed["comparisons"]) == 6 and all(0 < test["p"] <= test["p_holm"] for test in printed["comparisons"])


def test_a_run_is_evaluated_as_run_eval_does(runs, capsys):
    assert run_compare.main([runs[1], "--format", "json"]) == 0
    row, = json.loads(capsys.readouterr().out)["rows"]
    metrics = json.loads((Path(runs[1]) / "metrics.json").read_text())
    for direction in ("V1_to_V2", "V2_to_V1"):
        for key in ("r1", "r5", "r10", "r25", "median_rank", "mrr"):
            assert row[direction][key]["mean"] == pytest.approx(metrics[direction][key])
    for key in ("sum_correlation", "canonical_correlation", "dim"):
        assert (row[key] if key == "dim" else row[key]["mean"]) == pytest.approx(metrics[key])
    log = [json.loads(line) for line in (Path(runs[1]) / "log.jsonl").read_text().splitlines()]
    assert row["valid_mrr"]["mean"] == max(line["mrr_va"] for line in log) and row["epochs"]["mean"] == 2
    assert row["seconds"]["mean"] == pytest.approx(sum(line["seconds"] for line in log))


def test_the_table_is_printed_and_written_in_every_format(runs, capsys, tmp_path):
    for suffix in (".txt", ".md", ".tex", ".csv", ".json"):
        assert run_compare.main([*runs, "--out", str(tmp_path / f"table{suffix}")]) == 0
    out = capsys.readouterr().out
    assert "3 experiments, 4 runs on digits, 400 test pairs" in out and f"wrote {tmp_path / 'table.csv'}" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("wrote")) <= 80
    assert "One run only:" in out and "seeds were not resampled" in " ".join(out.split())
    assert (tmp_path / "table.txt").read_text().splitlines()[0] in out
    assert (tmp_path / "table.md").read_text().count("|---|") == 3
    assert r"\begin{tabular}" in (tmp_path / "table.tex").read_text()
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 7
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 3


def test_a_baseline_a_direction_another_metric(runs, capsys):
    options = ["--baseline", "digits_cca", "--direction", "V2_to_V1", "--metric", "r10", "--n_test", "100"]
    assert run_compare.main([*runs, *options, "--format", "json", "--level", "0.9", "--seed", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(test["direction"], test["other"]) for test in found["comparisons"]} == {("V2_to_V1", "digits_cca")}
    assert len(found["comparisons"]) == 2 and found["data"]["n_pairs"] == 100 and found["reference"] == {
        "V2_to_V1": "digits_cca"}
    assert run_compare.main([*runs, "--baseline", "digits_ccal_cont-s2", "--split", "valid"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "200 valid pairs" in text and "differs from digits_ccal_cont (dim_latent=24, max_epochs=2)" in text
    assert run_compare.main([runs[0]]) == 0
    assert "comparison" not in capsys.readouterr().out


def test_a_program_compares_runs_as_the_command_does(runs, capsys):
    assert run_compare.main([*runs, "--metric", "r10", "--format", "json"]) == 0
    assert compare_runs(runs, metric="r10") == json.loads(capsys.readouterr().out)
    rows = rows_of(open_runs([Path(run) for run in runs]))
    assert [name_of(rows, run) for run in runs] == [row.name for row in rows for _ in row.runs]
    with pytest.raises(DataError, match="direction V1toV2: did you mean V1_to_V2"):
        compare_runs(runs, directions=["V1toV2"])


def test_a_comment_in_the_model_file_makes_no_other_experiment_but_code_does(runs, capsys, tmp_path):
    copies = []
    for name, change in (("a", "# a comment\n"), ("b", "LAYERS = 3\n")):
        copies.append(shutil.copytree(runs[2], tmp_path / name))
        about = json.loads((copies[-1] / "config.json").read_text())
        (copies[-1] / "config.json").write_text(json.dumps({**about, "seed": 77}))
        (copies[-1] / "experiment.py").write_text((copies[-1] / "experiment.py").read_text() + change)
    assert run_compare.main([runs[2], *map(str, copies), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["seeds"] for row in rows] == [[2, 77], [77]] and len({row["name"] for row in rows}) == 2


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_curves_are_drawn(runs, tmp_path, suffix):
    assert run_compare.main([*runs[:2], "--n_test", "50", "--figure", str(tmp_path / f"curves{suffix}")]) == 0
    assert (tmp_path / f"curves{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("options, expected", [
    (["runs/digits_cca"], "runs/digits_cca was given twice"),
    (["runs/../runs/digits_cca"], "was given twice (as runs/digits_cca, too)"),
    (["runs/digits_ca"], "there is no run in runs/digits_ca: did you mean digits_cca"),
    (["."], "there is no run in .: "),
    (["--metric", "mr"], "metric mr: did you mean mrr"),
    (["--level", "95"], "level must be from 0.5 to less than 1"), (["--level", "nan"], "level must be"),
    (["--out", "x.xlsx"], "--out x.xlsx: expected a file that ends in .txt, .md, .tex, .csv, .json, got .xlsx"),
    (["--out", "table"], "got no suffix"),
    (["--out", "nowhere/x.md"], "there is no folder nowhere"),
    (["--figure", "x.gif"], "--figure x.gif: expected a file that ends in .png"),
    (["--figure", "nowhere/x.png"], "there is no folder nowhere"),
    (["--n_test", "401"], "n_test must be from 1 to 400"), (["--split", "tset"], "tset"),
    (["--baseline", "digits_c"], "baseline digits_c: there is no such row"),
    (["--device", "cuda:77"], "--device cuda:77 can't be used here"),
    (["--data", "nothing.npz"], "nothing.npz"),
])
def test_wrong_input_is_one_clear_line(runs, options, expected, capsys):
    assert run_compare.main(["runs/digits_cca", *options]) == 2
    assert expected in failure(capsys)


@pytest.mark.parametrize("options, expected", [
    ([], "the following arguments are required: RUN"), (["a", "--format", "html"], "invalid choice: 'html'"),
    (["a", "--direction", "V1"], "invalid choice: 'V1'"), (["a", "--seed", "-1"], "must be a whole number from 0")])
def test_wrong_options_are_one_line_too(runs, options, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        run_compare.main(options)
    assert caught.value.code == 2 and expected in failure(capsys)


def test_damaged_and_unfinished_runs_are_told(runs, capsys, tmp_path):
    for name, change, expected in (
            ("weights.safetensors", None, "no epoch of it was finished"),
            ("weights.safetensors", "rubbish", "is damaged"), ("config.json", "{", "config.json is damaged"),
            ("experiment.py", "def", "experiment.py is missing or damaged"),
            ("experiment.py", None, "experiment.py is missing or damaged"),
            ("log.jsonl", "{\n{}\n", "log.jsonl, line 1 is corrupt")):
        copy = shutil.copytree(runs[0], tmp_path / "copy")
        (copy / name).unlink()
        if change is not None:
            (copy / name).write_text(change)
        assert run_compare.main([runs[1], str(copy)]) == 2
        assert expected in failure(capsys)
        shutil.rmtree(copy)


def test_the_same_seed_twice_is_not_two_seeds(runs, capsys, tmp_path):
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    assert run_compare.main([runs[1], str(copy)]) == 2
    assert "are the same experiment with the same seed 1: leave one of them out" in failure(capsys)


def test_runs_on_different_data_are_refused(runs, capsys, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    about = json.loads((other / "config.json").read_text())
    for change, said in (({"fingerprint": "0" * 64}, "(000000000000)"), ({"views": ["en", "de"]}, "views en and de")):
        (other / "config.json").write_text(json.dumps({**about, "data": {**about["data"], **change}}))
        assert run_compare.main([runs[1], str(other)]) == 2
        text = failure(capsys)
        assert said in text and "a paired comparison needs the same data" in text


def test_a_run_without_a_log_has_dashes(runs, capsys, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    (copy / "log.jsonl").unlink()
    assert run_compare.main([str(copy), "--n_test", "20"]) == 0
    assert capsys.readouterr().out.split("either way")[1].splitlines()[1].split()[-3:] == ["-", "-", "-"]
