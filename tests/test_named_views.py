"""Files that hold several views of the same items: choosing two, thumbnails, encoders, and the commands' --views."""
from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from xmodal.cli import prepare_data, refine_cca, run_eval, run_train
from xmodal.cli.drawing import shown_items, shown_styles
from xmodal.config import load_experiment
from xmodal.data import load_data, read_h5, write_h5
from xmodal.data.files import write_arrays
from xmodal.errors import DataError, ExperimentError
from xmodal.pictures import ViewStyle, neighbour_sheet, pair_sheet, write_png

SIZES = {"train": 40, "valid": 12, "test": 14, "test_hard": 9}


def arrays_of(seed: int = 0) -> dict[str, object]:
    """Two pictures of each text: features and pixels, a text in two languages, and its bytes."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, object] = {}
    for split, n in SIZES.items():
        hidden = rng.standard_normal((n, 3))
        twice = np.repeat(np.arange(n), 2)
        arrays |= {f"{split}_view1": (hidden[twice] @ rng.standard_normal((3, 6))).astype(np.float16),
                   f"{split}_view2": (hidden @ np.eye(3, 5) + 0.1 * rng.standard_normal((n, 5))).astype(np.float32),
                   f"{split}_view1_pixels": rng.integers(0, 256, (2 * n, 3, 4, 4), dtype=np.uint8),
                   f"{split}_view2_de": (hidden @ np.eye(3, 4)).astype(np.float16),
                   f"{split}_view2_codes": rng.integers(0, 256, (n, 8)).astype(np.float32),
                   f"{split}_pairs": np.stack([np.arange(2 * n), twice], axis=1),
                   f"{split}_labels": twice % 3, f"{split}_ids": [f"{split}{i}" for i in range(2 * n)],
                   f"{split}_caption2": [f"dog {i}" for i in range(n)],
                   f"{split}_caption2_de": [f"Hund {i}" for i in range(n)]}
    return arrays


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "pets.h5"
    write_arrays(path, arrays_of(), {"name": "pets", "view1_name": "hog", "view2_name": "en"},
                 scale={"view1_pixels": 1 / 255}, compress=True,
                 encoders={"hog": json.dumps({"kind": "hog"}), "en": '{"kind": "ä"}', "de": '{"kind": "d"}'})
    return path


def test_without_names_the_first_two_views_are_read(file):
    data, arrays = read_h5(file), arrays_of()
    assert (data.view1_name, data.view2_name) == ("hog", "en")
    assert (json.loads(data.encoder1), json.loads(data.encoder2)) == ({"kind": "hog"}, {"kind": "ä"})
    torch.testing.assert_close(data.test.view1, torch.from_numpy(arrays["test_view1"]).float(), rtol=0, atol=0)
    assert data.train.caption2[3] == "dog 3" and data.train.ids[5] == "train5" and data.train.labels[2] == 1
    assert data.train.thumbnails1.shape == (80, 3, 4, 4) and data.train.thumbnails2 is None
    shown = data.train.thumbnails1.gather(torch.tensor([3, 1]))
    torch.testing.assert_close(shown, torch.from_numpy(arrays["train_view1_pixels"])[[3, 1]] / 255)
    assert [split.name for split in data.further] == ["test_hard"]


@pytest.mark.parametrize("stream", [False, True])
def test_two_views_of_different_sides_keep_table_labels_and_captions(file, stream):
    data, arrays = read_h5(file, stream, views=("pixels", "de")), arrays_of()
    assert (data.view1_name, data.view2_name, data.encoder1, data.encoder2) == ("pixels", "de", "", '{"kind": "d"}')
    assert data.view1_shape == (3, 4, 4) and data.view2_shape == (4,)
    assert data.train.pairs.tolist() == arrays["train_pairs"].tolist() and data.test.labels is not None
    assert data.test.caption2[0] == "Hund 0" and data.test.thumbnails1 is None, "the view is a picture itself"
    rows = torch.tensor([7, 0, 7])
    got = data.test.view1.gather(rows) if stream else data.test.view1[rows]
    torch.testing.assert_close(got, torch.from_numpy(arrays["test_view1_pixels"])[rows] / 255)


@pytest.mark.parametrize("views", [("en", "de"), ("de", "en"), ("view2", "de")])
def test_two_views_of_one_side_match_item_by_item(file, views):
    data, arrays = read_h5(file, views=views), arrays_of()
    assert data.train.pairs is None and data.train.labels is None and data.train.ids is None
    texts = {"en": "dog 1", "view2": "dog 1", "de": "Hund 1"}
    assert (data.test.caption1[1], data.test.caption2[1]) == (texts[views[0]], texts[views[1]])
    expected = {"en": arrays["test_view2"], "view2": arrays["test_view2"], "de": arrays["test_view2_de"]}
    for view, name in zip((data.test.view1, data.test.view2), views, strict=True):
        torch.testing.assert_close(view, torch.from_numpy(expected[name]).float(), rtol=0, atol=0)


def test_two_views_of_side_1_keep_labels_ids_and_thumbnails(file):
    data = read_h5(file, views=("hog", "pixels"))
    assert data.train.pairs is None and len(data.train) == 80
    assert data.train.ids[1] == "train1" and data.train.labels[2] == 1
    assert data.train.thumbnails1 is not None and data.train.thumbnails2 is None
    assert data.train.caption1 is None and data.train.caption2 is None


def test_a_view_without_captions_of_its_own_shows_those_of_its_side(file):
    assert read_h5(file, views=("hog", "codes")).test.caption2[2] == "dog 2"


def test_every_choice_has_a_fingerprint_of_its_own_streamed_or_not(file):
    choices = [None, ("hog", "de"), ("pixels", "en"), ("en", "de"), ("de", "en"), ("codes", "en")]
    prints = [read_h5(file, False, views).fingerprint for views in choices]
    assert len(set(prints)) == len(choices)
    assert prints == [read_h5(file, True, views).fingerprint for views in choices]
    assert {read_h5(file, views=same).fingerprint for same in (("hog", "en"), ("view1", "en"))} == {prints[0]}


@pytest.mark.parametrize(("views", "message"), [
    (("hog", "fr"), r"pets.h5 has no view 'fr'; .*de"), (("hogg", "en"), "did you mean hog"),
    (("en", "en"), "are the same"), (("hog", "view1"), "are the same"),
    (("de", "hog"), "de is a view of side 2, hog of side 1: give hog de")])
def test_what_cannot_be_chosen(file, views, message):
    with pytest.raises(DataError, match=message) as error:
        read_h5(file, views=views)
    assert "\n" not in str(error.value)


def test_a_view_that_a_split_lacks_is_named(file):
    with h5py.File(file, "a") as h5:
        del h5["valid/view2_de"]
    read_h5(file)
    with pytest.raises(DataError, match="lacks valid/view2_de"):
        read_h5(file, views=("hog", "de"))


@pytest.mark.parametrize(("key", "value", "message"), [
    ("valid/view2_de", np.array(["a"] * 12, dtype=object), "must hold numbers"),
    ("test/view2_de", np.zeros(14), "must be an array"), ("encoders/de", np.zeros(3), "must be one text")])
def test_bad_views_and_encoders_are_named(file, key, value, message):
    with h5py.File(file, "a") as h5:
        del h5[key]
        h5.create_dataset(key, data=value, dtype=h5py.string_dtype() if value.dtype == object else None)
    with pytest.raises(DataError, match=message):
        read_h5(file, views=("hog", "de"))


def test_data_written_again_keep_names_encoders_and_thumbnails(file, tmp_path):
    data = read_h5(file, views=("hog", "de"))
    write_h5(data, tmp_path / "again.h5")
    again = read_h5(tmp_path / "again.h5")
    assert (again.view1_name, again.view2_name, again.encoder2) == ("hog", "de", data.encoder2)
    torch.testing.assert_close(again.test.thumbnails1.gather(torch.arange(3)),
                               data.test.thumbnails1.gather(torch.arange(3)))


def test_selected_pairs_keep_their_thumbnails(file):
    chosen = read_h5(file).test.select(torch.tensor([5, 2]))
    torch.testing.assert_close(chosen.thumbnails1.gather(torch.tensor([0, 1])),
                               torch.from_numpy(arrays_of()["test_view1_pixels"])[[2, 5]] / 255)


def test_only_prepared_files_have_views_to_choose_from(tmp_path):
    with pytest.raises(DataError, match="digits has no views to choose from"):
        load_data("digits", views=("en", "de"))
    assert load_data("digits", views=("view1", "view2")).name == "digits"
    np.savez(tmp_path / "a.npz", view1=np.random.randn(30, 2), view2=np.random.randn(30, 2))
    with pytest.raises(DataError, match="has no views to choose from"):
        load_data(str(tmp_path / "a.npz"), views=("a", "b"))


# what people see

def test_pictures_and_captions_are_shown_in_place_of_features(file):
    data = read_h5(file)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(shown_items(data, data.test, 0, rows), data.test.thumbnails1.gather(rows))
    assert shown_items(data, data.test, 1, rows) == ["dog 4", "dog 1"]
    assert shown_styles(data, data.test)[0] == ViewStyle(0.0, 1.0)
    pixels = read_h5(file, views=("pixels", "codes"))
    torch.testing.assert_close(shown_items(pixels, pixels.test, 0, rows), pixels.test.view1[rows])


def test_sheets_with_texts():
    pictures, texts = torch.rand(4, 3, 8, 8), ["dog", "a $very$ long caption that has to be folded " * 9, "", "日本"]
    sheet = pair_sheet(pictures, texts, [ViewStyle(0.0, 1.0)] * 2)
    written = [text.get_text() for axes in sheet.axes for text in axes.texts]
    assert written[0] == "dog" and written[1].endswith("…") and max(map(len, written[1].split("\n"))) <= 18
    near = [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]
    sheet = neighbour_sheet(pictures, texts, near, torch.zeros(4, 2, dtype=torch.bool), [1.0] * 4,
                            [ViewStyle(0.0, 1.0)] * 2)
    assert [text.get_text() for axes in sheet.axes for text in axes.texts][-2:] == ["g", "h"]


# the commands

MODEL = """from xmodal import CCALayer, PairwiseRanking, TrainConfig, TwoTower
from xmodal.towers import mlp
CONFIG = TrainConfig(dim_latent=2, batch_size=20, max_epochs=2)
{views}
def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [], 2), mlp(view2_shape, [], 2), CCALayer(2))
def build_objective():
    return PairwiseRanking()
