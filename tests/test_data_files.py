"""HDF5 and NPZ files: what is written is read back; everything else is one clear line."""
from __future__ import annotations

import dataclasses
import errno
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from xmodal.data import PairedData, PairSplit, fingerprint, read_h5, read_npz, write_h5, write_npz
from xmodal.data import files as files_module
from xmodal.data.files import write_arrays
from xmodal.errors import DataError


def split_of(name: str, n: int, seed: int, table: bool = False) -> PairSplit:
    rng = np.random.default_rng(seed)
    if not table:
        return PairSplit.of(name, rng.normal(size=(n, 3)), rng.normal(size=(n, 2, 2)))
    return PairSplit.of(name, rng.normal(size=(n, 3)), rng.normal(size=(2 * n, 2, 2)),
                        pairs=[[i // 2, i] for i in range(2 * n)], labels=np.arange(n) % 3,
                        ids=[f"ä{i}" for i in range(n)], caption1=["one"] * n,
                        caption2=[f"t {i}" for i in range(2 * n)])


def toy(table: bool = True) -> PairedData:
    train, valid, test = split_of("train", 9, 0, table), split_of("valid", 4, 1, table), split_of("test", 5, 2, table)
    return PairedData("toy", train, valid, test, version="3", source="here", licence="free", split_seed=7,
                      synthetic=True, note="made for tests", picture1=(3, 1), picture2=(2, 2)).with_fingerprint()


def assert_same(ours: PairedData, theirs: PairedData) -> None:
    for one, other in zip(ours.splits(), theirs.splits(), strict=True):
        for field in dataclasses.fields(PairSplit):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    for field in ("name", "version", "source", "licence", "split_seed", "synthetic", "note", "fingerprint", "picture1",
                  "picture2"):
        assert getattr(ours, field) == getattr(theirs, field), field


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("table", [False, True])
def test_hdf5_and_npz_round_trips(table, tmp_path):
    data = toy(table)
    assert write_h5(data, tmp_path / "a.h5") == data.fingerprint
    write_npz(data, tmp_path / "a.npz")
    assert_same(read_h5(tmp_path / "a.h5"), data)
    assert_same(read_npz(tmp_path / "a.npz"), data)
    assert read_h5(tmp_path / "a.h5").title == read_npz(tmp_path / "a.npz").title == "toy (synthetic)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.npz"]


def test_metadata_that_is_not_there_reads_as_nothing(tmp_path):
    bare = PairedData("bare", split_of("train", 9, 0), split_of("valid", 4, 1), split_of("test", 5, 2))
    write_h5(bare, tmp_path / "a.h5")
    back = read_h5(tmp_path / "a.h5")
    assert (back.split_seed, back.synthetic, back.note, back.title) == (None, False, "", "bare")
    assert back.picture1 is None and back.picture2 is None
    one = dataclasses.replace(bare, picture2=(1, 4))
    for write, read, name in ((write_h5, read_h5, "b.h5"), (write_npz, read_npz, "b.npz")):
        write(one, tmp_path / name)
        back_again = read(tmp_path / name)
        assert (back_again.picture1, back_again.picture2) == (None, (1, 4))
        assert back_again.fingerprint == back.fingerprint  # pictures don't count


def test_the_fingerprint_does_not_depend_on_streaming_chunks_or_compression(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{split}_{view}": rng.integers(0, 255, (50, 7), dtype=np.uint8)
              for split in ("train", "valid", "test") for view in ("view1", "view2")}
    expected = write_arrays(tmp_path / "a.h5", arrays, {"name": "a"}, scale=0.5)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key.replace("_", "/"), data=array, chunks=(3, 2), compression="gzip"
                                ).attrs["scale"] = 0.5
    for name in ("a", "b"):
        for stream in (False, True):
            data = read_h5(tmp_path / f"{name}.h5", stream=stream)
            assert data.fingerprint == expected
            assert data.train.is_streamed == stream
    assert fingerprint(read_h5(tmp_path / "b.h5", stream=True)) == expected
    assert torch.equal(read_h5(tmp_path / "a.h5").test.view2, torch.from_numpy(arrays["test_view2"]) * 0.5)


