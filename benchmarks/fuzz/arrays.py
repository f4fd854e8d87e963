"""HDF5 and NPZ files: damaged bytes of good ones, and odd ones made on purpose."""
from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.fuzz.harness import Case, WrongError, canary, outcome
from benchmarks.fuzz.mutations import ODD_NUMBERS, ODD_TEXTS, Malicious, damaged, odd_json, odd_value
from xmodal.data import PairedData, load_data
from xmodal.data.files import write_arrays
from xmodal.data.pairs import View
from xmodal.data.streamed import StreamedView

SPLITS = ("train", "valid", "test")
#: Values of a file that no data set may be read from.
SECRET = 77.25


def small_arrays(seed: int, rich: bool = False, dtype: Any = np.float32) -> dict[str, Any]:
    """Arrays under the NPZ keys: widths 5 and 3, twelve training pairs; ``rich`` with everything that a file may
    hold."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, n in (("train", 12), ("valid", 6), ("test", 7), *((("test_hard", 5),) if rich else ())):
        n2 = 2 * n if rich else n
        arrays[f"{split}_view1"] = (rng.normal(size=(n, 5)) * 50 + 100).astype(dtype)
        arrays[f"{split}_view2"] = (rng.normal(size=(n2, 3)) * 50 + 100).astype(dtype)
        if rich:
            arrays |= {f"{split}_pairs": np.array([[i // 2, i] for i in range(n2)]),
                       f"{split}_labels": np.arange(n) % 3, f"{split}_ids": [f"piece{i % 2}@{i}.5" for i in range(n)],
                       f"{split}_caption1": [f"ä {i}" for i in range(n)],
                       f"{split}_caption2": [f"text {i}" for i in range(n2)]}
    return arrays


def _named(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same with further views of the same items and thumbnails."""
    more: dict[str, Any] = {}
    for split in (*SPLITS, "test_hard"):
        n1, n2 = len(arrays[f"{split}_view1"]), len(arrays[f"{split}_view2"])
        more[f"{split}_view1_pixels"] = np.arange(n1 * 12, dtype=np.uint8).reshape(n1, 3, 2, 2)
        more[f"{split}_view2_de"] = np.ones((n2, 4), np.float32)
        more[f"{split}_caption2_de"] = [f"Text {i}" for i in range(n2)]
    return arrays | more


def good_h5(folder: Path) -> list[bytes]:
    """Small files of every flavour."""
    rich = small_arrays(1, rich=True)
    about = {"name": "toy", "version": "1", "split_seed": 23, "note": "made", "picture1": (5, 1), "synthetic": True}
    bytes_views = {key: value.astype(np.uint8) if "_view" in key else value for key, value in rich.items()}
    write_arrays(folder / "plain.h5", small_arrays(0), {"name": "plain"})
    write_arrays(folder / "rich.h5", rich, about)
    write_arrays(folder / "gzip.h5", _named(rich), {**about, "view1_name": "hog"}, compress=True,
                 encoders={"hog": "{}", "view2": '{"how": "x"}'})
    write_arrays(folder / "bytes.h5", bytes_views, about, scale=1 / 255, compress=True)
    for name, options in (("latest.h5", {"libver": "latest"}), ("block.h5", {"userblock_size": 512})):
        with h5py.File(folder / name, "w", **options) as file:
            for key, value in small_arrays(2, dtype=np.float64).items():
                file.create_dataset(key.replace("_", "/"), data=value, chunks=(4, 2), fletcher32=True, shuffle=True,
                                    compression="lzf")
    return [(folder / f"{name}.h5").read_bytes() for name in ("plain", "rich", "gzip", "bytes", "latest", "block")]


