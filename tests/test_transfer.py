"""Transfer between views: the oracle writes down each fold's rows and asks LinearSVC itself."""
from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from xmodal.cli import run_eval, run_train
from xmodal.data import PairedData, PairSplit, load_data, write_h5
from xmodal.errors import DataError, NumericalError
from xmodal.evaluator import check_transfer, embed, linear_cca_baseline, transfer
from xmodal.metrics import transfer_accuracy, transfer_folds
from xmodal.report import transfer_block

MODEL = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")


def noisy_classes(n: int, d: int = 4, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two views (n, d) of three classes with centres in common, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, d, generator=generator)
    labels = torch.randint(3, (n,), generator=generator)
    one, two = (centres[labels] + noise * torch.randn(n, d, generator=generator) for _ in range(2))
    return one, two, labels


def slow_transfer(train: Tensor, test: Tensor, labels: Tensor, parts: list[list[int]]) -> tuple[float, int]:
    """Mean accuracy in percent over folds that are given row by row, and how many fits warned."""
    accuracies, warned = [], 0
    for part in parts:
        rest = [row for row in range(len(labels)) if row not in part]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            svm = LinearSVC(dual="auto", random_state=0).fit(train[rest].double().numpy(), labels[rest].numpy())
        warned += len(caught)
        predicted = svm.predict(test[part].double().numpy()).tolist()
        accuracies.append(sum(a == b for a, b in zip(predicted, labels[part].tolist(), strict=True)) / len(part))
    return 100 * sum(accuracies) / len(accuracies), warned


# -- the metric --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("n", "folds", "parts"), [
    (60, 5, [range(12), range(12, 24), range(24, 36), range(36, 48), range(48, 60)]),
    (23, 5, [range(5), range(5, 10), range(10, 15), range(15, 19), range(19, 23)]),
    (20, 3, [range(7), range(7, 14), range(14, 20)]),
    (7, 7, [[row] for row in range(7)]),
])
@pytest.mark.parametrize("same", [False, True])
def test_accuracy_equals_the_loop(n: int, folds: int, parts: list, same: bool) -> None:
    one, two, labels = noisy_classes(n, noise=3.0)
    test = one if same else two
    got = transfer_accuracy(one, test, labels, folds)
    assert got == pytest.approx(slow_transfer(one, test, labels, [list(part) for part in parts]))
    assert 20 < got.accuracy < 100      # a number that could have come out otherwise


def test_rows_of_an_item_stay_together() -> None:
    one, two, labels = noisy_classes(7, noise=3.0)
    items = torch.tensor([30, 10, 10, 20, 50, 30, 20, 40, 20, 60, 70])  # 7 items, their numbers with gaps
    at = {10: [1, 2], 20: [3, 6, 8], 30: [0, 5], 40: [7], 50: [4], 60: [9], 70: [10]}
    rows = items // 10 - 1
    parts = [at[10] + at[20], at[30] + at[40], at[50], at[60], at[70]]  # 2 + 2 + 1 + 1 + 1 items
    folds = transfer_folds(labels[rows], 5, items)
    assert [np.flatnonzero(mask).tolist() for mask in folds] == [sorted(part) for part in parts]
    got = transfer_accuracy(one[rows], two[rows], labels[rows], 5, groups=items)
    assert got == pytest.approx(slow_transfer(one[rows], two[rows], labels[rows], parts))


def test_separable_classes_give_100_and_permuted_labels_chance() -> None:
    one, two, labels = noisy_classes(600, noise=0.1)
    assert transfer_accuracy(one, two, labels) == (100.0, 0)
    permuted = labels[torch.randperm(600, generator=torch.Generator().manual_seed(1))]
    assert transfer_accuracy(one, two, permuted).accuracy == pytest.approx(100 / 3, abs=8)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5])
def test_constant_embeddings_give_the_share_of_the_largest_class(value: float) -> None:
    z = torch.full((50, 3), value)
    labels = torch.tensor([0, 1, 1, 1, 2] * 10)
    assert transfer_accuracy(z, z, labels).accuracy == 60.0


def test_a_class_that_is_in_one_fold_only_is_never_found() -> None:
    one, two, labels = noisy_classes(50, noise=0.01)
    labels[:8] = 9      # of 8 items one is not surprised, see below
    one[:8], two[:8] = one[:8] + 50, two[:8] + 50
    assert transfer_accuracy(one, two, labels).accuracy == pytest.approx(84)