def test_the_scale_is_for_views_of_bytes(tmp_path):
    arrays = {}
    for split in ("train", "valid", "test"):
        arrays[f"{split}_view1"] = np.array([[0, 255]], np.uint8)
        arrays[f"{split}_view2"] = np.array([[1, 0, 0]], np.float32)
    write_arrays(tmp_path / "a.h5", arrays, {}, scale=1 / 255)
    for split in read_h5(tmp_path / "a.h5").splits():
        assert split.view1.tolist() == [[0.0, 1.0]] and split.view2.tolist() == [[1.0, 0.0, 0.0]]


def test_streamed_data_can_be_copied(tmp_path):
    data = toy()
    write_h5(data, tmp_path / "a.h5")
    streamed = read_h5(tmp_path / "a.h5", stream=True)
    assert write_h5(streamed, tmp_path / "b.h5") == data.fingerprint
    assert_same(read_h5(tmp_path / "b.h5"), data)
    part = dataclasses.replace(streamed, train=streamed.train.take(5))
    write_h5(part, tmp_path / "c.h5")
    assert torch.equal(read_h5(tmp_path / "c.h5").train.view2, data.train.take(5).view2)
    with pytest.raises(DataError, match="toy is streamed from disk; write it as HDF5"):
        write_npz(streamed, tmp_path / "b.npz")


def test_streaming_starts_where_memory_ends(tmp_path, monkeypatch):
    data = toy()
    write_h5(data, tmp_path / "a.h5")
    needed = 4 * sum(view.numel() for split in data.splits() for view in (split.view1, split.view2))
    for available, streamed in ((2 * needed, False), (2 * needed - 2, True), (None, False)):
        monkeypatch.setattr(files_module, "available_memory", lambda available=available: available)
        assert read_h5(tmp_path / "a.h5").train.is_streamed == streamed
    monkeypatch.undo()
    memory = files_module.available_memory()
    assert memory is None or memory > 1 << 20


@pytest.mark.parametrize("where", ["train/view1", "test/view2", "valid/pairs", "train/labels"])
def test_an_edited_file_is_found_out(where, tmp_path):
    write_h5(toy(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        value = file[where][...]
        value.reshape(-1).view(np.uint8)[0] ^= 1
        file[where][...] = value
    with pytest.raises(DataError, match=r"a\.h5 doesn't match its fingerprint") as error:
        read_h5(tmp_path / "a.h5")
    one_line(error)


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 2000, 0.5, 0.9, -1])
def test_files_that_were_cut_short(keep, tmp_path):
    write_h5(toy(), tmp_path / "a.h5")
    write_npz(toy(), tmp_path / "a.npz")
    for name, read in (("a.h5", read_h5), ("a.npz", read_npz)):
        raw = (tmp_path / name).read_bytes()
        size = int(keep * len(raw)) if isinstance(keep, float) else keep
        (tmp_path / name).write_bytes(raw[:size])
        with pytest.raises(DataError, match=name) as error:
            read(tmp_path / name)
        one_line(error)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_never_get_through(seed, tmp_path):
    """Damage anywhere is either an error in one line, or it hit bytes that hold no values."""
    rng = np.random.default_rng(seed)
    data = toy()
    write_h5(data, tmp_path / "a.h5")
    write_npz(data, tmp_path / "a.npz")
    for name, read in (("a.h5", read_h5), ("a.npz", read_npz)):
        raw = bytearray((tmp_path / name).read_bytes())
        for position in rng.integers(0, len(raw), 20):
            raw[position] ^= 0xFF
        (tmp_path / name).write_bytes(bytes(raw))
        try:
            back = read(tmp_path / name)
        except DataError as error:
            assert "\n" not in str(error)
            continue
        for one, other in zip(back.splits(), data.splits(), strict=True):
            assert torch.equal(one.view1, other.view1) and torch.equal(one.view2, other.view2)


