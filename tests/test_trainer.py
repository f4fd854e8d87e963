"""fit(): what it does in an epoch, when it stops, what it keeps, and that resuming changes nothing."""
from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from typing import Any

import pytest
import torch
from torch import nn

from xmodal.checkpoint import RunFolder
from xmodal.config import TrainConfig
from xmodal.data import pair_batches
from xmodal.errors import CheckpointError, ExperimentError, NumericalError
from xmodal.evaluator import embed, evaluate
from xmodal.layers import CCALayer, LearnedProjection
from xmodal.linear import LinearCCA
from xmodal.metrics import retrieval_metrics
from xmodal.networks import CorrNet, TwoTower, compiled_towers
from xmodal.objectives import CorrNetObjective, PairwiseRanking, TraceNorm
from xmodal.towers import mlp, tied_decoder
from xmodal.trainer import Silent, check_experiment, fit, make_optimizer
from xmodal.trainer.validation import probe

CONFIG = TrainConfig(dim_latent=5, batch_size=50, learning_rate=5e-3, max_epochs=6, patience=3, refinement_steps=1,
                     alpha="auto")


def small_model(seed: int = 0, dropout: float = 0.2, head: nn.Module | None = None) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower(mlp((12,), [16], 5, dropout=dropout), mlp((9,), [16], 5, dropout=dropout),
                    head or CCALayer(5, alpha="auto"))


