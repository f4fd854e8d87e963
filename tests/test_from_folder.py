"""The command prepare_data.py from_folder: what it makes of a folder and a table, and what it does with bad input."""
from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from xmodal.cli.prepare_data import main
from xmodal.data import PairedData, load_data
from xmodal.data.folder import PictureFolder
from xmodal.data.problems import Problems
from xmodal.features.images import image_encoder
from xmodal.features.texts import text_encoder

pytest.importorskip("PIL")

N = 20


def picture(file: Path, number: int) -> None:
    """A picture that no other number has, and that can be told from its pixels: number is its red."""
    from PIL import Image
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (number, 255 - number, number * 7 % 256)).save(file)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twenty pictures, two captions each; a word of each picture is in no other's captions."""
    for i in range(N):
        picture(tmp_path / "pics" / f"d{i % 2}" / f"p{i}.png", i)
    table(tmp_path, *(f"d{i % 2}/p{i}.png\t{text}" for i in range(N) for text in (f"one word{i}", f"two word{i}")))
    return tmp_path


def table(folder: Path, *lines: str, more: bool = False) -> None:
    with (folder / "c.tsv").open("a" if more else "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def prepare(folder: Path, *more: str) -> int:
    return main(["from_folder", "--images", str(folder / "pics"), "--captions", str(folder / "c.tsv"), "--name", "mine",
                 "--data_dir", str(folder), "--image_features", "hog", *more])


def prepared(folder: Path, *more: str) -> PairedData:
    assert prepare(folder, *more) == 0
    return load_data("mine", data_dir=folder)


def problems(folder: Path) -> list[tuple[str, str]]:
    file = folder / "mine.problems.tsv"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(kind, item) for kind, _, item in (line.partition("\t") for line in lines)]


def fails(capsys, folder: Path, *more: str) -> str:
    """Run; the one line on stderr."""
    assert prepare(folder, *more) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_every_view_holds_the_item_that_its_id_names(folder):
    data = prepared(folder)
    seen = load_data("mine", data_dir=folder, views=("pixels", "codes"))
    assert data.fingerprint == prepared(folder).fingerprint
    encode_picture, encode_text = image_encoder(json.loads(data.encoder1)), text_encoder(json.loads(data.encoder2))
    for split, shown in zip(data.splits(), seen.splits(), strict=True):
        assert shown.ids == split.ids and shown.caption2 == split.caption2
        numbers = [int(one.split("/p")[1].removesuffix(".png")) for one in split.ids]
        assert (shown.view1[:, 0] * 255).round().unique(dim=1).flatten(1)[:, 0].tolist() == numbers
        for item, text in split.pairs.tolist():
            assert split.caption2[text].endswith(f" word{numbers[item]}")
        assert bytes(shown.view2[0].to(torch.uint8).tolist()).rstrip(b"\0").decode() == split.caption2[0]
        flat = torch.tensor([[[[n]], [[255 - n]], [[n * 7 % 256]]] for n in numbers], dtype=torch.uint8)
        torch.testing.assert_close(encode_picture(flat.expand(-1, -1, 64, 64)), split.view1, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(torch.from_numpy(encode_text(split.caption2)).half().float(), split.view2,
                                   atol=0, rtol=0)


def test_the_vocabulary_is_that_of_the_training_captions(folder):
    data = prepared(folder)
    with h5py.File(folder / "mine.h5") as file:
        assert set(file["encoders"]) == {"hog", "tfidf", "codes"}
        terms = set(json.loads(file["encoders/tfidf"].asstr()[()])["parts"][0]["terms"])
    assert terms == {word for text in data.train.caption2 for word in text.split()}
    assert not terms & {text.split()[1] for split in (data.valid, data.test) for text in split.caption2}
    assert data.test.view2_shape == (len(terms),)


def test_the_file_says_where_it_comes_from(folder, monkeypatch):
    data = prepared(folder)
    assert (data.name, data.source, data.split_seed, data.synthetic) == \
        ("mine", "pictures of pics, captions of c.tsv", 23, False)
    assert "split 80/10/10 with seed 23" in data.note and str(folder) not in data.note + data.source
    monkeypatch.chdir(folder / "pics")
    assert prepared(folder, "--images", ".").source == data.source


def test_show_draws_the_pairs(folder):
    from PIL import Image
    prepared(folder)
    sheet = folder / "sheet.png"
    assert main(["from_folder", "--name", "mine", "--data_dir", str(folder), "--show", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.format == "PNG" and min(image.size) > 100


def test_features_of_several_kinds_are_views_to_choose_from(folder):
    prepared(folder, "--text_features", "codes", "tfidf")
    data = load_data("mine", data_dir=folder)
    assert data.view2_name == "codes" and data.view2_shape == (64,)
    assert load_data("mine", data_dir=folder, views=("hog", "tfidf")).view2_shape != (64,)


@pytest.mark.parametrize("name", [
    "../out.png", "d0/../../out.png", "..\\out.png", "/out.png", "\\out.png", "C:\\out.png", "C:out.png",
    "\\\\server\\share\\out.png", "//server/out.png", "~/../out.png"])
def test_names_that_climb_out_are_left_out_even_where_such_a_file_is(name, folder):
    picture(folder / "out.png", 200)
    table(folder, f"{name}\tstranger", more=True)
    data = prepared(folder, "--keep_unpaired")
    assert problems(folder) == [("names that climb out of the folder, left out", f"{name} (line {2 * N + 1})")]
    assert not any("stranger" in split.caption2 for split in data.splits())


@pytest.mark.skipif(os.name != "posix", reason="makes symbolic links")
def test_links_out_of_the_folder_are_not_followed_and_those_inside_are(folder):
    picture(folder / "outside" / "out.png", 200)
    pics = folder / "pics"
    (pics / "file.png").symlink_to(folder / "outside" / "out.png")
    (pics / "deep").symlink_to(folder / "outside")
    (pics / "loop.png").symlink_to(pics / "loop.png")
    (pics / "gone.png").symlink_to(pics / "nowhere.png")
    (pics / "within.png").symlink_to(pics / "d0" / "p0.png")
    (folder / "linked").symlink_to(pics)
    table(folder, *(f"{name}\ttext of {name}" for name in
                    ("file.png", "deep/out.png", "loop.png", "gone.png", "within.png")), more=True)
    data = prepared(folder)
    assert ("links that lead out of the folder, left out", "file.png") in problems(folder)
    ids = {one: split.name for split in data.splits() for one in split.ids}
    assert len(ids) == N + 1 and ids["within.png"] == ids["d0/p0.png"], "the same picture is in one split"
    assert data.fingerprint == prepared(folder, "--images", str(folder / "linked")).fingerprint


@pytest.mark.skipif(os.name != "posix", reason="makes names of any bytes")
def test_a_name_that_is_not_utf_8_is_left_out(folder):
    try:
        picture(Path(os.fsdecode(os.fsencode(folder / "pics") + b"/caf\xe9.png")), 200)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    prepared(folder, "--keep_unpaired")
    assert problems(folder) == [("pictures with names that are not UTF-8, left out", "caf\\udce9.png")]


def test_captions_that_hdf5_can_not_store_are_mended(folder):
    rows = [{"image": f"p{i}", "captions": [f"one word{i}", f"nul\0 {i}", f"half \ud800 {i}"]} for i in range(N)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"image": "\ud800\n\0.png", "text": "x"},
                                                               {"image": "\ud801\n.png", "text": "x"}])))
    data = prepared(folder, "--captions", str(folder / "c.jsonl"), "--keep_unpaired")
    assert {"nul 3", "half ? 3"} <= {text for split in data.splits() for text in split.caption2}
    assert ("captions without a picture", f"\\ud801\\n.png (line {N + 2})") in problems(folder)