def check_data(data: PairedData, known: dict[str, PairedData]) -> None:
    """Whether what was read is a data set, and the one that its fingerprint says.

    Raises:
        WrongError: it is not.
    """
    for split in data.splits():
        views = [_values(view) for view in (split.view1, split.view2)]
        for view in views:
            if not bool(torch.isfinite(view).all()) or bool((view == SECRET).any()):
                raise WrongError(f"{split.name} holds values that can't be from this file")
        pairs = split.pair_table()
        if len(pairs) == 0 or int(pairs.min()) < 0 or any(int(pairs[:, i].max()) >= len(views[i]) for i in (0, 1)):
            raise WrongError(f"{split.name} has pairs of items that aren't there")
        for texts, count in ((split.ids, 0), (split.caption1, 0), (split.caption2, 1)):
            if texts is not None and (len(texts) != len(views[count]) or not all(type(t) is str for t in texts)):
                raise WrongError(f"{split.name} has texts that are none")
        for thumbnails in (split.thumbnails1, split.thumbnails2):
            if thumbnails is not None:
                _values(thumbnails)
    same = known.get(data.fingerprint)
    if same is None or data.train.is_streamed:  # streamed, the stored fingerprint is trusted
        return
    for one, other in zip(data.splits(), same.splits(), strict=True):
        for key in ("view1", "view2", "pairs", "labels"):
            a, b = getattr(one, key), getattr(other, key)
            if (a is None) != (b is None) or (a is not None and not torch.equal(a, b)):
                raise WrongError(f"{one.name} {key} differs although the fingerprint is the same")


def _values(view: View) -> torch.Tensor:
    return view.gather(torch.arange(len(view))) if isinstance(view, StreamedView) else view


# -- HDF5 ------------------------------------------------------------------------------------------------------

def hdf5(folder: Path) -> Case:
    """Damaged and odd HDF5 files, read whole or streamed, in all their views."""
    seeds = good_h5(folder)
    known = {}
    for path in sorted(folder.glob("*.h5")):
        data = load_data(str(path), stream=False)
        known[data.fingerprint] = data

    def case(rng: random.Random, here: Path) -> str:
        path = here / "a.h5"
        if rng.random() < 0.6:
            path.write_bytes(damaged(rng, rng.choice(seeds)))
        else:
            odd_h5(rng, path)
        views = rng.choice((None, None, None, ["view1", "view2"], ["hog", "de"], ["pixels", "de"], ["de", "view1"],
                            ["view2", "de"], ["", "\0"], [rng.choice(ODD_TEXTS), "view2"]))
        stream = rng.choice((None, None, False, True))

        def read() -> None:
            check_data(load_data(str(path), stream=stream, views=views), known)

        return outcome(read)

    return case


def odd_h5(rng: random.Random, path: Path) -> None:
    """A file that is well-formed HDF5, nearly a data set, with one to three oddities."""
    arrays = small_arrays(rng.randrange(4), rich=rng.random() < 0.6)
    write_arrays(path, _named(arrays) if "train_ids" in arrays else arrays,
                 {"name": "odd"}, compress=rng.random() < 0.5)
    with h5py.File(path, "r+") as file:
        places = [f"{split}/{key}" for split in file for key in file[split]]
        if rng.random() < 0.8:
            del file.attrs["fingerprint"]
        for _ in range(rng.choice((1, 1, 2, 3))):
            place = rng.choice(places)
            with suppress(Exception):  # what h5py doesn't write after an oddity before it
                rng.choice((_odd_dataset, _odd_dataset, _odd_link, _odd_storage, _odd_attribute))(rng, file, place)


def _replace(file: h5py.File, place: str) -> None:
    if file.get(place, getlink=True) is not None:
        del file[place]


