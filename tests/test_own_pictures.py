"""Tables of captions, folders of pictures, and the release of IAPR TC-12: what people have, with all that is wrong."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.cli.prepare_data import main
from xmodal.data import iapr, load_data
from xmodal.data.captions import Caption, read_captions
from xmodal.data.iapr import Protocol
from xmodal.data.problems import Problems
from xmodal.errors import DataError
from xmodal.features.texts import text_encoder

pytest.importorskip("PIL")


def read(folder: Path, name: str, content: str | bytes) -> tuple[list[Caption], Problems]:
    file, problems = folder / name, Problems()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_captions(file, problems), problems


EXPECTED = [("a/one.jpg", "a red dog", 1), ("two.png", 'say "hi", cat', 2), ("two.png", "again", 3)]


@pytest.mark.parametrize(("name", "content", "first_line"), [
    ("c.tsv", 'a/one.jpg\ta red  dog\ntwo.png\tsay "hi", cat\ntwo.png\tagain\n', 1),
    ("c.txt", 'a/one.jpg#0\ta red dog\r\ntwo.png#0\tsay "hi", cat\r\ntwo.png#1\tagain\r\n', 1),
    ("c.tsv", '\ufeffimage\tcaption\na/one.jpg\ta red dog\ntwo.png\tsay "hi", cat\ntwo.png\tagain', 2),
    ("c.csv", 'a/one.jpg,a red dog\ntwo.png,"say ""hi"", cat"\ntwo.png,again\n', 1),
    ("c.csv", 'image_name| comment_number| comment\na/one.jpg| 0| a red dog\ntwo.png| 0| say ""hi"", cat\n'
              "two.png| 1| again\n".replace('""hi""', '"hi"'), 2),
    ("c.csv", 'number;Caption;File\n7;a red dog;a/one.jpg\n8;"say ""hi"", cat";two.png\n9;again;two.png\n', 2),
    ("c.jsonl", '{"image": "a/one.jpg", "caption": "a red dog"}\n'
                '{"file_name": "two.png", "text": "say \\"hi\\", cat"}\n'
                '{"path": "two.png", "captions": ["again"]}\n\n', 1)])
def test_every_kind_of_table_says_the_same(name, content, first_line, tmp_path):
    captions, problems = read(tmp_path, name, content)
    assert [(one.picture, one.text, one.line) for one in captions] == \
        [(picture, text, line + first_line - 1) for picture, text, line in EXPECTED]
    problems.tell(pytest.fail, tmp_path / "p.tsv")


def test_further_columns_and_lists_are_further_captions(tmp_path):
    assert [one.text for one in read(tmp_path, "c.tsv", "a.png\tone\ttwo\n")[0]] == ["one", "two"]
    assert [one.text for one in read(tmp_path, "c.jsonl", '{"image": "a", "captions": ["one", "two"]}')[0]] == \
        ["one", "two"]
    captions, _ = read(tmp_path, "c.csv", "file,split,caption\na,train,x\nb,val,y\nc,DEV,z\nd,test,w\ne,,v\n")
    assert [one.split for one in captions] == ["train", "valid", "valid", "test", ""]


@pytest.mark.parametrize(("name", "content", "kind"), [
    ("c.tsv", "a.png\tone\nb.png\t \n", "empty captions"), ("c.tsv", "a.png\tone\n\ttwo\n", "lines without the name"),
    ("c.tsv", "a.png\tone\nb.png\n", "lines that can't be read"), ("c.tsv", b"a.png\tone\nb\tcaf\xe9\n", "not UTF-8"),
    ("c.csv", "file,caption,split\na,one,train\nb,two,best\n", "unknown split"),
    ("c.jsonl", '{"image": "a", "caption": "one"}\nnonsense\n', "lines that can't be read"),
    ("c.jsonl", '{"image": "a", "caption": "one"}\n[1]\n', "lines that can't be read"),
    ("c.jsonl", '{"image": "a", "caption": "one"}\n{"image": 3, "caption": "x"}\n', "lines that can't be read")])
def test_lines_that_are_no_good_are_counted_and_the_others_read(name, content, kind, tmp_path):
    captions, problems = read(tmp_path, name, content)
    said: list[str] = []
    problems.tell(said.append, tmp_path / "p.tsv")
    assert captions[0].text == "one" and kind in said[0] and "1" in said[0]
    assert kind in (tmp_path / "p.tsv").read_text(encoding="utf-8")
    if "UTF" in kind:
        assert captions[1].text == "café"


@pytest.mark.parametrize(("name", "content", "message"), [
    ("c.xlsx", "a", "expected a .tsv, .csv or .jsonl"), ("c.tsv", "", "holds no captions"),
    ("c.csv", "image,caption\n", "holds no captions"), ("c.jsonl", "{}", "holds no captions")])
def test_what_is_no_table(name, content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content)
    with pytest.raises(DataError, match="no file"):
        read_captions(tmp_path / "gone.tsv", Problems())


@given(st.binary(max_size=60), st.sampled_from(["c.tsv", "c.csv", "c.jsonl"]))
def test_any_bytes_are_a_table_or_an_error_of_ours(content, name):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        try:
            captions, _ = read(Path(folder), name, content)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert all(one.picture and one.text for one in captions)


# folders

def picture(file: Path, number: int, mode: str = "RGB", **options) -> None:
    """A picture that no other number has."""
    from PIL import Image
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(values).resize((90, 70)).convert(mode).save(file, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Thirty pictures with two captions each, and their table."""
    lines = []
    for i in range(30):
        name = f"{'ab'[i % 2]}/img{i}.{('png', 'jpg', 'webp')[i % 3]}"
        picture(tmp_path / "pics" / name, i)
        lines += [f"{name}\ta word{i} dog", f"img{i}\ta cat{i}"]
    (tmp_path / "c.tsv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def prepare(folder: Path, *more: str) -> int:
    return main(["from_folder", "--images", str(folder / "pics"), "--captions", str(folder / "c.tsv"), "--name", "mine",
                 "--data_dir", str(folder), "--image_features", "hog", *more])


def add(folder: Path, *lines: str) -> None:
    with (folder / "c.tsv").open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(lines))


