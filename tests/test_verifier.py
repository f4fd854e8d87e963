"""The verification network: features, logits and losses by loops, what is frozen, several processes, the commands."""
from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import together
from torch import nn

from xmodal import distributed
from xmodal.checkpoint import RunFolder
from xmodal.cli import run_eval, run_train
from xmodal.config import TrainConfig
from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError, ExperimentError
from xmodal.evaluator import verify
from xmodal.layers import CCALayer, CCAReadout, Embedded, LearnedProjection
from xmodal.networks import TwoTower, Verifier, compiled_towers
from xmodal.networks.verifier import other_rows
from xmodal.objectives import ByClass, MatchOrNot, Siamese
from xmodal.towers import mlp
from xmodal.trainer import fit

DIM = 4


def verifier(others: int = 3, head: nn.Module | None = None, shared: bool = False, frozen: bool = False) -> Verifier:
    torch.manual_seed(0)
    tower = mlp((6,), [8], DIM)
    other = tower if shared else mlp((6,), [8], DIM)
    base = TwoTower(tower, other, head or LearnedProjection(DIM, shared=shared))
    if frozen:
        base.requires_grad_(False)
    return Verifier(base, (5,), others)


def batch(n: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return x, x + 0.3 * torch.randn(n, 6, generator=g)


# -- what is judged --------------------------------------------------------------------------------------------------

def by_hand(model: Verifier, z1: np.ndarray, z2: np.ndarray) -> float:
    """One logit, number by number."""
    a, b = (z.astype(np.float64) / np.linalg.norm(z.astype(np.float64)) for z in (z1, z2))
    values = [*a, *b, *(abs(p - q) for p, q in zip(a, b, strict=True)), *(p * q for p, q in zip(a, b, strict=True))]
    layers = [layer for layer in model.judging if isinstance(layer, nn.Linear)]
    for depth, layer in enumerate(layers):
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        values = [float(bias[i] + sum(w * v for w, v in zip(row, values, strict=True))) for i, row in enumerate(weight)]
        values = [max(0.0, v) for v in values] if depth < len(layers) - 1 else values
    return values[0]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("head", [LearnedProjection, CCALayer, CCAReadout])
@pytest.mark.filterwarnings("ignore:CCALayer")
def test_logits_are_the_loops(head, train):
    model, (x, y) = verifier(head=head(DIM)), batch()
    model.refit([(x, y)])
    model.train(train)
    embedded = model(x, y)
    z1, z2, extras = embedded.view1.detach().numpy(), embedded.view2.detach().numpy(), embedded.extras
    assert extras["match"].tolist() == pytest.approx([by_hand(model, a, b) for a, b in zip(z1, z2, strict=True)],
                                                     abs=1e-5)
    assert extras["other"].shape == extras["other_rows"].shape == (12, 3)
    for i, rows in enumerate(extras["other_rows"].tolist()):
        assert extras["other"][i].tolist() == pytest.approx([by_hand(model, z1[i], z2[j]) for j in rows], abs=1e-5)
    if not train:
        assert torch.equal(embedded.view1, model.embed_view1(x)) and torch.equal(embedded.view2, model.embed_view2(y))


def test_the_length_of_embeddings_does_not_matter_and_noughts_are_finite():
    model = verifier()
    z1, z2 = torch.randn(5, DIM), torch.randn(5, DIM)
    torch.testing.assert_close(model.judge(z1 * 7, z2 / 5), model.judge(z1, z2), atol=1e-4, rtol=1e-4)
    assert model.judge(torch.zeros(2, DIM), torch.zeros(2, DIM)).isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.judge(z1, z2), model.judge(z1, z2)) and model.judge(z1, z2).dtype == torch.float32


@given(n=st.integers(1, 20), others=st.integers(1, 25), drawn=st.booleans(), seed=st.integers(0, 99))
def test_other_rows_are_others_and_each_comes_up_as_often(n, others, drawn, seed):
    torch.manual_seed(seed)
    rows = other_rows(n, others, drawn)
    assert rows.shape == (n, min(others, n - 1)) and rows.dtype == torch.int64
    for i, line in enumerate(rows.tolist()):
        assert i not in line and len(set(line)) == len(line)
    assert torch.bincount(rows.flatten(), minlength=n).tolist() == [rows.shape[1]] * n
    if not drawn:
        assert torch.equal(rows, other_rows(n, others, drawn))


