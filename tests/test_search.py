"""run_search as a user types it: sentences, pictures, recordings, rows, ids, numbers and files find their partners."""
from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from xmodal.cli import run_search, run_train
from xmodal.data import PairedData, PairSplit, load_data, write_h5
from xmodal.data.readers import ItemReader, code_of
from xmodal.errors import DataError
from xmodal.features.images import ColourHog
from xmodal.features.pictures import read_picture
from xmodal.features.sounds import FFT, SAMPLE_RATE, Spectrograms, filterbank, read_wave, sound_encoder
from xmodal.features.texts import TfIdf
from xmodal.runs import load_run
from xmodal.search import Gallery
from xmodal.search.lookup import Lookup

Image = pytest.importorskip("PIL.Image", reason="needs the extra images")
DIGITS = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")
CCA = '''"""Linear CCA."""
from xmodal import LinearCCA, TrainConfig
CONFIG = TrainConfig(dim_latent=6)
build_objective = None
def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=1e-1, r2=1e-1)
'''
SHADES = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "black": (10, 10, 10)}
SHAPES = ("left", "right", "top", "bottom")


def drawn(shade: str, shape: str, seed: int = 0) -> bytes:
    """A PNG: half of it in a colour, on white, with a little noise."""
    pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
    where = {"left": np.s_[:, :16], "right": np.s_[:, 16:], "top": np.s_[:16], "bottom": np.s_[16:]}[shape]
    pixels[where] = SHADES[shade]
    pixels -= np.random.default_rng(seed).integers(0, 6, pixels.shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Path:
    """A run on pictures of coloured halves and what they are called."""
    folder = tmp_path_factory.mktemp("halves")
    images, texts, splits = ColourHog(32), TfIdf(64, 0), []
    texts.fit([f"{shade} {shape}" for shade in SHADES for shape in SHAPES])
    for name, copies in (("train", 12), ("valid", 2), ("test", 1)):
        made = [(shade, shape, seed) for seed in range(copies) for shade in SHADES for shape in SHAPES]
        pixels = np.stack([read_picture(drawn(*one[:2], seed=hash((name, one[2])) % 1000), 32).pixels for one in made])
        said = [f"{shade} {shape}" for shade, shape, _ in made]
        splits.append(PairSplit(name, images(torch.from_numpy(pixels)), torch.from_numpy(texts(said)),
                                ids=[f"{name} {row}" for row in range(len(made))], caption2=said,
                                thumbnails1=torch.from_numpy(pixels).float() / 255))
    data = PairedData("halves", *splits, encoder1=json.dumps(images.state()), encoder2=json.dumps(texts.state()))
    write_h5(data, folder / "halves.h5")
    (folder / "cca.py").write_text(CCA)
    assert run_train.main(["--model", str(folder / "cca.py"), "--data", str(folder / "halves.h5"), "--runs",
                           str(folder)]) == 0
    return folder / "cca"


def answer(capsys) -> dict:
    return json.loads(capsys.readouterr().out)["queries"][0]


def failure(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_a_sentence_finds_its_picture_and_a_picture_its_sentence(halves, capsys):
    assert run_search.main(["--run", str(halves), "--query", "blue top", "--json"]) == 0
    found = answer(capsys)
    test = load_data(str(halves.parent / "halves.h5")).test
    assert found["direction"] == "V2_to_V1" and found["neighbours"][0]["caption"] == "blue top"
    assert test.caption2[found["neighbours"][0]["row"]] == "blue top"
    Path("new.png").write_bytes(drawn("green", "left", seed=77))
    assert run_search.main(["--run", str(halves), "--query", "new.png", "--json", "--k", "3"]) == 0
    found = answer(capsys)
    assert found["direction"] == "V1_to_V2" and found["neighbours"][0]["caption"] == "green left"
    assert len(found["neighbours"]) == 3


def test_rows_and_ids_tell_their_partner(halves, capsys):
    for query in ("5", "row:5", "id:test 5", "test 5"):
        assert run_search.main(["--run", str(halves), "--query", query, "--json"]) == 0
        found = answer(capsys)
        assert found["row"] == 5 and found["partners"] == [5]
        assert [one["row"] for one in found["neighbours"] if one["partner"]] == [5]
    assert run_search.main(["--run", str(halves), "--query", "test 5", "--V2_to_V1"]) == 0
    out = capsys.readouterr().out
    assert "(V2_to_V1, 16 items of 6 values, exact)" in " ".join(out.split())
    assert " *  " in out and "* its partner" in out and all(len(line) <= 80 for line in out.splitlines())


def test_what_the_evaluator_ranks_first_is_found_first(halves):
    run = load_run(halves)
    lookup = Lookup(run, run.data())
    cosines = torch.nn.functional.normalize(lookup.embedded(1)) @ torch.nn.functional.normalize(lookup.embedded(2)).T
    for row in range(16):
        rows = lookup.find(lookup.item(row, 1), 16).rows[0]
        assert sorted(rows.tolist()) == list(range(16))
        # cosines that differ by rounding alone may change places
        torch.testing.assert_close(cosines[row][rows], cosines[row].sort(descending=True).values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["exact", "codes"])
def test_a_built_gallery_is_used_and_bound_to_its_run(halves, kind, capsys, tmp_path):
    place = str(tmp_path / "gallery")
    options = ["--run", str(halves), "--gallery", place, "--V2_to_V1"]
    assert run_search.main([*options, "--build", "--split", "train", "--kind", kind, "--bits", "32", "--codes",
                            "rotated", "--correction", "csls"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    said = " ".join(out.split())  # where lines end depends on the name of the folder
    assert "192 items of 6 values" in said and "corrected by csls" in said
    assert run_search.main([*options, "--query", "red left", "--json", "--split", "train"]) == 0
    found = answer(capsys)
    assert [one["caption"] for one in found["neighbours"]] == ["red left"] * 10
    assert run_search.main(["--run", str(halves), "--gallery", place, "--query", "0"]) == 2
    assert "is a gallery of view 1, the query asks for view 2" in failure(capsys)
    about = json.loads((Path(place) / "gallery.json").read_text())
    about["about"]["weights"] = "0" * 64
    (Path(place) / "gallery.json").write_text(json.dumps(about))
    assert run_search.main([*options, "--query", "red left"]) == 2
    assert "was made by another run (cca, weights 000000000000)" in failure(capsys)


def test_the_runs_own_gallery_is_taken_without_being_named(halves, capsys):
    assert run_search.main(["--run", str(halves), "--build", "--query", "3"]) == 0
    assert (halves / "gallery_V1_to_V2" / "gallery.json").is_file()
    gallery = Gallery.load(halves / "gallery_V1_to_V2")
    gallery.remove([gallery.ids[3]])
    gallery.save(halves / "gallery_V1_to_V2")
    capsys.readouterr()
    assert run_search.main(["--run", str(halves), "--query", "3"]) == 0
    assert "15 items" in capsys.readouterr().out
    for file in (halves / "gallery_V1_to_V2").iterdir():
        file.unlink()


def test_partners_are_marked_after_items_were_removed_and_added(halves, capsys, tmp_path):
    options = ["--run", str(halves), "--gallery", str(tmp_path / "g"), "--json", "--k", "15"]
    assert run_search.main([*options, "--build", "--query", "5"]) == 0
    gallery = Gallery.load(tmp_path / "g")
    gallery.remove(["test 0", "test 3"])
    gallery.add(torch.ones(1, 6), ["new"])
    gallery.save(tmp_path / "g")
    for row, partners in ((5, [3]), (15, [13]), (3, [])):
        capsys.readouterr()
        assert run_search.main([*options, "--query", str(row)]) == 0
        found = answer(capsys)
        marked = [one for one in found["neighbours"] if one["partner"]]
        assert found["partners"] == [one["row"] for one in marked] == partners
        assert [one["id"] for one in marked] == [f"test {row}"] * len(partners)


def test_a_gallery_of_ones_own_items(halves, capsys, tmp_path):
    test = load_data(str(halves.parent / "halves.h5")).test
    np.save(tmp_path / "mine.npy", test.view2.numpy()[::2])
    options = ["--run", str(halves), "--gallery", str(tmp_path / "g")]
    assert run_search.main([*options, "--build", "--from", str(tmp_path / "mine.npy"), "--query", "4", "--json"]) == 0
    found = answer(capsys)
    assert found["neighbours"][0]["row"] == 2 and found["partners"] == []
    assert run_search.main([*options, "--build", "--from", str(halves.parent / "halves.h5"), "--split", "valid",
                            "--query", "4", "--json"]) == 0
    assert answer(capsys)["neighbours"][0]["caption"] == test.caption2[4]


def test_numbers_and_files_of_rows(capsys):
    assert run_train.main(["--model", DIGITS, "--data", "digits", "--set", "max_epochs=2"]) == 0
    test = load_data("digits").test
    np.save("rows.npy", test.view2.numpy()[:5])
    capsys.readouterr()
    run = ["--run", "runs/digits_ccal_cont", "--json", "--k", "3"]
    assert run_search.main([*run, "--query", "7", "--V2_to_V1"]) == 0
    expected = [one["row"] for one in answer(capsys)["neighbours"]]
    typed = ", ".join(str(value) for value in test.view2[7].tolist())
    np.savez("data.npz", **{f"{s}_view{v}": getattr(test, f"view{v}").numpy() for s in ("train", "valid", "test")
                            for v in (1, 2)})
    np.save("one.npy", test.view2[7].numpy())
    for query in (typed, "one.npy", "data.npz:7"):
        assert run_search.main([*run, "--query", query, "--V2_to_V1"]) == 0
        assert [one["row"] for one in answer(capsys)["neighbours"]] == expected
    assert run_search.main([*run, "--query", "rows.npy"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in out["queries"]] == [f"rows.npy:{row}" for row in range(5)]


def test_a_drawn_half_finds_the_other(capsys):
    """Pictures become items of views that are small pictures; black on white is turned round."""
    assert run_train.main(["--model", DIGITS, "--data", "digits", "--set", "max_epochs=3"]) == 0
    data = load_data("digits")
    reader = ItemReader(data, 1)
    half = data.test.view1[3].reshape(8, 4)
    for pixels in (half, 1 - half):
        large = (pixels / half.max().clamp_min(1)).clamp(0, 1).repeat_interleave(16, 0).repeat_interleave(16, 1)
        out = io.BytesIO()
        Image.fromarray((large * 255).byte().numpy()).save(out, "PNG")
        torch.testing.assert_close(reader.picture(out.getvalue())[0].reshape(8, 4), half, atol=0.02, rtol=0)


def wave_file(hertz: float, seconds: float = 3.0, rate: int = 44_100, kind: type = np.int16) -> bytes:
    times = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * hertz * times)
    scaled = (wave * 32_000).astype(np.int16) if kind is np.int16 else wave.astype(np.float32)
    out = io.BytesIO()
    wavfile.write(out, rate, np.stack([scaled, scaled], axis=1))
    return out.getvalue()


def test_recordings_are_read_at_any_rate(tmp_path):
    spectrograms = sound_encoder(Spectrograms(42).state())
    made = [spectrograms(read_wave(wave_file(440.0, rate=rate, kind=kind))) for rate, kind in
            ((22_050, np.int16), (44_100, np.int16), (48_000, np.float32))]
    assert made[0].shape == (1, 92, 42)
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], atol=0.02)
    assert made[0].mean(axis=(0, 2)).argmax() == filterbank()[round(440 * FFT / SAMPLE_RATE)].argmax()


def test_the_place_in_a_recording():
    loud = np.zeros(SAMPLE_RATE * 10, dtype=np.float32)
    loud[SAMPLE_RATE * 7:SAMPLE_RATE * 8] = np.sin(np.arange(SAMPLE_RATE) * 0.1)
    excerpt = Spectrograms(42)
    assert excerpt(loud, 7.5).max() > 0.1 > excerpt(loud, 3.0).max()
    assert excerpt(loud, 10.0).shape == excerpt(loud, 0.0).shape == (1, 92, 42)
    assert excerpt(np.zeros(0, dtype=np.float32)).max() == 0
    with pytest.raises(DataError, match=r"10\.0 seconds long; there is nothing at 11"):
        excerpt(loud, 11.0)


def test_a_recording_finds_its_partner(tmp_path, capsys):
    spectrograms, rng, splits = Spectrograms(6), np.random.default_rng(0), []
    for name, n in (("train", 60), ("valid", 10), ("test", 10)):
        hertz = rng.uniform(100, 2000, n)
        sounds = np.stack([spectrograms(read_wave(wave_file(one, 1.0, 22_050))) for one in hertz])
        view1 = np.exp(-(np.log(hertz)[:, None] - np.linspace(4, 8, 20)) ** 2 * 20)
        splits.append(PairSplit.of(name, view1, sounds))
    write_h5(PairedData("tones", *splits, encoder2=json.dumps(spectrograms.state()), rising2=True), "tones.h5")
    Path("cca.py").write_text(CCA)
    assert run_train.main(["--model", "cca.py", "--data", "tones.h5", "--set", "dim_latent=6"]) == 0
    Path("a.wav").write_bytes(wave_file(700.0))
    capsys.readouterr()
    assert run_search.main(["--run", "runs/cca", "--query", "a.wav@1.5", "--json"]) == 0
    found = answer(capsys)
    test = load_data("tones.h5").test
    peaks = test.view1.argmax(dim=1)[[one["row"] for one in found["neighbours"]]]
    expected = round((np.log(700) - 4) / 4 * 19)
    assert found["direction"] == "V2_to_V1" and abs(int(peaks[0]) - expected) <= 1


@pytest.mark.parametrize(("arguments", "said"), [
    (["--query", "nothing.png"], "no file nothing.png"),
    (["--query", "a.wav"], "no file a.wav"),
    (["--query", "16"], "has items 0 to 15, got 16"),
    (["--query", "id:test 99"], "there is no item 'test 99' in the test split; did you mean"),
    (["--query", "17", "--kind", "codes"], "--kind is for building: give --build, too"),
    (["--query", "17", "--recall", "0.9"], "--recall is for building: give --build, too"),
    (["--query", "1, 2, 3"], "the query has 3"),
    (["--query", "red", "--V1_to_V2"], "no text can be read: view 1 reads numbers, picture"),
    (["--query", "  "], "the query is empty"),
    (["--query", "3", "--k", "17"], "k must be from 1 to 16 (the items of the gallery), got 17"),
    (["--query", "3", "--k", "0"], "k must be from 1"),
    (["--query", "3", "--gallery", "nowhere"], "there is no gallery in nowhere"),
    (["--query", "3", "--split", "tset"], "has no split 'tset'"),
    (["--query", "3", "--data", "digits"], "was trained on halves"),
    (["--query", "3", "--V1_to_V2", "--V2_to_V1"], "contradict each other"),
    (["--query", "3", "--from", "x.npy"], "--from is for building"),
    (["--query", "3", "--gallery", "http://127.0.0.1:1"], "Milvus at http://127.0.0.1:1 does not answer"),
    ([], "nothing to do: give --query or --build"),
    (["--build", "--recall", "7"], "recall must be"),
    (["--build", "--from", "no.npy"], "no.npy can't be read"),
    (["--build", "--kind", "ivfpq"], "needs 256 items or more, got 16"),
])
def test_mistakes_are_one_line(halves, arguments, said, capsys):
    if "ivfpq" in arguments:
        pytest.importorskip("faiss")
    if "http://127.0.0.1:1" in arguments:
        pytest.importorskip("pymilvus")
    assert run_search.main(["--run", str(halves), *arguments]) == 2
    assert said in failure(capsys)


def test_ids_come_before_rows_and_files(halves):
    run = load_run(halves)
    data = run.data()
    ids = [str(15 - row) for row in range(14)] + ["a.png", "0.5,3"]
    lookup = Lookup(run, dataclasses.replace(data, test=dataclasses.replace(data.test, ids=ids)))
    assert [lookup.read(text)[0].row for text in ("15", "3", "a.png", "0.5,3", "row:3", "1")] == [0, 12, 14, 15, 3, 1]
    with pytest.raises(DataError, match=r"no file b\.png, and no item of that name in the test split"):
        lookup.read("b.png")
    Path("red.csv").touch()
    with pytest.raises(DataError, match=r"red\.csv is a file of no kind .*; text:red\.csv looks up the words"):
        lookup.read("red.csv")
    assert lookup.read("text:red.csv")[0].view == 2
    assert lookup.read("red " * 2000)[0].view == 2  # too long for a file's name


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all", wave_file(440.0)[:30], b"\x80\x04pickle"])
def test_damaged_recordings_are_told(content):
    with pytest.raises(DataError) as failed:
        read_wave(content)
    assert "\n" not in str(failed.value)


def test_an_encoder_that_is_code_is_not_run_unasked(halves, tmp_path, capsys):
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef make():\n    return None\n")
    data = load_data(str(halves.parent / "halves.h5"))
    state = json.dumps({"kind": "joined", "parts": [{"kind": "named", "name": "evil:make"}]})
    reader = ItemReader(dataclasses.replace(data, encoder2=state), 2)
    with pytest.raises(DataError, match="calls evil:make, which the data file names: --run_code allows it"):
        reader.text("red")
    assert not Path("ran").exists()
    assert code_of({"kind": "network", "name": "a:b"}) == "a:b" and not code_of({"kind": "network", "name": "timm:x"})


@pytest.mark.parametrize("state", ["{", "[]", '{"kind": "tfidf"}', '{"kind": "tfidf", "parts": 3, "words": "x"}', "7"])
def test_a_damaged_encoder_is_one_line(halves, state):
    data = dataclasses.replace(load_data(str(halves.parent / "halves.h5")), encoder2=state)
    with pytest.raises(DataError) as failed:
        ItemReader(data, 2).text("red")
    assert "\n" not in str(failed.value)