def started_run(path: Any) -> RunFolder:
    run = RunFolder(path)
    run.create({"config": {}, "seed": 0, "data": {"fingerprint": ""}}, "# experiment")
    return run


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class StopAfter(Silent):
    """Sends this process a signal after so many batches, as a user or a cluster would."""

    def __init__(self, batches: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = batches, number

    def batch(self, epoch: int, done: int, total: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


class Recorder(Silent):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def epoch(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_training_beats_its_start_and_keeps_the_best_epoch(correlated_pairs, tmp_path):
    run = started_run(tmp_path / "r")
    model = small_model()
    result = fit(model, TraceNorm(), correlated_pairs, CONFIG, run=run, seed=1)
    values = [line["mrr_va"] for line in result.log]
    assert result.best_value == max(values) > 1.3 * values[0] or values[0] > 0.5
    assert result.best_epoch == 1 + values.index(max(values))
    z1, z2 = embed(model, correlated_pairs.valid)
    metrics = retrieval_metrics(z1, z2)
    assert (metrics["V1_to_V2"]["mrr"] + metrics["V2_to_V1"]["mrr"]) / 2 == pytest.approx(result.best_value)
    fresh = small_model(seed=9)
    run.load_weights(fresh)
    assert same_weights(fresh, model)
    assert [json.loads(line) for line in run.file(run.LOG).read_text().splitlines()] == result.log


def test_every_epoch_refits_on_all_training_pairs(correlated_pairs):
    result = fit(small_model(), TraceNorm(), correlated_pairs, CONFIG)
    assert {line["refit_pairs"] for line in result.log} == {200}


def test_statistics_of_the_best_model_are_those_of_its_towers(correlated_pairs):
    model = small_model()
    fit(model, PairwiseRanking(), correlated_pairs, CONFIG)
    model.eval()
    with torch.no_grad():
        a, b = model.tower1(correlated_pairs.train.view1), model.tower2(correlated_pairs.train.view2)
    expected = torch.cov(torch.cat([a, b], dim=1).T.double())
    assert torch.allclose(model.head.S12, expected[:5, 5:], rtol=1e-5, atol=1e-6)
    assert int(model.head.count) == 200


def test_a_linear_model_trained_by_trace_norm_finds_linear_cca(correlated_pairs):
    """Oracle: with linear towers deep CCA is linear CCA."""
    torch.manual_seed(0)
    model = TwoTower(mlp((12,), [], 4), mlp((9,), [], 4), CCALayer(4, r1=1e-6, r2=1e-6))
    config = TrainConfig(dim_latent=4, batch_size=200, learning_rate=2e-2, max_epochs=150, patience=150,
                         refinement_steps=0)
    fit(model, TraceNorm(), correlated_pairs, config)
    train = correlated_pairs.train
    linear = LinearCCA(4, r1=1e-9, r2=1e-9).fit(train.view1, train.view2)
    assert float(model.head.correlations.sum()) == pytest.approx(float(linear.correlations_.sum()), abs=0.02)


@pytest.mark.parametrize("batches", [1, 3, 4, 5, 9, 11])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_resumed_training_equals_an_undisturbed_one_bit_for_bit(correlated_pairs, tmp_path, batches, number):
    undisturbed = small_model()
    whole = fit(undisturbed, TraceNorm(), correlated_pairs, CONFIG, seed=3)
    run = started_run(tmp_path / "r")
    stopped = fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, seed=3, run=run,
                  display=StopAfter(batches, number))
    assert stopped.signal == number and stopped.finished == f"interrupted by {signal.Signals(number).name}"
    resumed = small_model(seed=77)  # whatever it starts from, the state decides
    result = fit(resumed, TraceNorm(), correlated_pairs, CONFIG, seed=3, run=run, resume=True)
    assert same_weights(resumed, undisturbed)
    assert [line["mrr_va"] for line in result.log] == [line["mrr_va"] for line in whole.log]
    assert [line["loss_tr"] for line in result.log] == [line["loss_tr"] for line in whole.log]


@pytest.mark.parametrize("alpha", [1.0, "auto"])
def test_a_stop_before_the_first_step_loses_nothing(correlated_pairs, tmp_path, alpha):
    """A signal during the first statistics must not leave a state in which they are half made."""
    class EarlyStop(TwoTower):
        def refit(self, batches, train_mode=False):
            if train_mode:
                os.kill(os.getpid(), signal.SIGINT)
            return super().refit(batches, train_mode)

    def model(kind):
        made = small_model(head=CCALayer(5, alpha=alpha))
        return kind(made.tower1, made.tower2, made.head)

    undisturbed = model(TwoTower)
    fit(undisturbed, TraceNorm(), correlated_pairs, CONFIG, seed=3)
    run = started_run(tmp_path / "r")
    stopped = fit(model(EarlyStop), TraceNorm(), correlated_pairs, CONFIG, seed=3, run=run)
    assert (stopped.signal is None) == (alpha == 1.0)
    resumed = model(TwoTower)
    fit(resumed, TraceNorm(), correlated_pairs, CONFIG, seed=3, run=run, resume=True)
    assert same_weights(resumed, undisturbed)


@pytest.mark.parametrize("first", range(1, 12))
def test_raising_max_epochs_gives_the_run_one_would_have_had(correlated_pairs, tmp_path, first):
    """Wherever the first training ended, in the epoch that uses up the patience or starts refining included."""
    config = dataclasses.replace(CONFIG, max_epochs=12, patience=1, refinement_steps=2, learning_rate=0.05)
    at_once = small_model()
    whole = fit(at_once, PairwiseRanking(), correlated_pairs, config, seed=3)
    run = started_run(tmp_path / "r")
    fit(small_model(), PairwiseRanking(), correlated_pairs, dataclasses.replace(config, max_epochs=first), seed=3,
        run=run)
    resumed = small_model()
    result = fit(resumed, PairwiseRanking(), correlated_pairs, config, seed=3, run=run, resume=True)
    assert same_weights(resumed, at_once)
    assert [line["mrr_va"] for line in result.log] == [line["mrr_va"] for line in whole.log]
    assert result.finished == whole.finished


def test_lowering_max_epochs_ends_at_once(correlated_pairs, tmp_path):
    run = started_run(tmp_path / "r")
    stopped = fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, display=StopAfter(13))
    assert len(stopped.log) == 3
    result = fit(small_model(), TraceNorm(), correlated_pairs, dataclasses.replace(CONFIG, max_epochs=2), run=run,
                 resume=True)
    assert result.finished == "max_epochs" and len(result.log) == 3
    assert run.load_resume()["progress"]["finished"] == "max_epochs"  # for whoever begins from it


@pytest.mark.parametrize("when", ["batch", "epoch"])
def test_a_signal_in_the_last_moment_is_told_of_a_training_that_is_finished(correlated_pairs, when):
    class Late(Silent):
        def batch(self, epoch, done, total, loss):
            if when == "batch" and (epoch, done) == (2, total):
                os.kill(os.getpid(), signal.SIGINT)

        def epoch(self, line):
            if when == "epoch" and line["epoch"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

    config = dataclasses.replace(CONFIG, max_epochs=2)
    result = fit(small_model(), TraceNorm(), correlated_pairs, config, display=Late())
    assert (result.finished, result.signal, len(result.log)) == ("max_epochs", signal.SIGINT, 2)


def test_training_metrics_are_of_pairs_alone_however_many_there_are_to_validate(captioned_pictures):
    train, n = captioned_pictures.train, captioned_pictures.train.n_pairs
    for count in (n - 1, n):
        data = dataclasses.replace(captioned_pictures, valid=train.select(torch.arange(count), "valid"))
        sample = probe(data)
        assert sample.n_pairs == count and len(sample.view2) == len(sample.pairs[:, 1].unique()) < len(train.view2)


@pytest.mark.parametrize("damage", [{"log": 5}, {"epoch": "a"}, {"learning_rate": None}, {"unknown": 1}])
def test_a_state_that_makes_no_sense_is_damaged(correlated_pairs, tmp_path, damage):
    run = started_run(tmp_path / "r")
    fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, display=StopAfter(13))
    state = run.load_resume()
    state["progress"] |= damage
    run.save_resume(state)
    with pytest.raises(CheckpointError, match="is damaged"):
        fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, resume=True)