def test_draws_are_even():
    torch.manual_seed(0)
    counts = sum(torch.bincount(other_rows(7, 2, True)[3], minlength=7) for _ in range(3000))
    assert counts[3] == 0 and (counts[torch.arange(7) != 3] - 1000).abs().max() < 130  # 4.5 standard deviations


def test_eval_mode_judges_the_same_pairs_whatever_was_drawn():
    model, (x, y) = verifier().eval(), batch()
    state = torch.get_rng_state()
    one = model(x, y).extras
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    two = model(x, y).extras
    assert all(torch.equal(one[key], two[key]) for key in ("match", "other", "other_rows"))
    model.train()
    assert not torch.equal(model(x, y).extras["other_rows"], model(x, y).extras["other_rows"])


def test_what_a_verifier_refuses():
    base = verifier().base
    with pytest.raises(ExperimentError, match="expects a TwoTower as its base, got Linear"):
        Verifier(nn.Linear(3, 3))
    for others in (0, -1, 1.5):
        with pytest.raises(ExperimentError, match="others must be a whole number of at least 1, got"):
            Verifier(base, others=others)


def test_refit_and_blending_are_the_bases():
    model, (x, y) = verifier(head=LearnedProjection(DIM, alpha=0.3)), batch()
    assert model.blends_statistics and not verifier().blends_statistics
    assert model.refit([(x, y)]) == 12 and int(model.base.head.count) == 12


# -- the objective ---------------------------------------------------------------------------------------------------

def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def match_or_not_by_loops(embedded: Embedded, pairs: list[tuple[int, int]]) -> float:
    match, other, rows = (embedded.extras[key].tolist() for key in ("match", "other", "other_rows"))
    apart = [softplus(other[i][j]) for i in range(len(match)) for j in range(len(other[i]))
             if pairs[i][0] != pairs[rows[i][j]][0] and pairs[i][1] != pairs[rows[i][j]][1]]
    return (sum(softplus(-s) for s in match) / len(match) + sum(apart) / max(len(apart), 1)) / 2


@given(n=st.integers(1, 9), items=st.one_of(st.none(), st.integers(1, 6)), others=st.integers(1, 9),
       seed=st.integers(0, 10**6))
def test_match_or_not_is_the_loops(n, items, others, seed):
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows = other_rows(n, others, True)
    extras = {"match": torch.randn(n, generator=g) * 5, "other": torch.randn(rows.shape, generator=g) * 5,
              "other_rows": rows}
    embedded = Embedded(torch.zeros(n, 2), torch.zeros(n, 2), extras=extras)
    pairs = None if items is None else torch.randint(items, (n, 2), generator=g)
    expected = match_or_not_by_loops(embedded, [(i, i) for i in range(n)] if pairs is None else pairs.tolist())
    assert float(MatchOrNot()(embedded, pairs)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    labels = torch.randint(3, (n,), generator=g)
    by_class = match_or_not_by_loops(embedded, [(label, label) for label in labels.tolist()])
    assert float(ByClass(MatchOrNot())(embedded, pairs, labels)) == pytest.approx(by_class, rel=1e-5, abs=1e-6)


def test_what_the_objectives_need():
    x, y = batch()
    with pytest.raises(ExperimentError, match="MatchOrNot needs a model that judges pairs, such as Verifier; this"):
        MatchOrNot()(verifier().base(x, y))
    with pytest.raises(ExperimentError, match="ByClass needs labels, and these data have none"):
        ByClass(Siamese())(verifier().base(x, y))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_give_finite_gradients(n):
    model, (x, y) = verifier(others=64), batch(3)
    loss = MatchOrNot()(model.eval()(x[:n], y[:n]))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_the_judge_and_what_is_not_frozen(frozen):
    model, (x, y) = verifier(frozen=frozen), batch()
    MatchOrNot()(model(x, y)).backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "judging" in name)
    below = [name for name, p in model.base.named_parameters() if p.grad is not None and p.grad.any()]
    assert (below == []) == frozen and (frozen or "tower1.0.weight" in below)