def test_a_file_that_claims_to_be_huge_is_one_line(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split in ("train", "valid", "test"):
            for view in ("view1", "view2"):
                file.create_dataset(f"{split}/{view}", shape=(10**9, 10**8), dtype="f4", chunks=(1, 10**6))
    with pytest.raises(DataError, match=r"train/view1 declares 400,000,.* bytes can't hold") as error:
        read_h5(tmp_path / "a.h5", stream=False)
    one_line(error)


def test_missing_and_foreign_files(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    (tmp_path / "text.npz").write_text("not a zip")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for read, name, message in ((read_h5, "none.h5", "no file"), (read_npz, "none.npz", "no file"),
                                (read_h5, "", "no file"), (read_h5, "text.h5", "can't be read as HDF5"),
                                (read_npz, "text.npz", "is not an NPZ file"), (read_npz, "array.npz", "is not an NPZ")):
        with pytest.raises(DataError, match=message) as error:
            read(tmp_path / name)
        one_line(error)


def h5_of(path: Path, change) -> Path:
    write_h5(toy(), path)
    with h5py.File(path, "r+") as file:
        del file.attrs["fingerprint"]
        change(file)
    return path


def replaced(key, value):
    def change(file):
        del file[key]
        file[key] = value
    return change


@pytest.mark.parametrize("change, message", [
    (lambda file: file.pop("valid"), r"lacks valid/view1, valid/view2; expected groups .* \(found at the top: test"),
    (lambda file: file["test"].pop("view2"), r"lacks test/view2"),
    (replaced("test/view2", np.zeros((10, 2, 5))), r"^test view2 has items of shape \(2, 5\), but train"),
    (replaced("test/view1", np.array(["a", "b"], dtype="S1")), r"test/view1 must hold numbers; got dtype \|S1"),
    (replaced("valid/view1", np.zeros((4, 3), complex)), r"valid/view1 must hold numbers; got dtype complex128"),
    (replaced("valid/view1", np.full((4, 3), np.nan)), r"^valid view1 has NaN .* in 4 rows of 4 \(row 0, 1, 2, 3\)"),
    (replaced("valid/view1", np.zeros((0, 3))), r"^valid is empty"),
    (replaced("train/pairs", np.array([[0, 99]])), r"^train pairs row 0 names view2 item 99"),
    (replaced("train/pairs", np.zeros((2, 2))), r"train pairs must hold whole numbers; got dtype float64"),
    (replaced("train/labels", np.zeros(3, int)), r"^train labels must be int64 of shape \(9,\)"),
    (replaced("train/ids", np.arange(9)), r"train ids must be a list of text; got dtype int64"),
    (lambda file: file["train"].pop("pairs"), r"^train: view1 has 9 items and view2 18; without a pair table"),
    (lambda file: file["train"].move("labels", "label"), r"unknown array train/label; did you mean labels"),
    (lambda file: file.attrs.__setitem__("name", 5), r"attribute name has a value of the wrong kind"),
    (lambda file: file.attrs.__setitem__("synthetic", "yes"), r"attribute synthetic has a value of the wrong kind"),
    *((lambda file, value=value: file.attrs.__setitem__("picture2", value),
       r"a\.h5: attribute picture2 must be two whole numbers, height and width; got ")
      for value in ("2 2", 4, [4], [1, 2, 2], [2.0, 2.0], [True, True], [[2, 2]], ["2", "2"], h5py.Empty("i8"))),
    *((lambda file, value=value: file.attrs.__setitem__("picture2", value),
       r"^picture2 must be \(height, width\) of the 4 values of a view2 item; got ")
      for value in ([2, 3], [-2, -2], [0, 4], [2**62, 4])),
])
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_hdf5_file_may_not_hold(change, message, stream, tmp_path):
    path = h5_of(tmp_path / "a.h5", change)
    if stream and "NaN" in message:
        return  # found when the rows are read: test_data_batches
    with pytest.raises(DataError, match=message) as error:
        read_h5(path, stream=stream)
    one_line(error)


def elsewhere(file: h5py.File) -> Path:
    """A pipe beside the file: whoever opens it waits for ever."""
    pipe = Path(file.filename).parent / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)
    return pipe


def virtual(file):
    layout = h5py.VirtualLayout((9, 3), "f8")
    layout[:] = h5py.VirtualSource(elsewhere(file), "train/view1", (9, 3))
    del file["train/view1"]
    file.create_virtual_dataset("train/view1", layout)


def outside(file):
    del file["train/view1"]
    file.create_dataset("train/view1", (9, 3), "f8", external=[(str(elsewhere(file)), 0, 216)])


def declared(key, shape):
    def change(file):
        del file[key]
        file.create_dataset(key, shape, h5py.string_dtype(), chunks=(1 << 16,))
    return change


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("change, message", [
    (lambda file: file.__setitem__("train/view1_more", h5py.ExternalLink(elsewhere(file), "/x")),
     r"points to another file, which is not read: train/view1_more, a link to .*pipe"),
    (lambda file: file.__setitem__("unused", h5py.ExternalLink(elsewhere(file), "/")), r"points to another file"),
    (virtual, r"the values of train/view1 lie in another file"),
    (outside, r"the values of train/view1 lie in another file"),
    (declared("train/ids", (1 << 33,)), r"train/ids declares 68,719,476,736 bytes of values, which \S+ bytes can't"),
    (lambda file: file.create_group("train/view1_more"), r"train/view1_more must be an array; it is a group"),
    (lambda file: file.__setitem__("test/caption1_x", h5py.SoftLink("/no")), r"test/caption1_x must be an array"),
    (lambda file: file.__setitem__("train/view1_pixels", np.zeros(())), r"train/view1_pixels must be an array \(items"),
    (lambda file: file.__setitem__("train/view2_x", np.zeros(3, "V7")), None),
])
def test_nothing_is_read_that_is_not_in_the_file(change, message, tmp_path):
    path = h5_of(tmp_path / "a.h5", change)
    if message is None:
        read_h5(path)  # a view that isn't asked for
        return
    with pytest.raises(DataError, match=message) as error:
        read_h5(path)
    one_line(error)


def test_zeros_in_a_heap_of_texts_don_t_hang(tmp_path):
    """HDF5 2.0 turns in circles in a heap with an object that has no number and no size."""
    write_h5(toy(), tmp_path / "a.h5")
    content = bytearray((tmp_path / "a.h5").read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 512:heap + 1024] = bytes(512)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(DataError, match="its texts are damaged"):
        read_h5(tmp_path / "a.h5")


def test_heaps_are_looked_for_between_the_views(tmp_path):
    """What looks like a heap may be the values of a view, in one piece or in chunks."""
    values = np.frombuffer(b"GCOL\1\0\0\0" + bytes(56), np.uint8).reshape(8, 8)
    for compressed in (False, True):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for key in (f"{split}/{view}" for split in ("train", "valid", "test") for view in ("view1", "view2")):
                file.create_dataset(key, data=values, chunks=(8, 8) if compressed else None)
        assert read_h5(tmp_path / "a.h5").train.view1.shape == (8, 8)


def test_npz_members_that_numpy_and_zipfile_stumble_over(tmp_path):
    npz_of(tmp_path / "a.npz")
    good = (tmp_path / "a.npz").read_bytes()
    encrypted = bytearray(good)
    encrypted[good.index(b"PK\1\2") + 8] |= 1
    header = b"\x93NUMPY\2\0" + (4).to_bytes(4, "little") + b"'((("
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("view1.npy", header)
    (tmp_path / "a.npz").write_bytes(encrypted)
    npz_of(tmp_path / "c.npz", test_ids=np.array("one"))
    for name, message in (("a", "is damaged .*encrypted"), ("b", "array view1 is damaged"), ("c",
                                                                                             "must be lists of text")):
        with pytest.raises(DataError, match=message) as error:
            read_npz(tmp_path / f"{name}.npz")
        one_line(error)


def test_arrays_of_no_name_that_is_known_say_which_are_expected(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 2)), texts=np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"lacks view1, view2; expected train_view1, .* \(found: images, texts\)"):
        read_npz(tmp_path / "a.npz")


