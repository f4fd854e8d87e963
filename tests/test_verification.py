"""Verification against scikit-learn, by hand, and on problems whose answer is known."""
from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from sklearn.metrics import roc_auc_score

from xmodal.cli import run_eval, run_train
from xmodal.errors import DataError
from xmodal.metrics.verification import best_threshold, equal_error_rate, judge_pairs, roc, verification

metric = importlib.import_module("xmodal.metrics.verification")  # the package has a function of that name
SCORES = st.lists(st.integers(-3, 3).map(lambda x: x / 4), min_size=1, max_size=25)


@given(SCORES, SCORES)
def test_the_area_is_scikit_learns_ties_included(matching, others):
    truth = [1] * len(matching) + [0] * len(others)
    assert verification(matching, others)["auc"] == pytest.approx(roc_auc_score(truth, [*matching, *others]))


@given(SCORES, SCORES)
def test_the_curve_counts_and_its_area_is_the_area(matching, others):
    curve = roc(matching, others)
    for false, true, threshold in zip(*curve, strict=True):
        assert false == pytest.approx(np.mean(np.array(others) >= threshold))
        assert true == pytest.approx(np.mean(np.array(matching) >= threshold))
    assert (np.diff(curve.false_accepts) >= 0).all() and (np.diff(curve.true_accepts) >= 0).all()
    assert np.trapezoid(curve.true_accepts, curve.false_accepts) == pytest.approx(verification(matching, others)["auc"])
    assert 0 <= equal_error_rate(curve) <= 1


@given(SCORES, SCORES)
def test_no_threshold_is_better_than_the_best(matching, others):
    def accuracy(threshold: float) -> float:
        found = verification(matching, others, threshold)["accuracy"]
        assert found is not None
        return found

    best = accuracy(best_threshold(matching, others))
    assert all(best >= accuracy(threshold) - 1e-9 for threshold in np.linspace(-1, 1, 41))


@pytest.mark.parametrize(("matching", "others", "threshold"), [
    ([0.9, 0.8, 0.3], [0.5, 0.1], 0.65),                # halfway to what is no longer accepted
    ([0.9, 0.4], [0.2], 0.3),
    ([0.9, 0.2], [0.5, 0.1, 0.0, -0.3], 0.15),
    ([0.3, 0.2], [0.2, 0.3], math.nextafter(0.3, 1)),   # nothing tells them apart: accept none
    ([0.1], [0.7, 0.1], math.nextafter(0.7, 1)),
    ([0.5], [0.5], math.nextafter(0.5, 1))])
def test_the_best_threshold_by_hand(matching, others, threshold):
    assert best_threshold(matching, others) == pytest.approx(threshold, abs=1e-12)


@pytest.mark.parametrize(("matching", "others", "rate"), [
    ([0.9, 0.8], [0.5, 0.1], 0.0),
    ([0.9, 0.4], [0.6, 0.1], 0.5),                              # at 0.6 both are a half
    ([0.9, 0.5, 0.5], [0.5, 0.1, 0.05, 0.0], 2 / 11),           # (0, 2/3) to (1/4, 0) meets the diagonal
    ([0.9, 0.5, 0.5, 0.5], [0.8, 0.5, 0.1, 0.05], 3 / 8),       # (1/4, 3/4) to (1/2, 0)
    ([0.2], [0.2], 0.5), ([0.1], [0.2], 1.0)])
def test_the_equal_error_rate_by_hand(matching, others, rate):
    assert equal_error_rate(roc(matching, others)) == pytest.approx(rate)
    assert verification(matching, others)["eer"] == pytest.approx(100 * rate)


def test_rates_at_a_threshold_by_hand():
    """A score at the threshold is accepted: three of four others are, and one of five matching pairs is not."""
    found = verification([0.9, 0.8, 0.5, 0.7, 0.4], [0.5, 0.6, 0.9, 0.1], 0.5)
    assert found["threshold"] == 0.5 and (found["n_matching"], found["n_others"]) == (5, 4)
    assert (found["far"], found["frr"]) == pytest.approx((75.0, 20.0))
    assert found["accuracy"] == pytest.approx((80 + 25) / 2)
    assert {"threshold", "accuracy", "far", "frr"}.isdisjoint(verification([0.9], [0.5]))


def test_two_normal_distributions():
    rng = np.random.default_rng(0)
    matching, others = rng.normal(1.0, 1, 200_000), rng.normal(-1.0, 1, 200_000)
    found = verification(matching, others, 0.0)
    assert found["auc"] == pytest.approx(norm.cdf(math.sqrt(2)), abs=2e-3)
    assert found["eer"] == pytest.approx(100 * norm.cdf(-1), abs=0.3)
    assert found["accuracy"] == pytest.approx(100 * norm.cdf(1), abs=0.3)
    assert found["tar@1%"] == pytest.approx(100 * norm.sf(norm.isf(0.01) - 2), abs=1.0)
    assert found["tar@0.1%"] == pytest.approx(100 * norm.sf(norm.isf(0.001) - 2), abs=1.0)
    assert best_threshold(matching, others) == pytest.approx(0.0, abs=0.1)


