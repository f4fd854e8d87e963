"""Retrieval within a view against scikit-learn and naive loops; reductions, codes, the command and its picture."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import Tensor
from torch.nn.functional import normalize

from xmodal.cli import run_eval, run_train
from xmodal.cli.by_class import make_coders
from xmodal.data import PairedData, PairSplit, load_data
from xmodal.errors import DataError, NumericalError
from xmodal.evaluator import check_within, linear_cca_baseline, retrieve_within
from xmodal.metrics import fit_reductions, within_codes, within_metrics
from xmodal.metrics.classes import BLOCK_VALUES
from xmodal.report import within_block

MODEL = str(Path(__file__).parent.parent / "models" / "digits_cca.py")
LEVELS = np.arange(11) / 10


def slow_within(scores: np.ndarray, labels: np.ndarray, ks: tuple[int, ...]) -> dict[str, object]:
    """One query after the other; precisions at a cut averaged over orders of tied items by what each place holds."""
    found: list[list[float]] = []
    n = len(labels)
    for i in range(n):
        others = np.arange(n) != i
        relevant, row = (labels == labels[i])[others], scores[i][others]
        if not relevant.any():
            continue
        precision, recall, _ = precision_recall_curve(relevant, row)
        order = np.argsort(-row, kind="stable")
        expected = np.array([relevant[row == score].mean() for score in row[order]])   # of each place

        def at(k: int, places: np.ndarray = expected) -> float:
            return float(places[:k].mean())

        # the curve's last point is a convention of scikit-learn's, no threshold has it
        found.append([average_precision_score(relevant, row), at(int(relevant.sum())), *(at(k) for k in ks),
                      *(precision[:-1][recall[:-1] >= level - 1e-12].max() for level in LEVELS)])
    means = np.mean(found, axis=0).tolist()
    return {"map": means[0], "r_precision": means[1], **{f"p{k}": means[2 + j] for j, k in enumerate(ks)},
            "precisions": means[2 + len(ks):], "n_queries": len(found), "n_gallery": n - 1}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-9), key


def without_size(way: dict) -> dict:
    return {key: value for key, value in way.items() if key != "size"}


def cosines(z: Tensor) -> np.ndarray:
    return (normalize(z.double()) @ normalize(z.double()).T).numpy().round(9)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(4, 30), st.integers(1, 4), st.booleans())
def test_cosines_are_judged_as_the_loop_has_it(seed, n, n_classes, coarse):
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.normal(size=(n, 3)))
    if coarse:      # many ties, zero vectors among them
        z = z.round()
    labels = rng.integers(n_classes, size=n)
    labels[:2] = 0
    assert_same(within_metrics(z, labels, (1, 3, 100)), slow_within(cosines(z), labels, (1, 3, 100)))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(4, 30), st.integers(1, 4), st.integers(1, 2))
def test_codes_are_judged_as_the_loop_has_it(seed, n, n_classes, n_bytes):
    rng = np.random.default_rng(seed)
    packed = rng.integers(256, size=(n, n_bytes), dtype=np.uint8)
    labels = rng.integers(n_classes, size=n)
    labels[:2] = 0
    bits = np.unpackbits(packed, axis=1).astype(int)
    distances = (bits[:, None] != bits[None]).sum(axis=2)
    assert_same(within_codes(packed, labels, (1, 3, 100)), slow_within(-distances, labels, (1, 3, 100)))


def test_several_blocks_are_one(monkeypatch):
    rng = np.random.default_rng(0)
    z, labels = torch.from_numpy(rng.normal(size=(101, 4))), rng.integers(5, size=101)
    packed = rng.integers(256, size=(101, 3), dtype=np.uint8)
    whole = within_metrics(z, labels), within_codes(packed, labels)
    assert BLOCK_VALUES > 101 * 101
    monkeypatch.setattr("xmodal.metrics.classes.BLOCK_VALUES", 101 * 7)
    for one, other in zip(whole, (within_metrics(z, labels), within_codes(packed, labels)), strict=True):
        assert_same(one, other)


def test_codes_rank_as_the_cosines_of_their_signs():
    rng = np.random.default_rng(1)
    packed, labels = rng.integers(256, size=(80, 2), dtype=np.uint8), rng.integers(4, size=80)
    signs = torch.from_numpy(np.unpackbits(packed, axis=1)).double() * 2 - 1
    assert_same(within_codes(packed, labels), within_metrics(signs, labels))


@pytest.mark.parametrize("n", [2, 50])
def test_chance_and_perfection(n):
    labels = np.arange(n) // 2
    z = torch.eye(n // 2).repeat_interleave(2, 0) + 1e-3 if n > 2 else torch.ones(2, 3)
    perfect = within_metrics(z, labels)
    assert perfect["map"] == perfect["p1"] == perfect["r_precision"] == 1.0 and perfect["precisions"] == [1.0] * 11
    assert perfect["p100"] == pytest.approx(1 / (n - 1))        # a cut beyond the gallery is the gallery
    collapsed = within_metrics(torch.ones(n, 3), labels)
    assert collapsed["map"] == collapsed["p1"] == pytest.approx(1 / (n - 1))


def test_classes_of_one_item_do_not_ask():
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    some = within_metrics(z, [0, 0, 1, 2, 3, 4])
    assert some["n_queries"] == 2 and some["n_gallery"] == 5
    none = within_metrics(z, range(6))
    assert none["n_queries"] == 0 and np.isnan([none["map"], none["p1"], *none["precisions"]]).all()
    assert np.isnan(within_codes(np.zeros((6, 1), np.uint8), range(6))["r_precision"])


def test_what_does_not_fit_is_refused():
    z = torch.randn(5, 3)
    with pytest.raises(DataError, match=r"labels: expected one per item, shape \(5,\), got \(4,\)"):
        within_metrics(z, [0, 1, 2, 3])
    with pytest.raises(DataError, match="ks: expected whole numbers from 1"):
        within_metrics(z, [0, 0, 0, 1, 1], (0,))
    with pytest.raises(DataError, match="at least 2 items, got 1"):
        within_metrics(z[:1], [0])
    with pytest.raises(DataError, match="expected packed bits, uint8"):
        within_codes(np.zeros((5, 2)), [0] * 5)
    with pytest.raises(NumericalError, match=r"1 of 5 .*rows 2"):
        within_metrics(z.index_fill(0, torch.tensor([2]), torch.inf), [0] * 5)


# -- reductions ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", [[200], [7, 150, 43]])
def test_reductions_are_scikit_learns(sizes):
    draw = torch.Generator().manual_seed(0)
    items = torch.randn(200, 12, generator=draw) @ torch.randn(12, 12, generator=draw) + 3.0
    fitted = fit_reductions(items.split(sizes), 4)
    pca = PCA(4).fit(items.double().numpy())
    lsa = TruncatedSVD(4, algorithm="arpack").fit(items.double().numpy())
    for found, expected in ((fitted.pca, pca.components_), (fitted.lsa, lsa.components_)):
        overlaps = np.abs(found.T.numpy() @ expected.T)     # directions may point either way
        np.testing.assert_allclose(overlaps, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(fitted.mean.numpy(), pca.mean_, atol=1e-5)
    assert fit_reductions([items], 100).pca.shape == (12, 12)
    with pytest.raises(DataError, match="got none"):
        fit_reductions([], 4)


# -- the evaluator -------------------------------------------------------------------------------------------------

class Halves:
    """A model without weights: the first two values of an item are its embedding."""

    def embed_view1(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]

    embed_view2 = embed_view1


def captioned() -> PairedData:
    """20 pictures of four classes with two captions each, in a shuffled table, and a caption without a picture."""
    splits = []
    for seed, name in enumerate(("train", "valid", "test")):
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(20) % 4
        pictures = torch.eye(4)[labels] + 0.7 * torch.randn(20, 4, generator=draw)
        captions = torch.cat([pictures.repeat_interleave(2, 0), torch.zeros(1, 4)]) + torch.randn(41, 4, generator=draw)
        table = torch.stack([torch.arange(20).repeat_interleave(2), torch.arange(40)], dim=1)
        splits.append(PairSplit(name, pictures.reshape(20, 2, 2), captions, labels=labels,
                                pairs=table[torch.randperm(40, generator=draw)]))
    return PairedData("captioned", *splits)


@pytest.mark.parametrize("view", [1, 2])
def test_ways_are_their_parts(view):
    data = captioned()
    found = retrieve_within(Halves(), data, view, coders={"one byte": (8, lambda known, items: torch.stack(
        [(items[:, 0] > known[:, 0].median()).to(torch.uint8)], dim=1))})
    items, labels = (data.test.view1.flatten(1), data.test.labels) if view == 1 else \
        (data.test.view2[:40], data.test.labels.repeat_interleave(2))
    train = getattr(data.train, f"view{view}").flatten(1).numpy()   # all of them, the lonely caption too
    expected = {"model": items[:, :2], "pca": torch.from_numpy(PCA(2).fit(train).transform(items.numpy())),
                "lsa": torch.from_numpy(TruncatedSVD(2, algorithm="arpack").fit(train).transform(items.numpy())),
                "raw": items}
    assert [(name, way["size"]) for name, way in found.items()] == \
        [("model", 2), ("pca", 2), ("lsa", 2), ("raw", 4), ("one byte", 8)]
    for name, values in expected.items():
        assert_same(without_size(found[name]), within_metrics(values, labels))
    known = train[:, :2] if view == 1 else train[:40, :2]       # codes are fitted to items that have a partner
    above = normalize(items[:, :2])[:, 0] > normalize(torch.from_numpy(known))[:, 0].median()
    assert_same(without_size(found["one byte"]), within_codes(above.to(torch.uint8).numpy()[:, None], labels))
    assert len(found["model"]["precisions"]) == 11 and all(len(line) <= 80 for line in
                                                           within_block(found, view).splitlines())


def test_digits_by_linear_cca(monkeypatch):
    monkeypatch.setattr("xmodal.search.codes._STEPS", 5)
    data = load_data("digits")
    odd = retrieve_within(linear_cca_baseline(data, 16), data, 1, coders=make_coders([13], 16))
    assert odd["codes: signs, 13 bits"]["size"] == 13       # not those of the two bytes that they are packed to
    found = retrieve_within(linear_cca_baseline(data, 16), data, 1, coders=make_coders([16], 16))
    assert list(found) == ["model", "pca", "lsa", "raw", "codes: signs, 16 bits", "codes: best, 16 bits"]
    assert 0.1 < found["codes: signs, 16 bits"]["map"] < found["model"]["map"] < found["pca"]["map"] < 1
    assert found["pca"]["precisions"] == sorted(found["pca"]["precisions"], reverse=True)
    part = retrieve_within(linear_cca_baseline(data, 16), data, 2, "valid", n_test=50)
    assert part["raw"]["n_gallery"] == 49 and part["raw"]["size"] == 32


def test_data_that_can_not_do_are_told_before_the_model_runs():
    class Untouchable:
        embed_view1 = embed_view2 = None

    data = captioned()
    plain = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=None))
    alone = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=torch.arange(20)))
    for bad, message in ((plain, "retrieval by class needs labels, and the test pairs have none"),
                         (alone, "two items of a class, and in view 1 of the test pairs each is the only one")):
        with pytest.raises(DataError, match=message):
            retrieve_within(Untouchable(), bad, 1)
    check_within(alone.test, 2)     # two captions of a picture are of one class
    with pytest.raises(DataError, match="view must be 1 or 2, got 3"):
        check_within(data.test, 3)


# -- the command ---------------------------------------------------------------------------------------------------

@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xmodal.search.codes._STEPS", 5)    # of learned codes, which take most of the time
    assert run_train.main(["--model", MODEL, "--data", "digits", "--set", "dim_latent=8"]) == 0
    capsys.readouterr()
    return Path("runs/digits_cca")


def test_the_command_shows_keeps_and_draws_it(trained, capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--within", "2", "1", "--bits", "16"]) == 0
    out = capsys.readouterr().out
    found = json.loads((trained / "metrics.json").read_text())["within"]
    assert list(found) == ["view1", "view2"] and all(len(line) <= 80 for line in out.splitlines())
    for view in (1, 2):
        ways = found[f"view{view}"]
        assert list(ways) == ["model", "pca", "lsa", "raw", "codes: signs, 8 bits", "codes: best, 8 bits",
                              "codes: best, 16 bits"]        # no signs where there are too few dimensions
        assert within_block(ways, view) in out and ways["model"]["size"] == 8 and ways["raw"]["size"] == 32
        assert ways["pca"]["map"] > 0.3
        picture = trained / f"precision_recall_view{view}.png"
        assert picture.read_bytes().startswith(b"\x89PNG") and f"wrote {picture}" in out
    arguments = ["--model", MODEL, "--data", "digits", "--within", "1", "--split", "valid", "--out", "curve.png"]
    assert run_eval.main(arguments) == 0
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("options", "message"), [
    (["--bits", "32"], "--bits is for retrieval within a view: give --within, too"),
    (["--within", "1", "--bits", "0"], "--bits must be at least 1, got 0"),
    (["--within", "1", "2", "--out", "x.png"], "--out names one picture"),
    (["--within", "1", "--n_test", "1"], "needs two items of a class"),
])
def test_options_that_do_not_fit_are_told(trained, capsys, options, message):
    assert run_eval.main(["--model", MODEL, "--data", "digits", *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
