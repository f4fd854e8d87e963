"""Downloads that resume, and checksums."""
from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.errors import DataError, one_line

Say = Callable[[str], None]
RETRY_SECONDS = 1.0
_CHUNK = 1 << 18
_TOLD_BYTES = 50_000_000


class _InterruptedError(Exception):
    """A transfer that broke off and is worth another try."""


@dataclass(frozen=True)
class _Target:
    """Where a download goes while it isn't complete: the bytes, and what the server called them."""

    url: str
    part: Path

    @property
    def note(self) -> Path:
        return self.part.with_name(self.part.name + ".json")

    def resumable(self) -> tuple[int, str]:
        """How many bytes of this very url are here, and the server's mark for the version they are of."""
        try:
            note = json.loads(self.note.read_text())
            size = self.part.stat().st_size
        except (OSError, ValueError, RecursionError):
            return 0, ""
        if not isinstance(note, dict) or note.get("url") != self.url or not note.get("mark"):
            return 0, ""
        return size, str(note["mark"])

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, path: Path, *, say: Say = print, timeout: float = 30.0, attempts: int = 4) -> Path:
    """Download ``url`` to ``path``; ``path`` appears only when every byte that the server announced has come.

    A transfer that breaks off leaves ``<path>.part`` and is resumed by HTTP Range, at once and in later calls, as long
    as the server has the same version (ETag or Last-Modified); otherwise it starts again.

    Raises:
        DataError: no such page, no connection, or broken off again and again; says what to do.
        OSError: the disk is full or the folder can't be written to; the part is removed.
    """
    if not _is_web_address(url):
        raise DataError(f"can't download {url}: expected http:// or https:// (for a local file give --source PATH)")
    path.parent.mkdir(parents=True, exist_ok=True)
    target = _Target(url, path.with_name(path.name + ".part"))
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(RETRY_SECONDS * attempt)
        try:
            _transfer(target, say, timeout)
        except _InterruptedError as error:
            reason = str(error)
            continue
        target.note.unlink(missing_ok=True)
        target.part.replace(path)
        return path
    kept, _ = target.resumable()
    if not kept:
        target.discard()
    advice = f"{kept:,} bytes are kept, run the command again to resume" if kept else "check the connection"
    raise DataError(f"can't download {url}: {reason}; {advice}")


def _is_web_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 80) > 0
    except ValueError:  # of a host or a port that is none
        return False


def _transfer(target: _Target, say: Say, timeout: float) -> None:
    """One request; appends to what is there if the server agrees, and checks that the length is what it announced."""
    have, mark = target.resumable()
    request = urllib.request.Request(target.url, headers={"Accept-Encoding": "identity", "User-Agent": "xmodal"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing left to send, or the file is another: start again
            target.discard()
            raise _InterruptedError("the server has no such range") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _InterruptedError(f"the server says {error.code} {error.reason}") from error
        raise DataError(f"can't download {target.url}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(_reason(error)) from error
    with response:
        have = _agreed_start(response, have)
        total = _announced(response, have)
        said = f" ({total / 1e6:,.1f} MB)" if total else ""
        say(f"downloading {target.url}{said}" + (f", resumed at {have / 1e6:,.1f} MB" if have else ""))
        _save(response, target, have, total, say)


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)  # URLError wraps what happened
    return one_line(inner if isinstance(inner, BaseException) else error)


def _agreed_start(response: Any, have: int) -> int:
    """Where the body that is coming begins: ``have`` if the server resumes there, 0 if it sends all."""
    if response.status != 206:
        return 0
    match = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not match or int(match.group(1)) != have:
        raise DataError(f"can't download {response.url}: the server answers with a range that was not asked for")
    return have


def _announced(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _save(response: Any, target: _Target, start: int, total: int | None, say: Say) -> None:
    strong_tag = response.headers.get("ETag", "")
    mark = strong_tag if strong_tag and not strong_tag.startswith("W/") else response.headers.get("Last-Modified", "")
    done, told = start, start
    try:
        target.note.write_text(json.dumps({"url": target.url, "mark": mark}))
        with target.part.open("ab" if start else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                if total and done - told >= _TOLD_BYTES:
                    told = done
                    say(f"  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
    except OSError:  # of the disk; those of the network are _InterruptedError
        target.discard()
        raise
    if total is not None and done < total:
        raise _InterruptedError(f"broke off after {done:,} of {total:,} bytes")


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(f"broke off ({one_line(error)})") from error