def test_a_folder_becomes_a_data_set(folder, capsys):
    assert prepare(folder) == 0
    assert "images/s" in capsys.readouterr().out and not (folder / "mine.problems.tsv").exists()
    data = load_data("mine", data_dir=folder)
    assert (data.name, data.view1_name, data.view2_name) == ("mine", "hog", "tfidf")
    assert [len(split.view1) for split in data.splits()] == [24, 3, 3]
    for split in data.splits():
        assert len(split.view2) == len(split) == 2 * len(split.view1)
        for item, text in split.pairs.tolist():
            number = split.ids[item].partition("img")[2].partition(".")[0]
            assert split.caption2[text] in (f"a word{number} dog", f"a cat{number}")
    encoder = text_encoder(json.loads(data.encoder2))
    torch.testing.assert_close(torch.from_numpy(encoder(data.test.caption2)), data.test.view2, atol=1e-3, rtol=0)
    terms = set(json.loads(data.encoder2)["parts"][0]["terms"])
    assert terms == {word for text in data.train.caption2 for word in text.split()}, "training captions alone"
    assert load_data("mine", data_dir=folder, views=("pixels", "codes")).view1_shape == (3, 64, 64)
    assert main(["from_folder", "--name", "mine", "--data_dir", str(folder), "--show", str(folder / "s.png")]) == 0
    assert (folder / "s.png").stat().st_size > 1000


def test_the_table_may_say_the_split(folder):
    rows = [f"{'ab'[i % 2]}/img{i}.{('png', 'jpg', 'webp')[i % 3]},word{i},{('train', 'val', 'test')[i // 10]}"
            for i in range(30)]
    (folder / "c.csv").write_text("file,caption,split\n" + "\n".join(rows) + "\nimg0,stranger,test\n")
    assert prepare(folder, "--captions", str(folder / "c.csv")) == 0
    data = load_data("mine", data_dir=folder)
    assert [len(split) for split in data.splits()] == [10, 10, 10] and "as the table says" in data.note
    assert "word3" in data.train.caption2 and "word13" in data.valid.caption2 and "word23" in data.test.caption2
    assert "in another split" in (folder / "mine.problems.tsv").read_text()


