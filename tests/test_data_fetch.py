"""Downloads against a server on loopback that breaks off, forgets ranges, moves files and vanishes."""
from __future__ import annotations

import errno
import hashlib
import socket
from pathlib import Path

import pytest
from loopback import Site, serving

from xmodal.data import fetch
from xmodal.data.fetch import download, sha256_of
from xmodal.errors import DataError

BODY = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def direct_and_quick(monkeypatch):
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def lines() -> tuple[list[str], object]:
    said: list[str] = []
    return said, said.append


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_and_its_checksum(tmp_path):
    said, say = lines()
    with serving(Site({"a.bin": BODY})) as site:
        path = download(f"{site.url}/a.bin", tmp_path / "sub" / "a.bin", say=say)
    assert path.read_bytes() == BODY and names(tmp_path / "sub") == ["a.bin"]
    assert sha256_of(path) == hashlib.sha256(BODY).hexdigest()
    assert said == [f"downloading {site.url}/a.bin (0.0 MB)"]


def test_an_interrupted_transfer_is_resumed(tmp_path):
    said, say = lines()
    with serving(Site({"a.bin": BODY}, cut_after=[1000, 2000])) as site:
        path = download(f"{site.url}/a.bin", tmp_path / "a.bin", say=say)
    assert path.read_bytes() == BODY and names(tmp_path) == ["a.bin"]
    assert [wanted for _, wanted in site.requests] == [None, "bytes=1000-", "bytes=3000-"]
    assert "resumed at 0.0 MB" in said[1]


def test_a_later_call_resumes_too(tmp_path):
    with serving(Site({"a.bin": BODY}, cut_after=[1000])) as site:
        with pytest.raises(DataError, match=r"broke off after 1,000 of 10,240 bytes; 1,000 bytes are kept, run the "
                                            r"command again to resume"):
            download(f"{site.url}/a.bin", tmp_path / "a.bin", attempts=1)
        assert names(tmp_path) == ["a.bin.part", "a.bin.part.json"]
        assert download(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    assert site.requests[-1][1] == "bytes=1000-" and names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("site", [Site({"a.bin": BODY}, cut_after=[1000], ranges=False),
                                  Site({"a.bin": BODY}, cut_after=[1000], etag=None)], ids=["ignored", "no ETag"])
def test_a_server_without_ranges_sends_it_all_again(site, tmp_path):
    with serving(site):
        assert download(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    assert len(site.requests) == 2 and names(tmp_path) == ["a.bin"]


def test_another_version_is_never_glued_to_the_first(tmp_path):
    with serving(Site({"a.bin": BODY}, cut_after=[1000])) as site:
        with pytest.raises(DataError):
            download(f"{site.url}/a.bin", tmp_path / "a.bin", attempts=1)
        site.files["a.bin"], site.etag = BODY[::-1], '"v2"'
        assert download(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_a_part_of_another_address_is_not_used(tmp_path):
    with serving(Site({"a.bin": BODY, "b.bin": BODY[::-1]}, cut_after=[1000])) as site:
        with pytest.raises(DataError):
            download(f"{site.url}/a.bin", tmp_path / "x.bin", attempts=1)
        assert download(f"{site.url}/b.bin", tmp_path / "x.bin").read_bytes() == BODY[::-1]
    assert site.requests[-1][1] is None


def test_a_part_that_is_already_whole_or_too_long_starts_again(tmp_path):
    with serving(Site({"a.bin": BODY}, cut_after=[1000])) as site:
        with pytest.raises(DataError):
            download(f"{site.url}/a.bin", tmp_path / "a.bin", attempts=1)
        (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
        assert download(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("note", ["", "[]", "{", '{"url": 3}'])
def test_a_damaged_note_starts_again(note, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"rubbish")
    (tmp_path / "a.bin.part.json").write_text(note)
    with serving(Site({"a.bin": BODY})) as site:
        assert download(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY


def test_a_wrong_range_is_refused(tmp_path):
    with serving(Site({"a.bin": BODY}, cut_after=[1000], wrong_range=True)) as site, \
            pytest.raises(DataError, match="a range that was not asked for"):
        download(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_not_found_is_said_once_and_leaves_nothing(tmp_path):
    with serving(Site()) as site, pytest.raises(DataError, match=r"a.bin: the server says 404 Not Found$"):
        download(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert len(site.requests) == 1 and names(tmp_path) == []


def test_a_busy_server_is_asked_again(tmp_path):
    with serving(Site({"a.bin": BODY}, status=[503, 429])) as site:
        assert download(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    with serving(Site({"a.bin": BODY}, status=[500] * 9)) as site, \
            pytest.raises(DataError, match="the server says 500 Internal Server Error; check the connection"):
        download(f"{site.url}/a.bin", tmp_path / "b.bin")
    assert len(site.requests) == 4 and names(tmp_path) == ["a.bin"]


def test_a_refused_connection(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=r"can't download .*refused.*; check the connection") as error:
        download(f"http://127.0.0.1:{port}/a.bin", tmp_path / "a.bin")
    assert "\n" not in str(error.value) and names(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a", "a.bin", ""])
def test_only_http_is_downloaded(url, tmp_path):
    with pytest.raises(DataError, match="expected http:// or https://"):
        download(url, tmp_path / "a.bin")


@pytest.mark.parametrize("url", ["http://", "http://[", "http://127.0.0.1:99999/a", "http://127.0.0.1:x/a"])
def test_addresses_that_are_none(url, tmp_path):
    with pytest.raises(DataError, match="can't download"):
        download(url, tmp_path / "a.bin", attempts=1)
    assert names(tmp_path) == []


def test_a_full_disk_gives_the_space_back(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how, **more: Full() if path.name.endswith(".part")
                        else original(path, *how, **more))
    with serving(Site({"a.bin": BODY})) as site, pytest.raises(OSError, match="No space left"):
        download(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert names(tmp_path) == []