@pytest.mark.parametrize("value", [-2147483648, torch.zeros(7, 3), None])
def test_damaged_averages_of_the_optimizer_are_found_before_a_step(correlated_pairs, tmp_path, value):
    run = started_run(tmp_path / "r")
    fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, display=StopAfter(13))
    state = run.load_resume()
    state["optimizer"]["state"][0]["exp_avg"] = value
    run.save_resume(state)
    with pytest.raises(CheckpointError, match=r"is damaged.*exp_avg of a parameter of shape"):
        fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, resume=True)


@pytest.mark.parametrize("part", ["model", "optimizer", "objective"])
@pytest.mark.parametrize("damaged", [{"nothing": 1}, 7, None])
def test_a_damaged_best_model_is_found_when_training_is_resumed(correlated_pairs, tmp_path, part, damaged):
    """Not an hour later, when the best model is gone back to."""
    run = started_run(tmp_path / "r")
    fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, display=StopAfter(13))
    state = run.load_resume()
    state["best"][part] = damaged
    run.save_resume(state)
    with pytest.raises(CheckpointError, match=r"damaged|does not fit"):
        fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, resume=True)


def test_the_display_is_closed_whatever_ends_training(correlated_pairs):
    class Closes(StopAfter):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    display = Closes(2)
    fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, display=display)
    assert display.closed == 1


def test_resuming_again_and_again_after_every_batch(correlated_pairs, tmp_path):
    undisturbed = small_model()
    fit(undisturbed, PairwiseRanking(), correlated_pairs, CONFIG, seed=3)
    run = started_run(tmp_path / "r")
    fit(small_model(), PairwiseRanking(), correlated_pairs, CONFIG, seed=3, run=run, display=StopAfter(1))
    for _ in range(200):
        model = small_model(seed=5)
        result = fit(model, PairwiseRanking(), correlated_pairs, CONFIG, seed=3, run=run, resume=True,
                     display=StopAfter(1))
        if result.signal is None:
            break
    else:
        pytest.fail("training never ended")
    assert same_weights(model, undisturbed)


