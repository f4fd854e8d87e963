"""Identification against scikit-learn and naive loops, and on problems whose answer is known."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import normalize

from xmodal.checkpoint import to_json
from xmodal.cli import run_eval, run_train
from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError, NumericalError
from xmodal.evaluator import check_identification, identify
from xmodal.metrics import few_shot_accuracy, identification, neighbour_accuracy, open_set, retrieval_metrics
from xmodal.report import identification_block

MODEL = str(Path(__file__).parent.parent / "models" / "digits_cca.py")
SIDES = ("V1_to_V2", "V2_to_V1", "V1_to_V1", "V2_to_V2")


def classes(n: int, n_classes: int = 5, d: int = 6, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Clouds around as many centres, the same for every seed."""
    centres = torch.randn(n_classes, d, generator=torch.Generator().manual_seed(77))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=draw)
    return centres[labels] + noise * torch.randn(n, d, generator=draw), labels.numpy()


# -- k nearest -----------------------------------------------------------------------------------------------------

def test_neighbours_are_scikit_learns():
    (queries, asked), (gallery, known) = classes(200, seed=1), classes(300, seed=2)
    found = neighbour_accuracy(queries, gallery, asked, known, (1, 3, 300))
    for k in (1, 300):  # scikit-learn decides ties otherwise, and there are none at 1
        oracle = KNeighborsClassifier(k, metric="cosine").fit(gallery, known)
        assert found[f"knn{k}"] == pytest.approx(100 * oracle.score(queries, asked))
    assert 40 < found["knn1"] < found["knn3"] < 95


def slow_neighbours(queries: Tensor, gallery: Tensor, asked: np.ndarray, known: np.ndarray, k: int,
                    owners: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """By the words of the docstring, one query after the other."""
    cosines, right = (normalize(queries) @ normalize(gallery).T).double().numpy(), 0
    for i, row in enumerate(cosines):
        free = [j for j in range(len(row)) if owners is None or owners[1][j] != owners[0][i]]
        near = sorted(free, key=lambda j: (-row[j], j))[:k]
        if near:
            count = {c: sum(known[j] == c for j in near) for c in known[near]}
            total = {c: sum(row[j] for j in near if known[j] == c) for c in known[near]}
            first = {c: min(place for place, j in enumerate(near) if known[j] == c) for c in known[near]}
            right += min(count, key=lambda c: (-count[c], -total[c], first[c])) == asked[i]
    return 100 * right / len(asked)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 4), st.sampled_from([1, 2, 5, 50]), st.booleans())
def test_neighbours_are_those_of_the_loop(seed, n_gallery, n_classes, k, owned):
    (queries, asked), (gallery, known) = classes(9, n_classes, seed=seed), classes(n_gallery, n_classes, seed=seed + 1)
    rng = np.random.default_rng(seed)
    owners = (rng.integers(4, size=9), rng.integers(4, size=n_gallery)) if owned else None
    found = neighbour_accuracy(queries, gallery, asked, known, (k,), owners=owners)
    assert found[f"knn{k}"] == pytest.approx(slow_neighbours(queries, gallery, asked, known, k, owners))


def test_a_query_is_not_its_own_neighbour():
    z, labels = classes(150)
    own = np.arange(150), np.arange(150)
    assert neighbour_accuracy(z, z, labels, labels, (1,))["knn1"] == 100.0
    found = neighbour_accuracy(z, z, labels, labels, (1, 5), owners=own)
    assert found["knn1"] == pytest.approx(slow_neighbours(z, z, labels, labels, 1, own))
    assert found["knn5"] == pytest.approx(slow_neighbours(z, z, labels, labels, 5, own))
    twice = np.tile(labels, 2)  # copies of a query that belong to it are left out with it
    assert neighbour_accuracy(z, torch.cat([z, z]), labels, twice, (1,),
                              owners=(own[0], np.tile(own[1], 2)))["knn1"] == found["knn1"]


def test_similarity_decides_between_as_many_votes():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.8, -0.6], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.1]])
    assert neighbour_accuracy(query, gallery, [1], [0, 1, 1, 0], (2, 3, 4)) == {"knn2": 0.0, "knn3": 100.0,
                                                                               "knn4": 100.0}
    assert neighbour_accuracy(query, gallery, [7], [0, 1, 1, 0], (3,)) == {"knn3": 0.0}  # not in the gallery