def test_few_others_cannot_show_few_false_accepts():
    found = verification([0.9, 0.8], [0.1] * 100)
    assert found["tar@0.1%"] is None and found["tar@1%"] == 100.0 and found["eer"] == 0.0


def test_pairs_are_judged_by_their_cosines():
    draw = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(30, 5, generator=draw), torch.randn(60, 5, generator=draw)
    pairs = torch.stack([torch.arange(60) % 30, torch.arange(60)], dim=1)
    judged = judge_pairs(z1, z2, pairs)
    cosines = torch.nn.functional.normalize(z1) @ torch.nn.functional.normalize(z2).T
    torch.testing.assert_close(judged.matching.sort().values, cosines[pairs[:, 0], pairs[:, 1]].sort().values)
    matches = torch.zeros(30, 60, dtype=torch.bool)
    matches[pairs[:, 0], pairs[:, 1]] = True
    torch.testing.assert_close(judged.hard, cosines.masked_fill(matches, -2).amax(dim=1))
    free = cosines[~matches]
    assert len(judged.random) == 1200 and (judged.random[:, None] - free).abs().amin(dim=1).max() < 1e-6
    assert float(judged.random.mean()) == pytest.approx(float(free.mean()), abs=0.05)
    assert torch.equal(judged.random, judge_pairs(z1, z2, pairs).random)


def test_items_that_match_everything_have_no_hard_pair():
    judged = judge_pairs(torch.eye(3), torch.eye(3)[:2], torch.tensor([[0, 0], [0, 1], [1, 0], [2, 1]]))
    assert len(judged.hard) == 2
    with pytest.raises(DataError, match="no pairs to tell apart"):
        judge_pairs(torch.eye(2), torch.eye(2), torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))


# -- by class, and by another score ----------------------------------------------------------------------------------