def test_resuming_a_finished_run_changes_nothing(correlated_pairs, tmp_path):
    run = started_run(tmp_path / "r")
    model = small_model()
    first = fit(model, TraceNorm(), correlated_pairs, CONFIG, run=run)
    again = small_model(seed=4)
    second = fit(again, TraceNorm(), correlated_pairs, CONFIG, run=run, resume=True)
    assert second == first and same_weights(again, model)


def test_resume_rolls_log_and_weights_back_to_the_saved_state(correlated_pairs, tmp_path):
    """Log and weights may be ahead of resume.pt after a kill; they must agree again before training goes on."""
    run = started_run(tmp_path / "r")
    model = small_model()
    fit(model, TraceNorm(), correlated_pairs, CONFIG, run=run)
    log, weights = run.file(run.LOG).read_text(), run.file(run.WEIGHTS).read_bytes()
    run.file(run.LOG).write_text(log + '{"epoch": 99}\n')
    run.save_weights(small_model(seed=8).state_dict())
    run.file(".weights.safetensors.1-ab.tmp").write_text("half")
    fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run, resume=True)
    assert run.file(run.LOG).read_text() == log
    assert run.file(run.WEIGHTS).read_bytes() == weights
    assert not list(run.path.glob(".*"))


def test_patience_refinement_and_learning_rate(correlated_pairs):
    """With a learning rate too small to improve ranks, training must stop after patience + refined patience."""
    config = TrainConfig(dim_latent=5, batch_size=50, learning_rate=1e-12, max_epochs=100, patience=4,
                         refinement_steps=2, refinement_patience=2, lr_multiplier=0.1)
    display = Recorder()
    torch.manual_seed(0)
    model = TwoTower(mlp((12,), [], 5), mlp((9,), [], 5), LearnedProjection(5))
    result = fit(model, PairwiseRanking(), correlated_pairs, config, display=display)
    assert result.finished == "patience"
    assert [line["lr"] for line in result.log] == pytest.approx([1e-12] * 5 + [1e-13] * 2 + [1e-14] * 2)
    assert [line["refinement"] for line in result.log] == [0] * 5 + [1] * 2 + [2] * 2
    assert [line["patience_left"] for line in result.log] == [4, 3, 2, 1, 0, 1, 0, 1, 0]
    assert len(display.notes) == 2 and display.lines == result.log