def test_pictures_are_found_however_their_names_are_written(tmp_path):
    for i, name in enumerate(["a/one.png", "b/one.png", "cafe\u0301.png", "b/two.v1.jpg", "three.png", "c/three.png"]):
        picture(tmp_path / name, i)
    notes = Problems()
    found = PictureFolder(tmp_path, notes)
    for name, expected in (("a/one.png", "a/one.png"), ("./a//./one.png", "a/one.png"), ("a\\one.png", "a/one.png"),
                           ("a/one", "a/one.png"), ("caf\xe9.png", "cafe\u0301.png"), ("caf\xe9", "cafe\u0301.png"),
                           ("two.v1", "b/two.v1.jpg"), ("three.png", "three.png"), ("two", ""), ("a", ""), (".", "")):
        assert found.find(name, "here", notes) == expected, name
    assert notes.count("captions without a picture") == 3
    assert found.find("one.png", "here", notes) is None and found.find("three", "here", notes) is None
    assert notes.count("names that several pictures have, left out") == 2


def test_a_picture_by_two_names_gets_no_pair_twice(folder):
    table(folder, "p3\tone word3", ".\\d1\\p3.png\ttwo word3", more=True)
    data = prepared(folder)
    assert sum(len(split) for split in data.splits()) == 2 * N
    assert [kind for kind, _ in problems(folder)] == ["captions given twice for one picture"] * 2


def test_captions_without_a_split_go_where_their_picture_is(folder):
    splits = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    (folder / "c.csv").write_text("caption,file,split\n" + "".join(
        f"first {i},p{i},\nsecond {i},p{i},{split}\n" for i, split in enumerate(splits)) + "lost,p99,test\n")
    data = prepared(folder, "--captions", str(folder / "c.csv"), "--keep_unpaired")
    assert [(len(split.view1), len(split)) for split in data.splits()] == [(10, 20), (5, 10), (5, 10)]
    assert "lost" in data.test.caption2 and "split as the table says" in data.note and data.split_seed is None
    assert problems(folder) == [("captions without a picture", f"p99 (line {2 * N + 2})")]


