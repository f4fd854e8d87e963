"""Models without a network in trainer, run folder and commands: like any other, but for what they have not."""
from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from xmodal.checkpoint import RunFolder
from xmodal.cli import plot_log, refine_cca, run_eval, run_train
from xmodal.config import TrainConfig, load_experiment
from xmodal.data import PairedData, PairSplit, load_data, write_h5
from xmodal.errors import CheckpointError, ExperimentError
from xmodal.evaluator import evaluate, linear_cca_baseline
from xmodal.layers import CCALayer
from xmodal.linear import PLS, Identity, KernelCCA, LinearCCA
from xmodal.networks import TwoTower
from xmodal.objectives import TraceNorm
from xmodal.towers import mlp
from xmodal.trainer import Silent, check_experiment, fit

MODELS = Path(__file__).parent.parent / "models"
CCA, KCCA = str(MODELS / "digits_cca.py"), str(MODELS / "digits_kcca.py")
FOURIER = '''"""Random features."""
from xmodal import KernelCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=5, r1=1e-2)


def build_model(view1_shape, view2_shape):
    return KernelCCA(CONFIG.dim_latent, approximation="fourier", n_features=100, r1=CONFIG.r1)


build_objective = None
'''


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    torch.set_num_threads(1)
    return tmp_path


@pytest.fixture
def trained(capsys) -> Path:
    assert run_train.main(["--model", CCA, "--data", "digits"]) == 0
    capsys.readouterr()
    return Path("runs/digits_cca")


