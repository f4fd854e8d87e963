"""A run opened again embeds what it embedded before; what doesn't belong to it is refused."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xmodal.cli import prepare_data, run_train
from xmodal.data import load_data, write_h5
from xmodal.errors import CheckpointError, DataError
from xmodal.evaluator import embed
from xmodal.runs import load_run

MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training."""
    runs = tmp_path_factory.mktemp("runs")
    assert run_train.main(["--model", str(MODELS / "digits_ccal_cont.py"), "--data", "digits", "--runs", str(runs),
                           "--set", "max_epochs=2"]) == 0
    return runs / "digits_ccal_cont"


def test_it_embeds_as_the_evaluator_does(run):
    opened, test = load_run(run), load_data("digits").test
    both = embed(opened.model, test)
    assert opened.name == "digits_ccal_cont" and opened.precision == "float32"
    assert torch.equal(opened.embed(1, test.view1), both[0]) and torch.equal(opened.embed(2, test.view2), both[1])


def test_items_of_another_width_are_refused(run):
    with pytest.raises(DataError, match=r"embeds view-2 items of shape \(32,\), got \(31,\)"):
        load_run(run).embed(2, torch.zeros(3, 31))


def test_it_knows_its_data_and_refuses_others(run, tmp_path):
    assert load_run(run).data().fingerprint == load_data("digits").fingerprint
    other = tmp_path / "other.py"
    other.write_text("import numpy as np\ndef load():\n    a = np.arange(640.0).reshape(20, 32)\n"
                     "    return {f'{s}_view{v}': a for s in ('train', 'valid', 'test') for v in (1, 2)}\n")
    with pytest.raises(CheckpointError, match="was trained on digits"):
        load_run(run).data(str(other))


def test_numbers_of_any_kind_are_embedded(run):
    opened, test = load_run(run), load_data("digits").test
    expected = opened.embed(2, test.view2)
    assert torch.equal(opened.embed_view2(test.view2), expected)
    assert torch.equal(opened.embed_view2(test.view2.numpy().astype("float64")), expected)
    assert torch.equal(opened.embed_view1(test.view1[:3]), opened.embed(1, test.view1[:3]))


@pytest.mark.parametrize(("items", "said"), [
    (torch.zeros(3, 31), "items of shape"), (torch.full((2, 32), torch.nan), "must be finite"),
    (["a sentence"], "no file a sentence"), ([], "got nothing"), ([1.0, 2.0], "got float"),
    ([Path("nowhere.png")], "no file nowhere.png"), ([Path(__file__)], r"expected a picture \(.*\) or a .wav file"),
])
def test_what_is_no_item_is_refused(run, items, said):
    with pytest.raises(DataError, match=said):
        load_run(run).embed_view1(items)


@pytest.fixture(scope="module")
def run_of_pictures_and_texts(tmp_path_factory) -> Path:
    """Colours as pictures and as words, their encoders stored with the data; a linear CCA of them."""
    folder = tmp_path_factory.mktemp("own")
    image = pytest.importorskip("PIL.Image")
    names = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    lines = []
    for place in range(60):
        words = [list(names)[(place * step + shift) % 4] for step, shift in ((1, 0), (3, place // 4))]
        picture = image.new("RGB", (32, 32), names[words[0]])
        picture.paste(names[words[1]], (0, 0, 8 + place % 16, 32))
        picture.save(folder / f"{place}.png")
        lines.append(f"{place}.png\t{words[0]} with {words[1]} number {place}")
    (folder / "captions.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert prepare_data.main(["from_folder", "--images", str(folder), "--captions", str(folder / "captions.tsv"),
                              "--name", "colours", "--image_features", "hog", "--out", str(folder / "colours.h5")]) == 0
    assert run_train.main(["--model", str(MODELS / "emoji_cca.py"), "--data", str(folder / "colours.h5"), "--runs",
                           str(folder), "--set", "dim_latent=4"]) == 0
    return folder / "emoji_cca"


def test_texts_and_pictures_are_embedded_by_the_encoders_of_the_data(run_of_pictures_and_texts):
    opened = load_run(run_of_pictures_and_texts)
    data = opened.data()
    captions, pictures = data.test.caption2, [run_of_pictures_and_texts.parent / name for name in data.test.ids]
    torch.testing.assert_close(opened.embed_view2(captions), opened.embed_view2(data.test.view2), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(opened.embed_view1(pictures), opened.embed_view1(data.test.view1), rtol=2e-3, atol=2e-3)
    assert torch.equal(opened.embed_view2(captions[0]), opened.embed_view2(captions[:1]))  # one text alone
    with pytest.raises(DataError, match="a text is empty"):
        opened.embed_view2(["red", " "])


def test_data_that_were_moved_are_found_where_they_are(run_of_pictures_and_texts):
    old, new = (run_of_pictures_and_texts.parent / f"{name}.h5" for name in ("colours", "moved"))
    old.rename(new)
    try:
        with pytest.raises(CheckpointError, match=r"/colours.h5, and there is no .*: --data FILE says where they are "
                                                  r"\(in Python load_run\(path, data=...\)\)"):
            load_run(run_of_pictures_and_texts).embed_view2(["red with blue"])
        assert load_run(run_of_pictures_and_texts, data=str(new)).embed_view2(["red with blue"]).shape == (1, 4)
    finally:
        new.rename(old)


@pytest.mark.parametrize(("given", "file"), [("mine.h5", "mine.h5"), ("mine", "data/mine.h5")])
def test_a_run_is_used_from_another_folder(tmp_path, monkeypatch, given, file):
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    monkeypatch.chdir(home)
    write_h5(load_data("digits"), Path(file))
    assert run_train.main(["--model", str(MODELS / "digits_cca.py"), "--data", given]) == 0
    monkeypatch.chdir(tmp_path)
    assert load_run("home/runs/digits_cca").data().fingerprint == load_data("digits").fingerprint
    (home / "runs/digits_cca").rename("moved")
    with pytest.raises(CheckpointError, match=f"the data of moved were {given} as seen from the folder it was trained "
                                              f"in, and there is no {file} here"):
        load_run("moved").data()
    assert load_run("moved").data(f"home/{file}").fingerprint == load_data("digits").fingerprint
    about = json.loads(Path("moved/config.json").read_text())
    Path("moved/config.json").write_text(json.dumps({**about, "data": {**about["data"], "spec": "emoji"}}))
    with pytest.raises(DataError, match="emoji is not prepared: run"):
        load_run("moved").data()


@pytest.mark.parametrize("damage", [{"view1_shape": None}, {"view1_shape": [0]}, {"view2_shape": ["a"]}])
def test_a_damaged_configuration_is_told(run, tmp_path, damage):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("experiment.py", "weights.safetensors"):
        (copy / name).write_bytes((run / name).read_bytes())
    about = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**about, "data": {**about["data"], **damage}}))
    with pytest.raises(CheckpointError, match="lacks data"):
        load_run(copy)