def test_items_without_a_partner_take_no_pairs_place_and_leak_nothing(folder):
    table(folder, *(f"gone{i}\tlost {i}" for i in range(400)), *(f"gone\tONE word{i}" for i in range(N)), more=True)
    for i in range(30):
        picture(folder / "pics" / f"bare{i}.png", 100 + i)
    for i in range(N):
        picture(folder / "pics" / f"copy{i}.png", i)
    data = prepared(folder, "--keep_unpaired")
    assert [len(split) for split in data.splits()] == [2 * N - 8, 4, 4]
    assert [len(split.view1) + len(split.view2) for split in data.splits()] == [16 * 5 + 344, 2 * 5 + 43, 2 * 5 + 43]
    for split in data.splits():
        paired = {split.ids[i].split("/p")[1] for i in split.pairs[:, 0].tolist()}
        copies = {one.removeprefix("copy") for one in split.ids if one.startswith("copy")}
        said = {f"{text.split('word')[1]}.png" for text in split.caption2 if text.startswith("ONE")}
        assert paired == copies == said
    assert {kind for kind, _ in problems(folder)} == {"captions without a picture", "pictures without captions, kept"}
    plain = prepared(folder)
    assert sum(len(split.view1) for split in plain.splits()) == N
    assert sum(len(split.view2) for split in plain.splits()) == 2 * N


def test_the_list_of_problems_goes_when_there_are_none(folder):
    table(folder, "p0\t", more=True)
    prepared(folder)
    assert problems(folder) == [("empty captions", f"p0 (line {2 * N + 1})")]
    table(folder, *(f"p{i}\ta word{i}" for i in range(N)))
    prepared(folder)
    assert not (folder / "mine.problems.tsv").exists()


def test_when_nothing_is_left_the_problems_say_why(folder, capsys):
    table(folder, *(f"wrong/p{i}.png\ta{i}" for i in range(N)))
    assert "there is no picture to work on" in fails(capsys, folder)
    assert problems(folder)[0] == ("captions without a picture", "wrong/p0.png (line 1)")
    (folder / "c.jsonl").write_text("nonsense\n")
    assert "holds no captions" in fails(capsys, folder, "--captions", str(folder / "c.jsonl"))
    assert problems(folder)[0][0] == "lines that can't be read" and not (folder / "mine.h5").exists()


@pytest.mark.parametrize("lines", [["p0\tone", "p1\ttwo"], ["p0\tone"], [f"p{i}\tthe same" for i in range(N)]])
def test_too_few_pairs_leave_what_was_there(lines, folder, capsys):
    before = prepared(folder).fingerprint
    table(folder, *lines)
    assert "too few items" in fails(capsys, folder)
    assert load_data("mine", data_dir=folder).fingerprint == before


@pytest.mark.parametrize(("argv", "message"), [
    ([], "from_folder needs --images DIR --captions FILE --name NAME"),
    (["--captions", "c.tsv", "--name", "mine"], "needs --images DIR"),
    (["--images", "pics", "--captions", "c.tsv"], "needs --name NAME"),
    (["--images", "c.tsv", "--captions", "c.tsv", "--name", "mine"], "no such folder"),
    (["--images", "pics", "--captions", "pics", "--name", "mine"], "expected a .tsv, .csv or .jsonl"),
    (["--images", "pics", "--captions", "c.tsv", "--name", "mine", "--image_features", "hog", "hog"], "more than once"),
    (["--images", "pics", "--captions", "c.tsv", "--name", "digits"], "comes with xmodal"),
    (["--images", "pics", "--captions", "c.tsv", "--name", "m", "--zero_shot"], "from_folder takes no --zero_shot")])
def test_options_that_are_missing_or_wrong_are_one_line(argv, message, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["from_folder", "--data_dir", "out", *(["--image_features", "hog"] if "hog" not in argv else []),
                 *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(folder.rglob("*.h5"))


@pytest.mark.parametrize("seed", range(5))
def test_no_look_and_no_caption_is_on_two_sides(seed, tmp_path):
    rng = np.random.default_rng(seed)
    looks = rng.integers(0, 60, 80)
    for i, look in enumerate(looks):
        picture(tmp_path / "pics" / f"p{i}.png", int(look))
    table(tmp_path, *(f"p{i}\t{rng.choice(['Text', 'text'])} {rng.integers(0, 200)}" for i in range(80)))
    data = prepared(tmp_path)
    seen = load_data("mine", data_dir=tmp_path, views=("pixels", "codes"))
    for what in ([{row.numpy().tobytes() for row in split.view1} for split in seen.splits()],
                 [{text.casefold() for text in split.caption2} for split in data.splits()]):
        assert not what[0] & what[1] and not what[0] & what[2] and not what[1] & what[2]