def test_refining_goes_back_to_the_best_model_and_its_optimizer(correlated_pairs):
    """Epoch after a refinement = one epoch by hand from the best model, its Adam state and the smaller rate."""
    config = TrainConfig(dim_latent=5, batch_size=200, learning_rate=0.5, max_epochs=30, patience=1,
                         refinement_steps=1, lr_multiplier=0.01)  # the model's head has alpha="auto"
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    class KeepStates(Recorder):
        def epoch(self, line: dict[str, Any]) -> None:
            super().epoch(line)
            kept.append({k: v.clone() for k, v in model.state_dict().items()})

    display = KeepStates()
    model = small_model(dropout=0.0)
    result = fit(model, PairwiseRanking(), correlated_pairs, config, seed=2, display=display)
    refined = next(i for i, line in enumerate(result.log) if line["refinement"] == 1)
    best = max(range(refined), key=lambda i: (result.log[i]["mrr_va"], -i))
    by_hand = small_model(dropout=0.0)
    optimizer = make_optimizer([by_hand], config)
    objective = PairwiseRanking()
    by_hand.refit(((b.view1, b.view2) for b in pair_batches(correlated_pairs.train, 200, seed=2)), train_mode=True)
    for epoch in [*range(1, best + 2), refined + 1]:
        if epoch == refined + 1:
            optimizer.param_groups[0]["lr"] = 0.5 * 0.01
        by_hand.train()
        for batch in pair_batches(correlated_pairs.train, 200, seed=2, epoch=epoch):
            optimizer.zero_grad()
            objective(by_hand(batch.view1, batch.view2), batch.pairs).backward()
            optimizer.step()
        by_hand.refit((b.view1, b.view2) for b in pair_batches(correlated_pairs.train, 200, seed=2))
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(value, kept[refined][name], rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_of_the_first_step(decoupled):
    """Classic: gradient gains 2·l2·w, so Adam's first step of a gradient-free weight is −lr·sign(w). Decoupled:
    w shrinks by lr·l2·w."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer([layer], TrainConfig(l2=0.1, learning_rate=0.01, decoupled=decoupled))
    (layer.weight * 0).sum().backward()
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2 - 0.01 * 0.1 * 2 if decoupled else 2 - 0.01, abs=1e-6)


def test_an_objective_that_the_model_cannot_serve_is_named_with_what_would(correlated_pairs):
    corrnet = CorrNet(nn.Linear(12, 5), nn.Linear(9, 5), nn.Linear(5, 12), nn.Linear(5, 9))
    with pytest.raises(ExperimentError, match=r"restores its views; TwoTower does not \(use CorrNet\)"):
        check_experiment(small_model(), CorrNetObjective(), correlated_pairs)
    with pytest.raises(ExperimentError, match=r"canonical correlations; CorrNet does not \(use CCALayer\)"):
        check_experiment(corrnet, TraceNorm(), correlated_pairs)
    check_experiment(corrnet, CorrNetObjective(), correlated_pairs)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_corrnet_trains_resumes_and_finds_partners(correlated_pairs, tmp_path, optimizer):
    def model() -> CorrNet:
        torch.manual_seed(0)
        encoder1, encoder2 = nn.Linear(12, 5), nn.Linear(9, 5)
        return CorrNet(encoder1, encoder2, tied_decoder(encoder1), tied_decoder(encoder2), nn.Tanh())

    config = TrainConfig(dim_latent=5, batch_size=40, max_epochs=8, patience=8, schedule="cosine", learning_rate=2e-2,
                         optimizer=optimizer)
    undisturbed, resumed, run = model(), model(), started_run(tmp_path / "r")
    result = fit(undisturbed, CorrNetObjective(), correlated_pairs, config, seed=3)
    fit(resumed, CorrNetObjective(), correlated_pairs, config, seed=3, run=run, display=StopAfter(13))
    resumed = model()
    again = fit(resumed, CorrNetObjective(), correlated_pairs, config, seed=3, run=run, resume=True)
    assert same_weights(resumed, undisturbed) and again.best_value == result.best_value
    assert result.log[-1]["refit_pairs"] == 0 and result.log[-1]["loss_tr"] < result.log[0]["loss_tr"]
    chance = evaluate(model(), correlated_pairs)["V1_to_V2"]["mrr"]
    assert evaluate(undisturbed, correlated_pairs)["V1_to_V2"]["mrr"] > 2 * chance


@pytest.mark.parametrize("error", ["squared", "cross_entropy"])
def test_a_corrnet_that_diverges_stops_with_epoch_batch_and_cause(correlated_pairs, error):
    torch.manual_seed(0)
    decoder1, decoder2 = (nn.Sequential(nn.Linear(5, width), nn.Sigmoid()) for width in (12, 9))
    model = CorrNet(nn.Linear(12, 5), nn.Linear(9, 5), decoder1, decoder2)
    within = {split.name: dataclasses.replace(split, view1=split.view1.sigmoid(), view2=split.view2.sigmoid())
              for split in correlated_pairs.splits()}
    config = dataclasses.replace(CONFIG, learning_rate=1e38, alpha=1.0)
    with pytest.raises(NumericalError, match=r"training stopped in epoch 1, batch \d: the loss is .*learning_rate"):
        fit(model, CorrNetObjective(error=error), dataclasses.replace(correlated_pairs, **within), config)


def test_keep_last_ends_with_the_last_weights_whatever_validation_says(correlated_pairs, tmp_path):
    """An objective that drives partners apart; patience 1 does not end that."""
    class Backwards(PairwiseRanking):
        def forward(self, *batch: Any) -> torch.Tensor:
            return -super().forward(*batch)

    class Weights(Recorder):
        def epoch(self, line: dict[str, Any]) -> None:
            super().epoch(line)
            self.last = {name: value.clone() for name, value in model.state_dict().items()}

    config = dataclasses.replace(CONFIG, keep="last", learning_rate=0.02, patience=1)
    model, seen, run = small_model(), Weights(), started_run(tmp_path / "r")
    result = fit(model, Backwards(), correlated_pairs, config, run=run, display=seen)
    assert result.finished == "max_epochs" and result.best_epoch == len(result.log) == CONFIG.max_epochs
    values = [line["mrr_va"] for line in result.log]
    assert result.best_value == values[-1] < max(values)
    kept = small_model(seed=5)
    run.load_weights(kept)
    assert all(torch.equal(value, seen.last[name]) for name, value in kept.state_dict().items())
    assert same_weights(kept, model)


def test_judged_by_loss_the_epoch_with_the_least_is_kept_and_refined(correlated_pairs):
    config = dataclasses.replace(CONFIG, judge="loss", learning_rate=0.1, patience=1, max_epochs=12)
    display = Recorder()
    result = fit(small_model(), PairwiseRanking(), correlated_pairs, config, display=display)
    losses = [line["loss_va"] for line in result.log]
    assert result.best_value == min(losses) and result.best_epoch == 1 + losses.index(min(losses))
    assert [line["best"] for line in result.log] == [loss < min([math.inf, *losses[:i]])
                                                      for i, loss in enumerate(losses)]
    assert display.notes and all("validation loss 0." in note for note in display.notes)
    by_mrr = fit(small_model(), PairwiseRanking(), correlated_pairs, dataclasses.replace(config, judge="mrr"))
    assert by_mrr.best_value == max(line["mrr_va"] for line in by_mrr.log)


def test_a_validation_loss_that_is_no_number_can_not_judge(correlated_pairs):
    class Nothing(PairwiseRanking):
        def forward(self, *batch: Any) -> torch.Tensor:
            return super().forward(*batch) * (1.0 if self.training else math.nan)

    with pytest.raises(NumericalError, match="after epoch 1: the validation loss, which judges epochs, is nan"):
        fit(small_model(), Nothing(), correlated_pairs, dataclasses.replace(CONFIG, judge="loss"))
    assert fit(small_model(), Nothing(), correlated_pairs, CONFIG).best_epoch


@pytest.mark.parametrize("lone", [False, True])
def test_a_model_that_needs_no_pairs_sees_every_item(correlated_pairs, lone):
    """In training and in the validation loss; retrieval is still measured by the pairs, and refitted on them."""
    class Alone(TwoTower):
        needs_no_pairs = True

        def forward(self, x, y):
            seen[self.training] += [(float(a), float(b)) for a, b in zip(x[:, 0], y[:, 0], strict=True)]
            return super().forward(x, y)

    seen: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    table = torch.tensor([[0, 3], [5, 5], [7, 1]])
    data = correlated_pairs
    if lone:
        data = dataclasses.replace(data, **{split.name: dataclasses.replace(
            split, view2=split.view2[:40], pairs=table) for split in (data.train, data.valid)})
    fresh = small_model(head=CCALayer(5, alpha=1.0))
    model = Alone(fresh.tower1, fresh.tower2, fresh.head)
    check_experiment(model, PairwiseRanking(), data)
    seen[True].clear()
    seen[False].clear()
    config = dataclasses.replace(CONFIG, max_epochs=1, alpha=1.0)
    result = fit(model, PairwiseRanking(), data, config)
    n2 = 40 if lone else 200
    expected = sorted((float(data.train.view1[i, 0]), float(data.train.view2[i % n2, 0])) for i in range(200))
    assert sorted(seen[True][2:]) == expected  # the first two are the check's
    of_valid = sorted((float(data.valid.view1[i, 0]), float(data.valid.view2[i % min(n2, 60), 0])) for i in range(60))
    assert sorted(seen[False]) == of_valid
    assert result.log[0]["refit_pairs"] == len(data.train) == (3 if lone else 200)
    z1, z2 = embed(model, data.valid)
    metrics = retrieval_metrics(z1, z2, data.valid.pairs)
    assert result.best_value == pytest.approx((metrics["V1_to_V2"]["mrr"] + metrics["V2_to_V1"]["mrr"]) / 2)


def test_the_cosine_schedule_step_by_step(correlated_pairs, monkeypatch):
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step",
                        lambda self, *a, **k: rates.append(self.param_groups[0]["lr"]) or step(self, *a, **k))
    config = TrainConfig(dim_latent=5, batch_size=40, max_epochs=4, schedule="cosine", learning_rate=0.3)
    result = fit(small_model(), PairwiseRanking(), correlated_pairs, config)
    done = [(k + 0.5) / 20 for k in range(20)]      # 200 pairs: 5 steps an epoch
    expected = [0.3 * (d / 0.1 if d < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (d - 0.1) / 0.9)) for d in done]
    assert rates == pytest.approx(expected)
    assert [line["lr"] for line in result.log] == pytest.approx(expected[4::5])


def test_rmsprop_by_hand():
    """Mean square decayed by 0.9 from zero: the first step of a gradient g is lr·g/√(0.1 g²)."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer([layer], TrainConfig(optimizer="rmsprop", learning_rate=0.01, l2=0.25))
    (3 * layer.weight).sum().backward()
    optimizer.step()
    gradient = 3 + 2 * 0.25 * 2.0
    assert layer.weight.item() == pytest.approx(2 - 0.01 * gradient / math.sqrt(0.1 * gradient**2), abs=1e-6)


def test_classic_l2_is_the_gradient_of_the_penalty():
    layer = nn.Linear(3, 2, bias=False)
    penalised = torch.autograd.grad(0.05 * layer.weight.square().sum(), layer.weight)[0]
    decay = make_optimizer([layer], TrainConfig(l2=0.05)).param_groups[0]["weight_decay"]
    assert torch.allclose(penalised, decay * layer.weight)


def test_gradient_clipping_bounds_the_step(correlated_pairs, monkeypatch):
    seen = []
    original = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda p, n: seen.append(n) or original(p, n))
    config = TrainConfig(dim_latent=5, batch_size=100, max_epochs=1, clip_norm=0.01)
    fit(small_model(), PairwiseRanking(), correlated_pairs, config)
    assert seen == [0.01, 0.01]