def test_what_looks_the_same_or_says_the_same_stays_together(folder):
    for i in range(30):
        picture(folder / "pics" / f"copy{i}.png", i)
        add(folder, f"copy{i}.png\tanother text {i}")
    add(folder, *(f"img{i}\tpair of {i // 2}" for i in range(30)))
    assert prepare(folder) == 0
    data = load_data("mine", data_dir=folder)
    place = {one: split.name for split in data.splits() for one in split.ids}
    said = [set(split.caption2) for split in data.splits()]
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    assert all(place[f"copy{i}.png"] == place[f"{'ab'[i % 2]}/img{i}.png"] for i in range(0, 30, 3)), "PNG is exact"


def test_everything_that_is_wrong_is_counted_listed_and_left_out(folder, capsys):
    pics = folder / "pics"
    (pics / "bad.png").write_text("no picture")
    (pics / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2
                                    + b"\x08\x02\0\0\0")
    picture(pics / "print.jpg", 99, "CMYK")
    from PIL import Image
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(pics / "moves.webp", save_all=True, append_images=frames[1:])
    picture(pics / "bare.png", 98)
    picture(pics / "x" / "same.png", 97)
    picture(pics / "y" / "same.png", 96)
    picture(folder / "outside.png", 95)
    (pics / "link.png").symlink_to(folder / "outside.png")
    add(folder, "bad.png\tone", "huge.png\ttwo", "print.jpg\tprinted", "moves.webp\tmoving", "same.png\tthree",
        "x/same.png\tfour", "../outside.png\tfive", "/etc/x.png\tsix", "..\\x.png\tseven", "link.png\teight",
        "gone.png\tnine", "img1\t ", "img1\ta cat1")
    assert prepare(folder) == 0
    listed = (folder / "mine.problems.tsv").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    for kind, item in (("pictures that can't be read", "bad.png"), ("pictures that can't be read", "huge.png"),
                       ("odd pictures", "print.jpg: CMYK"), ("odd pictures", "moves.webp: animated"),
                       ("names that several pictures have", "same.png"), ("climb out", "../outside.png"),
                       ("climb out", "/etc/x.png"), ("climb out", "..\\x.png"), ("lead out", "link.png"),
                       ("captions without a picture", "gone.png"), ("pictures without captions", "bare.png"),
                       ("pictures without captions", "y/same.png"), ("empty captions", "img1"),
                       ("captions given twice", "img1")):
        assert any(kind in line and item in line for line in listed.splitlines()), (kind, item)
        assert kind.split()[0] in out
    data = load_data("mine", data_dir=folder)
    texts = {text for split in data.splits() for text in split.caption2}
    assert {"printed", "moving", "four"} <= texts
    assert not {"one", "two", "three", "five", "six", "seven", "eight", "nine"} & texts
    assert sum(len(split.view1) for split in data.splits()) == 33


def test_items_without_a_partner_are_kept_on_request(folder):
    for i in range(20):
        picture(folder / "pics" / f"bare{i}.png", 200 + i)
    add(folder, *(f"gone{i}.png\tlost {i}" for i in range(20)), "../up.png\tnever")
    assert prepare(folder, "--keep_unpaired") == 0
    data = load_data("mine", data_dir=folder)
    assert sum(len(split.view1) for split in data.splits()) == 50
    assert sum(len(split.view2) for split in data.splits()) == 80
    assert sum(len(split) for split in data.splits()) == 60
    for split in data.splits():
        paired = {split.ids[i] for i in split.pairs[:, 0].tolist()}
        assert not any("bare" in one for one in paired)
    assert not any("never" in split.caption2 for split in data.splits())


@pytest.mark.parametrize(("arguments", "message"), [
    (["--name", "a/b"], "can't be 'a/b'"), (["--name", "emoji"], "comes with xmodal"), (["--name", ".."], "can't be"),
    (["--images", "nowhere"], "no such folder"), (["--captions", "nowhere.tsv"], "no file"),
    (["--image_features", "nonsense"], "MODULE:FUNCTION")])