def test_collapsed_embeddings_are_told_one_class():
    labels = np.arange(50) % 5
    assert neighbour_accuracy(torch.ones(50, 3), torch.ones(50, 3), labels, labels)["knn1"] == 20.0
    assert few_shot_accuracy(torch.ones(50, 3), torch.ones(50, 3), labels, labels)["shot5"] == 20.0


# -- few shots -----------------------------------------------------------------------------------------------------

def test_all_shots_are_the_nearest_mean():
    (queries, asked), (gallery, known) = classes(200, seed=1), classes(60, seed=2)
    means = torch.stack([normalize(gallery)[torch.from_numpy(known == c)].mean(dim=0) for c in range(5)])
    told = (normalize(queries) @ normalize(means).T).argmax(dim=1).numpy()
    found = few_shot_accuracy(queries, gallery, asked, known, (60,), draws=3)
    assert found == {"shot60": pytest.approx(100 * (told == asked).mean()), "shot60_std": 0.0}


def test_one_item_a_class_is_the_nearest_item():
    (queries, asked), (gallery, _) = classes(100, seed=1), classes(5, seed=2)
    known = np.arange(5)
    found = few_shot_accuracy(queries, gallery, asked, known)
    expected = neighbour_accuracy(queries, gallery, asked, known, (1,))["knn1"]
    assert found == {"shot1": pytest.approx(expected), "shot1_std": 0.0, "shot5": pytest.approx(expected),
                     "shot5_std": 0.0}


def test_shots_by_enumeration():
    """Two classes of two and three items: six draws of one each, equally likely."""
    (queries, asked), (gallery, _) = classes(40, 2, seed=1), classes(5, 2, noise=3.0, seed=2)
    known = np.array([0, 1, 1, 0, 1])
    rates = [neighbour_accuracy(queries, gallery[[a, b]], asked, known[[a, b]], (1,))["knn1"]
             for a in (0, 3) for b in (1, 2, 4)]
    found = few_shot_accuracy(queries, gallery, asked, known, (1,), draws=400)
    assert found["shot1"] == pytest.approx(np.mean(rates), abs=4 * np.std(rates) / 20 + 1e-9)
    assert found["shot1_std"] == pytest.approx(np.std(rates), rel=0.2)


def test_more_shots_tell_more_and_seeds_repeat():
    (queries, asked), (gallery, known) = classes(300, noise=1.5, seed=1), classes(300, noise=1.5, seed=2)
    found = few_shot_accuracy(queries, gallery, asked, known)
    assert found["shot1"] + 5 < found["shot5"] and found["shot1_std"] > 0
    assert found == few_shot_accuracy(queries, gallery, asked, known)
    assert found != few_shot_accuracy(queries, gallery, asked, known, seed=1)


def test_drawn_items_do_not_ask():
    z, labels = classes(30, 2, noise=0.01)
    labels[:] = np.arange(30) % 2
    z = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))     # nothing to learn: chance, were it not for
    own = np.arange(30), np.arange(30)                                      # items that meet themselves
    assert few_shot_accuracy(z, z, labels, labels, (15,))["shot15"] > 90
    assert np.isnan(few_shot_accuracy(z, z, labels, labels, (15,), owners=own)["shot15"])
    assert few_shot_accuracy(z, z, labels, labels, (10,), draws=200, owners=own)["shot10"] == pytest.approx(50, abs=15)


# -- open sets -----------------------------------------------------------------------------------------------------

def slow_open_set(queries: Tensor, gallery: Tensor, asked: np.ndarray, known: np.ndarray, held: set[int],
                  alarms: tuple[float, ...]) -> dict[str, float]:
    """One draw, by the words of the docstring."""
    left = [j for j in range(len(known)) if known[j] not in held]
    cosines = (normalize(queries) @ normalize(gallery[left]).T).numpy()
    best, told = cosines.max(axis=1), known[left][cosines.argmax(axis=1)]
    inside = np.isin(asked, known[left])
    right = told == asked
    result = {"auc": roc_auc_score(inside, best), "identified": 100 * right[inside].mean()}
    for alarm in alarms:
        allowed = [t for t in [*best, 2.0] if (best[~inside] >= t).mean() <= alarm]
        result[f"dir@{100 * alarm:g}%"] = max(100 * (right & (best >= t))[inside].mean() for t in allowed)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_open_sets_are_those_of_the_loop(seed):
    (queries, asked), (gallery, known) = classes(200, 4, seed=seed), classes(90, 4, seed=seed + 50)
    found = open_set(queries, gallery, asked, known, 0.25, draws=1, alarms=(0.05, 0.2), seed=seed)
    each = [slow_open_set(queries, gallery, asked, known, {c}, (0.05, 0.2)) for c in range(4)]
    assert found["n_known"] == 3 and found["n_unknown"] == 1
    assert any(all(found[key] == pytest.approx(one[key]) for key in one) for one in each)