def test_several_captions_per_picture_train_and_validate(captioned_pictures):
    config = TrainConfig(dim_latent=5, batch_size=60, learning_rate=5e-3, max_epochs=8, alpha="auto")
    model = small_model(dropout=0.0)
    result = fit(model, PairwiseRanking(symmetric=True), captioned_pictures, config)
    assert result.log[-1]["refit_pairs"] == 240
    assert result.best_value > 0.5


def test_a_nan_loss_stops_with_a_diagnosis_and_keeps_the_best(correlated_pairs, tmp_path):
    class GoesWrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, embedded, pairs=None):
            self.calls += self.training
            loss = TraceNorm()(embedded)
            return loss * (math.nan if self.calls > 9 else 1.0)  # 4 batches an epoch, one call in the check

    run = started_run(tmp_path / "r")
    with pytest.raises(NumericalError) as caught:
        fit(small_model(), GoesWrong(), correlated_pairs, CONFIG, run=run)
    text = str(caught.value)
    assert "epoch 3, batch 1" in text or "epoch 3, batch 2" in text
    assert "loss is nan" in text and "smallest eigenvalues" in text and "best model so far (epoch" in text
    run.load_weights(small_model())


def test_a_diverging_learning_rate_is_named(correlated_pairs):
    config = TrainConfig(dim_latent=5, batch_size=50, learning_rate=1e38, max_epochs=5)
    with pytest.raises(NumericalError, match=r"epoch \d+, batch \d+.*(not finite|largest)"):
        fit(small_model(dropout=0.0, head=LearnedProjection(5)), PairwiseRanking(), correlated_pairs, config)