# -- training --------------------------------------------------------------------------------------------------------

def classes(n_train: int = 200) -> PairedData:
    """Pairs of the same class: noisy points around five centres."""
    centres = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    splits = []
    for seed, (name, n) in enumerate((("train", n_train), ("valid", 60), ("test", 80))):
        g = torch.Generator().manual_seed(seed)
        labels = torch.randint(5, (n,), generator=g)
        one, two = (centres[labels] + 0.6 * torch.randn(n, 6, generator=g) for _ in range(2))
        splits.append(PairSplit(name, one, two, labels=labels))
    return PairedData("classes", *splits).with_fingerprint()


CONFIG = TrainConfig(dim_latent=DIM, batch_size=50, learning_rate=1e-2, max_epochs=6, judge="loss", patience=6)


def test_a_frozen_base_is_left_as_it_is_and_the_judge_learns():
    data, model = classes(), verifier(others=16, shared=True)
    fit(model.base, ByClass(Siamese()), data, CONFIG, seed=1)
    before = {name: value.clone() for name, value in model.base.state_dict().items()}
    model.base.requires_grad_(False)
    result = fit(model, ByClass(MatchOrNot()), data, CONFIG, seed=1)
    after = model.base.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("head."))
    assert result.log[-1]["loss_va"] < 0.85 * result.log[0]["loss_va"]
    found = verify(model, data, match="class")
    assert list(found.judged) == ["network", "cosine"] and found.report["random"]["auc"] > 0.85
    assert found.report["cosine"]["random"] == verify(model.base, data, match="class").report["random"]


def test_end_to_end_the_towers_learn_too():
    data, model = classes(), verifier(others=16)
    before = model.base.tower1[0].weight.clone()
    fit(model, ByClass(MatchOrNot()), data, CONFIG, seed=1)
    assert not torch.allclose(before, model.base.tower1[0].weight)
    assert verify(model, data, match="class").report["random"]["auc"] > 0.85


@pytest.mark.parametrize("kind", ["shared weights", "frozen", "end to end"])
def test_resumed_is_undisturbed_and_what_is_kept_is_loaded(kind, tmp_path):
    data, (make_model, make_objective) = classes(), KINDS[kind]
    undisturbed, run = make_model(), RunFolder(tmp_path)
    fit(undisturbed, make_objective(), data, CONFIG, seed=3)
    run.write_json(RunFolder.CONFIG, {"config": {}, "seed": 3, "data": {"fingerprint": data.fingerprint}})
    fit(make_model(), make_objective(), data, dataclasses.replace(CONFIG, max_epochs=2), seed=3, run=run)
    resumed = make_model()
    fit(resumed, make_objective(), data, CONFIG, seed=3, run=run, resume=True)
    loaded = make_model()
    run.load_weights(loaded)
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name]), name
    base = getattr(loaded, "base", loaded)
    assert base.tower1 is base.tower2


def test_compiled_are_the_towers_and_the_judge(monkeypatch):
    model, (x, y) = verifier(shared=True).eval(), batch()
    expected, calls = model(x, y).extras["match"], []
    monkeypatch.setattr(torch, "compile", lambda forward: lambda *given: (calls.append(1), forward(*given))[1])
    with compiled_towers(model):
        assert torch.equal(model(x, y).extras["match"], expected) and len(calls) == 4  # tower twice, judge twice
        assert "forward" not in vars(model.base) and "forward" not in vars(model.base.head)
    assert all("forward" not in vars(module) for module in model.modules())


# -- several processes -----------------------------------------------------------------------------------------------