def test_draws_are_averaged():
    (queries, asked), (gallery, known) = classes(200, 2, seed=1), classes(90, 2, seed=2)
    each = [slow_open_set(queries, gallery, asked, known, {c}, (0.1,))["auc"] for c in range(2)]
    found = open_set(queries, gallery, asked, known, draws=400)
    assert found["auc"] == pytest.approx(np.mean(each), abs=4 * np.std(each) / 20)
    assert found["auc_std"] == pytest.approx(np.std(each), rel=0.1) and found["identified"] == 100.0


def test_separable_classes_are_told_and_strangers_refused():
    (queries, asked), (gallery, known) = classes(400, 6, 20, noise=0.01, seed=1), classes(200, 6, 20, 0.01, seed=2)
    found = open_set(queries, gallery, asked, known)
    assert {found[key] for key in ("identified", "dir@1%", "dir@10%")} == {100.0} and found["auc"] == 1.0


def test_few_strangers_cannot_show_few_false_alarms():
    (queries, asked), (gallery, known) = classes(60, 4, seed=1), classes(60, 4, seed=2)
    found = open_set(queries, gallery, asked, known)
    assert np.isnan(found["dir@1%"]) and found["dir@10%"] >= 0


def test_an_only_item_of_its_class_is_unknown_without_itself():
    z = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]])
    labels = np.array([0, 0, 1, 1, 2])
    found = open_set(z, z, labels, labels, draws=50, owners=(np.arange(5), np.arange(5)))
    assert found["n_unknown"] == 1 and found["identified"] == 100.0
    alone = open_set(z[:2], z[:2], labels[:2], [0, 1], owners=(np.zeros(2, int), np.zeros(2, int)))
    assert np.isnan(alone["auc"]) and np.isnan(alone["identified"])    # nothing left that anything could be told by


def test_open_sets_without_known_or_unknown_queries_have_no_area():
    """All queries are of one class of two: in each draw they are all known, or none of them is."""
    z, labels = classes(40, 2, noise=0.1, seed=1)
    found = open_set(z[labels == 0], z, labels[labels == 0], labels, draws=20)
    assert np.isnan(found["auc"]) and np.isnan(found["dir@10%"]) and found["identified"] == 100.0


def test_as_many_false_alarms_as_there_are_strangers_are_no_threshold():
    (queries, asked), (gallery, known) = classes(200, 4, noise=2.0, seed=1), classes(90, 4, noise=2.0, seed=2)
    found = open_set(queries, gallery, asked, known, alarms=(1.0,))
    assert found["dir@100%"] == found["identified"] < 100


@pytest.mark.parametrize("options", [{"draws": 0}, {"share": 0.0}, {"share": 1.0}])
def test_open_sets_of_nothing_are_refused(options):
    z, labels = classes(20)
    with pytest.raises(DataError, match="expected a share between 0 and 1 and at least 1 draw"):
        open_set(z, z, labels, labels, **options)


# -- all of them ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("owned", [False, True])
def test_identification_is_its_parts(owned):
    """Few shots are of the queries' classes alone; the seed and the owners go to all that draw or leave out."""
    (queries, asked), (gallery, known) = classes(60, 3, seed=1), classes(90, 6, seed=2)
    owners = (np.arange(60) % 7, np.arange(90) % 9) if owned else None
    found = identification(queries, gallery, asked, known, seed=4, owners=owners)
    shown = known < 3
    few = (owners[0], owners[1][shown]) if owners is not None else None
    expected = {**neighbour_accuracy(queries, gallery, asked, known, owners=owners),
                **few_shot_accuracy(queries, gallery[torch.from_numpy(shown)], asked, known[shown], seed=4, owners=few),
                "open_set": open_set(queries, gallery, asked, known, seed=4, owners=owners),
                "n_queries": 60, "n_gallery": 90, "n_classes": 3}
    assert to_json(found) == to_json(expected)
    assert to_json(found) != to_json(identification(queries, gallery, asked, known, seed=5, owners=owners))


