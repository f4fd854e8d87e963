"""Packages of the npm registry, from archives that lie in a folder."""
from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from xmodal.data import npm
from xmodal.data.npm import npm_package
from xmodal.errors import DataError

FILES = {"b.txt": b"second", "a.txt": b"first", "data/c.json": b"{}"}


def pack(folder: Path, name: str = "toys-1.0.0.tgz") -> Path:
    with tarfile.open(folder / name, "w:gz") as archive:
        for path, content in FILES.items():
            member = tarfile.TarInfo(f"package/{path}")
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
