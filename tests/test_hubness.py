"""Hubs against SciPy and the formulas written out; a made hub is found and taken away."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from torch.nn.functional import normalize

from xmodal.cli import run_eval, run_train
from xmodal.errors import DataError, NumericalError
from xmodal.metrics import favour, hubness, occurrences, retrieval_metrics, skewness
from xmodal.metrics.hubness import corrected_gallery, corrected_queries, corrected_scores


def views(n: int, noise: float = 0.6, d: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=draw)
    return z + noise * torch.randn(n, d, generator=draw), z + noise * torch.randn(n, d, generator=draw)


def test_occurrences_are_counted():
    z1, z2 = views(80)
    nearest = (normalize(z1) @ normalize(z2).T).topk(7).indices
    assert torch.equal(occurrences(z1, z2, 7), torch.bincount(nearest.flatten(), minlength=80))
    assert occurrences(z1, z2[:3], 10).tolist() == [80, 80, 80]


@given(arrays.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 50)))
def test_skewness_is_scipys(counts):
    expected = 0.0 if (counts == counts[0]).all() else float(stats.skew(counts))
    assert skewness(counts) == pytest.approx(expected, abs=1e-9)


def test_the_spread_by_counting():
    """Of six items two are the only neighbours of anything: one of all five queries, one of three."""
    gallery = torch.eye(6)
    queries = torch.zeros(5, 6)
    queries[:, 0], queries[:, 1] = 2.0, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    queries[3, 2] = queries[4, 3] = 1.0
    pairs = torch.arange(5).unsqueeze(1).expand(5, 2)
    found = hubness(queries, gallery, pairs, k=2)["V1_to_V2"]["plain"]
    assert found["largest"] == pytest.approx(100.0) and found["never"] == pytest.approx(100 * 2 / 6)
    assert found["skew"] == pytest.approx(float(stats.skew([5, 3, 1, 1, 0, 0])))
    assert hubness(queries, gallery, pairs, k=1)["V1_to_V2"]["plain"]["never"] == pytest.approx(100 * 5 / 6)
    assert hubness(gallery[:2], gallery, torch.tensor([[0, 0], [1, 1]]), k=1)["V1_to_V2"]["plain"]["largest"] == 50.0


def test_csls_is_its_formula():
    z1, z2 = views(60)
    cosines = (normalize(z1) @ normalize(z2).T).double()
    r1 = cosines.topk(10, dim=1).values.mean(dim=1)
    r2 = cosines.topk(10, dim=0).values.mean(dim=0)
    csls = 2 * cosines - r1[:, None] - r2[None, :]
    items = corrected_gallery(z2, favour(z2, z1, "csls"))
    found = corrected_scores(normalize(corrected_queries(z1)) @ normalize(items).T)
    torch.testing.assert_close(2 * found.double() - r1[:, None], csls, atol=1e-5, rtol=0)


def test_the_inverted_softmax_is_its_formula():
    z1, z2 = views(60)
    chances = torch.softmax(30.0 * (normalize(z1) @ normalize(z2).T).double(), dim=0)  # over the queries
    corrected = corrected_queries(z1) @ corrected_gallery(z2, favour(z2, z1, "inverted_softmax")).T
    found = (30.0 * corrected.double()).exp() / 60
    torch.testing.assert_close(found, chances, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("how", ["csls", "inverted_softmax"])
def test_corrected_items_have_one_length(how):
    z1, z2 = views(50, noise=0.0)
    z2[3] = 0.0  # a vector without a direction
    items = corrected_gallery(z2, favour(z2, z1, how))
    torch.testing.assert_close(items.norm(dim=1), torch.full((50,), 2 ** 0.5))


def test_a_made_hub_is_seen_and_taken_away():
    draw = torch.Generator().manual_seed(3)
    centre = torch.randn(40, generator=draw)
    z = torch.randn(300, 40, generator=draw)
    z1 = z + 1.2 * centre + 0.5 * torch.randn(300, 40, generator=draw)
    z2 = z + 0.5 * torch.randn(300, 40, generator=draw)
    z2[:10] += 2 * centre  # near every query
    found = hubness(z1, z2)["V1_to_V2"]
    plain, csls, softmax = found["plain"], found["csls"], found["inverted_softmax"]
    assert plain["skew"] > 3 and plain["largest"] > 50
    assert plain["mrr"] == pytest.approx(retrieval_metrics(z1, z2)["V1_to_V2"]["mrr"])
    for corrected in (csls, softmax):
        assert corrected["largest"] < 0.8 * plain["largest"] and corrected["never"] < plain["never"]
        assert corrected["mrr"] > plain["mrr"] + 0.1


def test_a_bank_stands_in_for_the_queries():
    z1, z2 = views(60)
    bank1, bank2 = views(200, seed=5)
    alone = hubness(z1[:7], z2[:7], bank1=bank1, bank2=bank2)["V1_to_V2"]["csls"]
    scores = normalize(z1[:7]) @ normalize(z2[:7]).T - favour(z2[:7], bank1, "csls")
    ranks = 1 + (scores > scores.diagonal()[:, None]).sum(dim=1)
    assert alone["mrr"] == pytest.approx(float((1 / ranks).mean()), rel=1e-6)
    assert hubness(z1, z2, bank1=z1, bank2=z2) == hubness(z1, z2)


def test_pairs_that_are_not_one_to_one():
    z1, z2 = views(30)
    pairs = torch.stack([torch.arange(30).repeat_interleave(2), torch.arange(60)], dim=1)
    found = hubness(z1, torch.cat([z2, z2])[torch.arange(60) % 30], pairs)
    assert found["V1_to_V2"]["plain"]["n_queries"] == 30 and found["V2_to_V1"]["plain"]["n_queries"] == 60


def test_one_item_and_equal_items():
    found = hubness(torch.ones(1, 3), torch.ones(1, 3))["V1_to_V2"]
    assert all(way["mrr"] == 1.0 and way["skew"] == 0.0 for way in found.values())
    same = hubness(torch.ones(20, 3), torch.ones(20, 3))["V1_to_V2"]
    assert all(way["mrr"] == pytest.approx(1 / 10.5) for way in same.values())  # every item ties with every other


def test_what_does_not_fit_is_refused():
    z1, z2 = views(10)
    with pytest.raises(DataError, match="did you mean csls"):
        favour(z2, z1, "clsl")
    with pytest.raises(DataError, match="different dimension"):
        favour(z2, z1[:, :5], "csls")
    with pytest.raises(NumericalError, match="view 1: 1 of 10"):
        hubness(z1.index_fill(0, torch.tensor([4]), torch.nan), z2)
    with pytest.raises(DataError, match="expected counts"):
        skewness([])


def test_the_command_shows_and_keeps_it(tmp_path, monkeypatch, capsys):
    options = ["--model", str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py"), "--data", "digits"]
    monkeypatch.chdir(tmp_path)
    assert run_train.main([*options, "--set", "max_epochs=2"]) == 0
    capsys.readouterr()
    assert run_eval.main([*options, "--hubness", "--V2_to_V1"]) == 0
    out = capsys.readouterr().out
    kept = json.loads(Path("runs/digits_ccal_cont/metrics.json").read_text())
    found = kept["hubness"]["V2_to_V1"]
    assert all(len(line) <= 80 for line in out.splitlines())
    assert found["plain"]["mrr"] == kept["V2_to_V1"]["mrr"]  # beside the plain figures, which stay
    for name, way in (("CSLS, training queries", "csls_train"), ("inv. softmax, all", "inverted_softmax")):
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert line.split()[-1] == f"{found[way]['mrr']:.3f}"
