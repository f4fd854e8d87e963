"""The evaluator against metrics computed by hand from embeddings computed by hand."""
from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
import torch

from xmodal.data import PairedData, PairSplit
from xmodal.errors import NumericalError
from xmodal.evaluator import embed, evaluate, linear_cca_baseline, write_embeddings
from xmodal.evaluator.partners import partner_labels
from xmodal.layers import CCALayer, LearnedProjection
from xmodal.linear.cca import sides
from xmodal.metrics import retrieval_metrics
from xmodal.networks import TwoTower
from xmodal.towers import mlp


@pytest.fixture
def model(correlated_pairs) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(mlp((12,), [16], 5), mlp((9,), [16], 5), CCALayer(5))
    train = correlated_pairs.train
    model.refit([(train.view1, train.view2)])
    return model


def by_hand(model: TwoTower, split: PairSplit) -> tuple[torch.Tensor, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        return (torch.stack([model.embed_view1(x[None])[0] for x in split.view1]),
                torch.stack([model.embed_view2(y[None])[0] for y in split.view2]))


def test_embedding_is_per_item_and_leaves_the_mode_alone(model, correlated_pairs):
    model.train()
    z1, z2 = embed(model, correlated_pairs.test)
    assert model.training and model.head.training
    expected1, expected2 = by_hand(model, correlated_pairs.test)
    assert torch.allclose(z1, expected1, atol=1e-5) and torch.allclose(z2, expected2, atol=1e-5)


def test_report_equals_its_parts(model, correlated_pairs):
    report = evaluate(model, correlated_pairs)
    z1, z2 = by_hand(model, correlated_pairs.test)
    expected = retrieval_metrics(z1, z2)
    for direction in ("V1_to_V2", "V2_to_V1"):
        for key in ("mrr", "r1", "median_rank"):
            assert report[direction][key] == pytest.approx(expected[direction][key], abs=1e-6)
    r = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(z1.T, z2.T, strict=True)])
    assert report["sum_correlation"] == pytest.approx(float(r.sum()), abs=1e-5)
    assert report["n_pairs"] == 60 and report["dim"] == 5 and report["split"] == "test"


def test_both_correlations_agree_for_a_head_that_is_cca_of_the_same_pairs(model, correlated_pairs):
    report = evaluate(model, correlated_pairs)
    assert report["canonical_correlation"] == pytest.approx(report["sum_correlation"], abs=0.02)


def test_copied_dimensions_raise_the_sum_but_not_the_canonical_correlation(correlated_pairs):
    """The copied features happen to correlate negatively, which CCA turns around; the size is what matters."""
    class Copies:
        def embed_view1(self, x):
            return x[:, :1].repeat(1, 8)

        def embed_view2(self, y):
            return y[:, :1].repeat(1, 8)

    report = evaluate(Copies(), correlated_pairs)
    assert report["sum_correlation"] == pytest.approx(-8 * report["canonical_correlation"], rel=1e-3)


def test_n_test_takes_the_first_pairs(model, correlated_pairs):
    few = evaluate(model, correlated_pairs, n_test=10)
    z1, z2 = by_hand(model, correlated_pairs.test)
    assert few["n_pairs"] == 10
    assert few["V1_to_V2"]["mrr"] == pytest.approx(retrieval_metrics(z1[:10], z2[:10])["V1_to_V2"]["mrr"])


def test_intervals_hold_the_value_and_depend_on_the_seed_alone(model, correlated_pairs):
    one, same = (evaluate(model, correlated_pairs, intervals=True, seed=4) for _ in range(2))
    assert one == same
    for direction in ("V1_to_V2", "V2_to_V1"):
        for key, (low, high) in one[direction]["intervals"].items():
            assert low <= one[direction][key] <= high


def test_labels_of_view2_come_from_its_partners(model, captioned_pictures):
    test = captioned_pictures.test
    labels = torch.arange(len(test.view1)) % 4
    data = dataclasses.replace(captioned_pictures, test=dataclasses.replace(test, labels=labels))
    report = evaluate(model, data)
    z1, z2 = by_hand(model, test)
    partners = torch.full((len(test.view2),), -1)
    partners[test.pairs[:, 1]] = labels[test.pairs[:, 0]]
    expected = retrieval_metrics(z1, z2, test.pairs, labels1=labels, labels2=partners)
    assert report["V1_to_V2"]["map"] == pytest.approx(expected["V1_to_V2"]["map"])