def test_model_objective_and_data_that_do_not_fit_are_refused_before_training(correlated_pairs):
    with pytest.raises(ExperimentError, match=r"LearnedProjection does not \(use CCALayer\)"):
        fit(small_model(head=LearnedProjection(5)), TraceNorm(), correlated_pairs, CONFIG)
    wrong = TwoTower(mlp((13,), [], 5), mlp((9,), [], 5), CCALayer(5))
    with pytest.raises(ExperimentError, match=r"items of shape \(12,\) and \(9,\)"):
        fit(wrong, TraceNorm(), correlated_pairs, CONFIG)
    with pytest.raises(ExperimentError, match="no parameters"):
        fit(TwoTower(nn.Identity(), nn.Identity(), CCALayer(9)), PairwiseRanking(),
            _narrow(correlated_pairs), CONFIG)


def _narrow(data):
    splits = {s.name: dataclasses.replace(s, view1=s.view1[:, :9]) for s in data.splits()}
    return dataclasses.replace(data, **splits)


def test_the_check_leaves_model_and_random_state_alone(correlated_pairs):
    model = small_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    check_experiment(model, TraceNorm(), correlated_pairs)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_resume_refuses_another_models_state(correlated_pairs, tmp_path):
    run = started_run(tmp_path / "r")
    fit(small_model(), TraceNorm(), correlated_pairs, CONFIG, run=run)
    other = TwoTower(mlp((12,), [17], 5), mlp((9,), [16], 5), CCALayer(5))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        fit(other, TraceNorm(), correlated_pairs, CONFIG, run=run, resume=True)


