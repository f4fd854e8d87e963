"""A diagnosis names the cause where it can be seen."""
from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from xmodal.config import TrainConfig
from xmodal.data import Batch
from xmodal.diagnosis import diagnose, require_finite_state
from xmodal.errors import NumericalError
from xmodal.layers import CCALayer, CCAReadout, LearnedProjection
from xmodal.networks import CorrNet, TwoTower
from xmodal.objectives import PairwiseRanking, TraceNorm
from xmodal.towers import mlp
from xmodal.trainer import fit


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def model() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(mlp((6,), [8], 4), mlp((5,), [8], 4), CCALayer(4))


@pytest.fixture
def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    return Batch(torch.randn(20, 6, generator=g), torch.randn(20, 5, generator=g), torch.arange(20).repeat(2, 1).T)


def test_healthy(model, batch):
    text = diagnose(model, batch)
    S = torch.cov(model.eval().tower1(batch.view1).double().T)
    smallest = ", ".join(f"{v:.3g}" for v in torch.linalg.eigvalsh(S)[:3].tolist())
    assert f"covariance of view1: smallest eigenvalues {smallest};" in text and "covariance of view2" in text
    assert "not finite" not in text
    assert text.startswith("inputs, parameters, tower outputs, embedding of view1 and embedding of view2 are finite: "
                           "look at the objective; covariance of view1")


def test_input_rows(model, batch):
    batch.view2[[3, 7], 1] = torch.tensor([float("nan"), float("inf")])
    text = diagnose(model, batch)
    assert "input view2 is not finite in 2 of 20 rows (first items: [3, 7])" in text
    assert "tower output view2 is not finite in 2 of 20 rows (first items: [3, 7])" in text
    assert "covariance of view2: not finite in 4 of 4 dimensions" in text
    assert "input view1" not in text and "tower output view1" not in text and "parameters" not in text


def test_parameters(model, batch):
    with torch.no_grad():
        model.tower1[0].weight[0, 0] = float("nan")
    text = diagnose(model, batch)
    assert "1 parameters are not finite (first: tower1.0.weight)" in text and "learning_rate" in text
    assert "tower output view1 is not finite in 20 of 20 rows" in text


def test_changes_nothing(model, batch):
    model.train()
    model.tower2.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    diagnose(model, batch)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_without_towers(batch):
    assert diagnose(torch.nn.Linear(2, 2), batch) == (
        "inputs and parameters are finite: look at what the model returns and at the objective")


def test_one_row_and_items_of_any_shape(batch):
    model = TwoTower(mlp((2, 3), [], 4), mlp((5,), [], 4), CCALayer(4))
    text = diagnose(model, Batch(batch.view1[:1].view(1, 2, 3), batch.view2[:1], batch.pairs[:1]))
    assert "smallest eigenvalues 0, 0, 0" in text


def test_a_corrnet_that_overflows_is_told_by_its_codes_and_reconstructions(batch):
    torch.manual_seed(0)
    model = CorrNet(nn.Linear(6, 4), nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(4, 5))
    assert diagnose(model, batch) == ("inputs, parameters, code of view1, code of view2, view1 restored from itself "
                                      "and view2 restored from itself are finite: look at the objective")
    with torch.no_grad():
        model.encoder1.weight.fill_(3e38)
    text = diagnose(model, batch)
    assert "code of view1 is not finite in 18 of 20 rows" in text and "try a smaller learning_rate" in text
    assert "code of view2" not in text
    with torch.no_grad():
        model.encoder1.weight[0, 0] = float("nan")
    assert diagnose(model, batch).count("try a smaller learning_rate") == 1


@pytest.mark.parametrize("head, advised", [
    (CCALayer(4, r1=0, r2=1e-3), [True, False]), (CCALayer(4), [False, False]), (LearnedProjection(4), [False, False]),
    (CCAReadout(4, r1=0, r2=0), [False, False])], ids=["no ridge", "ridges", "learned", "readout"])
