"""Twins of MNIST and Fashion-MNIST, and Fashion-MNIST itself: who is whose twin, and where the files come from."""
from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopback import Site, serving

from xmodal.cli import prepare_data
from xmodal.data import fetch, load_data, mnist, mnist_halves, read_h5, twins
from xmodal.errors import DataError


@pytest.fixture(autouse=True)
def direct_and_quick(monkeypatch):
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def tiny() -> dict[str, bytes]:
    """12 training and 6 test pictures, all different; of those that validate classes 1 and 2 have one."""
    rng = np.random.default_rng(0)
    return {"train-images-idx3-ubyte": idx(rng.integers(0, 256, (12, 4, 6), dtype=np.uint8)),
            "train-labels-idx1-ubyte": idx(np.array([0, 1, 0, 1, 0, 1, 0, 1, 2, 0, 1, 0], np.uint8)),
            "t10k-images-idx3-ubyte": idx(rng.integers(0, 256, (6, 4, 6), dtype=np.uint8)),
            "t10k-labels-idx1-ubyte": idx(np.array([5, 5, 6, 6, 6, 5], np.uint8))}


def checksums(raw: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()}


def folder_of(path: Path, raw: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, data in raw.items():
        (path / f"{name}.gz").write_bytes(gzip.compress(data))
    return path


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 99))
def test_every_picture_is_a_twin_once_and_never_its_own(labels, seed):
    labels = np.array(labels)
    rows, found = twins.twins_of(labels, np.random.default_rng(seed))
    alone = [row for row, label in enumerate(labels) if (labels == label).sum() == 1]
    assert rows.tolist() == sorted(found.tolist()) == [row for row in range(len(labels)) if row not in alone]
    assert (rows != found).all() and (labels[rows] == labels[found]).all()
    again = twins.twins_of(labels, np.random.default_rng(seed))
    assert (found == again[1]).all()


def test_a_class_is_one_ring():
    rows, found = twins.twins_of(np.zeros(9, dtype=np.int64), np.random.default_rng(1))
    seen, at = [], 0
    for _ in rows:
        seen.append(at)
        at = int(found[at])
    assert at == 0 and sorted(seen) == list(range(9)) and seen != list(range(9))


