"""Packages of the npm registry, from archives that lie in a folder."""
from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data import npm
from xmodal.data.npm import npm_package
from xmodal.errors import DataError

FILES = {"b.txt": b"second", "a.txt": b"first", "data/c.json": b"{}"}


def pack(folder: Path, name: str = "toys-1.0.0.tgz", files: Mapping[str, bytes] = FILES, top: str = "package/",
         layout: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(folder / name, "w:gz", format=layout) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{top}{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder / name


def test_files_are_found_and_read_in_the_archives_order(tmp_path):
    pack(tmp_path)
    with npm_package("toys@1.0.0", source=tmp_path) as package:
        assert package.names() == ["a.txt", "b.txt", "data/c.json"] and package.names(end=".txt") == ["a.txt", "b.txt"]
        assert package.names("data/") == ["data/c.json"] and "a.txt" in package and "package/a.txt" not in package
        assert package.read("a.txt") == b"first"
        assert list(package.read_all(["a.txt", "data/c.json", "b.txt", "a.txt"])) == list(FILES.items())
        with pytest.raises(DataError, match=r"holds no file z\.txt"):
            package.read("z.txt")


def test_a_scoped_package_has_its_scope_in_the_archives_name(tmp_path):
    pack(tmp_path, "some-toys-2.0.0.tgz")
    with npm_package("@some/toys@2.0.0", source=tmp_path) as package:
        assert "b.txt" in package
    with pytest.raises(DataError, match=r"no file .*some-toys-3\.0\.0\.tgz; --source takes the folder"), \
            npm_package("@some/toys@3.0.0", source=tmp_path):
        pass


def test_an_archive_cut_short_anywhere_is_an_error_of_ours_or_all_there(tmp_path):
    whole = pack(tmp_path).read_bytes()
    refused = 0
    for length in range(len(whole)):
        (tmp_path / "toys-1.0.0.tgz").write_bytes(whole[:length])
        try:
            with npm_package("toys@1.0.0", source=tmp_path) as package:
                assert dict(package.read_all(list(FILES))) == FILES
        except DataError as error:
            refused += 1
            assert "is damaged" in str(error) or "holds no file" in str(error)
    assert refused > len(whole) / 2


def test_a_file_that_is_too_large_is_not_unpacked(tmp_path, monkeypatch):
    pack(tmp_path)
    monkeypatch.setattr(npm, "_LARGEST_MEMBER", 5)
    with npm_package("toys@1.0.0", source=tmp_path) as package, pytest.raises(DataError, match=r"b\.txt is too large"):
        package.read("b.txt")


def test_without_npm_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="npm is not installed; put the package's archive in a folder"), \
            npm_package("toys@1.0.0"):
        pass


def test_names_that_look_like_paths_elsewhere_are_names_and_nothing_is_written(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    pack(inner, files={"../../../evil": b"1", "/etc/evil": b"2", "..\\evil": b"3", "x" * 300: b"4"})
    before = sorted(tmp_path.rglob("*"))
    with npm_package("toys@1.0.0", source=inner) as package:
        assert package.names() == sorted(["../../../evil", "/etc/evil", "..\\evil", "x" * 300])
        assert package.read("../../../evil") == b"1" and package.read("x" * 300) == b"4"
        assert "evil" not in package and "../b/toys-1.0.0.tgz" not in package
    assert sorted(tmp_path.rglob("*")) == before


def test_content_is_json_and_what_is_wrong_in_it_is_damage(tmp_path):
    pack(tmp_path, files={"a.json": b'{"b": [1]}', "cut.json": b"[{", "deep.json": b"[" * 100_000,
                          "latin.json": b'"\xe4"'})
    with npm_package("toys@1.0.0", source=tmp_path) as package:
        with package.content("a.json") as content:
            assert content == {"b": [1]}
        for path in ("cut.json", "deep.json", "latin.json"):
            with pytest.raises(DataError, match=rf"toys@1\.0\.0 is damaged: {path} is not what it should be \("), \
                    package.content(path):
                pass
        for wrong in (lambda found: found["c"], lambda found: found["b"][1], lambda found: found + 1,
                      lambda found: found.name):
            with pytest.raises(DataError, match=r"a\.json is not what it should be"), \
                    package.content("a.json") as content:
                wrong(content)
        with pytest.raises(DataError, match=r"holds no file z\.json"), package.content("z.json"):
            pass
        with pytest.raises(DataError, match=r"^mine$"), package.content("a.json"):
            raise DataError("mine")


def test_links_folders_and_devices_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "toys-1.0.0.tgz", "w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"package/kind{kind.decode()}")
            member.type, member.linkname = kind, "/etc/hostname"
            archive.addfile(member)
    with npm_package("toys@1.0.0", source=tmp_path) as package:
        assert package.names() == []
        with pytest.raises(DataError, match="holds no file kind2"):
            package.read("kind2")


def test_the_folder_inside_has_any_name(tmp_path):
    pack(tmp_path, top="toys-renamed/")
    with npm_package("toys@1.0.0", source=tmp_path) as package:
        assert package.read("data/c.json") == b"{}"


def test_nothing_is_asked_of_an_archive_for_no_paths(tmp_path):
    pack(tmp_path)
    with npm_package("toys@1.0.0", source=tmp_path) as package:
        assert list(package.read_all([])) == []
        with pytest.raises(DataError, match=r"toys@1\.0\.0 holds no file y"):
            list(package.read_all(["a.txt", "z", "y"]))


@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b""), gzip.compress(b"x" * 2000),
                                     lzma.compress(b"x" * 2000), b"BZh9"],
                         ids=["nothing", "no archive", "empty gzip", "gzip of no archive", "xz", "cut bzip2"])
