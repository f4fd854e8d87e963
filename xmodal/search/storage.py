"""The files of a gallery: vectors that can be memory-mapped, and a description that names the other files."""
from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import replacing
from xmodal.errors import CheckpointError, DataError, one_line
from xmodal.metrics.hubness import CORRECTIONS
from xmodal.search.indexes import KINDS

FORMAT = 1
DESCRIPTION = "gallery.json"
#: A .npy header of version 1.0: magic, version and length in 10 bytes, then text up to byte 128.
_HEADER = 128


def write_array(path: Path, blocks: Iterable[Tensor]) -> None:
    """Blocks of rows float32 one after the other as a .npy file of version 1.0, whose header is written last."""
    with replacing(path) as beside, beside.open("wb") as file:
        count, width = 0, 0
        file.write(bytes(_HEADER))
        for block in blocks:
            count, width = count + len(block), block.shape[1]
            file.write(np.ascontiguousarray(block.cpu().numpy(), dtype="<f4").data)
        if not count:
            raise DataError("no embeddings: there is nothing to search in")
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {width}), }}"
        file.seek(0)
        file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + f"{header:<117}\n".encode())


def map_array(path: Path) -> Tensor:
    """The (n, d) float32 array of a .npy file, memory-mapped; what is written to it stays in memory.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({one_line(error)}): build the gallery again") from error
    if array.ndim != 2 or array.dtype != np.float32 or 0 in array.shape:
        raise CheckpointError(f"{path} holds {array.dtype} of shape {array.shape}, no vectors: build the gallery again")
    return torch.from_numpy(array)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({one_line(error)}): build the gallery again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: build the gallery again")
    return content


def read_description(folder: Path) -> dict[str, Any]:
    """``gallery.json``, checked."""
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(f"there is no gallery in {folder}: build one first (run_search.py --build)")
    said = read_json(folder / DESCRIPTION)
    if said.get("format") != FORMAT:
        raise CheckpointError(f"{folder / DESCRIPTION} has format {said.get('format')!r}, this version reads {FORMAT}")
    files, kind = said.get("files"), said.get("kind")
    good = (isinstance(files, dict) and "vectors" in files and kind in KINDS and (kind == "exact") != ("index" in files)
            and all(isinstance(name, str) and Path(name).name == name for name in files.values())
            and all(type(said.get(key)) is int for key in ("items", "dim", *(("effort", "shortlist") if "index" in files
                                                                            else ())))
            and isinstance(said.get("recall_at_10"), int | float) and isinstance(said.get("about"), dict)
            and said.get("correction") in (None, *CORRECTIONS) and ("bank" in files) == bool(said.get("correction")))
    if not good:
        raise CheckpointError(f"{folder / DESCRIPTION} is damaged: build the gallery again")
    return said