@pytest.mark.parametrize("stream", [False, True])
def test_twins_are_two_pictures_of_one_class(stream, tiny, tmp_path):
    source = folder_of(tmp_path / "raw", tiny)
    twins.prepare(tmp_path / "mnist_twins.h5", say=lambda _: None, source=source, checksums=checksums(tiny), n_valid=4)
    data = load_data("mnist_twins", data_dir=tmp_path, stream=stream)
    assert data.name == "mnist_twins" and [split.n_pairs for split in data.splits()] == [8, 2, 6]
    assert data.view1_shape == data.view2_shape == (24,) and data.picture1 == data.picture2 == (4, 6)
    assert data.split_seed == 23 and "twins drawn with seed 23" in data.note and data.licence == "CC BY-SA 3.0"
    images = {name: np.frombuffer(tiny[f"{name}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 24)
              for name in ("train", "t10k")}
    labels = {name: np.frombuffer(tiny[f"{name}-labels-idx1-ubyte"], np.uint8, offset=8) for name in images}
    for split, name, taken in ((data.train, "train", range(8)), (data.valid, "train", (9, 11)),
                               (data.test, "t10k", range(6))):
        one, two = (view.gather(torch.arange(len(view))) if stream else view for view in (split.view1, split.view2))
        rows = list(taken)
        assert (torch.round(one * 255).numpy() == images[name][rows]).all()
        assert split.labels.tolist() == labels[name][rows].tolist() and split.pairs is None
        classes = {image.tobytes(): label for image, label in zip(images[name], labels[name], strict=True)}
        second = torch.round(two * 255).numpy().astype(np.uint8)
        assert [classes[image.tobytes()] for image in second] == split.labels.tolist()
        assert (second != images[name][rows]).any(axis=1).all()
        assert sorted(map(bytes, second)) == sorted(map(bytes, images[name][rows]))


def test_the_seed_draws_the_twins(tiny, tmp_path):
    source = folder_of(tmp_path / "raw", tiny)
    prints = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        twins.prepare(tmp_path / f"{name}.h5", say=lambda _: None, source=source, checksums=checksums(tiny), n_valid=4,
                      seed=seed)
        prints.append(read_h5(tmp_path / f"{name}.h5").fingerprint)
    assert prints[0] == prints[1] != prints[2]


# fashion

def test_fashion_comes_from_debians_folder_first(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "FASHION_FOLDER", folder_of(tmp_path / "debian", tiny))
    monkeypatch.setattr(mnist, "FASHION_MIRRORS", ("http://127.0.0.1:9/",))
    mnist_halves.prepare(tmp_path / "f.h5", say=lambda _: None, checksums=checksums(tiny), n_valid=4,
                         collection=mnist.fashion)
    data = read_h5(tmp_path / "f.h5")
    assert data.name == "fashion_halves" and data.licence == "MIT" and data.view1_shape == (12,)
    assert data.source.startswith("Xiao") and data.source.endswith("debian (Debian's dataset-fashion-mnist)")


def test_fashion_comes_from_the_mirror_where_the_folder_is_damaged_or_absent(tiny, tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "debian", tiny)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"rubbish")
    with serving(Site({f"f/{name}.gz": gzip.compress(data) for name, data in tiny.items()})) as site:
        monkeypatch.setattr(mnist, "FASHION_MIRRORS", (f"{site.url}/f/",))
        for where in (folder, tmp_path / "none"):
            monkeypatch.setattr(mnist, "FASHION_FOLDER", where)
            said: list[str] = []
            mnist_halves.prepare(tmp_path / "f.h5", say=said.append, checksums=checksums(tiny), n_valid=4,
                                 collection=mnist.fashion)
            assert read_h5(tmp_path / "f.h5").source.endswith(f"{site.url}/f/")
            assert any("wrong checksum" in line for line in said) == (where == folder)


def test_the_error_names_the_package_and_source(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "FASHION_FOLDER", tmp_path / "none")
    monkeypatch.setattr(mnist, "FASHION_MIRRORS", ("http://127.0.0.1:9/",))
    expected = r"^can't get Fashion-MNIST from http://127\.0\.0\.1:9/ .* by --source DIR, or install the Debian p"
    with pytest.raises(DataError, match=expected) as error:
        mnist_halves.prepare(tmp_path / "f.h5", say=lambda _: None, collection=mnist.fashion)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, width", [("fashion_halves", 12), ("fashion_twins", 24), ("mnist_twins", 24)])
def test_the_commands(name, width, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    labels = np.zeros(10_008, dtype=np.uint8)
    tiny |= {"train-images-idx3-ubyte": idx(np.zeros((10_008, 4, 6), np.uint8)), "train-labels-idx1-ubyte": idx(labels)}
    for collection in ("RAW_SHA256", "FASHION_SHA256"):
        monkeypatch.setattr(mnist, collection, checksums(tiny))
    folder_of(tmp_path / "raw", tiny)
    assert prepare_data.main([name, "--source", "raw"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}\n") and f"8 pairs, values {width} + {width}" in out
    assert load_data(name).train.n_pairs == 8


@pytest.mark.skipif(not mnist.FASHION_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_debians_files_have_the_checksums(tmp_path):
    splits, _ = mnist.read_mnist(tmp_path / "downloads", say=pytest.fail, collection=mnist.fashion)
    assert {name: split.images.shape for name, split in splits.items()} == {
        "train": (50_000, 28, 28), "valid": (10_000, 28, 28), "test": (10_000, 28, 28)}
    assert np.bincount(splits["test"].labels).tolist() == [1000] * 10