def test_a_larger_ridge_is_advised_only_where_one_is_and_is_too_small(head, advised, batch):
    model = TwoTower(mlp((6,), [8], 4), mlp((5,), [8], 4), head)
    text = diagnose(model, Batch(*(part[:3] for part in batch)))  # covariances of three rows have rank two
    assert ["larger ridge" in phrase for phrase in text.split("; covariance")[1:]] == advised


class Dividing(nn.Module):
    """Of somebody's own: divides by zero in the third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, embedded, pairs=None):
        self.calls += 1
        return (embedded.view1 - embedded.view2).square().sum() / (self.calls != 3)


@pytest.mark.parametrize("head", [CCALayer, LearnedProjection])
def test_an_objective_that_divides_by_zero_is_pointed_at_and_no_ridge_is_blamed(head, correlated_pairs):
    torch.manual_seed(0)
    model = TwoTower(mlp((12,), [8], 5), mlp((9,), [8], 5), head(5))
    with pytest.raises(NumericalError, match=r"batch 3: the loss is inf; inputs, .* look at the objective") as error:
        fit(model, Dividing(), correlated_pairs, TrainConfig(batch_size=50))
    assert "ridge" not in str(error.value)


def test_embeddings_whose_powers_overflow_are_named_and_not_the_objective(batch):
    model = TwoTower(nn.Linear(6, 4), nn.Linear(5, 4), LearnedProjection(4))
    with torch.no_grad():
        model.tower1.weight.mul_(1e25)
    text = diagnose(model, batch)
    assert "embedding of view1 reaches" in text and "try a smaller learning_rate" in text
    assert "values reach" in text and "view2 reaches" not in text and "look at the objective" not in text
    with torch.no_grad():
        model.head.U.mul_(1e20)
    assert "embedding of view1 is not finite in 20 of 20 rows" in diagnose(model, batch)


def test_a_state_that_is_not_finite_is_named():
    model = TwoTower(mlp((4,), [3], 2), mlp((4,), [3], 2), CCALayer(2))
    require_finite_state(model)
    model.tower2[1].running_var[1] = torch.inf
    with pytest.raises(NumericalError, match=r"1 of the model's weights .* \(first: tower2.1.running_var\)"):
        require_finite_state(model)


def test_values_too_large_for_the_first_step_are_said(correlated_pairs):
    train = correlated_pairs.train
    huge = dataclasses.replace(correlated_pairs, train=dataclasses.replace(train, view1=train.view1 * 1e37))
    model = TwoTower(mlp((12,), [], 5), mlp((9,), [], 5), CCALayer(5, alpha="auto"))
    with torch.no_grad():
        model.tower1[0].weight.fill_(100.0)
    with pytest.raises(NumericalError, match=r"training can't start: .*values reach .*e\+37 in view1 and"):
        fit(model, TraceNorm(), huge, TrainConfig(batch_size=50))
    later = train.view1.clone()
    later[100] = 3e38  # not among the two pairs that are tried beforehand
    huge = dataclasses.replace(correlated_pairs, train=dataclasses.replace(train, view1=later))
    with pytest.raises(NumericalError, match="training stopped before the first step: the covariance of view1"):
        fit(model, TraceNorm(), huge, TrainConfig(batch_size=50))


def test_overflowing_batch_norms_stop_training(correlated_pairs):
    """Their variance overflows long before the loss does: what they pass on is merely constant."""
    train = correlated_pairs.train
    huge = dataclasses.replace(correlated_pairs, train=dataclasses.replace(train, view1=train.view1 * 1e25))
    model = TwoTower(mlp((12,), [8], 5), mlp((9,), [8], 5), LearnedProjection(5))
    with pytest.raises(NumericalError, match=r"stopped after epoch 1: .*tower1\.1\.running_var"):
        fit(model, PairwiseRanking(), huge, TrainConfig(batch_size=50, max_epochs=2))
