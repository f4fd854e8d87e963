"""Trainings on data and settings that break things end finite, or with a diagnosis that is right."""
from __future__ import annotations

import pytest
import torch

from benchmarks.soak import outcome, training, wrong_claims
from xmodal.data import Batch


@pytest.mark.filterwarnings("ignore:CCALayer", "ignore:the triplet loss")
@pytest.mark.parametrize("number", [*range(5000, 5030), 47, 62, 114, 326])  # the last four broke something once
def test_a_short_training_ends_well(number):
    what, _, told = outcome(number, seed=0)
    assert what in ("finite", "stopped"), told


def test_a_wrong_diagnosis_is_noticed():
    made = next(made for made in (training(number, 0) for number in range(50)) if made["kind"] == "CCALayer")
    model, train = made["model"], made["data"].train
    batch = Batch(train.view1[:4], train.view2[:4], torch.arange(4).repeat(2, 1).T)
    text = "covariance of view1: fine"
    before = wrong_claims(model, batch, text)
    with torch.no_grad():
        next(model.tower1.parameters()).fill_(torch.nan)
    assert "1 parameters are not finite" in wrong_claims(model, batch, text)
    assert "1 parameters are not finite" not in before
    assert "inputs are finite" in wrong_claims(model, batch, "input view1 is not finite in 1 of 4 rows")