def test_mistakes_are_one_line(folder, arguments, message, capsys):
    assert prepare(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(folder.glob("*.h5"))


def test_missing_options_are_named(capsys):
    assert main(["from_folder", "--images", "x"]) == 2
    assert "needs --captions FILE --name NAME" in capsys.readouterr().err


def test_too_few_pairs(folder, capsys):
    (folder / "c.tsv").write_text("img0\tone\nimg1\ttwo\n")
    assert prepare(folder) == 2
    assert "too few items" in capsys.readouterr().err


def test_a_folder_without_pictures(folder, capsys):
    (folder / "empty").mkdir()
    assert prepare(folder, "--images", str(folder / "empty")) == 2
    assert "holds no pictures" in capsys.readouterr().err


# IAPR TC-12

@pytest.fixture
def release(tmp_path) -> Path:
    """Forty photographs in ImageCLEF's layout; one without annotation, one annotation without picture, one empty."""
    for i in range(41):
        place = f"{i % 3:02d}/{100 + i}"
        if i != 39:
            picture(tmp_path / "images" / f"{place}.jpg", i)
        if i == 40:
            continue
        description = "" if i == 38 else f"a caf\xe9 with thing{i} &amp; more;"
        file = tmp_path / "annotations_complete_eng" / f"{place}.eng"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((f"<DOC>\n<DOCNO>annotations/{place}.eng</DOCNO>\n<TITLE>{'' if i == 38 else f'Title {i}'}"
                          f"</TITLE>\n<DESCRIPTION>{description}\n</DESCRIPTION>\n<NOTES></NOTES>\n<LOCATION>Lima</LOCATION>"
                          f"\n<DATE>2002</DATE>\n<IMAGE>images/{place}.jpg</IMAGE>\n</DOC>\n").encode("latin-1"))
    return tmp_path


@pytest.mark.parametrize("inner", ["", "images"])
def test_iapr_from_its_release(release, inner, monkeypatch, capsys):
    monkeypatch.setattr(iapr, "PUBLISHED", Protocol(n_rows=40, n_valid=5, n_test=8))
    assert main(["iapr", "--images", str(release / inner), "--annotations", str(release / "annotations_complete_eng"),
                 "--image_features", "hog", "--data_dir", str(release)]) == 0
    data = load_data("iapr", data_dir=release)
    assert [len(split) for split in data.splits()] == [38 - 13, 5, 8] and data.split_seed == 23
    names = [f"{i % 3:02d}/{100 + i}.jpg" for i in range(38)]  # by number
    order = np.random.RandomState(23).permutation(38)
    for split, rows in ((data.valid, order[:5]), (data.test, order[5:13]), (data.train, order[13:])):
        assert split.ids == [names[row] for row in sorted(rows)]
        assert split.caption2 == [f"Title {row} a café with thing{row} & more;" for row in sorted(rows)]
    terms = json.loads(data.encoder2)["parts"][0]["terms"]
    assert "café" in terms and not any(f"thing{row}" in terms for row in order[:13]) and "lima" not in terms
    listed = (release / "iapr.problems.tsv").read_text(encoding="utf-8")
    for line in ("annotations without a text\t02/138.eng", "photographs without an annotation\t01/140.jpg",
                 "captions without a picture\t00/139.jpg"):
        assert line in listed


@pytest.mark.parametrize(("more", "message"), [
    ([], "needs both --images and --annotations"), (["--annotations", "nowhere"], "no such folder"),
    (["--annotations", ".", "--synthetic"], "leave out"),
    (["--annotations", "annotations_complete_eng"], "about 20,000")])
def test_what_is_no_release(release, more, message, monkeypatch, capsys):
    monkeypatch.chdir(release)
    assert main(["iapr", "--images", "images", "--image_features", "hog", "--data_dir", "out", *more]) == 2
    assert message in capsys.readouterr().err
    assert main(["iapr", "--image_features", "hog", "--data_dir", "out"]) == 2
    assert "are for the release" in capsys.readouterr().err