@given(n1=st.integers(1, 12), n2=st.integers(1, 12), kinds=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_others_are_of_other_classes_by_loops(n1, n2, kinds, seed):
    draw = torch.Generator().manual_seed(seed)
    z1, z2 = torch.randn(n1, 3, generator=draw), torch.randn(n2, 3, generator=draw)
    labels1, labels2 = (torch.randint(kinds, (n,), generator=draw) for n in (n1, n2))
    pairs = torch.stack([torch.randint(n, (5,), generator=draw) for n in (n1, n2)], dim=1).unique(dim=0)
    cosines = (torch.nn.functional.normalize(z1) @ torch.nn.functional.normalize(z2).T).tolist()
    matches = {tuple(pair) for pair in pairs.tolist()}
    apart = {(i, j) for i in range(n1) for j in range(n2) if labels1[i] != labels2[j] and (i, j) not in matches}
    if not apart:
        with pytest.raises(DataError, match="no pairs to tell apart"):
            judge_pairs(z1, z2, pairs, classes=(labels1, labels2))
        return
    judged = judge_pairs(z1, z2, pairs, seed, classes=(labels1, labels2))
    assert judged.matching.tolist() == pytest.approx([cosines[i][j] for i, j in pairs.tolist()], abs=1e-5)
    assert len(judged.random) == 20 * len(pairs)
    free = torch.tensor([cosines[i][j] for i, j in apart])
    assert (judged.random[:, None] - free).abs().amin(dim=1).max() < 1e-5
    hard = [max(cosines[i][j] for j in range(n2) if (i, j) in apart) for i in range(n1)
            if any((i, j) in apart for j in range(n2))]
    assert judged.hard.tolist() == pytest.approx(hard, abs=1e-5)


@pytest.mark.parametrize("near", [3, 20])
@pytest.mark.parametrize("by_class", [False, True])
def test_another_score_judges_the_same_pairs_and_the_worst_of_the_nearest(near, by_class, monkeypatch):
    monkeypatch.setattr(metric, "NEAR", near)
    monkeypatch.setattr(metric, "BLOCK", 25)  # blocks of one row
    monkeypatch.setattr(metric, "JUDGED_AT_ONCE", 7)
    draw = torch.Generator().manual_seed(3)
    z1, z2 = (torch.nn.functional.normalize(torch.randn(15, 4, generator=draw)) for _ in range(2))
    labels = torch.arange(15) % 4
    classes = (labels, labels) if by_class else None

    def score(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return 1 - (one - two).abs().sum(dim=1)

    judged = judge_pairs(z1, z2, seed=5, classes=classes, score=score)
    table = 1 - (z1[:, None] - z2).abs().sum(dim=2)
    torch.testing.assert_close(judged.matching, table.diagonal())
    hard = []
    for i in range(15):
        free = [j for j in range(15) if j != i and not (by_class and labels[i] == labels[j])]
        nearest = sorted(free, key=lambda j: -float(z1[i] @ z2[j]))[:near]
        hard.append(max(float(table[i, j]) for j in nearest))
    assert judged.hard.tolist() == pytest.approx(hard, abs=1e-5)
    by_cosine = judge_pairs(z1, z2, seed=5, classes=classes)
    both = {(round(float(z1[i] @ z2[j]), 4), round(float(table[i, j]), 4)) for i in range(15) for j in range(15)}
    assert {(round(float(c), 4), round(float(s), 4))
            for c, s in zip(by_cosine.random, judged.random, strict=True)} <= both


def test_everything_is_of_one_class():
    with pytest.raises(DataError, match="no pairs to tell apart"):
        judge_pairs(torch.eye(3), torch.eye(3), classes=(torch.zeros(3), torch.zeros(3)))
    with pytest.raises(DataError, match=r"expected a class for each of 3 and 3 items, got \(3,\) and \(2,\)"):
        judge_pairs(torch.eye(3), torch.eye(3), classes=(torch.zeros(3), torch.zeros(2)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.9, 0.999])
def test_random_pairs_are_drawn_evenly_from_what_does_not_match(share, monkeypatch):
    """However few these are, without looking at the same draws again and again."""
    monkeypatch.setattr(metric, "BLOCK", 256)  # blocks of 6 rows, the last one of 4
    n1, n2, count = 40, 38, 30_000
    keys = torch.randperm(n1 * n2, generator=torch.Generator().manual_seed(1))[:max(1, int(share * n1 * n2))].sort()[0]
    known = metric._Known(keys, n1, n2, None)
    looked_at, among = [], metric._Known.among
    monkeypatch.setattr(metric._Known, "among", lambda self, drawn: looked_at.append(len(drawn)) or among(self, drawn))
    pairs = metric._random_pairs(known, count, seed=4)
    counts = torch.bincount(pairs[:, 0] * n2 + pairs[:, 1], minlength=n1 * n2)
    free = torch.ones(n1 * n2, dtype=torch.bool)
    free[keys] = False
    assert not counts[~free].any() and sum(looked_at) <= 8 * count
    expected = count / int(free.sum())
    assert float(((counts[free] - expected) ** 2 / expected).sum()) < chi2.isf(1e-4, int(free.sum()) - 1)
    assert len(counts[free].unique()) > 1 or int(free.sum()) == 1  # drawn, not dealt out
    assert not torch.equal(pairs, metric._random_pairs(known, count, seed=5))
    if share < 0.875:  # the draws are those of a generator, less what matches
        draw = torch.Generator().manual_seed(4)
        drawn = torch.randint(n1 * n2, (count,), generator=draw)
        kept = ~torch.isin(drawn, keys)
        assert torch.equal((pairs[:, 0] * n2 + pairs[:, 1])[kept], drawn[kept])


@pytest.mark.parametrize("scores", [[], [math.nan], [math.inf], [[1.0]]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(DataError, match="expected finite scores of matching pairs"):
        verification(scores, [0.0])


def test_refused_scores_say_whose_they_are():
    for name, scores in (("matching", ([math.nan], [0.0])), ("other", ([0.0], []))):
        with pytest.raises(DataError, match=f"^expected finite scores of {name} pairs, at least one, got "):
            roc(*scores)


def test_the_command_shows_keeps_and_draws_it(tmp_path, monkeypatch, capsys):
    options = ["--model", str(Path(__file__).parent.parent / "models" / "digits_cca.py"), "--data", "digits"]
    monkeypatch.chdir(tmp_path)
    assert run_train.main(options) == 0
    capsys.readouterr()
    assert run_eval.main([*options, "--verify"]) == 0
    out = capsys.readouterr().out
    found = json.loads(Path("runs/digits_cca/metrics.json").read_text())["verification"]
    assert all(len(line) <= 80 for line in out.splitlines())
    assert f"{found['random']['auc']:.4f}" in out and f"{found['hard']['eer']:.2f}" in out
    assert found["random"]["auc"] > 0.8 > 0.6 > found["hard"]["auc"]  # the nearest of 400 are hard to tell
    assert Path("runs/digits_cca/roc.png").read_bytes().startswith(b"\x89PNG")
    assert run_eval.main([*options, "--verify", "--out", "mine.png", "--n_test", "30"]) == 0
    assert Path("mine.png").exists() and "true accepts at 0.1" in capsys.readouterr().out.lower()
