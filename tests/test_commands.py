"""run_train, run_eval and refine_cca as a user types them, in this process; for every mistake one line and code 2."""
from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xmodal.checkpoint import RunFolder
from xmodal.cli import refine_cca, run_eval, run_train
from xmodal.data import load_data, write_h5
from xmodal.layers import CCAReadout
from xmodal.networks import TwoTower, Verifier

MODELS = Path(__file__).parent.parent / "models"
MODEL = str(MODELS / "digits_ccal_cont.py")
QUICK = ["--set", "max_epochs=2"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    return tmp_path


@pytest.fixture
def trained(capsys) -> Path:
    assert run_train.main(["--model", MODEL, "--data", "digits", *QUICK]) == 0
    capsys.readouterr()
    return Path("runs/digits_ccal_cont")


def failure(capsys) -> str:
    """The one line of an error."""
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_training_leaves_a_complete_run_folder(capsys):
    assert run_train.main(["--model", MODEL, "--data", "digits", "--seed", "4", "--tag", "a", *QUICK]) == 0
    run = Path("runs/digits_ccal_cont-a")
    assert {p.name for p in run.iterdir()} == {"config.json", "experiment.py", "weights.safetensors", "resume.pt",
                                               "log.jsonl", "card.md", ".lock"}
    about = json.loads((run / "config.json").read_text())
    assert (about["seed"], about["tag"]) == (4, "a")
    assert about["config"]["max_epochs"] == 2 and about["config"]["alpha"] == "auto"
    assert about["data"]["fingerprint"] == load_data("digits").fingerprint and not about["data"]["synthetic"]
    assert about["versions"]["torch"] == torch.__version__
    assert (run / "experiment.py").read_text() == Path(MODEL).read_text()
    out = capsys.readouterr().out
    assert "Train: 1,197" in out and "finished (max_epochs)" in out
    assert all(len(line) <= 80 for line in out.splitlines() if "runs/" not in line)


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_second_training_in_one_folder_is_refused(capsys, how):
    train = ["--model", MODEL, "--data", "digits", *QUICK]
    assert run_train.main(train) == 0
    run = RunFolder("runs/digits_ccal_cont")
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    with run.taken():
        assert run_train.main([*train, how]) == 2
    assert "error: another process is training in runs/digits_ccal_cont" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before
    assert run_train.main([*train, how]) == 0  # what ended, however it ended, is in nobody's way


def test_same_seed_same_weights_other_seed_others():
    for tag, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run_train.main(["--model", MODEL, "--data", "digits", "--seed", seed, "--tag", tag, *QUICK])
    a, b, c = (Path(f"runs/digits_ccal_cont-{tag}/weights.safetensors").read_bytes() for tag in "abc")
    assert a == b != c


def test_no_dump_keeps_nothing(tmp_path):
    assert run_train.main(["--model", MODEL, "--data", "digits", "--no_dump", *QUICK]) == 0
    assert list(tmp_path.iterdir()) == []


def test_show_architecture_prints_both_towers(capsys):
    run_train.main(["--model", MODEL, "--data", "digits", "--no_dump", "--show_architecture", *QUICK])
    out = capsys.readouterr().out
    assert "(tower1)" in out and "(tower2)" in out and "PairwiseRanking(" in out


def test_a_run_is_resumed_or_refused(trained, capsys):
    assert run_train.main(["--model", MODEL, "--data", "digits", *QUICK]) == 2
    assert "--resume continues it" in failure(capsys)
    assert run_train.main(["--model", MODEL, "--data", "digits", "--resume"]) == 0
    assert run_train.main(["--model", MODEL, "--data", "digits", "--resume", "--seed", "5"]) == 2
    assert "started with --seed 23" in failure(capsys)
    assert run_train.main(["--model", MODEL, "--data", "digits", "--resume", "--set", "l2=0.5"]) == 2
    assert "started with l2=0.0001" in failure(capsys)
    assert run_train.main(["--model", MODEL, "--data", "digits", "--overwrite", *QUICK]) == 0


def test_a_finished_run_goes_on_with_more_epochs(trained):
    more = ["--model", MODEL, "--data", "digits", "--set", "max_epochs=4"]
    assert run_train.main([*more, "--resume"]) == 0
    assert run_train.main([*more, "--tag", "at_once"]) == 0
    at_once = Path("runs/digits_ccal_cont-at_once")
    for file in ("weights.safetensors", "experiment.py"):
        assert (trained / file).read_bytes() == (at_once / file).read_bytes()
    assert len((trained / "log.jsonl").read_text().splitlines()) == 4
    assert json.loads((trained / "config.json").read_text())["config"]["max_epochs"] == 4


def test_a_cosine_schedule_is_not_stretched_by_a_resumed_run(capsys):
    arguments = ["--model", MODEL, "--data", "digits", "--tag", "cosine"]
    assert run_train.main([*arguments, *QUICK, "--set", "schedule=cosine"]) == 0
    assert run_train.main([*arguments, "--resume", "--set", "max_epochs=4"]) == 2
    assert "another max_epochs would be another schedule" in failure(capsys)
    assert run_train.main([*arguments, "--resume", "--set", "max_epochs=2"]) == 0


def test_resume_of_nothing_starts_from_the_beginning():
    assert run_train.main(["--model", MODEL, "--data", "digits", "--resume", *QUICK]) == 0
    assert Path("runs/digits_ccal_cont/weights.safetensors").exists()


def test_evaluation_prints_one_direction_and_writes_both(trained, capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--ci", "--linear_cca"]) == 0
    forth = capsys.readouterr().out
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--V2_to_V1"]) == 0
    back = capsys.readouterr().out
    assert all(len(line) <= 80 for line in (forth + back).splitlines())
    metrics = json.loads((trained / "metrics.json").read_text())
    for out, direction in ((forth, "V1_to_V2"), (back, "V2_to_V1")):
        assert direction in out and "Median Rank" in out and "MRR" in out
        assert re.search(rf"MRR\s*: {metrics[direction]['mrr']:.3f}", out)
        assert "Sum correlation" in out and "of 24" in out and "Canonical correlation" in out
    assert "Linear CCA" in forth and "Linear CCA" not in back


def test_json_is_nothing_but_json(trained, capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((trained / "metrics.json").read_text())
    assert {"V1_to_V2", "V2_to_V1", "sum_correlation", "canonical_correlation", "fingerprint"} <= printed.keys()


def test_partial_evaluations_do_not_replace_the_full_one(trained, capsys):
    run_eval.main(["--model", MODEL, "--data", "digits"])
    full = (trained / "metrics.json").read_text()
    run_eval.main(["--model", MODEL, "--data", "digits", "--n_test", "50"])
    run_eval.main(["--model", MODEL, "--data", "digits", "--split", "valid"])
    assert (trained / "metrics.json").read_text() == full
    assert json.loads((trained / "metrics_n50.json").read_text())["n_pairs"] == 50
    assert json.loads((trained / "metrics_valid.json").read_text())["split"] == "valid"


def test_a_later_edit_of_the_model_file_does_not_change_a_run(trained, capsys, tmp_path):
    before = run_eval.main(["--model", MODEL, "--data", "digits", "--json"])
    first = capsys.readouterr().out
    edited = tmp_path / "digits_ccal_cont.py"
    edited.write_text(Path(MODEL).read_text().replace("[256, 128]", "[7]"))
    assert run_eval.main(["--model", str(edited), "--data", "digits", "--json"]) == before == 0
    assert capsys.readouterr().out == first


def test_refined_projection_is_used_on_request(trained, capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--estimate_UV"]) == 2
    assert "run refine_cca.py first" in failure(capsys)
    assert refine_cca.main(["--model", MODEL, "--data", "digits", "--n_train", "300"]) == 0
    assert "300 training pairs" in capsys.readouterr().out
    run_eval.main(["--model", MODEL, "--data", "digits", "--estimate_UV", "--json"])
    few = json.loads(capsys.readouterr().out)
    run_eval.main(["--model", MODEL, "--data", "digits", "--json"])
    whole = json.loads(capsys.readouterr().out)
    assert few["weights"] == {"file": "weights_est_UV.safetensors", "n_train": "300"}
    assert few["V1_to_V2"]["mrr"] != whole["V1_to_V2"]["mrr"]


def test_refining_on_all_pairs_gives_what_training_left(trained, capsys):
    """Oracle: training ends with a refit on all pairs, so estimating again changes nothing."""
    refine_cca.main(["--model", MODEL, "--data", "digits"])
    run_eval.main(["--model", MODEL, "--data", "digits", "--json"])
    run_eval.main(["--model", MODEL, "--data", "digits", "--estimate_UV", "--json"])
    out = capsys.readouterr().out
    first, second = (json.loads(text) for text in re.split(r"(?<=\n\})\n(?=\{)", out[out.index("{"):]))
    assert first["V1_to_V2"]["mrr"] == pytest.approx(second["V1_to_V2"]["mrr"], abs=1e-6)
    assert first["sum_correlation"] == pytest.approx(second["sum_correlation"], abs=1e-4)


@pytest.mark.parametrize(("model", "said"), [
    ("digits_ccal_cont", "projection estimated on 1,197"), ("digits_cca", "LinearCCA fitted on 1,197"),
    ("digits_learned_cont", "means estimated (the projection is learned, and stays) on 1,197"),
])
def test_refining_says_what_was_estimated(model, said, capsys):
    options = [] if model == "digits_cca" else QUICK
    assert run_train.main(["--model", str(MODELS / f"{model}.py"), "--data", "digits", *options]) == 0
    capsys.readouterr()
    assert refine_cca.main(["--run", f"runs/{model}"]) == 0
    assert capsys.readouterr().out.startswith(said)


def test_refining_knows_every_kind_of_head():
    class Own(nn.Module):
        alpha, dim = 1.0, 2

    def estimated(head: nn.Module) -> str:
        return refine_cca._estimated(Verifier(TwoTower(nn.Identity(), nn.Identity(), head)), 20)

    assert estimated(Own()) == "statistics of Own estimated" and estimated(CCAReadout(2)) == "projection estimated"
    assert refine_cca._estimated(Own(), 20) == "statistics of Own estimated"  # a whole model of one's own
    with pytest.warns(UserWarning, match=r"CCALayer\(3\): 20 pairs are 6.7 per dimension"):
        estimated(CCAReadout(3))


@pytest.mark.filterwarnings("default:CCALayer")
def test_refining_on_few_pairs_warns_as_training_does(trained, capsys):
    assert refine_cca.main(["--run", str(trained), "--n_train", "239"]) == 0
    assert "warning: CCALayer(24): 239 pairs are 10.0 per dimension. CCA fitted on so few" in capsys.readouterr().err
    assert refine_cca.main(["--run", str(trained), "--n_train", "240"]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_is_named_by_its_folder(trained, capsys, tmp_path, monkeypatch):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--json"]) == 0
    by_options = capsys.readouterr().out
    assert run_eval.main(["--run", str(trained), "--json"]) == 0
    assert capsys.readouterr().out == by_options
    assert refine_cca.main(["--run", str(trained), "--n_train", "300"]) == 0
    (tmp_path / "elsewhere").mkdir()
    trained.rename("elsewhere/moved")
    assert run_eval.main(["--run", "elsewhere/moved", "--data", "digits", "--estimate_UV", "--html", "page.html"]) == 0
    assert "moved on digits, test pairs" in capsys.readouterr().out
    assert "xmodal eval --model digits_ccal_cont.py --data digits --runs elsewhere --estimate_UV" in \
        Path("page.html").read_text()
    monkeypatch.chdir("elsewhere/moved")
    assert run_eval.main(["--run", "."]) == 0
    assert "moved on digits, test pairs" in capsys.readouterr().out


def test_a_run_by_its_folder_finds_its_data_and_its_views(capsys, tmp_path, monkeypatch):
    data = dataclasses.replace(load_data("digits"), view1_name="left", view2_name="right")
    write_h5(data, tmp_path / "mine.h5")
    model = str(MODELS / "digits_cca.py")
    assert run_train.main(["--model", model, "--data", "mine.h5", "--views", "left", "right"]) == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    assert run_eval.main(["--run", "../runs/digits_cca"]) == 0
    assert "Views: left 32 and right 32" in capsys.readouterr().out
    (tmp_path / "mine.h5").rename("away.h5")
    for command in (run_eval, refine_cca):
        assert command.main(["--run", "../runs/digits_cca"]) == 2
        assert "were mine.h5 as seen from the folder it was trained in" in failure(capsys)
        assert command.main(["--run", "../runs/digits_cca", "--data", "away.h5"]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("command", [run_eval, refine_cca])
@pytest.mark.parametrize(("arguments", "expected"), [
    ([], "the following arguments are required: --model, --data, or --run in their place"),
    (["--data", "digits"], "the following arguments are required: --model, or --run in their place"),
    (["--run", "runs/x", "--model", "x.py", "--tag", "a"], "--run says which run it is: leave out --model and --tag"),
    (["--run", "runs/x", "--runs", "there"], "--run says which run it is: leave out --runs"),
])
def test_which_run_is_said_once(command, arguments, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2 and expected in failure(capsys)


@pytest.mark.parametrize("run", ["nowhere", "a\0b"])
def test_a_folder_without_a_run_is_one_line(run, capsys):
    assert run_eval.main(["--run", run]) == 2
    failure(capsys)


def test_pictures_of_a_part_leave_those_of_the_whole_alone(trained, capsys):
    same = ["--run", str(trained), "--verify"]
    assert refine_cca.main(["--run", str(trained), "--n_train", "300"]) == 0
    assert run_eval.main(same) == 0
    whole = (trained / "roc.png").read_bytes()
    for options in (["--n_test", "50"], ["--estimate_UV"], ["--split", "valid", "--n_test", "50", "--estimate_UV"]):
        assert run_eval.main([*same, *options]) == 0
    assert (trained / "roc.png").read_bytes() == whole
    assert {path.stem.partition("_")[2] for path in trained.glob("roc*.png")} == \
        {path.stem.partition("_")[2] for path in trained.glob("metrics*.json")} == \
        {"", "n50", "est_UV", "valid_n50_est_UV"}


def test_synthetic_data_are_named_so_everywhere(tmp_path, capsys):
    write_h5(dataclasses.replace(load_data("digits"), synthetic=True, fingerprint="").with_fingerprint(),
             tmp_path / "made_up.h5")
    run_train.main(["--model", MODEL, "--data", "made_up.h5", *QUICK])
    assert "synthetic" in capsys.readouterr().out
    run_eval.main(["--model", MODEL, "--data", "made_up.h5"])
    assert capsys.readouterr().out.count("synthetic") >= 2
    run = Path("runs/digits_ccal_cont")
    assert json.loads((run / "config.json").read_text())["data"]["synthetic"] is True
    assert json.loads((run / "metrics.json").read_text())["synthetic"] is True


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--model", "models/digits_ccal_cnt.py"], "cannot read the model file"),
    (["--data", "digit"], "did you mean digits"),
    (["--data", "none.npz"], "none.npz"),
    (["--set", "batchsize=5"], "did you mean batch_size"),
    (["--set", "batch_size=x", "--set", "l2=-1"], "2 mistakes: batch_size must be"),
    (["--set", "batch_size=x", "l2=-1"], "2 mistakes: batch_size must be"),
    (["--set", "batch_size"], "--set needs field=value"),
    (["--device", "cuda:77"], "--device cuda:77 can't be used here"),
    (["--device", "gpu"], "--device gpu can't be used here"),
    (["--tag", "../x"], "--tag becomes part of a folder's name"),
    (["--no_dump", "--resume"], "--no_dump and --resume contradict each other"),
    (["--resume", "--overwrite"], "--resume and --overwrite contradict each other"),
    (["--set", "l2=0.1", "--set", "l2=0.2"], "l2 is set more than once"),
    (["--precision", "bf16", "--set", "precision=float32"], "precision is set more than once"),
])
def test_wrong_training_input_is_one_clear_line(arguments, expected, capsys, tmp_path):
    assert run_train.main(["--model", MODEL, "--data", "digits", *arguments]) == 2
    assert expected in failure(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [run_train, run_eval])
@pytest.mark.parametrize("arguments, expected", [
    (["--seed", "-1"], "must be a whole number from 0"), (["--seed", str(10**20)], "must be a whole number from 0"),
    (["--seed", "x"], "must be a whole number from 0"), (["--run", "y", "--devise", "cpu"], "did you mean --device?"),
])
def test_a_wrong_option_is_one_line_too(command, arguments, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--model", MODEL, "--data", "digits", *arguments])
    assert caught.value.code == 2 and expected in failure(capsys)


def test_an_override_that_nothing_reads_is_refused(capsys):
    """Recorded in config.json, it would look as if it had been tried."""
    model = str(MODELS / "digits_learned_cont.py")
    assert run_train.main(["--model", model, "--data", "digits", "--set", "alpha=0.1"]) == 2
    assert "alpha has no effect: nothing in the file reads CONFIG.alpha" in failure(capsys)


BROKEN = {
    "build_model raises": ("def build_model(view1_shape, view2_shape):\n",
                           "def build_model(view1_shape, view2_shape):\n    raise KeyError('boom')\n",
                           "line 10: KeyError: 'boom'"),
    "build_model exits": ("def build_model(view1_shape, view2_shape):\n",
                          "def build_model(view1_shape, view2_shape):\n    raise SystemExit(0)\n", "SystemExit"),
    "build_model returns nothing": ("    return TwoTower(", "    TwoTower(", "must return a torch.nn.Module"),
    "misspelt argument": ("margin=CONFIG", "marginn=CONFIG", "TypeError"),
    "wrong width": ("CCALayer(CONFIG.dim_latent", "CCALayer(7", "view1 has"),
    "vector": ("    return WeightedSum(", "    return _Vector(", "a tensor of shape (2,)"),
    "number": ("    return WeightedSum(", "    return _Number(", "got float"),
    "no gradient": ("    return WeightedSum(", "    return _Detached(", "one without a gradient"),
}
HELPERS = '''
from torch import nn


class _Vector(nn.Module):
    def __init__(self, parts):
        super().__init__()

    def forward(self, embedded, pairs=None):
        return embedded.view1.sum(dim=1)


class _Number(_Vector):
    def forward(self, embedded, pairs=None):
        return 0.5


class _Detached(_Vector):
    def forward(self, embedded, pairs=None):
        return embedded.view1.sum().detach()
'''


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_file_is_one_line_and_costs_no_earlier_run(trained, case, capsys, tmp_path):
    old, new, expected = BROKEN[case]
    source = Path(MODEL).read_text()
    assert old in source
    broken = tmp_path / "digits_ccal_cont.py"
    broken.write_text(source.replace(old, new) + HELPERS)
    before = {p.name: p.read_bytes() for p in trained.iterdir()}
    assert run_train.main(["--model", str(broken), "--data", "digits", "--overwrite"]) == 2
    assert expected in failure(capsys)
    assert {p.name: p.read_bytes() for p in trained.iterdir()} == before


def test_what_a_model_file_prints_stays_out_of_json(trained, capsys):
    experiment = trained / "experiment.py"
    experiment.write_text(experiment.read_text() + "\nprint('hello')\n")
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_a_run_without_its_configuration_is_not_overwritten(trained, capsys):
    (trained / "config.json").unlink()
    weights = (trained / "weights.safetensors").read_bytes()
    for extra in ([], ["--resume"]):
        assert run_train.main(["--model", MODEL, "--data", "digits", *extra]) == 2
        assert "holds a run already" in failure(capsys)
    assert (trained / "weights.safetensors").read_bytes() == weights


def test_a_file_size_limit_met_by_real_writes_is_one_line(capsys):
    """A disk that is full for real: the system refuses the write itself."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for kilobytes in (10, 200, 1000):  # in the weights, in the resume state
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
        try:
            code = run_train.main(["--model", MODEL, "--data", "digits", "--tag", str(kilobytes), *QUICK])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 2
        assert "File too large" in failure(capsys)
        assert not list(Path("runs").rglob(".*.tmp"))


def test_a_new_training_makes_old_results_untrue(trained):
    run_eval.main(["--model", MODEL, "--data", "digits"])
    refine_cca.main(["--model", MODEL, "--data", "digits"])
    run_train.main(["--model", MODEL, "--data", "digits", "--resume"])  # finished: nothing changes
    assert (trained / "metrics.json").exists() and (trained / "weights_est_UV.safetensors").exists()
    run_train.main(["--model", MODEL, "--data", "digits", "--resume", "--set", "max_epochs=3"])
    assert not (trained / "metrics.json").exists() and not (trained / "weights_est_UV.safetensors").exists()


def test_pictures_of_an_old_training_go_with_it(trained):
    for name in ("roc.png", "walk_0_8.png", "neighbours_V2_to_V1_valid.png", "mine.png", "notes.txt"):
        (trained / name).write_text("old")
    assert run_train.main(["--model", MODEL, "--data", "digits", "--overwrite", *QUICK]) == 0
    assert sorted(p.name for p in trained.iterdir() if p.suffix in (".png", ".txt")) == ["mine.png", "notes.txt"]


def test_an_evaluation_adds_to_an_earlier_one_of_the_same_weights(trained, capsys):
    same = ["--model", MODEL, "--data", "digits"]
    assert run_eval.main([*same, "--hubness", "--ci"]) == 0
    hubs = RunFolder(trained).metrics()["hubness"]
    capsys.readouterr()
    assert run_eval.main([*same, "--V2_to_V1"]) == 0
    assert "hub" not in capsys.readouterr().out.lower()  # what wasn't asked for isn't printed
    metrics = RunFolder(trained).metrics()
    assert metrics["hubness"] == hubs and "intervals" not in metrics["V1_to_V2"]
    assert run_train.main([*same, "--resume", "--set", "max_epochs=3"]) == 0  # other weights
    assert run_eval.main(same) == 0
    assert "hubness" not in RunFolder(trained).metrics()
    RunFolder(trained).file("metrics.json").write_text("{")
    assert run_eval.main(same) == 0 and "mrr" in RunFolder(trained).metrics()["V1_to_V2"]


def test_data_in_memory_cannot_be_streamed(capsys):
    assert run_train.main(["--model", MODEL, "--data", "digits", "--stream", *QUICK]) == 2
    assert "digits is read into memory: to stream, write it to an HDF5 file" in failure(capsys)


def test_a_folder_that_is_not_there_is_looked_up_in_models(in_a_folder_of_its_own, capsys):
    (in_a_folder_of_its_own / "models").mkdir()
    (in_a_folder_of_its_own / "models" / "mine_ccal.py").touch()
    assert run_train.main(["--model", "modls/mine_cca.py", "--data", "digits"]) == 2
    assert "did you mean models/mine_ccal.py?" in failure(capsys)


def test_a_run_that_cannot_be_written_to_is_still_reported(trained, capsys, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    assert run_eval.main(["--model", MODEL, "--data", "digits"]) == 2
    captured = capsys.readouterr()
    assert "MRR" in captured.out and "Read-only" in captured.err


def test_a_close_model_name_is_offered(capsys):
    assert run_train.main(["--model", str(MODELS / "digits_ccal_cnt.py"), "--data", "digits"]) == 2
    assert "did you mean" in failure(capsys)


def test_an_objective_that_does_not_fit_is_refused_before_a_folder_is_made(capsys, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text((MODELS / "digits_learned_cont.py").read_text()
                     .replace("import LearnedProjection,", "import TraceNorm, LearnedProjection,")
                     .replace("return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)", "return TraceNorm()"))
    assert run_train.main(["--model", str(wrong), "--data", "digits"]) == 2
    assert "LearnedProjection does not (use CCALayer)" in failure(capsys)
    assert not Path("runs").exists()


def test_other_data_are_refused(trained, capsys, tmp_path):
    digits = load_data("digits")
    changed = digits.test.view1.clone()
    changed[0, 0] += 1
    other = dataclasses.replace(digits, test=dataclasses.replace(digits.test, view1=changed), fingerprint="")
    write_h5(other.with_fingerprint(), tmp_path / "other.h5")
    for command, extra in ((run_eval, []), (refine_cca, []), (run_train, ["--resume"])):
        assert command.main(["--model", MODEL, "--data", "other.h5", *extra]) == 2
        assert re.search(r"was trained on digits \(fingerprint [0-9a-f]{12}\), these are", failure(capsys))


@pytest.mark.parametrize(("command", "arguments", "expected"), [
    (run_eval, ["--n_test", "0"], "--n_test must be from 1 to 400"),
    (run_eval, ["--n_test", "401"], "--n_test must be from 1 to 400"),
    (run_eval, ["--tag", "nothing"], "there is no run in runs/digits_ccal_cont-nothing"),
    (refine_cca, ["--n_train", "1"], "--n_train must be from 2 to 1,197"),
])
def test_wrong_evaluation_input_is_one_clear_line(trained, command, arguments, expected, capsys):
    assert command.main(["--model", MODEL, "--data", "digits", *arguments]) == 2
    assert expected in failure(capsys)


def test_evaluating_before_training_says_so(capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits"]) == 2
    assert "train it first with run_train.py" in failure(capsys)


def test_weights_of_another_model_are_refused(trained, capsys):
    (trained / "experiment.py").write_text(Path(MODEL).read_text().replace("[256, 128]", "[99, 128]"))
    assert run_eval.main(["--model", MODEL, "--data", "digits"]) == 2
    assert "does not fit the model" in failure(capsys)


def test_debug_shows_the_traceback(capsys):
    assert run_train.main(["--model", MODEL, "--data", "digit", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_non_finite_features_name_view_split_and_rows(capsys, tmp_path):
    views = {f"{split}_view{v}": np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
             for split in ("train", "valid", "test") for v in (1, 2)}
    views["valid_view2"][7, 1] = np.nan
    np.savez(tmp_path / "bad.npz", **views)
    assert run_train.main(["--model", MODEL, "--data", "bad.npz"]) == 2
    text = failure(capsys)
    assert "valid view2" in text and "row 7" in text