class Widened(nn.Module):
    """A tower in float64, so that a difference is a mistake and not rounding."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower.double()

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.tower(items.double())


def siamese() -> TwoTower:
    torch.manual_seed(0)
    tower = Widened(mlp((6,), [8], DIM))
    return TwoTower(tower, tower, LearnedProjection(DIM, shared=True).double())


def judged(frozen: bool) -> Verifier:
    base = siamese()
    base.requires_grad_(not frozen)
    return Verifier(base, (5,), 7).double()


KINDS: dict[str, tuple[Callable[[], Any], Callable[[], nn.Module]]] = {
    "shared weights": (siamese, lambda: ByClass(Siamese())),
    "frozen": (lambda: judged(True), lambda: ByClass(MatchOrNot())),
    "end to end": (lambda: judged(False), MatchOrNot),
}


def trained(folder: str) -> None:
    with distributed.joined():
        found = {}
        for kind, (make_model, make_objective) in KINDS.items():
            model, data = make_model(), classes(203)
            if distributed.rank() > 0:
                torch.manual_seed(100 + distributed.rank())  # as run_train.py has it
            log = fit(model, make_objective(), data, CONFIG, seed=3).log
            found[kind] = dict(model.state_dict()), [[line["loss_tr"], line["mrr_va"]] for line in log]
        if distributed.rank() == 0:
            torch.save(found, Path(folder, f"{distributed.size()}.pt"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes")
def test_several_processes_train_as_one_does(tmp_path):
    for count in (1, 2, 3):
        together(trained, count, str(tmp_path))
    one, *others = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2, 3))
    for kind in KINDS:
        for other in others:
            for name, value in one[kind][0].items():
                torch.testing.assert_close(value, other[kind][0][name], rtol=1e-6, atol=1e-6, msg=f"{kind}: {name}")
            np.testing.assert_allclose(one[kind][1], other[kind][1], rtol=1e-6)


# -- the commands ----------------------------------------------------------------------------------------------------

BASE = '''
from xmodal import *
from xmodal.towers import mlp
CONFIG = TrainConfig(dim_latent=8, batch_size=200, learning_rate=3e-3, max_epochs=4, judge="loss", patience=4)
{start}
def build_model(view1_shape, view2_shape):
    tower = mlp(view1_shape, [32], 8)
    base = TwoTower(tower, tower, LearnedProjection(8, shared=True))
    return {model}

def build_objective():
    return {objective}
'''


def experiment(name: str, **parts: str) -> list[str]:
    Path(f"{name}.py").write_text(BASE.format(**{"start": "", **parts}))
    return ["--model", f"{name}.py", "--data", "digits"]


def test_the_commands_on_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = experiment("base", model="base", objective="ByClass(Siamese())")
    assert run_train.main(base) == 0
    assert run_eval.main([*base, "--verify", "class"]) == 0
    assert "are they of one class" in capsys.readouterr().out
    judge = experiment("judge", model="Verifier(base)", objective="ByClass(MatchOrNot())",
                       start='START = Start("runs/base", last=0, into="base")')
    assert run_train.main(judge) == 0
    assert run_eval.main([*judge, "--verify", "class"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("started from"))
    assert "by the network" in out and "by cosine" in out
    found = json.loads(Path("runs/judge/metrics.json").read_text())["verification"]
    alone = json.loads(Path("runs/base/metrics.json").read_text())["verification"]
    assert found["match"] == alone["match"] == "class" and "cosine" not in alone
    for kind in ("random", "hard"):
        assert found["cosine"][kind]["auc"] == pytest.approx(alone[kind]["auc"], abs=1e-6)
        assert f"{found[kind]['auc']:.4f}" in out and f"{found['cosine'][kind]['auc']:.4f}" in out
    assert Path("runs/judge/roc.png").read_bytes().startswith(b"\x89PNG")
    assert run_eval.main([*judge, "--verify", "--n_test", "50"]) == 0
    assert "does a pair match" in capsys.readouterr().out


def test_classes_need_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("plain.npz", view1=np.random.default_rng(0).normal(size=(60, 5)),
             view2=np.random.default_rng(1).normal(size=(60, 5)))
    Path("m.py").write_text(BASE.format(start="", model="base", objective="Siamese()"))
    options = ["--model", "m.py", "--data", "plain.npz"]
    assert run_train.main(options) == 0
    assert run_eval.main([*options, "--verify"]) == 0
    capsys.readouterr()
    assert run_eval.main([*options, "--verify", "class"]) == 2
    assert "verification by class needs labels, and the valid pairs have none" in capsys.readouterr().err
    with pytest.raises(DataError, match="match must be pair or class, got 'item'"):
        verify(siamese(), classes(), match="item")