def test_labels_of_view2_are_those_of_its_last_partner():
    """Of many rows, since torch's assignment is one of several threads from some thousands on."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.arange(200_000), torch.randint(300, (200_000,), generator=generator)], dim=1)
    labels = torch.randint(1000, (200_000,), generator=generator)
    split = PairSplit("test", torch.zeros(200_000, 1), torch.zeros(301, 1), pairs, labels)
    last = dict(zip(pairs[:, 1].tolist(), labels.tolist(), strict=True))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert partner_labels(split).tolist() == [*(last[row] for row in range(300)), int(labels.min()) - 1]
    finally:
        torch.set_num_threads(threads)


def test_one_to_many_is_evaluated_by_items(captioned_pictures):
    torch.manual_seed(0)
    model = TwoTower(mlp((12,), [], 4), mlp((9,), [], 4), LearnedProjection(4))
    z1, z2 = embed(model, captioned_pictures.test)
    assert (len(z1), len(z2)) == (20, 64)
    report = evaluate(model, captioned_pictures)
    assert report["V1_to_V2"]["n_queries"] == 20 and report["V2_to_V1"]["n_queries"] == 60


def test_a_nan_embedding_names_view_and_rows(model, correlated_pairs):
    class Broken:
        def embed_view1(self, x):
            return x[:, :5]

        def embed_view2(self, y):
            z = y[:, :5].clone()
            z[3] = float("nan")
            return z

    with pytest.raises(NumericalError, match=r"view ?2.*3"):
        evaluate(Broken(), correlated_pairs)


def test_linear_cca_baseline_is_fitted_on_training_pairs_only(correlated_pairs):
    baseline = linear_cca_baseline(correlated_pairs, 50)
    assert len(baseline.correlations_) == 9
    changed = dataclasses.replace(correlated_pairs, test=correlated_pairs.valid)
    assert np.array_equal(linear_cca_baseline(changed, 50).correlations_, baseline.correlations_)


def test_the_baseline_has_as_many_dimensions_as_the_training_pairs_allow(correlated_pairs, captioned_pictures):
    few = dataclasses.replace(correlated_pairs, train=correlated_pairs.train.take(6))
    assert len(linear_cca_baseline(few, 50).correlations_) == 6
    train = captioned_pictures.train.select(torch.arange(5))
    alone = dataclasses.replace(train, view1=torch.cat([train.view1, train.view1 + 1]))
    data = dataclasses.replace(captioned_pictures, train=alone)
    assert len(linear_cca_baseline(data, 50).correlations_) == 5
    assert sides(alone, "auto") == (min(12, 5 + len(alone.view1) - len(train.view1)), 5) and sides(alone, 0) == (5, 5)


def test_written_embeddings_are_those_in_memory(captioned_pictures, tmp_path):
    torch.manual_seed(0)
    model = TwoTower(mlp((12,), [], 4), mlp((9,), [], 4), LearnedProjection(4)).eval()
    data = captioned_pictures
    write_embeddings(model, data, "test", tmp_path / "z.h5")
    z1, z2 = embed(model, data.test)
    with h5py.File(tmp_path / "z.h5") as file:
        assert np.array_equal(file["view1"][:], z1.numpy()) and np.array_equal(file["view2"][:], z2.numpy())
        assert np.array_equal(file["pairs"][:], data.test.pairs.numpy()) and "labels" not in file
        assert file.attrs["fingerprint"] == data.fingerprint and file.attrs["split"] == "test"


def test_embeddings_that_are_not_finite_leave_no_file(correlated_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("xmodal.evaluator.embedding.EMBED_BATCH", 25)
    model = TwoTower(mlp((12,), [], 4), mlp((9,), [], 4), LearnedProjection(4)).eval()

    def broken(y):
        return model.tower2(y) * torch.where(torch.arange(len(y)) == 3, torch.nan, 1.0)[:, None]

    monkeypatch.setattr(model, "embed_view2", broken)
    with pytest.raises(NumericalError, match=r"view 2: 1 of 20 embeddings .* \(rows 3\)"):
        write_embeddings(model, correlated_pairs, "test", tmp_path / "z.h5")
    assert list(tmp_path.iterdir()) == []


def test_texts_are_written_beside_embeddings(tmp_path):
    views = torch.randn(6, 12), torch.randn(6, 9)
    split = PairSplit("test", *views, ids=list("abcdef"), caption2=["ä\n", "", "x", "y", "z", "日本"],
                      labels=torch.arange(6))
    model = TwoTower(mlp((12,), [], 4), mlp((9,), [], 4), LearnedProjection(4)).eval()
    write_embeddings(model, PairedData("texts", split, split, split), "test", tmp_path / "z.h5")
    with h5py.File(tmp_path / "z.h5") as file:
        assert file["ids"].asstr()[:].tolist() == split.ids
        assert file["caption2"].asstr()[:].tolist() == split.caption2
        assert file["labels"][:].tolist() == list(range(6))
