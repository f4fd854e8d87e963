"""Writing files so that a kill, a full disk or an error leaves the old file or the new one, never half of one; and
keeping others from writing there meanwhile."""
from __future__ import annotations

import errno
import glob
import io
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import h5py

#: A temporary file that nobody has written to for so long was left by a process that was killed.
LEFTOVER_SECONDS = 3600


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it is flushed to disk and renamed over ``path``.

    The folder is made if it isn't there. If the body or the flush raises, the new file is removed and ``path`` is
    what it was. What processes that were killed had written beside it an hour ago or earlier is removed.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
    """
    if "\0" in str(path):  # of which Python makes a ValueError
        raise OSError(errno.EINVAL, "a name can't hold a NUL character", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):  # another process may be removing it, too
            if leftover.stat().st_mtime < time.time() - LEFTOVER_SECONDS:
                leftover.unlink()
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        _flush(beside)
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(beside), beside):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the user knows
        raise
    if os.name == "posix":  # the rename itself reaches the disk with the folder; Windows can't open folders
        _flush(path.parent)


@contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Yield whether this process is the only one inside this block with the same ``path``, on this machine at least.

    The system gives the lock back when the process ends, however it ends; the file stays, empty. On file systems that
    have no locks every process is told yes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield _lock(file)


def _lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def creating_h5(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file whose failures to write are plain :class:`OSError`.

    When the disk is full HDF5 fails again while it closes the file, up to a crash of the process. So HDF5 writes
    through a file object that never fails: it drops everything from the first error on, which is raised in the end.
    """
    with _NeverFailing(path) as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        except (OSError, RuntimeError):
            if raw.error is None:
                raise
        if raw.error is not None:
            raise OSError(raw.error.errno, raw.error.strerror, str(path))


class _NeverFailing(io.RawIOBase):
    """A file opened for HDF5 to write and read back; remembers the first error and writes nothing after it."""

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._file = path.open("w+b", buffering=0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Always fills the buffer, with zeros where nothing was written: HDF5 takes a short read for a full one, and
        crashes at times on what happened to be in memory."""
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while self.error is None and len(left):
            try:
                left = left[self._file.write(left):]  # a raw write may take only a part
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def close(self) -> None:
        self._file.close()
        super().close()