# -- what does not fit ---------------------------------------------------------------------------------------------

def test_what_does_not_fit_is_refused():
    z, labels = classes(20)
    with pytest.raises(DataError, match="at least two classes, got one"):
        identification(z, z, np.zeros(20), np.zeros(20))
    with pytest.raises(DataError, match="two classes in the gallery: one known, one unknown; got one"):
        open_set(z, z, labels, np.zeros(20))
    with pytest.raises(DataError, match=r"gallery labels: expected one per item, shape \(20,\), got \(3,\)"):
        neighbour_accuracy(z, z, labels, [1, 2, 3])
    with pytest.raises(DataError, match=r"owners: expected one per item"):
        neighbour_accuracy(z, z, labels, labels, owners=(labels, labels[:3]))
    with pytest.raises(DataError, match="ks: expected whole numbers from 1"):
        neighbour_accuracy(z, z, labels, labels, (0,))
    with pytest.raises(DataError, match="different dimension"):
        few_shot_accuracy(z, z[:, :3], labels, labels)
    with pytest.raises(NumericalError, match="view 2: 1 of 20"):
        identification(z, z.index_fill(0, torch.tensor([4]), torch.nan), labels, labels)


# -- the evaluator -------------------------------------------------------------------------------------------------

class Slices:
    """A model without weights: the first three values of an item are its embedding."""

    def embed_view1(self, x: Tensor) -> Tensor:
        return x[:, :3]

    embed_view2 = embed_view1


def split_of(name: str, n: int, seed: int, n_classes: int = 4, shift: int = 0) -> PairSplit:
    one, labels = classes(n, n_classes, seed=seed)
    draw = torch.Generator().manual_seed(seed + 1000)
    two = one + torch.randn(one.shape, generator=draw)
    return PairSplit(name, one, two, labels=torch.from_numpy(labels) + shift)


def test_training_items_are_the_gallery():
    train, test = split_of("train", 120, 1), split_of("test", 80, 2)
    found = identify(Slices(), PairedData("some", train, test, test))
    assert found["gallery"] == "train" and found["n_known_pairs"] == found["n_pairs"] == 120
    for side in SIDES:
        queries, gallery = (getattr(split, f"view{view}")[:, :3] for split, view in
                            ((test, side[1]), (train, side[-1])))
        expected = identification(queries, gallery, test.labels, train.labels)
        assert to_json({key: found[side][key] for key in expected}) == to_json(expected)
        assert found[side]["n_queries"] == 80 and found[side]["n_gallery"] == 120 and found[side]["n_classes"] == 4
    across = retrieval_metrics(test.view1[:, :3], test.view2[:, :3], labels1=test.labels, labels2=test.labels)
    assert found["V2_to_V1"]["map"] == pytest.approx(across["V2_to_V1"]["map"])
    part = identify(Slices(), PairedData("some", train, test, test), n_test=50)
    assert part["V1_to_V1"]["n_queries"] == 50 and part["V1_to_V1"]["n_gallery"] == 120


def test_classes_of_their_own_ask_each_other():
    train, test = split_of("train", 120, 1), split_of("test", 80, 2, shift=2)
    found = identify(Slices(), PairedData("zero shot", train, test, test))
    assert found["gallery"] == "test" and found["n_known_pairs"] == 80 and found["among_themselves"]
    assert "the other items of the 80 test pairs, whose classes the training pairs lack" in \
        identification_block(found).replace("\n", " ")
    own = np.arange(80), np.arange(80)
    for side in SIDES:
        queries, gallery = (getattr(test, f"view{view}")[:, :3] for view in (side[1], side[-1]))
        assert found[side]["knn5"] == pytest.approx(slow_neighbours(queries, gallery, test.labels.numpy(),
                                                                    test.labels.numpy(), 5, own))
    unlabelled = PairedData("unlabelled", dataclasses.replace(train, labels=None), test, test)
    assert to_json(identify(Slices(), unlabelled)) == to_json(found)
    itself = identify(Slices(), PairedData("itself", train, test, test), "train")
    assert itself["gallery"] == "train" and itself["V1_to_V1"]["knn1"] < 100     # else each would have found itself