def test_bf16_towers_train_and_heads_stay_in_full_precision(correlated_pairs):
    config = TrainConfig(dim_latent=5, batch_size=50, learning_rate=5e-3, max_epochs=6, alpha="auto", precision="bf16")
    model = small_model(dropout=0.0)
    result = fit(model, TraceNorm(), correlated_pairs, config)
    full = fit(small_model(dropout=0.0), TraceNorm(), correlated_pairs,
               TrainConfig(dim_latent=5, batch_size=50, learning_rate=5e-3, max_epochs=6, alpha="auto"))
    assert abs(result.best_value - full.best_value) < 0.1
    assert model.head.S11.dtype == torch.float64
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_compiled_towers_train_alike_and_leave_no_trace(correlated_pairs, precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    compiled, plain = small_model(dropout=0.0), small_model(dropout=0.0)
    result = fit(compiled, TraceNorm(), correlated_pairs, dataclasses.replace(config, compile=True))
    expected = fit(plain, TraceNorm(), correlated_pairs, config)
    assert result.log[0]["loss_tr"] == pytest.approx(expected.log[0]["loss_tr"], rel=1e-2)
    assert abs(result.best_value - expected.best_value) < 0.1
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert all("forward" not in vars(module) for module in compiled.modules())


def test_compiling_replaces_the_towers_forward_and_nothing_else(monkeypatch):
    model, items = small_model(dropout=0.0).eval(), torch.randn(3, 12)
    expected = model.tower1(items)
    calls = []
    monkeypatch.setattr(torch, "compile", lambda forward: lambda *given: (calls.append(1), forward(*given))[1])
    with compiled_towers(model):
        assert torch.equal(model.tower1(items), expected) and calls == [1]
        assert "forward" not in vars(model.head) and "forward" not in vars(model.norm)
    assert torch.equal(model.tower1(items), expected) and calls == [1]


def test_towers_that_cant_be_compiled_are_said(correlated_pairs, monkeypatch):
    from torch._dynamo.exc import Unsupported

    def fails(*items):
        raise Unsupported("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda forward: fails)
    with pytest.raises(ExperimentError, match=r"train without --compile: .*no C\+\+ compiler"):
        fit(small_model(), TraceNorm(), correlated_pairs, dataclasses.replace(CONFIG, compile=True))