def test_items_sorted_by_class_are_told_and_rare_classes_are_not() -> None:
    labels = torch.arange(200) // 20
    one = two = torch.eye(10)[labels]
    with pytest.raises(DataError, match=r"10 of 10 classes lie wholly within one of the 5 folds, .* by class; shuffle"):
        transfer_accuracy(one, two, labels)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert transfer_accuracy(one[order], two[order], labels[order]).accuracy == 100
    sets = np.repeat(np.arange(10), 6)      # two classes a fold
    items = np.repeat(np.arange(60), 3)     # of which each has three rows
    with pytest.raises(DataError, match="10 of 10 classes"):
        transfer_folds(sets[items], 5, items)
    common = np.arange(200) % 2
    one_more = np.where(np.arange(200) // 10 == 3, 2, common)       # a class of 10 items in a row
    with pytest.raises(DataError, match="1 of 3 classes"):
        transfer_folds(one_more)
    rare = np.where(np.arange(200) < 80, np.arange(200) // 4 + 2, common)     # 20 classes of 4 items in a row
    few = np.where(np.arange(200) // 5 == 3, 2, common)                       # one of 5
    for fine in (rare, few, np.arange(200), np.random.default_rng(0).permutation(np.arange(200) // 5)):
        assert len(transfer_folds(fine)) == 5


def test_any_labels_and_float_width_and_no_global_random_state() -> None:
    one, two, labels = noisy_classes(40, noise=2.0)
    expected = transfer_accuracy(one, two, labels)
    np.random.seed(1)
    assert transfer_accuracy(one.double().numpy(), two, np.array(list("cab"))[labels]) == expected
    assert transfer_accuracy(one.bfloat16(), two.half(), labels - 2).accuracy == pytest.approx(expected.accuracy, abs=5)
    assert transfer_accuracy(one.requires_grad_(), two, labels) == expected


def hard_rows() -> tuple[Tensor, Tensor]:
    """More columns than rows, one of them enormous: LinearSVC gives up after 1,000 iterations."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 30, generator=generator)
    z[:, 0] *= 1e6
    return z, torch.arange(20) % 2


def test_fits_that_did_not_converge_are_counted_and_silent() -> None:
    z, labels = hard_rows()
    expected = slow_transfer(z, z, labels, [list(range(start, start + 4)) for start in range(0, 20, 4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = transfer_accuracy(z, z, labels)
    assert got == pytest.approx(expected) and got.unconverged == 5


@pytest.mark.parametrize(("arguments", "message"), [
    ((torch.ones(4, 2), torch.ones(4, 2), [0, 1, 0, 1]), "5 folds need at least 5 items, got 4"),
    ((torch.ones(9, 2), torch.ones(9, 2), [0, 1] * 4 + [0], 5, [0] * 5 + [1, 2, 3, 3]), "at least 5 items, got 4"),
    ((torch.ones(9, 2), torch.ones(9, 2), [0, 1] * 4 + [0], 1), "whole number from 2, got 1"),
    ((torch.ones(9, 2), torch.ones(9, 2), [0, 1] * 4 + [0], 2.5), r"whole number from 2, got 2\.5"),
    ((torch.ones(9, 2), torch.ones(9, 2), [3] * 9), "without fold 1 of 5, all items to train on are of one class"),
    ((torch.ones(10, 2), torch.ones(10, 2), [0] * 8 + [1, 1]), "without fold 5 of 5"),
    ((torch.ones(9, 2), torch.ones(8, 2), [0, 1] * 4 + [0]), r"one shape, got \(9, 2\) and \(8, 2\)"),
    ((torch.ones(9, 2), torch.ones(9, 3), [0, 1] * 4 + [0]), "the same space"),
    ((torch.ones(9), torch.ones(9), [0, 1] * 4 + [0]), r"train: .*shape \(n, d\)"),
    ((torch.ones(0, 2), torch.ones(0, 2), []), "at least 1, got"),
    ((torch.ones(9, 2), torch.ones(9, 2), [0, 1]), r"labels: expected one per item, shape \(9,\), got \(2,\)"),
    ((torch.ones(9, 2), torch.ones(9, 2), [[0, 1]] * 9), r"labels: .* got \(9, 2\)"),
    ((torch.ones(9, 2), torch.ones(9, 2), [0, 1] * 4 + [0], 5, [1, 2]), "groups: expected one per item"),
])
def test_bad_input_is_told(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        transfer_accuracy(*arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e75])    # of 1e75, LinearSVC would never come back
@pytest.mark.parametrize("side", ["train", "test"])
def test_values_without_a_number_are_told(side: str, bad: float) -> None:
    z = torch.randn(20, 3, dtype=torch.float64)
    broken = z.clone()
    broken[[4, 6], 1] = bad
    with pytest.raises(NumericalError, match=rf"{side}: 2 of 20 .*rows 4, 6"):
        transfer_accuracy(*((broken, z) if side == "train" else (z, broken)), torch.arange(20) % 2)


@pytest.mark.parametrize("scale", [1e-38, 1e-6, 1e6, 1e37])
def test_any_scale_comes_back(scale: float) -> None:
    one, two, labels = noisy_classes(60)
    assert 0 <= transfer_accuracy(one * scale, two * scale, labels).accuracy <= 100


# -- the evaluator -----------------------------------------------------------------------------------------------

class Slices:
    """A model without weights: the first three values of an item are its embedding."""

    def embed_view1(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]

    def embed_view2(self, y: Tensor) -> Tensor:
        return y.flatten(1)[:, :3]


def labelled(test: PairSplit) -> PairedData:
    return PairedData("labelled", *(dataclasses.replace(test, name=name) for name in ("train", "valid", "test")))


def assert_equals_loop(report: dict, views: dict[str, Tensor], labels: Tensor, parts: list[list[int]]) -> None:
    sides = {"V1_to_V2": ("z1", "z2"), "V2_to_V1": ("z2", "z1"), "V1_to_V1": ("z1", "z1"), "V2_to_V2": ("z2", "z2"),
             "raw_V1_to_V1": ("raw1", "raw1"), "raw_V2_to_V2": ("raw2", "raw2")}
    expected = {key: slow_transfer(views[a], views[b], labels, parts) for key, (a, b) in sides.items()}
    assert report.keys() == {*sides, "folds", "unconverged"}
    assert report["folds"] == len(parts) and report["unconverged"] == sum(warned for _, warned in expected.values())
    for key, (accuracy, _) in expected.items():
        assert report[key] == pytest.approx(accuracy), key


def test_report_equals_the_loop() -> None:
    one, two, labels = noisy_classes(37, d=8, noise=4.0)
    data = labelled(PairSplit("test", one.reshape(37, 2, 4), two, labels=labels))
    parts = [list(range(a, b)) for a, b in ((0, 8), (8, 16), (16, 23), (23, 30), (30, 37))]
    views = {"z1": one[:, :3], "z2": two[:, :3], "raw1": one, "raw2": two}
    assert_equals_loop(transfer(Slices(), data), views, labels, parts)
    first = [list(range(a, a + 4)) for a in range(0, 20, 4)]
    assert_equals_loop(transfer(Slices(), data, "valid", n_test=20), views, labels[:20], first)


def test_captions_of_a_picture_are_in_its_fold() -> None:
    """15 pictures with one to three captions, a lonely caption, and a table in no order."""
    pictures, _, labels = noisy_classes(15, d=6, noise=2.0)
    owner = torch.arange(15).repeat_interleave(torch.tensor([1, 2, 3] * 5))
    captions = torch.cat([pictures[owner] + torch.randn(30, 6, generator=torch.Generator().manual_seed(3)),
                          torch.zeros(1, 6)])
    table = torch.stack([owner, torch.arange(30)], dim=1)
    shuffled = table[torch.randperm(30, generator=torch.Generator().manual_seed(4))]
    data = labelled(PairSplit("test", pictures, captions, pairs=shuffled, labels=labels))
    parts = [[row for row in range(30) if owner[row] // 3 == fold] for fold in range(5)]
    views = {"z1": pictures[owner][:, :3], "z2": captions[:30, :3], "raw1": pictures[owner], "raw2": captions[:30]}
    assert_equals_loop(transfer(Slices(), data), views, labels[owner], parts)


def test_ten_class_names_that_all_pictures_share() -> None:
    """View 2 is a one-hot class: shared by all folds, and still the pictures are held out."""
    labels = torch.arange(60) % 3
    pictures = torch.eye(3)[labels] + 0.05 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    table = torch.stack([torch.arange(60), labels], dim=1)
    report = transfer(Slices(), labelled(PairSplit("test", pictures, torch.eye(3), pairs=table, labels=labels)))
    assert {report[key] for key in report if "_to_" in key} == {100.0} and report["unconverged"] == 0


def test_repeating_gives_the_same_and_leaves_the_mode_alone() -> None:
    torch.manual_seed(0)
    tower = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))

    class Model(torch.nn.Module):
        embed_view1 = embed_view2 = lambda self, items: self.tower(items)

        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

    one, two, labels = noisy_classes(40, noise=2.0)
    data, model = labelled(PairSplit("test", one, two, labels=labels)), Model().train()
    assert transfer(model, data) == transfer(model, data)
    assert model.training and tower.training


@pytest.mark.parametrize(("changes", "message"), [
    ({"labels": None}, "needs labels, and the test pairs have none"),
    ({"labels": torch.zeros(40, dtype=torch.int64)}, "one class"),
])
def test_data_that_can_not_do_are_told_before_the_model_runs(changes: dict, message: str) -> None:
    class Untouchable:
        def embed_view1(self, x: Tensor) -> Tensor:
            raise AssertionError

        embed_view2 = embed_view1

    one, two, labels = noisy_classes(40)
    split = dataclasses.replace(PairSplit("test", one, two, labels=labels), **changes)
    for call in (lambda: check_transfer(split), lambda: transfer(Untouchable(), labelled(split))):
        with pytest.raises(DataError, match=message):
            call()


def test_a_broken_embedding_names_its_view() -> None:
    class Broken(Slices):
        def embed_view2(self, y: Tensor) -> Tensor:
            return super().embed_view2(y).index_fill(0, torch.tensor([3]), float("nan"))

    one, two, labels = noisy_classes(40)
    with pytest.raises(NumericalError, match=r"view 2: 1 of 40 .*rows 3"):
        transfer(Broken(), labelled(PairSplit("test", one, two, labels=labels)))


def test_digits_transfer_better_than_chance_and_not_better_than_one_view() -> None:
    data = load_data("digits")
    model = linear_cca_baseline(data, 16)
    report = transfer(model, data)
    z1, z2 = embed(model, data.test)
    assert report["V1_to_V2"] == transfer_accuracy(z1, z2, data.test.labels).accuracy
    assert 30 < report["V1_to_V2"] < report["V1_to_V1"] < report["raw_V1_to_V1"] < 100


def test_views_on_disk_give_the_same(tmp_path: Path) -> None:
    write_h5(load_data("digits"), tmp_path / "digits.h5")
    in_memory, on_disk = (load_data(str(tmp_path / "digits.h5"), stream=stream) for stream in (False, True))
    assert on_disk.test.is_streamed
    assert transfer(Slices(), on_disk, n_test=100) == transfer(Slices(), in_memory, n_test=100)


# -- the report and the command ----------------------------------------------------------------------------------

RESULT = {"V1_to_V2": 70.94, "V2_to_V1": 71.81, "V1_to_V1": 79.64, "V2_to_V2": 77.59, "raw_V1_to_V1": 81.62,
          "raw_V2_to_V2": 100.0, "folds": 5, "unconverged": 0}


def test_block_says_which_view_was_trained_and_tested_on() -> None:
    assert transfer_block(RESULT).splitlines() == [
        "Transfer: accuracy of linear SVMs in percent, mean of 5 folds",
        "tested on           view 1  view 2",
        "trained on view 1    79.64   70.94",
        "trained on view 2    71.81   77.59",
        "raw, the same view   81.62  100.00",
    ]


def test_block_says_when_fits_did_not_converge_and_keeps_its_width() -> None:
    lines = transfer_block(RESULT | {"folds": 100_000, "unconverged": 600_000}).splitlines()
    assert lines[-1] == "Unconverged: 600000 of 600000 SVM fits stopped at the iteration limit"
    assert max(map(len, lines)) <= 80


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    assert run_train.main(["--model", MODEL, "--data", "digits", "--set", "max_epochs=1"]) == 0
    capsys.readouterr()
    return Path("runs/digits_ccal_cont")


def test_command_prints_the_block_and_keeps_the_numbers(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--model", MODEL, "--data", "digits"]
    assert run_eval.main([*arguments, "--transfer"]) == 0
    captured = capsys.readouterr()
    kept = json.loads((trained / "metrics.json").read_text())
    assert transfer_block(kept["transfer"]) in captured.out and "MRR" in captured.out and not captured.err
    assert all(len(line) <= 80 for line in captured.out.splitlines())
    assert run_eval.main([*arguments, "--transfer", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((trained / "metrics.json").read_text()) == kept
    assert run_eval.main(arguments) == 0
    assert "Transfer" not in capsys.readouterr().out
    assert json.loads((trained / "metrics.json").read_text()) == kept


def test_command_counts_pairs_as_asked(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--model", MODEL, "--data", "digits", "--transfer"]
    assert run_eval.main([*arguments, "--n_test", "4"]) == 2
    assert capsys.readouterr().err == "error: 5 folds need at least 5 items, got 4\n"
    assert run_eval.main([*arguments, "--n_test", "100", "--split", "valid"]) == 0
    assert "transfer" in json.loads((trained / "metrics_valid_n100.json").read_text())


def test_command_refuses_data_without_labels_before_it_evaluates(trained: Path, capsys: pytest.CaptureFixture,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    plain = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=None))
    monkeypatch.setattr(run_eval, "load_run_data", lambda args, about: plain)
    monkeypatch.setattr(run_eval, "load_model", None)
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--transfer"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: transfer between views needs labels") and err.count("\n") == 1
