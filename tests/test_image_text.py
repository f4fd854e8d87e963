"""Emoji and icons from small packages made here, and the arrays that pictures and texts become."""
from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from xmodal.cli.prepare_data import main
from xmodal.data import emoji, icons, load_data
from xmodal.data.image_text import ImageText, TextView, encode_pictures, in_order, resized, split_rows, write_image_text
from xmodal.data.npm import npm_package
from xmodal.errors import DataError
from xmodal.features.choices import image_encoders, text_encoders
from xmodal.features.images import ColourHog, image_encoder
from xmodal.features.texts import Codes, TfIdf, text_encoder

pytest.importorskip("PIL")
pytest.importorskip("resvg_py")

HOG = ("hog",)


def quiet(line: str) -> None:
    """Progress that nobody wants to see."""


def pack(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """An archive as npm pack makes it."""
    package, _, version = name.rpartition("@")
    with tarfile.open(folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz", "w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def drawing(number: int, shape: str = "circle") -> bytes:
    """An SVG that no other number has."""
    x, y, size = 4 + number * 7 % 53, 4 + number * 11 % 47, 3 + number % 9
    what = f'<circle cx="{x}" cy="{y}" r="{size}"/>' if shape == "circle" else \
        f'<rect x="{x}" y="{y}" width="{size}" height="4"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{what}</svg>'.encode()


def png(number: int) -> bytes:
    """A PNG of a colour that no other number has."""
    from PIL import Image
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (number * 5 % 256, number, 255 - number)).save(out, "PNG")
    return out.getvalue()


N = 30


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """Thirty emoji and what must be left out; sixty icons."""
    folder = tmp_path_factory.mktemp("packages")
    codes = [f"1F6{i:02X}" for i in range(N)]

    def entries(language):
        rows = [{"hexcode": code, "label": f"{language} thing {i // 3}{'abc'[i % 3]}", "tags": [f"{language}tag{i}"],
                 "group": 5, "subgroup": 10 + i % 6} for i, code in enumerate(codes)]
        rows.append({"hexcode": "1F1E9-1F1EA", "label": "flag", "group": 9, "subgroup": 99})
        rows.append({"hexcode": "1F3FB", "label": "tone", "group": 2, "subgroup": 98})
        rows.append({"hexcode": "1F1E6", "label": "letter"})
        # man and woman doing the same, written as the packages write it
        for person in ("1F468", "1F469", "1F9D1"):
            rows.append({"hexcode": f"{person}-200D-1F52C", "label": f"{language} {person} scientist", "group": 5,
                         "subgroup": 20})
        if language == "en":
            rows.append({"hexcode": "1F6FF", "label": "only in English", "group": 5, "subgroup": 10})
        return json.dumps(rows).encode()

    groups = {"groups": {"5": "things", "9": "flags", "2": "component"},
              "subgroups": {str(i): f"kind{i}" for i in (*range(10, 21), 98, 99)}}
    pack(folder, emoji.PACKAGES["names"], {"en/data.json": entries("en"), "de/data.json": entries("de"),
                                           "meta/groups.json": json.dumps(groups).encode()})
    people = ["1f468-200d-1f52c", "1f469-200d-1f52c"]
    pack(folder, emoji.PACKAGES["noto"], {f"img/google/64/{code.lower()}.png": png(i) for i, code in enumerate(
        [*codes, *people])} | {"img/google/64/sheet.png": b"x"})
    pack(folder, emoji.PACKAGES["openmoji"], {f"color/svg/{code}.svg": drawing(0 if i == 9 else i)
                                              for i, code in enumerate(codes)})
    pack(folder, emoji.PACKAGES["twemoji"], {f"{code.lower()}.svg": drawing(i, "rect")
                                             for i, code in enumerate(codes[:-5])})
    names = [f"{word}-{i}" for word in ("arrow", "box", "cat", "dog", "egg", "fan", "gem", "hat", "ink", "jar")
             for i in range(3)]
    tabler = {name: {"tags": [f"tag{i}", i], "category": f"kind{i % 5}",
                     "styles": {"outline": {}, **({"filled": {}} if i % 3 == 0 else {})}}
              for i, name in enumerate(names)}
    files = {f"icons/outline/{name}.svg": drawing(i) for i, name in enumerate(names)}
    files |= {f"icons/filled/{name}.svg": drawing(i + 100, "rect") for i, name in enumerate(names) if i % 3 == 0}
    pack(folder, icons.PACKAGES["tabler"], {"icons.json": json.dumps(tabler).encode(), **files})
    mdi = [{"name": name, "aliases": [f"also-{name}"], "tags": [f"group{i % 4}"] if i % 2 else [],
            "deprecated": i == 7} for i, name in enumerate(names)]
    mdi.append({"name": "gone", "aliases": [], "tags": []})
    pack(folder, icons.PACKAGES["mdi"], {"meta.json": json.dumps(mdi).encode(), **{
        f"svg/{name}.svg": drawing(0 if i == 5 else 200 + i) for i, name in enumerate(names)}})
    return folder


@pytest.fixture(scope="module")
def emoji_file(packages, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("emoji") / "emoji.h5"
    emoji.prepare(path, say=quiet, source=packages, image_features=HOG)
    return path


def test_emoji_are_those_that_are_named_everywhere(packages):
    with npm_package(emoji.PACKAGES["names"], source=packages) as package:
        found = emoji.read_emoji(package)
        assert len(found) == N + 3 and list(found[0].texts) == ["en", "de"]
        assert found[4].texts == {"en": "en thing 1b, entag4", "de": "de thing 1b, detag4"}
        assert found[0].kind == "kind10" and found[-1].code == "1f9d1-1f52c"
        assert {one.family for one in found[-3:]} == {"1f52c"} and found[1].family == found[1].code
        assert len(emoji.read_emoji(package, ["de"])) == N + 3 and len(emoji.read_emoji(package, ["en"])) == N + 4
        with pytest.raises(DataError, match="has no language 'fr'; it has de, en"):
            emoji.read_emoji(package, ["en", "fr"])


def test_three_artists_one_text(emoji_file):
    data = load_data(str(emoji_file))
    assert (data.view1_name, data.view2_name, data.name, data.split_seed) == ("hog", "en", "emoji", 23)
    assert "CC BY-SA" in data.licence and "openmoji@17.0.0" in data.source
    assert sum(len(split.view2) for split in data.splits()) == N + 3
    assert sum(len(split) for split in data.splits()) == N + 2 + N + N - 5
    for split in data.splits():
        counts = torch.bincount(split.pairs[:, 1], minlength=len(split.view2)).tolist()
        assert max(counts) <= 3
        for item, text in split.pairs.tolist():  # an id says which emoji and which artist
            code, artist = split.ids[item].split()
            assert artist in emoji.ARTISTS
            if code.startswith("1f6"):
                assert f"entag{int(code, 16) - 0x1F600}" in split.caption2[text]


def test_no_picture_text_or_family_crosses_the_split(emoji_file):
    data = load_data(str(emoji_file))
    looks = [{picture.numpy().tobytes() for picture in split.thumbnails1.gather(torch.arange(len(split.view1)))}
             for split in data.splits()]
    assert not looks[0] & looks[1] and not looks[0] & looks[2] and not looks[1] & looks[2]
    places = {code: split.name for split in data.splits() for code in (one.split()[0] for one in split.ids)}
    assert places["1f600"] == places["1f609"], "OpenMoji draws them alike"
    people = [split.name for split in data.splits() for text in split.caption2 if "scientist" in text]
    assert len(people) == 3 and len(set(people)) == 1


def test_languages_codes_and_pixels_are_views(emoji_file):
    across = load_data(str(emoji_file), views=("en", "de"))
    assert across.train.pairs is None and sum(len(split) for split in across.splits()) == N + 3
    assert all(one.replace("en", "de") == two for one, two in zip(across.train.caption1, across.train.caption2,
                                                                 strict=True) if "scientist" not in one)
    data = load_data(str(emoji_file), views=("pixels", "codes"))
    assert data.view1_shape == (3, 64, 64) and bytes(data.test.view2[0].to(torch.uint8).tolist()).rstrip(b"\0") \
        == data.test.caption2[0].encode()[:64]


def test_the_stored_encoders_make_the_stored_vectors(emoji_file):
    for views in (None, ("hog", "de")):
        data = load_data(str(emoji_file), views=views)
        encoder = text_encoder(json.loads(data.encoder2))
        torch.testing.assert_close(torch.from_numpy(encoder(data.test.caption2)), data.test.view2, atol=1e-3, rtol=0)
        pictures = (data.test.thumbnails1.gather(torch.arange(4)) * 255).round().to(torch.uint8)
        torch.testing.assert_close(image_encoder(json.loads(data.encoder1))(pictures), data.test.view1[:4], atol=1e-3,
                                   rtol=0)


def test_the_vocabulary_is_that_of_training_texts(emoji_file):
    data = load_data(str(emoji_file))
    words = set(json.loads(data.encoder2)["parts"][0]["terms"])
    assert words == {word for text in data.train.caption2 for word in text.lower().replace(",", " ").split()}


def test_zero_shot_holds_out_whole_classes(packages, tmp_path):
    emoji.prepare(tmp_path / "z.h5", say=quiet, source=packages, image_features=HOG, zero_shot=True)
    data = load_data(str(tmp_path / "z.h5"))
    classes = [set(split.labels.tolist()) for split in data.splits()]
    assert not classes[0] & classes[1] and not classes[0] & classes[2] and not classes[1] & classes[2]
    assert "held out" in data.note


def test_icons_of_two_sets(packages, tmp_path):
    icons.prepare(tmp_path / "i.h5", say=quiet, source=packages, image_features=HOG, text_features=("tfidf",))
    data = load_data(str(tmp_path / "i.h5"))
    assert data.split_names() == ("train", "valid", "test", "test_mdi", "test_tabler")
    first_words = [{name.split()[1].split("-")[0] for name in split.ids} for split in data.splits()[:3]]
    assert not first_words[0] & first_words[1] and not first_words[0] & first_words[2]
    pictures = sum(len(split.view1) for split in data.splits()[:3])
    assert pictures == 30 + 10 + 30 - 1 - 1, "one is deprecated, one looks like a Tabler icon"
    assert sum(len(split.view2) for split in data.splits()[:3]) == 30 + 30 - 2
    for name in ("tabler", "mdi"):
        part = data.split(f"test_{name}")
        assert part.ids == [one for one in data.test.ids if one.startswith(name)]
        assert set(part.caption2) <= set(data.test.caption2)
    assert data.train.labels is None
    texts = [text for split in data.splits()[:3] for text in split.caption2]
    assert "arrow 1, tag1, 1" in texts and "arrow 1, also arrow 1, group1" in texts
    for split in data.splits():
        for item, text in split.pairs.tolist():
            assert split.caption2[text].startswith(split.ids[item].split()[1].replace("-", " "))


def test_icons_zero_shot_by_the_command(packages, tmp_path, capsys):
    assert main(["icons", "--source", str(packages), "--image_features", "hog", "--zero_shot", "--data_dir",
                 str(tmp_path)]) == 0
    assert "categories held out entirely" in " ".join(capsys.readouterr().out.split())
    data = load_data("icons_zero_shot", data_dir=tmp_path)
    assert not set(data.train.labels.tolist()) & set(data.test.labels.tolist())


def test_a_second_kind_of_features_is_a_second_view(packages, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def lengths():\n    return lambda texts: [[len(text), 1.0] for text in texts]\n")
    monkeypatch.chdir(tmp_path)  # where the function is looked for
    icons.prepare(tmp_path / "i.h5", say=quiet, source=packages, image_features=HOG,
                  text_features=("tfidf", "mine:lengths", "tfidf+codes"))
    data = load_data(str(tmp_path / "i.h5"), views=("hog", "mine-lengths"))
    assert data.test.view2[:, 0].tolist() == [len(text) for text in data.test.caption2]
    joined = load_data(str(tmp_path / "i.h5"), views=("hog", "tfidf+codes"))
    parts = text_encoder(json.loads(joined.encoder2))
    torch.testing.assert_close(torch.from_numpy(parts(joined.test.caption2)).float(), joined.test.view2, atol=1e-3,
                               rtol=0)


@pytest.mark.parametrize("which", ["emoji", "icons"])
def test_a_package_that_is_missing_or_damaged_is_named(which, packages, tmp_path, capsys):
    arguments = [which, "--image_features", "hog", "--data_dir", str(tmp_path)]
    assert main([*arguments, "--source", str(tmp_path)]) == 2
    assert "--source takes the folder in which npm pack" in capsys.readouterr().err
    for file in packages.glob("*.tgz"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-400])
    assert main([*arguments, "--source", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err and not list(tmp_path.glob("*.h5"))


ENTRY = [{"label": "x", "hexcode": "1F600", "group": 5, "subgroup": 10}]
GROUPS = {"groups": {"5": "things"}, "subgroups": {"10": "kind"}}


@pytest.mark.parametrize(("files", "said"), [
    ({"en/data.json": b"[{"}, "en/data.json is not what it should be (JSONDecodeError"),
    ({"en/data.json": b"[1]"}, "en/data.json is not what it should be (TypeError"),
    ({"en/data.json": b'[{"label": "x"}]'}, "en/data.json is not what it should be (KeyError: 'hexcode')"),
    ({"en/data.json": b"{}", "meta/groups.json": b"{"}, "meta/groups.json is not what it should be (JSONDecodeError"),
    ({"en/data.json": json.dumps(ENTRY).encode(), "meta/groups.json": b"[]"}, "meta/groups.json is not what"),
    ({"en/data.json": json.dumps(ENTRY).encode(), "meta/groups.json": b'{"groups": {"5": "things"}}'},
     "meta/groups.json is not what it should be (KeyError: 'subgroups')"),
    ({"en/data.json": b"[]"}, "holds no file meta/groups.json"),
    ({"de/data.json": b"[]"}, "has no language 'en'; it has de"), ({"x": b""}, "has no language 'en'; it has none"),
    ({"en/data.json": b"[]", "meta/groups.json": b"{}"}, "hold no picture of an emoji that has a text"),
    ({"en/data.json": json.dumps(ENTRY).encode(), "meta/groups.json": json.dumps(GROUPS).encode()},
     "hold no picture of an emoji that has a text"),
], ids=range(11))
def test_emoji_that_are_not_as_they_should_be_are_one_line(files, said, tmp_path, capsys):
    pack(tmp_path, emoji.PACKAGES["names"], files)
    for artist in emoji.ARTISTS:
        pack(tmp_path, emoji.PACKAGES[artist], {"x": b"x"})
    assert main(["emoji", "--image_features", "hog", "--data_dir", str(tmp_path), "--source", str(tmp_path)]) == 2
    assert_one_line(capsys, said)


@pytest.mark.parametrize(("tabler", "mdi", "said"), [
    (b"{]", b"[]", "icons.json is not what it should be (JSONDecodeError"),
    (b"[]", b"[]", "icons.json is not what it should be (AttributeError"),
    (b'{"a": {}}', b"[]", "icons.json is not what it should be (KeyError: 'styles')"),
    (b"{}", b"[" * 100_000, "meta.json is not what it should be (RecursionError"),
    (b"{}", b'{"a": 1}', "meta.json is not what it should be (TypeError"),
    (b"{}", b'[{"name": "a", "aliases": [1], "tags": []}]', "meta.json is not what it should be (AttributeError"),
    (b"{}", b'[{"name": "a", "aliases": [], "tags": [1]}]', "meta.json is not what it should be (TypeError"),
    (b"{}", b"[]", "hold no icon that can be used"),
    (b"{}", b'[{"name": "b", "aliases": [], "tags": ["no file"]}]', "hold no icon that can be used"),
], ids=range(9))
@pytest.mark.parametrize("zero_shot", [(), ("--zero_shot",)], ids=["", "zero_shot"])
def test_icons_that_are_not_as_they_should_be_are_one_line(tabler, mdi, said, zero_shot, tmp_path, capsys):
    pack(tmp_path, icons.PACKAGES["tabler"], {"icons.json": tabler})
    pack(tmp_path, icons.PACKAGES["mdi"], {"meta.json": mdi, "svg/a.svg": drawing(0)})
    assert main(["icons", "--image_features", "hog", "--data_dir", str(tmp_path), "--source", str(tmp_path),
                 *zero_shot]) == 2
    assert_one_line(capsys, said)


def assert_one_line(capsys: pytest.CaptureFixture[str], said: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


# the parts

def test_pictures_are_encoded_in_batches_and_their_speed_is_said():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (3, 96, 96), dtype=np.uint8) for _ in range(130)]
    said = []
    encoded = encode_pictures(iter(pictures), {"hog": ColourHog(64)}, said.append)
    whole = resized(torch.from_numpy(np.stack(pictures)), 64)
    assert np.array_equal(encoded.thumbnails, whole.numpy())
    np.testing.assert_allclose(encoded.features["hog"], ColourHog(64)(whole).numpy(), atol=1e-3)
    assert len(said) == 1 and said[0].startswith("hog: features of 130 pictures, ") and said[0].endswith("images/s")
    with pytest.raises(DataError, match="no picture"):
        encode_pictures([], {"hog": ColourHog(64)}, said.append)


def test_features_that_are_not_finite_or_too_large():
    class Odd:
        size = 64

        def __init__(self, value):
            self.value = value

        def __call__(self, pictures):
            return torch.full((len(pictures), 2), self.value)

        def state(self):
            return {}

    with pytest.raises(DataError, match="image features odd are not finite"):
        encode_pictures([np.zeros((3, 64, 64), np.uint8)], {"odd": Odd(float("nan"))}, quiet)
    assert encode_pictures([np.zeros((3, 64, 64), np.uint8)], {"odd": Odd(1e9)}, quiet).features["odd"].max() == 65504


def test_empty_splits_are_refused(tmp_path):
    encoded = encode_pictures([np.full((3, 64, 64), i, np.uint8) for i in range(3)], {"hog": ColourHog(64)}, quiet)
    for side2, message in (([0, 0, 1], "no text is left for the test split"), ([0, 1, 2], None)):
        items = ImageText(["a", "b", "c"], {"codes": TextView(["x", "y", "z"], Codes())},
                          np.array([[0, 0], [1, 1], [2, 2]]), split_rows(np.array([0, 1, 2]), np.array(side2)))
        if message:
            with pytest.raises(DataError, match=message):
                write_image_text(tmp_path / "a.h5", items, encoded, {})
        else:
            write_image_text(tmp_path / "a.h5", items, encoded, {})
    unpaired = ImageText(["a", "b", "c"], {"codes": TextView(["x", "y", "z"], Codes())}, np.array([[0, 0], [1, 1]]),
                         split_rows(np.array([0, 1, 2]), np.array([0, 1, 2])))
    with pytest.raises(DataError, match="no pair is left for the test split"):
        write_image_text(tmp_path / "a.h5", unpaired, encoded, {})
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["test/view2"].dtype == np.float16 and file["test/view1_pixels"].dtype == np.uint8


def test_files_come_in_the_order_asked_for_whatever_the_archives():
    def read(paths):
        yield from sorted((path, path.encode()) for path in set(paths))
    got = in_order(read, ["c", "a", "c", "b"], lambda content, path: np.frombuffer(content, np.uint8))
    assert [bytes(one) for one in got] == [b"c", b"a", b"c", b"b"]


def test_encoders_by_name():
    assert list(image_encoders(["hog"])) == ["hog"]
    assert list(text_encoders(["tfidf", "codes"], words=7)) == ["tfidf", "codes"]
    joined = text_encoders(["tfidf+codes"])["tfidf+codes"].fit(["a b", "c"])
    assert joined(["a", "c d"]).shape == (2, 3 + 64)
    np.testing.assert_allclose(np.linalg.norm(joined(["a"]), axis=1), np.sqrt(2), rtol=1e-6)
    assert isinstance(text_encoders(["tfidf"])["tfidf"], TfIdf)
    for names, message in ((["hog", "hog"], "hog are given more than once"), ([], "no image features"),
                           (["resnet"], "MODULE:FUNCTION")):
        with pytest.raises(DataError, match=message):
            image_encoders(names)
    with pytest.raises(DataError, match="tfidf are given more than once"):
        text_encoders(["tfidf", "tfidf"])
