"""Whether what an HDF5 file declares is in the file itself: nothing is read that it merely points to."""
from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

from xmodal.errors import DataError

#: No filter of HDF5 makes values smaller than by this factor (gzip: 1,032), and no data set is refused below so many
#: bytes.
_MOST_TIMES = 4096
_SMALL = 1 << 24
_PLAIN = (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
#: How a heap of texts begins: signature and version. Then 8 bytes of size, and objects.
_HEAP = b"GCOL\1\0\0\0"


def check_links(file: h5py.File, path: Path) -> None:
    """Refuse links to other files: what is read through them is not what the file's owner gave away.

    Nothing is followed meanwhile: a link may lead to a pipe, which never ends.

    Raises:
        DataError: names the first one.
    """
    def outside(name: str, link: Any) -> str | None:
        return f"{name}, a link to {link.filename}" if isinstance(link, h5py.ExternalLink) else None

    found = file.visititems_links(outside)
    if found is not None:
        raise DataError(f"{path} points to another file, which is not read: {found}; copy the values into it")


def check_attribute(place: h5py.File | h5py.Dataset, key: str, path: Path) -> None:
    """Refuse an attribute that is neither numbers nor text, before it is read: a damaged one of lists crashes HDF5.

    Raises:
        DataError: it is something else.
    """
    if place.attrs.get_id(key).get_type().get_class() not in _PLAIN:
        raise DataError(f"{path}: attribute {key} has a value of the wrong kind: expected numbers or text")


def check_stored(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse values that lie in other files, and more of them than the file can hold.

    A few bytes can declare terabytes, which would be read for hours before memory ends.

    Raises:
        DataError: names the dataset.
    """
    name = str(dataset.name).strip("/")
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{path}: the values of {name} lie in another file, which is not read; copy them into it")
    size, declared = path.stat().st_size, (dataset.size or 0) * dataset.dtype.itemsize
    if declared > max(_SMALL, _MOST_TIMES * size):
        raise DataError(f"{path}: {name} declares {declared:,} bytes of values, which {size:,} bytes can't hold: it is "
                        "damaged or was never filled")


def check_heaps(file: h5py.File, path: Path, views: Iterable[h5py.Dataset]) -> None:
    """Refuse heaps of texts that HDF5 would never finish reading: an object without a number and a size, as in a
    stretch of zeros, makes it (2.0) turn in circles. The values of ``views`` are not looked through.

    Raises:
        DataError: a heap is damaged.
    """
    if file.id.get_create_plist().get_sizes()[1] != 8:  # not written by h5py, and never seen
        return
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, stop in _between(sorted(_extents(views)), len(content)):
            at = content.find(_HEAP, start, stop)
            while at >= 0:
                if not _ends(content, at):
                    raise DataError(f"{path} can't be read as HDF5, its texts are damaged; prepare it again")
                at = content.find(_HEAP, at + len(_HEAP), stop)


def _ends(content: mmap.mmap, heap: int) -> bool:
    """Whether the objects of a heap lead to its end: each has a number, or number 0 and the size of what is free."""
    at, left = heap + 16, len(content) - heap
    size = int(struct.unpack_from("<Q", content, heap + 8)[0]) if left >= 16 else 0
    if not 16 <= size <= left:
        return False
    end = heap + size
    while at + 16 <= end:
        number, length = struct.unpack_from("<HxxxxxxQ", content, at)
        whole = 16 + (length + 7) // 8 * 8 if number else length
        if not 16 <= whole <= end - at:
            return False
        at += whole
    return True


def _extents(views: Iterable[h5py.Dataset]) -> Iterator[tuple[int, int]]:
    """Where values lie in the file, (start, stop) each."""
    for view in views:
        if view.chunks is not None:
            found: list[tuple[int, int]] = []
            view.id.chunk_iter(lambda chunk, found=found: found.append(
                (chunk.byte_offset, chunk.byte_offset + chunk.size)))
            yield from found
        elif (offset := view.id.get_offset()) is not None:
            yield offset, offset + view.id.get_storage_size()


def _between(extents: Iterable[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """What of a file lies before, between and behind the extents, which are in order."""
    at = 0
    for start, stop in extents:
        if start > at:
            yield at, min(start, end)
        at = max(at, stop)
    if at < end:
        yield at, end