def test_what_is_no_archive(content, tmp_path):
    (tmp_path / "toys-1.0.0.tgz").write_bytes(content)
    with pytest.raises(DataError, match=r"toys@1\.0\.0 (is damaged|holds no file)") as caught, \
            npm_package("toys@1.0.0", source=tmp_path) as package:
        package.read("a.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@given(changes=st.lists(st.tuples(st.integers(0, 6000), st.sampled_from([0, 10, 32, 45, 48, 55, 57, 61, 128, 255])),
                        min_size=1, max_size=4), mend=st.booleans())
def test_an_archive_with_wrong_bytes_is_read_or_an_error_of_ours(layout, changes, mend):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = bytearray(gzip.decompress(pack(folder, files={"é" * 120: b"1", "b" * 200: b"2"}, layout=layout)
                                        .read_bytes()))
        for place, value in changes:
            raw[place % len(raw)] = value
        for start in range(0, len(raw), 512) if mend else ():
            header = raw[start:start + 512]
            if header[257:262] == b"ustar":  # what is wrong then passes for right
                raw[start + 148:start + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
        (folder / "toys-1.0.0.tgz").write_bytes(gzip.compress(bytes(raw)))
        try:
            with npm_package("toys@1.0.0", source=folder) as package:
                assert {path for path, _ in package.read_all(package.names())} == set(package.names())
        except DataError as error:
            assert "\n" not in str(error)


def test_an_error_of_the_caller_is_the_callers(tmp_path):
    pack(tmp_path)
    with pytest.raises(OSError, match="mine"), npm_package("toys@1.0.0", source=tmp_path):
        raise OSError("mine")


@pytest.mark.skipif(os.name != "posix", reason="puts a shell script in place of npm")
@pytest.mark.parametrize(("script", "message"), [
    ("exit 1", r"npm pack toys@1\.0\.0 failed \(CalledProcessError\)"),
    ("exit 0", r"npm pack toys@1\.0\.0 gave no file"), ("echo damaged > toys-1.0.0.tgz", "is damaged"),
    ("sleep 5", r"failed \(TimeoutExpired\)"), ("", "")])
def test_npm_is_asked_for_the_package_and_may_fail(script, message, tmp_path, monkeypatch):
    command = tmp_path / "npm"
    archive = pack(tmp_path)
    command.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "pack toys@1.0.0 --ignore-scripts" ] || exit 3\n'
                       f'{"exec " if script.startswith("sleep") else ""}{script or f"cp {archive} ."}\n')
    command.chmod(0o755)
    monkeypatch.setattr(npm.shutil, "which", lambda name: str(command))
    monkeypatch.setattr(npm, "_SECONDS", 0.5 if script.startswith("sleep") else 60)
    said: list[str] = []
    if message:
        with pytest.raises(DataError, match=message), npm_package("toys@1.0.0", say=said.append):
            pass
    else:
        with npm_package("toys@1.0.0", say=said.append) as package:
            assert package.read("a.txt") == b"first"
    assert said == ["npm pack toys@1.0.0"]