def _odd_dataset(rng: random.Random, file: h5py.File, place: str) -> None:
    """Another type, shape or content."""
    old = file.get(place)
    n = min(len(old), 24) if isinstance(old, h5py.Dataset) and old.shape else 3  # one before may be huge
    values: list[Callable[[], Any]] = [
        lambda: np.full((n, 5), rng.choice(ODD_NUMBERS[17:]), rng.choice(("f2", "f4", "f8", ">f8"))),
        lambda: np.full((n, 5), rng.choice((0, 1, 100)), rng.choice(("i1", ">i2", "u4", "i8", "u8", "?"))),
        lambda: np.full((n, 2), rng.choice((-1, 0, 99, 2**62)), "i8"), lambda: np.full((n, 2), 2**64 - 1, "u8"),
        lambda: np.zeros((n, 5), "c8"), lambda: np.zeros((n, 5), "S3"), lambda: np.zeros(n, [("a", "f4"), ("b", "O8")
                                                                                        ][:1]),
        lambda: np.zeros((n, 5), "V7"), lambda: np.zeros((n, 5), "g"), lambda: np.zeros((n, 2), [("a", "f4", (2,))]),
        lambda: np.zeros(rng.choice(((), (0,), (0, 5), (n, 0), (n,), (n, 5, 1), (n + 1, 5), (1,) * 20)), "f4"),
        lambda: h5py.Empty(rng.choice(("f4", "i8", "S2"))), lambda: rng.choice(ODD_NUMBERS[17:]),
        lambda: rng.choice(("text", b"\xff\xfe", "é"))]
    kind = rng.randrange(len(values) + 4)
    _replace(file, place)
    if kind < len(values):
        file[place] = values[kind]()
    elif kind == len(values):
        texts = [rng.choice((b"\xff\xfe", b"", b"a", "é".encode(), b"x" * 1000)) for _ in range(n)]
        file.create_dataset(place, data=np.array(texts, dtype=object), dtype=h5py.string_dtype(
            rng.choice(("utf-8", "ascii"))))
    elif kind == len(values) + 1:
        made = file.create_dataset(place, (n,), h5py.vlen_dtype(np.dtype(rng.choice(("f4", "i8")))))
        made[0] = np.ones(3)
    elif kind == len(values) + 2:
        file.create_dataset(place, (n, 2), rng.choice((h5py.ref_dtype, h5py.regionref_dtype,
                                                       h5py.enum_dtype({"a": 0, "b": 1}, basetype="i4"))))
    else:
        file[place] = np.dtype("f4")  # a type with a name


def _odd_link(rng: random.Random, file: h5py.File, place: str) -> None:
    """A link in place of an array or of a whole split."""
    folder = Path(file.filename).parent
    other = folder / "other.h5"
    if not other.exists():
        with h5py.File(other, "w") as secret:
            for split in SPLITS:
                for view, width in (("view1", 5), ("view2", 3)):
                    secret[f"{split}/{view}"] = np.full((6, width), SECRET, np.float32)
        os.mkfifo(folder / "pipe")  # whoever opens it waits for ever
    if rng.random() < 0.25:
        place = place.partition("/")[0]
    links = (h5py.ExternalLink("other.h5", place), h5py.ExternalLink(str(other), "/"), h5py.ExternalLink("pipe", "/"),
             h5py.ExternalLink("nowhere.h5", place), h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{place}"),
             h5py.SoftLink("/test/view1"), h5py.SoftLink("/hidden/view1"), file["/"], file["test"],
             h5py.ExternalLink("/dev/zero", "/"))
    link = rng.choice(links)
    if getattr(link, "path", "") == "/hidden/view1":
        _replace(file, "hidden")
        file["hidden"] = h5py.ExternalLink("other.h5", "/train")
    _replace(file, place)
    file[place] = link