def test_captions_of_a_picture_do_not_help_each_other():
    """Fifteen pictures of unseen classes with two captions each, alike but for their sibling, and a lonely caption."""
    pictures = torch.randn(15, 4, generator=torch.Generator().manual_seed(0))
    captions = torch.cat([pictures.repeat_interleave(2, 0), torch.ones(1, 4)])
    table = torch.stack([torch.arange(15).repeat_interleave(2), torch.arange(30)], dim=1)
    test = PairSplit("test", pictures, captions, pairs=table, labels=torch.arange(15) % 3 + 7)
    train = PairSplit("train", pictures, captions, pairs=table, labels=torch.arange(15) % 3)
    found = identify(Slices(), PairedData("captioned", train, test, test))
    assert found["V2_to_V2"]["n_queries"] == 30 and found["V1_to_V2"]["n_gallery"] == 30
    owner = np.arange(30) // 2
    labels = owner % 3 + 7
    assert found["V2_to_V2"]["knn1"] == pytest.approx(
        slow_neighbours(captions[:30, :3], captions[:30, :3], labels, labels, 1, (owner, owner)))
    assert found["V2_to_V2"]["knn1"] < 70


def test_many_training_items_are_thinned_out(monkeypatch):
    monkeypatch.setattr("xmodal.evaluator.identification.MOST_KNOWN", 40)
    train, test = split_of("train", 120, 1), split_of("test", 80, 2)
    found = identify(Slices(), PairedData("some", train, test, test))
    assert found["V1_to_V2"]["n_gallery"] == found["n_known_pairs"] == 40 and found["n_pairs"] == 120
    assert "items of 40 of the 120 train" in identification_block(found).replace("\n", " ")


@pytest.mark.parametrize(("labels", "message"), [
    (None, "identification needs labels, and the test pairs have none; add labels"),
    (torch.zeros(80, dtype=torch.int64), "at least two classes, and those of view 1 in the test pairs are of one"),
])
def test_data_that_can_not_do_are_told_before_the_model_runs(labels, message):
    class Untouchable:
        embed_view1 = embed_view2 = None

    test = dataclasses.replace(split_of("test", 80, 2), labels=labels)
    data = PairedData("labelled", test, test, test)
    for call in (lambda: check_identification(test), lambda: identify(Untouchable(), data)):
        with pytest.raises(DataError, match=message):
            call()


# -- the command ---------------------------------------------------------------------------------------------------

@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    assert run_train.main(["--model", MODEL, "--data", "digits"]) == 0
    capsys.readouterr()
    return Path("runs/digits_cca")


def test_the_command_shows_and_keeps_it(trained, capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--identify"]) == 0
    out = capsys.readouterr().out
    kept = json.loads((trained / "metrics.json").read_text())
    found = kept["identification"]
    assert identification_block(found) in out and all(len(line) <= 80 for line in out.splitlines())
    assert found["V1_to_V2"]["map"] == pytest.approx(kept["V1_to_V2"]["map"])
    assert found["V1_to_V1"]["knn1"] > found["V1_to_V2"]["knn1"] > 40     # ten classes, and the halves differ
    assert found["V1_to_V1"]["shot5"] > found["V1_to_V1"]["shot1"] > 20
    assert f"{found['V1_to_V2']['knn25']:.2f}" in out
    assert f"{found['V2_to_V2']['open_set']['auc']:.3f} ± {found['V2_to_V2']['open_set']['auc_std']:.3f}" in out
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--identify", "--n_test", "20"]) == 0
    out = capsys.readouterr().out       # too few for 1 % of false alarms
    line = next(line for line in out.splitlines() if "at 1 %" in line)
    assert line.split()[-4:] == ["-"] * 4
    assert json.loads((trained / "metrics_n20.json").read_text())["identification"]["V1_to_V1"]["open_set"]["dir@1%"] \
        is None


def test_the_command_refuses_one_class(trained, capsys):
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--identify", "--n_test", "1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: identification needs items of at least two classes") and err.count("\n") == 1