"""


@pytest.fixture
def folder(file, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("plain.py").write_text(MODEL.format(views=""))
    Path("coded.py").write_text(MODEL.format(views='VIEWS = ("pixels", "codes")'))
    return tmp_path


def test_a_run_remembers_its_views(folder, capsys):
    run = ["--model", "plain.py", "--data", "pets.h5"]
    assert run_train.main([*run, "--views", "en", "de"]) == 0
    assert "Views: en 5 and de 4" in capsys.readouterr().out
    assert json.loads(Path("runs/plain/config.json").read_text())["data"]["views"] == ["en", "de"]
    assert run_eval.main([*run, "--neighbours", "2"]) == 0 and run_eval.main([*run, "--views", "en", "de"]) == 0
    assert refine_cca.main(run) == 0 and run_train.main([*run, "--resume", "--set", "max_epochs=3"]) == 0
    capsys.readouterr()
    assert run_eval.main([*run, "--views", "hog", "en"]) == 2
    assert "was trained on the views en de: leave out --views" in capsys.readouterr().err


def test_a_model_file_may_name_its_views_and_the_command_another(folder, capsys):
    run = ["--data", "pets.h5", "--no_dump"]
    assert run_train.main(["--model", "coded.py", *run]) == 0
    assert "Views: pixels 3 × 4 × 4 and codes 8" in capsys.readouterr().out
    assert run_train.main(["--model", "coded.py", *run, "--views", "view1", "view2"]) == 0
    assert "Views: hog 6 and en 5" in capsys.readouterr().out
    assert run_train.main(["--model", "coded.py", "--data", "digits", "--no_dump"]) == 2
    assert "digits has no views to choose from" in capsys.readouterr().err


@pytest.mark.parametrize("views", ['VIEWS = "pixels"', 'VIEWS = ("a", 3)', 'VIEWS = ("a", "")', "VIEWS = ()"])
def test_views_of_a_model_file_are_two_names(views, tmp_path):
    (tmp_path / "m.py").write_text(MODEL.format(views=views))
    with pytest.raises(ExperimentError, match="VIEWS must be two names"):
        load_experiment(tmp_path / "m.py")


def test_prepared_data_are_drawn_with_their_captions(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prepare_data.main(["emoji", "--show", "sheet.png", "--out", str(file)]) == 0
    assert Path("sheet.png").stat().st_size > 1000 and "wrote sheet.png" in capsys.readouterr().out


def test_letters_without_a_glyph_give_one_warning(tmp_path):
    sheet = pair_sheet(torch.rand(2, 3, 8, 8), ["日本語の文字", "日本"], [ViewStyle(0.0, 1.0)] * 2)
    for axes in sheet.axes:
        for text in axes.texts:
            text.set_fontfamily("DejaVu Sans")  # comes with matplotlib and has none of them
    with pytest.warns(UserWarning) as caught:
        write_png(sheet, tmp_path / "a.png")
    assert [str(one.message) for one in caught] == ["6 letters are drawn as boxes: matplotlib's font lacks them"]
    assert (tmp_path / "a.png").stat().st_size > 500