def _odd_storage(rng: random.Random, file: h5py.File, place: str) -> None:
    """Values that are not there, not here, or behind a filter; more of them than there can be."""
    folder = Path(file.filename).parent
    _replace(file, place)
    kind = rng.randrange(7)
    if kind == 0:
        many = rng.choice((2**31, 2**40, 2**50, 2**60))
        file.create_dataset(place, (many, 5) if many < 2**60 else (many,), rng.choice(("f4", "u1", "i8")),
                            chunks=(1024, 5)[:1 if many == 2**60 else 2])  # in one piece, the file would grow
    elif kind == 1:
        file.create_dataset(place, (rng.choice((2**20, 2**27, 2**33)),), h5py.string_dtype(),
                            chunks=(1 << 16,))
    elif kind == 2:
        (folder / "raw").write_bytes(np.full(60, SECRET, np.float32).tobytes())
        file.create_dataset(place, (6, 5), "f4", external=[(rng.choice(("raw", str(folder / "raw"), "/dev/zero")), 0,
                                                            240)])
    elif kind == 3:
        _odd_link(rng, file, "unused/link")  # writes the other file
        layout = h5py.VirtualLayout((6, 5), "f4")
        layout[:] = h5py.VirtualSource(rng.choice(("other.h5", "pipe", "nowhere.h5")), "train/view1", (6, 5))
        _replace(file, place)
        file.create_virtual_dataset(place, layout)
        _replace(file, "unused")
    elif kind == 4:
        made = file.create_dataset(place, (6, 5), "f4", chunks=(6, 5), compression=rng.choice((32001, 32015, 40000)),
                                   compression_opts=(1, 2), allow_unknown_filter=True)
        made.id.write_direct_chunk((0, 0), rng.randbytes(30))
    elif kind == 5:
        made = file.create_dataset(place, (6, 5), "f4", chunks=(2, 5), compression="gzip", shuffle=rng.random() < 0.5)
        made.id.write_direct_chunk((0, 0), rng.randbytes(rng.choice((1, 8, 30, 3000))))
    else:
        file.create_dataset(place, (2**rng.randrange(10, 34), 5), "f4", chunks=(1 << 14, 5), compression="gzip",
                            fillvalue=rng.choice((0, 1, np.nan)))


def _odd_attribute(rng: random.Random, file: h5py.File, place: str) -> None:
    """An attribute of the file or of an array, of a type or value that it can't have."""
    values = [odd_value(rng), rng.choice(ODD_TEXTS).replace("\0", "").encode(), np.zeros(3), np.zeros((2, 2), "i8"),
              h5py.Empty("f4"), np.float16(2.0), np.complex64(1j), np.array(["a", "b"], dtype=object), np.bool_(True),
              b"\xff\xfe", file["/"].ref, np.array([5, 1]), np.array([0, -1]), np.void(b"abc")]
    if rng.random() < 0.4 and isinstance(file.get(place), h5py.Dataset):
        where, key = file[place], "scale"
        values += [float("nan"), float("inf"), 0.0, -1.0, 1e300, 1e-300]
    else:
        where, key = file, rng.choice(("name", "version", "source", "licence", "split_seed", "synthetic", "note",
                                       "picture1", "picture2", "rising1", "view1_name", "view2_name", "fingerprint",
                                       "encoders/view1"))
    if key == "encoders/view1":
        file[key] = rng.choice(("{}", b"\xff", 1.0, ["a"]))
    else:
        where.attrs[key] = rng.choice(values)


# -- NPZ -------------------------------------------------------------------------------------------------------

def npz(folder: Path) -> Case:
    """Damaged and odd NPZ files; pickles in them must stay closed."""
    seeds = []
    for number, (arrays, save) in enumerate(((small_arrays(0), np.savez), (_npz_arrays(), np.savez),
                                             (_npz_arrays(), np.savez_compressed), (_whole(), np.savez))):
        save(folder / f"{number}.npz", **arrays)
        seeds.append((folder / f"{number}.npz").read_bytes())
    known = {data.fingerprint: data for data in (load_data(str(path)) for path in sorted(folder.glob("*.npz")))}

    def case(rng: random.Random, here: Path) -> str:
        path = here / "a.npz"
        path.write_bytes(damaged(rng, rng.choice(seeds)) if rng.random() < 0.5 else odd_npz(rng, canary(here)))
        return outcome(lambda: check_data(load_data(str(path)), known))

    return case


def _npz_arrays() -> dict[str, Any]:
    meta = json.dumps({"name": "toy", "split_seed": None, "picture1": [5, 1], "synthetic": True})
    return {key: np.array(value) for key, value in small_arrays(3, rich=True).items()} | {"meta": np.array(meta)}


def _whole() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {"view1": rng.normal(size=(30, 5)), "view2": np.asfortranarray(rng.normal(size=(30, 3))),
            "labels": np.arange(30) % 4}