def failure(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def some_pairs(n: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(n, 6)), rng.normal(size=(n, 4))
    return torch.from_numpy(x).float(), torch.from_numpy(x[:, :4] + 0.5 * noise).float()


def paired_data(**train) -> PairedData:
    """Sixty pairs to each split, or other training items."""
    valid, test = (PairSplit(name, *some_pairs(seed=seed)) for name, seed in (("valid", 1), ("test", 2)))
    return PairedData("toy", PairSplit("train", **(train or dict(zip(("view1", "view2"), some_pairs(), strict=True)))),
                      valid, test)


# -- fit() -----------------------------------------------------------------------------------------------------------

def test_fit_is_the_estimators_own_fit_and_one_line_of_log(tmp_path):
    data, run = paired_data(), RunFolder(tmp_path / "run")
    model = LinearCCA(3)
    result = fit(model, None, data, TrainConfig(), run=run)
    alone = LinearCCA(3).fit(data.train.view1, data.train.view2)
    np.testing.assert_allclose(model.U_, alone.U_, atol=1e-10)
    assert (result.finished, result.best_epoch, result.signal, len(result.log)) == ("closed form", 1, None, 1)
    line = json.loads(run.file(RunFolder.LOG).read_text())
    assert line == result.log[0] and line["refit_pairs"] == 60 and "loss_tr" not in line
    valid = evaluate(model, data, "valid")
    assert line["mrr_V1_to_V2_va"] == valid["V1_to_V2"]["mrr"] and line["mrr_V2_to_V1_va"] == valid["V2_to_V1"]["mrr"]
    assert result.best_value == line["mrr_va"] == (valid["V1_to_V2"]["mrr"] + valid["V2_to_V1"]["mrr"]) / 2
    again = LinearCCA(3)
    assert run.load_weights(again)["epoch"] == "1"
    assert torch.equal(again.embed_view1(data.test.view1), model.embed_view1(data.test.view1))


def test_items_without_a_partner_count_in_their_view():
    """Oracle: fit(X, Y, pairs) of the same arrays."""
    (x, y), table = some_pairs(), torch.stack([torch.arange(20), torch.arange(20)], dim=1)
    data = paired_data(view1=x, view2=y, pairs=table)
    model = LinearCCA(3, unpaired_weight=1.0)
    fit(model, None, data, TrainConfig())
    expected = LinearCCA(3, unpaired_weight=1.0).fit(x, y, pairs=table)
    np.testing.assert_allclose(model.mean1_, x.double().mean(dim=0), atol=1e-12)
    np.testing.assert_allclose(model.U_, expected.U_, atol=1e-9)
    assert model.n_pairs_ == 20 and not np.allclose(model.U_, LinearCCA(3).fit(x[:20], y[:20]).U_, atol=1e-3)
    np.testing.assert_allclose(linear_cca_baseline(data, 3).U_, LinearCCA(3).fit(x, y, pairs=table).U_, atol=1e-9)


def test_in_memory_and_streamed_are_the_same(tmp_path):
    data = paired_data()
    write_h5(data, tmp_path / "toy.h5")
    streamed = load_data(str(tmp_path / "toy.h5"), stream=True)
    a, b = LinearCCA(3).fit_split(data.train), LinearCCA(3).fit_split(streamed.train)
    np.testing.assert_allclose(a.U_, b.U_, atol=1e-9)


def test_progress_is_shown_by_batches(monkeypatch):
    monkeypatch.setattr("xmodal.linear.closed_form.FIT_BATCH", 25)
    monkeypatch.setattr("xmodal.trainer.closed_form.FIT_BATCH", 25)
    seen = []

    class Recorder(Silent):
        def batch(self, epoch, done, total, loss):
            seen.append((epoch, done, total, loss))

    fit(PLS(2), None, paired_data(), TrainConfig(), display=Recorder())
    assert seen == [(1, 1, 3, None), (1, 2, 3, None), (1, 3, 3, None)]


def test_random_features_follow_the_seed():
    data = paired_data()

    def embedded(seed):
        torch.manual_seed(seed)
        model = KernelCCA(2, approximation="fourier", n_features=50)
        fit(model, None, data, TrainConfig(), seed=seed)
        return model.embed_view1(data.test.view1)

    assert torch.equal(embedded(1), embedded(1)) and not torch.allclose(embedded(1), embedded(2))


@pytest.mark.parametrize(("model", "objective", "expected"), [
    (LinearCCA(3), TraceNorm(), "LinearCCA is fitted in closed form, without an objective"),
    (TwoTower(mlp((6,), [], 2), mlp((4,), [], 2), CCALayer(2)), None, "TwoTower needs an objective"),
    (LinearCCA(5), None, r"items of shape \(6,\) and \(4,\): n_components must be a whole number from 1 to 4"),
    (LinearCCA(2, r1=-1), None, "r1 and r2 must be numbers of at least 0"),
    (KernelCCA(2, kernel="rfb"), None, "did you mean rbf"),
    (KernelCCA(2, kernel="precomputed"), None, "precomputed kernel can't come in batches"),
    (Identity(), None, "views of one width; got 6 and 4 values"),
])
def test_what_does_not_fit_is_said_before_anything_is_written(model, objective, expected):
    for check in (check_experiment, lambda *three: fit(*three, TrainConfig())):
        with pytest.raises(ExperimentError, match=expected):
            check(model, objective, paired_data())


def test_the_check_leaves_model_and_random_state_alone():
    model = KernelCCA(2, approximation="fourier")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_experiment(model, None, paired_data())
    assert torch.equal(torch.get_rng_state(), before) and not model.__sklearn_is_fitted__()


def test_weights_of_another_method_are_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    fit(Identity(), None, same_width(), TrainConfig(), run=run)
    with pytest.raises(CheckpointError, match=r"does not fit the model: LinearCCA has no mean1"):
        run.load_weights(LinearCCA(3))
    again = Identity()
    run.load_weights(again)
    x = torch.rand(3, 4)
    assert torch.equal(again.embed_view1(x), x.double())


def same_width() -> PairedData:
    def split(name, seed):
        x, y = some_pairs(seed=seed)
        return PairSplit(name, x[:, :4].contiguous(), y)

    return PairedData("toy", *(split(name, seed) for seed, name in enumerate(("train", "valid", "test"))))


# -- the commands ----------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings("default:view1. ")
def test_training_leaves_a_run_folder_without_a_middle(capsys):
    assert run_train.main(["--model", CCA, "--data", "digits", "--seed", "4", "--tag", "a"]) == 0
    run = Path("runs/digits_cca-a")
    assert {p.name for p in run.iterdir()} == {"config.json", "experiment.py", "weights.safetensors", "log.jsonl",
                                               "card.md", ".lock"}
    about = json.loads((run / "config.json").read_text())
    assert (about["seed"], about["config"]["dim_latent"], about["experiment"]) == (4, 24, "digits_cca")
    printed = capsys.readouterr()
    assert "LinearCCA in closed form, seed 4" in printed.out and "fitted in closed form: validation MRR" in printed.out
    assert all(len(line) <= 80 for line in printed.out.splitlines() if "runs/" not in line)
    assert "warning: view1: 3 columns (0, 12, 16) are constant" in printed.err      # corners that are always white


@pytest.mark.filterwarnings("ignore:view")
@pytest.mark.parametrize("model", [CCA, KCCA], ids=["cca", "kcca"])
def test_evaluation_is_that_of_any_other_model(model, capsys):
    name = Path(model).stem
    assert run_train.main(["--model", model, "--data", "digits"]) == 0
    capsys.readouterr()
    assert run_eval.main(["--model", model, "--data", "digits", "--ci", "--V2_to_V1"]) == 0
    out = capsys.readouterr().out
    metrics = json.loads(Path(f"runs/{name}/metrics.json").read_text())
    data = load_data("digits")
    experiment = load_experiment(model)
    torch.manual_seed(23)
    expected = evaluate(experiment.build_model(data.view1_shape, data.view2_shape).fit_split(data.train, seed=23), data)
    assert metrics["V1_to_V2"]["mrr"] == pytest.approx(expected["V1_to_V2"]["mrr"], abs=1e-6)
    assert metrics["canonical_correlation"] == pytest.approx(expected["canonical_correlation"], abs=1e-4)
    assert re.search(rf"MRR\s*: {metrics['V2_to_V1']['mrr']:.3f} \[", out) and "of 24" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_linear_cca_as_a_model_is_the_baseline_of_the_others(trained, capsys):
    assert run_eval.main(["--model", CCA, "--data", "digits", "--linear_cca", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    for key in ("mrr", "median_rank", "r10"):
        assert metrics["V1_to_V2"][key] == pytest.approx(metrics["linear_cca"]["V1_to_V2"][key])


def test_transfer_and_plots_work_and_restoring_is_refused(trained, capsys, tmp_path):
    assert run_eval.main(["--model", CCA, "--data", "digits", "--transfer"]) == 0
    assert "Transfer: accuracy" in capsys.readouterr().out
    assert plot_log.main([str(trained), "--out", "curve.png"]) == 0 and Path("curve.png").stat().st_size > 1000
    capsys.readouterr()
    assert run_eval.main(["--model", CCA, "--data", "digits", "--reconstruct", "3"]) == 2
    assert "LinearCCA does not" in failure(capsys)


def test_resuming_fits_again_and_overwriting_replaces(trained, capsys):
    before = (trained / "weights.safetensors").read_bytes()
    assert run_train.main(["--model", CCA, "--data", "digits"]) == 2
    assert "--resume continues it" in failure(capsys)
    (trained / "weights.safetensors").unlink()      # as if it had been interrupted
    (trained / "metrics.json").write_text("{}")
    assert run_train.main(["--model", CCA, "--data", "digits", "--resume"]) == 0
    assert (trained / "weights.safetensors").read_bytes() == before and not (trained / "metrics.json").exists()
    capsys.readouterr()
    assert run_train.main(["--model", CCA, "--data", "digits", "--resume", "--set", "r1=0.5"]) == 2
    assert "started with r1=0.001" in failure(capsys)
    assert run_train.main(["--model", CCA, "--data", "digits", "--overwrite", "--set", "r1=0.5"]) == 0
    assert (trained / "weights.safetensors").read_bytes() != before


def test_a_fit_that_ends_between_its_two_files_is_resumed(trained, monkeypatch, capsys):
    whole, writes = (trained / "weights.safetensors").read_bytes(), []

    def failing(write):
        def second_fails(*args, **about):
            writes.append(write)
            if len(writes) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(*args, **about)

        return second_fails

    with monkeypatch.context() as patch:
        for name in ("save_weights", "write_log"):
            patch.setattr(RunFolder, name, failing(getattr(RunFolder, name)))
        assert run_train.main(["--model", CCA, "--data", "digits", "--overwrite"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert run_train.main(["--model", CCA, "--data", "digits", "--resume"]) == 0
    assert (trained / "weights.safetensors").read_bytes() == whole


def test_settings_that_do_nothing_are_refused(capsys):
    for options in (["--set", "learning_rate=0.5"], ["--precision", "bf16"]):
        assert run_train.main(["--model", CCA, "--data", "digits", *options]) == 2
        assert "has no effect" in failure(capsys)
    assert not Path("runs").exists()


@pytest.mark.parametrize("method", ["LinearCCA", "PLS"])
def test_more_dimensions_than_items_are_told_before_anything_is_written(method, capsys):
    rng = np.random.default_rng(0)
    np.savez("few.npz", **{f"{split}_view{view}": rng.normal(size=(20, 64)) for split in ("train", "valid", "test")
                           for view in (1, 2)})
    Path("few.py").write_text(Path(CCA).read_text().replace("LinearCCA", method).replace(
        ", r1=CONFIG.r1, r2=CONFIG.r2", "" if method == "PLS" else ", r1=CONFIG.r1, r2=CONFIG.r2"))
    arguments = ["--model", "few.py", "--data", "few.npz", "--set"]
    assert run_train.main([*arguments, "dim_latent=21"]) == 2
    assert "n_components must be a whole number from 1 to 20" in failure(capsys) and not Path("runs").exists()
    assert run_train.main([*arguments, "dim_latent=20"]) == 0


def test_show_architecture_and_no_dump(capsys):
    assert run_train.main(["--model", KCCA, "--data", "digits", "--no_dump", "--show_architecture"]) == 0
    assert "KernelCCA(n_components=24" in capsys.readouterr().out and not Path("runs").exists()


def test_refined_on_fewer_pairs(tmp_path, capsys):
    (tmp_path / "fourier.py").write_text(FOURIER)
    arguments = ["--model", "fourier.py", "--data", "digits"]
    assert run_train.main([*arguments, "--seed", "3"]) == 0
    assert refine_cca.main([*arguments, "--n_train", "400"]) == 0
    assert "400 training pairs" in capsys.readouterr().out
    run_eval.main([*arguments, "--json"])
    whole = json.loads(capsys.readouterr().out)
    run_eval.main([*arguments, "--json", "--estimate_UV"])
    few = json.loads(capsys.readouterr().out)
    assert few["weights"]["n_train"] == "400" and few["V1_to_V2"]["mrr"] != whole["V1_to_V2"]["mrr"]


def test_seed_decides_on_random_features(tmp_path):
    (tmp_path / "fourier.py").write_text(FOURIER)
    for tag, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run_train.main(["--model", "fourier.py", "--data", "digits", "--seed", seed, "--tag", tag]) == 0
    a, b, c = (Path(f"runs/fourier-{tag}/weights.safetensors").read_bytes() for tag in "abc")
    assert a == b != c


def test_refused_before_a_folder_is_made(capsys, tmp_path):
    assert run_train.main(["--model", CCA, "--data", "digits", "--set", "dim_latent=33"]) == 2
    said = failure(capsys)
    assert "n_components must be a whole number from 1 to 32" in said and "from CONFIG, that is dim_latent" in said
    (tmp_path / "wrong.py").write_text(FOURIER.replace("build_objective = None",
                                                       "def build_objective():\n    import torch\n"
                                                       "    return torch.nn.Identity()\n"))
    assert run_train.main(["--model", "wrong.py", "--data", "digits"]) == 2
    assert "write build_objective = None" in failure(capsys)
    assert not Path("runs").exists()


def test_damaged_weights_are_one_line(trained, capsys):
    whole = (trained / "weights.safetensors").read_bytes()
    (trained / "weights.safetensors").write_bytes(whole[:-40])
    assert run_eval.main(["--model", CCA, "--data", "digits"]) == 2
    assert "is damaged" in failure(capsys)


# -- where an item has several partners, or few items are distinct ----------------------------------------------------

def captioned(n: int = 40, captions: int = 5) -> PairedData:
    def split(name, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 6))
        y = np.repeat(x[:, :4], captions, axis=0) + 0.3 * rng.normal(size=(n * captions, 4))
        return PairSplit.of(name, x, y, np.stack([np.repeat(np.arange(n), captions), np.arange(n * captions)], axis=1))

    return PairedData("captions", split("train", 0), split("valid", 1), split("test", 2))


@pytest.mark.parametrize("model", [KernelCCA(30, random_state=0),
                                   KernelCCA(3, approximation="nystroem", n_features=30)], ids=["exact", "nystroem"])
def test_captions_may_outnumber_their_pictures(model):
    """The first pairs, which are tried before anything is written, have ten pictures; the model wants more."""
    data = captioned()
    result = fit(model, None, data, TrainConfig())
    assert result.finished == "closed form" and result.best_value > 0.2


def test_items_sorted_by_class_are_not_refused():
    """Of a sorted file the first pairs are all of one class: one direction, where there are nine."""
    labels = np.repeat(np.arange(10), 30)
    rng = np.random.default_rng(0)
    x, y = np.eye(10)[labels] @ rng.normal(size=(10, 6)) + 0.1 * rng.normal(size=(300, 6)), np.eye(10)[labels]
    splits = [PairSplit.of(name, x, y) for name in ("train", "valid", "test")]
    fit(KernelCCA(6, kernel=("rbf", "linear")), None, PairedData("sorted", *splits), TrainConfig())


def test_an_item_of_several_pairs_is_one_landmark():
    data = captioned()
    model = KernelCCA(3, random_state=0).fit_split(data.train)
    assert model.state_dict()["map1.landmarks"].shape == (40, 6)
    alone = KernelCCA(3, random_state=0).fit(data.train.view1, data.train.view2, pairs=data.train.pairs)
    np.testing.assert_allclose(model.correlations_, alone.correlations_, atol=1e-8)
    assert model.gammas_ == pytest.approx(alone.gammas_)


def test_a_finished_fit_is_not_done_again(trained, capsys):
    assert run_eval.main(["--model", CCA, "--data", "digits"]) == 0
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    capsys.readouterr()
    assert run_train.main(["--model", CCA, "--data", "digits", "--resume"]) == 0
    assert "already finished" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before
    (trained / "log.jsonl").write_text("{}\n")
    assert run_train.main(["--model", CCA, "--data", "digits", "--resume"]) == 2
    assert "log.jsonl is missing or damaged" in failure(capsys)


def test_weights_of_other_items_and_unknown_tensors_are_refused(trained, capsys):
    run = RunFolder(trained)
    x, y = some_pairs()
    run.save_weights(LinearCCA(3).fit(x, y).state_dict())
    assert run_eval.main(["--model", CCA, "--data", "digits"]) == 2
    assert "3 components were stored, and n_components is 24" in failure(capsys)
    rng = np.random.default_rng(0)
    run.save_weights(LinearCCA(24).fit(rng.normal(size=(90, 30)), rng.normal(size=(90, 32))).state_dict())
    assert run_eval.main(["--model", CCA, "--data", "digits"]) == 2
    assert "is for items of 30 and 32 values, not for these data" in failure(capsys)
    state = LinearCCA(24).fit(rng.normal(size=(90, 32)), rng.normal(size=(90, 32))).state_dict()
    run.save_weights({**state, "map1.gamma": torch.tensor(1.0)})
    assert run_eval.main(["--model", CCA, "--data", "digits"]) == 2
    assert "nothing by the name of map1.gamma" in failure(capsys)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", [LinearCCA(3), PLS(3), KernelCCA(3, random_state=0),
                                   KernelCCA(3, approximation="fourier", random_state=0)], ids=str)
def test_on_a_gpu_it_is_the_same(model):
    x, y = some_pairs(200)
    here, there = model.fit(x, y).correlations_, model.set_params(device="cuda").fit(x, y)
    np.testing.assert_allclose(there.correlations_, here, atol=1e-9)
    assert there.embed_view1(x.cuda()).is_cuda
    there.merge(type(model)(**{**model.get_params(), "device": "cpu"}).fit(x, y))
