"""IAPR TC-12 from its release: the layout of ImageCLEF, Latin-1, and the published split."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xmodal.cli.prepare_data import main
from xmodal.data import PairedData, iapr, load_data
from xmodal.data.iapr import Protocol
from xmodal.data.iapr_release import read_annotations
from xmodal.data.problems import Problems
from xmodal.errors import DataError
from xmodal.features.texts import text_encoder

pytest.importorskip("PIL")

N = 36
SMALL = Protocol(n_valid=6, n_test=9)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(iapr, "PUBLISHED", SMALL)


def photograph(root: Path, place: str, number: int) -> None:
    from PIL import Image
    file = root / "images" / f"{place}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize((48, 36)).save(file)


def annotation(root: Path, place: str, image: str | None = None, *, title: str = "", description: str = "",
               notes: str = "") -> None:
    """As the release writes it."""
    file = root / "annotations_complete_eng" / f"{place}.eng"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(f"""<DOC>
<DOCNO>annotations/{place}.eng</DOCNO>
<TITLE>{title}</TITLE>
<DESCRIPTION>{description}</DESCRIPTION>
<NOTES>{notes}</NOTES>
<LOCATION>Quito, Ecuador</LOCATION>
<DATE>April 2002</DATE>
<IMAGE>{f'images/{place}.jpg' if image is None else image}</IMAGE>
<THUMBNAIL>thumbnails/{place}.jpg</THUMBNAIL>
</DOC>
""".replace("\n", "\r\n").encode("latin-1"))


def places() -> list[str]:
    """By number, which is not the order of the names: 9 comes before 10."""
    return [f"{i // 12:02d}/{i + 5}" for i in range(N)]


@pytest.fixture
def release(tmp_path) -> Path:
    for i, place in enumerate(places()):
        photograph(tmp_path, place, i)
        annotation(tmp_path, place, title=f"Plaza {i}", description=f"a caf\xe9 and\r\n  item{i};", notes="M\xfcller")
    return tmp_path


def prepare(root: Path, *more: str) -> int:
    return main(["iapr", "--images", str(root), "--annotations", str(root / "annotations_complete_eng"),
                 "--image_features", "hog", "--data_dir", str(root), *more])


def prepared(root: Path, *more: str) -> PairedData:
    assert prepare(root, *more) == 0
    return load_data("iapr", data_dir=root)


def problems(root: Path) -> str:
    return (root / "iapr.problems.tsv").read_text(encoding="utf-8")


def test_the_split_is_the_published_one_over_photographs_by_number(release):
    data = prepared(release)
    order = np.random.RandomState(23).permutation(N)
    for split, rows in ((data.valid, order[:6]), (data.test, order[6:15]), (data.train, order[15:])):
        assert split.ids == [f"{places()[row]}.jpg" for row in sorted(rows)]
        assert split.caption2 == [f"Plaza {row} a café and item{row}; Müller" for row in sorted(rows)]
        assert torch.equal(split.pair_table(), torch.arange(len(rows))[:, None].expand(-1, 2))
    assert not (release / "iapr.problems.tsv").exists()


def test_the_published_sizes_are_the_default():
    assert (Protocol().n_valid, Protocol().n_test, Protocol().seed, Protocol().text_width) == (1000, 2000, 23, 2048)


def test_words_are_those_of_titles_descriptions_and_notes_of_training_photographs(release):
    data = prepared(release)
    encoder = json.loads(data.encoder2)
    words = {word.strip(";").casefold() for text in data.train.caption2 for word in text.split()}
    assert set(encoder["parts"][0]["terms"]) == words and {"café", "müller", "plaza"} < words
    assert not words & {"quito", "ecuador", "april", "2002", *(f"item{i}" for i in
                                                              np.random.RandomState(23).permutation(N)[:15])}
    for split in data.splits():
        values = torch.from_numpy(text_encoder(encoder)(split.caption2)).half().float()
        assert torch.equal(values, split.view2)


def test_as_many_words_as_the_protocol_says(release):
    iapr.prepare(release / "few.h5", say=lambda line: None, images=release, annotations=release,
                 image_features=["hog"], protocol=Protocol(n_valid=3, n_test=4, text_width=7))
    data = load_data(str(release / "few.h5"))
    assert data.view2_shape == (7,) and [len(split) for split in data.splits()] == [N - 7, 3, 4]


def test_the_pictures_and_the_bytes_of_the_texts_are_views(release):
    prepared(release)
    data = load_data("iapr", data_dir=release, views=("pixels", "codes"))
    assert data.view1_shape == (3, 64, 64) and data.view2_shape == (64,)
    text = bytes(data.test.view2[0].to(torch.uint8).tolist()).rstrip(b"\0").decode()
    assert text == data.test.caption2[0].casefold()


def test_the_file_says_that_it_is_not_the_published_features(release):
    data = prepared(release)
    assert (data.name, data.version, data.split_seed, data.synthetic) == ("iapr", "release", 23, False)
    assert "36 photographs" in data.note and "not the published ones" in data.note and "copyright" in data.licence
    assert (data.view1_name, data.view2_name) == ("hog", "tfidf") and str(release) not in data.source


def test_folders_above_and_below_do_as_well(release):
    fingerprint = prepared(release).fingerprint
    assert main(["iapr", "--images", str(release / "images"), "--annotations", str(release), "--image_features", "hog",
                 "--data_dir", str(release / "other")]) == 0
    assert load_data("iapr", data_dir=release / "other").fingerprint == fingerprint


def test_what_is_wrong_is_listed_and_left_out(release):
    photograph(release, "02/900", 900)
    (release / "images" / "02" / "901.jpg").write_bytes(b"\xff\xd8\xff")
    photograph(release, "02/902", 902)
    annotation(release, "02/901", title="damaged")
    annotation(release, "02/902")
    annotation(release, "02/903", title="gone")
    annotation(release, "02/904", "", title="nameless")
    annotation(release, "02/905", "../../secret.jpg", title="climbs")
    annotation(release, "02/906", "/images/02/900.jpg", title="absolute")
    annotation(release, "02/907", "images/00/5.jpg", title="second text")
    (release / "annotations_complete_eng" / "02" / "908.eng").write_bytes(b"")
    (release / "annotations_complete_eng" / "909.eng").mkdir()
    data = prepared(release)
    assert sum(len(split) for split in data.splits()) == N
    assert sorted(problems(release).splitlines()) == [
        "annotations that name no picture\t02/904.eng", "annotations that name no picture\t02/908.eng",
        "annotations without a text\t02/902.eng", "captions without a picture\t02/903.jpg (02/903.eng)",
        "further annotations of a photograph, left out\t02/907.eng: 00/5.jpg",
        "names that climb out of the folder, left out\t../../secret.jpg (02/905.eng)",
        "names that climb out of the folder, left out\t/images/02/900.jpg (02/906.eng)",
        "photographs without an annotation\t02/900.jpg", "photographs without an annotation\t02/902.jpg",
        next(line for line in problems(release).splitlines() if line.startswith("pictures that can't be read\t02/901"))]
    assert "second text" not in " ".join(text for split in data.splits() for text in split.caption2)


def test_fields_are_read_as_they_are_written(tmp_path):
    annotation(tmp_path, "00/1", "images\\00\\1.jpg", title="A &amp; B", description="\0 <b>  two\n lines", notes="")
    (tmp_path / "annotations_complete_eng" / "00" / "2.eng").write_bytes(
        b"<title>low</title><image>00/2.jpg</image><description>never closed")
    notes = Problems()
    found = dict(read_annotations(tmp_path, notes))
    assert not notes
    assert found["annotations_complete_eng/00/1.eng"] == ("00/1.jpg", "A & B <b> two lines")
    assert found["annotations_complete_eng/00/2.eng"] == ("00/2.jpg", "low")


def test_no_annotations(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_annotations(tmp_path / "gone", Problems())
    with pytest.raises(DataError, match=r"holds no \.eng files; expected annotations_complete_eng"):
        read_annotations(tmp_path, Problems())


@pytest.mark.parametrize(("change", "message"), [
    (dict.fromkeys(["--images"]), "needs both --images and --annotations"),
    (dict.fromkeys(["--annotations"]), "needs both --images and --annotations"),
    ({"--images": "gone"}, "--images gone: no such folder"),
    ({"--images": "annotations_complete_eng"}, "holds no pictures"),
    ({"--annotations": "gone"}, "--annotations gone: no such folder"),
    ({"--annotations": "images"}, "holds no .eng files"), ({"--source": "x.npz"}, "leave out --source"),
    ({"--url": "http://x"}, "leave out --source, --url"), ({"--captions": "c.tsv"}, "iapr takes no --captions")])
def test_options_that_are_missing_or_wrong_are_one_line(change, message, release, monkeypatch, capsys):
    monkeypatch.chdir(release)
    options = {"--images": "images", "--annotations": "annotations_complete_eng", "--image_features": "hog"} | change
    assert main(["iapr", "--data_dir", "out", *(part for option, value in options.items() if value
                                                for part in (option, value))]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(release.rglob("*.h5"))


@pytest.mark.parametrize("kept", [0, 15])
def test_too_few_photographs_leave_what_was_there_and_say_why(kept, release, capsys):
    before = prepared(release).fingerprint
    for place in places()[kept:]:
        (release / "images" / f"{place}.jpg").write_bytes(b"damaged")
    assert prepare(release) == 2
    error = capsys.readouterr().err
    assert ("15 photographs with a text were found, of which 6 are to validate and 9 to test" if kept
            else "there is no picture to work on") in error and error.count("\n") == 1
    assert problems(release).count("pictures that can't be read") == N - kept
    assert load_data("iapr", data_dir=release).fingerprint == before