def npz_of(path: Path, **changes) -> Path:
    arrays = {f"{split.name}_{key}": getattr(split, key).numpy() for split in toy(table=False).splits()
              for key in ("view1", "view2")} | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("changes, message", [
    ({"test_view2": None}, r"a.npz lacks test_view2; expected train_view1, .* \(found: train_view1"),
    ({"test_label": np.zeros(5, int)}, r"a.npz has an unknown array 'test_label'; did you mean test_labels"),
    ({"view1": np.zeros((3, 3))}, r"a.npz mixes whole arrays"),
    ({"train_view1": np.array([[None]])}, r"a.npz: array train_view1 holds Python objects, which are never unpickled"),
    ({"train_view1": np.array([["a"]])}, r"train view1 must hold numbers; got dtype <U1"),
    ({"train_view1": np.full((9, 3), np.inf)}, r"train view1 has NaN or infinite values in 9 rows of 9"),
    ({"train_view1": np.zeros((8, 3))}, r"train: view1 has 8 items and view2 9"),
    ({"test_view1": np.zeros((5, 4))}, r"test view1 has items of shape \(4,\), but train view1 \(3,\)"),
    ({"test_view1": np.zeros((0, 3))}, r"test is empty"),
    ({"test_pairs": np.array([[0, -1]])}, r"test pairs row 0 names view2 item -1"),
    ({"meta": np.array("{")}, r"meta must be JSON text"),
    ({"meta": np.array("[" * 100_000)}, r"meta must be JSON text"),
    ({"meta": np.array("[1]")}, r"meta must be a JSON object"),
    ({"meta": np.array('{"version": 2}')}, r"attribute version has a value of the wrong kind"),
    ({"meta": np.array('{"picture1": [3, true]}')}, r"attribute picture1 must be two whole numbers"),
    ({"meta": np.array('{"picture1": [2, 2]}')}, r"^picture1 must be \(height, width\) of the 3 values"),
])
def test_what_an_npz_file_may_not_hold(changes, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        read_npz(npz_of(tmp_path / "a.npz", **changes))
    one_line(error)


def test_nothing_is_unpickled(tmp_path):
    """A pickle that would make a file when loaded, as an object array and as a bare member."""
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    npz_of(tmp_path / "a.npz", train_view1=np.array([[Bomb()]], dtype=object))
    arrays = io.BytesIO()
    with zipfile.ZipFile(arrays, "w") as archive:
        archive.writestr("train_view1", pickle.dumps(Bomb()))
    (tmp_path / "b.npz").write_bytes(arrays.getvalue())
    for name in ("a.npz", "b.npz"):
        with pytest.raises(DataError):
            read_npz(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_one_table_is_split_and_says_so(tmp_path):
    view = np.arange(60.0).reshape(30, 2)
    np.savez(tmp_path / "mine.npz", view1=view, view2=-view, labels=np.arange(30))
    data = read_npz(tmp_path / "mine.npz")
    assert data.name == "mine" and data.note == "split 80/10/10 with seed 23" and data.split_seed == 23
    assert [split.n_pairs for split in data.splits()] == [24, 3, 3]
    for split in data.splits():
        assert torch.equal(split.view1, -split.view2) and torch.equal(split.labels, split.view1[:, 0].long() // 2)
    assert data.fingerprint == fingerprint(data) == read_npz(tmp_path / "mine.npz").fingerprint
    write_h5(data, tmp_path / "mine.h5")
    assert_same(read_h5(tmp_path / "mine.h5"), data)


@pytest.mark.parametrize("write, name", [(write_h5, "a.h5"), (write_npz, "a.npz")])
@pytest.mark.parametrize("fails", ["fsync", "replace", "write"])
def test_a_failed_write_leaves_the_old_file(write, name, fails, tmp_path, monkeypatch):
    write(toy(), tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"fsync": (os, "fsync"), "replace": (Path, "replace"),
              "write": (h5py.Group, "create_dataset") if name == "a.h5" else (np, "savez")}[fails]
    monkeypatch.setattr(*target, full)
    with pytest.raises(OSError, match="No space left"):
        write(toy(table=False), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name != "posix", reason="limits the file size with resource")
def test_a_real_full_disk_is_an_oserror_and_leaves_nothing(tmp_path):
    """The system refuses to let the file grow beyond a limit, at every stage of writing. HDF5 left alone crashes."""
    code = """if True:
        import resource, sys
        import torch
        from xmodal.data import PairSplit, PairedData, write_h5, write_npz
        split = PairSplit("train", torch.ones(500, 32), torch.ones(500, 8), labels=torch.zeros(500, dtype=torch.int64),
                          ids=["x" * 50] * 500)
        data = PairedData("toy", split, split, split)
        for write, name in ((write_h5, "a.h5"), (write_npz, "a.npz")):
            write(data, sys.argv[1] + "/" + name)
            size = __import__("os").path.getsize(sys.argv[1] + "/" + name)
            for limit in [10, 3000, *range(20_000, size, size // 24), size - 1]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    write(data, sys.argv[1] + "/" + name)
                except OSError as error:
                    assert error.filename in (None, sys.argv[1] + "/" + name), error
                else:
                    raise SystemExit(f"no error at {limit} of {size}")
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.npz"]
    assert read_h5(tmp_path / "a.h5").train.n_pairs == 500


def test_the_folder_is_made_and_a_folder_in_the_way_is_an_oserror(tmp_path):
    write_h5(toy(), tmp_path / "new" / "deep" / "a.h5")
    assert (tmp_path / "new" / "deep" / "a.h5").is_file()
    with pytest.raises(OSError):
        write_h5(toy(), tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_h5(toy(), tmp_path / "file" / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]


# further test splits

def with_further(table: bool = True) -> PairedData:
    further = (split_of("test_noisy", 6, 3, table), split_of("test_a", 2, 4, table))
    return dataclasses.replace(toy(table), further=further, fingerprint="").with_fingerprint()


@pytest.mark.parametrize("table", [False, True])
def test_further_test_splits_are_written_and_read(table, tmp_path):
    data = with_further(table)
    assert data.fingerprint != toy(table).fingerprint
    assert write_h5(data, tmp_path / "a.h5") == data.fingerprint
    write_npz(data, tmp_path / "a.npz")
    for back in (read_h5(tmp_path / "a.h5"), read_npz(tmp_path / "a.npz")):
        assert back.split_names() == ("train", "valid", "test", "test_a", "test_noisy")
        assert_same(back, data)
    streamed = read_h5(tmp_path / "a.h5", stream=True)
    assert all(split.is_streamed for split in streamed.splits()) and streamed.fingerprint == data.fingerprint
    for one, other in zip(streamed.splits(), data.splits(), strict=True):
        assert torch.equal(one.view2.gather(torch.arange(len(one.view2))), other.view2)
    assert write_h5(streamed, tmp_path / "b.h5") == data.fingerprint


def test_further_test_splits_count_for_memory(tmp_path, monkeypatch):
    data = with_further()
    write_h5(data, tmp_path / "a.h5")
    needed = 4 * sum(view.numel() for split in data.splits() for view in (split.view1, split.view2))
    for available, streamed in ((2 * needed, False), (2 * needed - 2, True)):
        monkeypatch.setattr(files_module, "available_memory", lambda available=available: available)
        assert read_h5(tmp_path / "a.h5").train.is_streamed == streamed


@pytest.mark.parametrize("change, message", [
    (lambda file: file["test_a"].pop("view2"), r"lacks test_a/view2: a further test split needs view1 and view2, too"),
    (lambda file: file["test_a"].move("labels", "label"), r"unknown array test_a/label; did you mean labels"),
    (replaced("test_a/view1", np.zeros((2, 4))), r"^test_a view1 has items of shape \(4,\), but train"),
    (replaced("test_a/view1", np.array(["a", "b"], dtype="S1")), r"test_a/view1 must hold numbers; got dtype \|S1"),
    (replaced("test_a/view1", np.full((2, 3), np.nan)), r"^test_a view1 has NaN"),
    (replaced("test_a/pairs", np.array([[0, 99]])), r"^test_a pairs row 0 names view2 item 99"),
])
def test_what_a_further_test_split_may_not_hold(change, message, tmp_path):
    write_h5(with_further(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file.attrs["fingerprint"]
        change(file)
    with pytest.raises(DataError, match=message) as error:
        read_h5(tmp_path / "a.h5")
    one_line(error)


def test_an_edited_further_test_split_is_found_out(tmp_path):
    write_h5(with_further(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["test_a/view1"][0, 0] += 1
    with pytest.raises(DataError, match=r"a\.h5 doesn't match its fingerprint"):
        read_h5(tmp_path / "a.h5")


@pytest.mark.parametrize("more, message", [
    ({"test_a_view1": np.zeros((2, 3))}, r"a\.npz lacks test_a_view2; expected"),
    ({"test_a_view2": np.zeros((2, 2, 2))}, r"unknown array 'test_a_view2'; did you mean test_view2"),
    ({"test_a_view1": np.zeros((2, 3)), "test_a_view2": np.zeros((2, 2, 5))}, r"^test_a view2 has items of shape"),
    ({"hard_view1": np.zeros((2, 3)), "hard_view2": np.zeros((2, 2, 2))}, r"unknown array 'hard_view1'"),
])
def test_further_arrays_of_npz_files(more, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        read_npz(npz_of(tmp_path / "a.npz", **more))
    one_line(error)


# bytes with two scales, compressed

@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("scale", [{"view1": 0.25, "view2": 3.0}, 0.5])
def test_compressed_bytes_of_two_scales_are_read_back_and_streamed(scale, compress, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{split}_{view}": rng.integers(0, 256, (n, *shape), dtype=np.uint8)
              for split, n in (("train", 150), ("valid", 3), ("test", 64), ("test_more", 65))
              for view, shape in (("view1", (1, 4, 5)), ("view2", (7,)))}
    arrays["train_labels"] = np.arange(150)
    written = write_arrays(tmp_path / "a.h5", arrays, {"name": "a"}, scale=scale, compress=compress)
    assert written == write_arrays(tmp_path / "b.h5", arrays, {"name": "a"}, scale=scale, compress=not compress)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/view1"].compression == ("gzip" if compress else None)
        assert file["train/labels"].compression is None
    first, second = scale.values() if isinstance(scale, dict) else (scale, scale)
    whole, streamed = read_h5(tmp_path / "a.h5", stream=False), read_h5(tmp_path / "a.h5", stream=True)
    assert whole.fingerprint == streamed.fingerprint == fingerprint(streamed) == written
    for name in whole.split_names():
        for view, factor in (("view1", first), ("view2", second)):
            expected = torch.from_numpy(arrays[f"{name}_{view}"]).float() * factor
            assert torch.equal(getattr(whole.split(name), view), expected)
            rows = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))
            assert torch.equal(getattr(streamed.split(name), view).gather(rows), expected[rows])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("scale", "said"), [(np.nan, "view1 must be a finite number; got 'nan'"),
                                             (np.inf, "must be a finite number"), (1e37, "train view1 has")])
def test_a_scale_that_makes_bytes_infinite_is_told_at_the_latest_when_they_are_read(stream, scale, said, tmp_path):
    arrays = {f"{split}_view{view}": np.full((3, 2), 200, np.uint8) for split in ("train", "valid", "test")
              for view in (1, 2)}
    write_arrays(tmp_path / "a.h5", arrays, {}, scale=0.5)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file.attrs["fingerprint"]
        file["train/view1"].attrs["scale"] = scale
    with pytest.raises(DataError, match=said):
        read_h5(tmp_path / "a.h5", stream=stream).train.view1.gather(torch.arange(3))


def test_a_further_split_is_not_called_as_a_view_of_the_test_split(tmp_path):
    arrays = {f"{split}_view{view}": np.ones((3, 2)) for split in ("train", "valid", "test", "test_view2_de")
              for view in (1, 2)}
    with pytest.raises(DataError, match=r"can't be called test_view2_de, .*: give it another name, such as test_de"):
        write_arrays(tmp_path / "a.h5", arrays, {})
    with pytest.raises(DataError, match="can't be called test_view2_de"):
        read_npz(npz_of(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_beyond_float32_are_called_so(stream, tmp_path):
    arrays = {f"{split}_view{view}": np.ones((3, 2)) for split in ("train", "valid", "test") for view in (1, 2)}
    arrays["train_view2"][1] = 1e39
    write_arrays(tmp_path / "a.h5", arrays, {})
    with pytest.raises(DataError, match=r"train view2 has values up to 1e\+39 in 1 row of 3 \(row 1\), which float32"):
        read_h5(tmp_path / "a.h5", stream=stream).train.view2.gather(torch.arange(3))


@pytest.mark.parametrize("text", ["a\0b", "a\0", "\ud83d"])
@pytest.mark.parametrize("where", ["train_ids", "valid_caption1", "test_caption2", "note"])
def test_texts_that_hdf5_cant_store_are_told(text, where, tmp_path):
    data = toy()
    split, _, key = where.rpartition("_")
    if split:
        part = data.split(split)
        texts = [*getattr(part, key)[:-1], text]
        data = dataclasses.replace(data, **{split: dataclasses.replace(part, **{key: texts})})
    else:
        data = dataclasses.replace(data, note=text)
    with pytest.raises(DataError, match=f"{where}: HDF5 can't store '.*'; take NUL characters and halves of") as caught:
        write_h5(data, tmp_path / "a.h5")
    assert one_line(caught).isprintable() and not list(tmp_path.iterdir())