def odd_npz(rng: random.Random, forbidden: Path) -> bytes:
    """A zip archive whose members are nearly arrays; ``forbidden`` is the file that its pickles would make."""
    arrays = rng.choice((small_arrays(0), _npz_arrays(), _whole()))
    members = {f"{key}.npy": _npy(np.asarray(value)) for key, value in arrays.items()}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(members))
        kind = rng.randrange(8)
        if kind == 0:
            members[name] = rng.choice((b"", b"\x93NUMPY", rng.randbytes(60), _pickled(rng, forbidden)))
        elif kind == 1:
            members[rng.choice(("view1", "evil.npy", "../up.npy", "meta.npy", "é.npy", "train_view3.npy", "a/b.npy",
                                "test_.npy", "test__view1.npy", "\u202e.npy"))] = members[name]
        elif kind == 2:
            members["meta.npy"] = _npy(np.array(odd_json(rng, {"name": "x", "split_seed": 3, "picture1": [5, 1],
                                                               "note": "n", "rising1": False}).decode("utf-8",
                                                                                                      "replace")))
        elif kind == 3:
            members[name] = _odd_header(rng, members[name])
        elif kind == 4:
            members[name] = _npy(_odd_array(rng, forbidden))
        elif kind <= 6:  # under the right checksum
            members[name] = damaged(rng, members[name][:140]) + members[name][140:]
        else:
            del members[name]
            members.setdefault("view1.npy", _npy(np.ones((3, 2))))
    archive = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
            if rng.random() < 0.01:
                file.writestr(name, content[:-1])  # twice
    content = bytearray(archive.getvalue())
    if rng.random() < 0.1:  # encrypted, or of a method that nobody knows, says the directory
        at = content.rfind(b"PK\x01\x02")
        content[at + rng.choice((6, 8, 10))] ^= rng.choice((1, 8, 99))
    return damaged(rng, bytes(content)) if rng.random() < 0.15 else bytes(content)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _pickled(rng: random.Random, forbidden: Path) -> bytes:
    return pickle.dumps(Malicious(forbidden), protocol=rng.randrange(6))


def _odd_array(rng: random.Random, forbidden: Path) -> np.ndarray:
    return rng.choice((np.array([Malicious(forbidden)], dtype=object), np.full((12, 5), np.nan), np.full((12, 5),
                                                                                                         1e300),
                       np.zeros((12, 0)), np.zeros((0, 5)), np.zeros(12), np.zeros(()), np.zeros((12, 5), "c16"),
                       np.zeros(12, "M8[s]"), np.zeros(12, "U5"), np.zeros((12, 5), "S2"), np.zeros(12, [("a", "f4")]),
                       np.full((12, 2), -1), np.full((12, 2), 2**64 - 1, "u8"), np.zeros((12, 2), ">i2"),
                       np.zeros((12, 5), "?"), np.zeros((1,) * 30), np.zeros((12, 5), "f2"), np.zeros((12, 5), "V0")))


def _odd_header(rng: random.Random, content: bytes) -> bytes:
    """The array with another header: sizes, types and texts that no array has."""
    header = rng.choice((
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rng.choice((-1, 0, 2**20, 2**40, 2**62, 2**70))}, 5)}}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (12, 5), }",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (12L, 5L), }", "{'descr': '<f4', 'shape': (12, 5), }",
        "{'descr': '<f99', 'fortran_order': True, 'shape': (True, 1.5), }", "[]", "", "(", "'" + "(" * 3000,
        "__import__('os').system('true')",
                         "{'descr': [('a', '<f4'), ('a', '|O')], 'fortran_order': False, 'shape': ()}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 200 + "), }", "{" * 5000, "9" * 20000,
        "{'descr': '|V0', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (1099511627776,), }", "-" * 9000 + "1", "\0", "é"))
    version = rng.choice((1, 2, 3, 9))
    encoded = header.encode("utf-8")
    size = len(encoded).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, rng.choice((0, 0, 0, 7)))) + size + encoded + content[128:]


