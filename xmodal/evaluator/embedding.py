"""Embeds a split: into memory, into a file, or into its means and covariances."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import creating_h5, replacing
from xmodal.covariance import Moments, PairCovariance
from xmodal.data import PairedData, PairSplit, pair_batches, view_batches
from xmodal.distributed import gather_rows, merge_moments, rank, size
from xmodal.errors import DataError
from xmodal.metrics.views import as_matrix
from xmodal.networks import evaluating

#: Items per forward pass when embedding; a matter of memory only.
EMBED_BATCH = 1000


class TwoViewModel(Protocol):
    """What the evaluator needs of a model: either view on its own."""

    def embed_view1(self, x: Tensor) -> Tensor: ...

    def embed_view2(self, y: Tensor) -> Tensor: ...


def tower_precision(precision: str, device: str | torch.device) -> AbstractContextManager[None]:
    """bfloat16 autocast for ``"bf16"``, nothing for ``"float32"``. Heads leave it by themselves."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


def embed(model: TwoViewModel, split: PairSplit, *, device: str | torch.device = "cpu", precision: str = "float32"
          ) -> tuple[Tensor, Tensor]:
    """The items of both views, each embedded once and without the other view: (n1, d) and (n2, d) on ``device``.

    Several processes each embed a part, and all get the whole.
    """
    z1, z2 = (embed_view(model, split, view, device=device, precision=precision) for view in (1, 2))
    return z1, z2


def embed_view(model: TwoViewModel, split: PairSplit, view: int, *, device: str | torch.device = "cpu",
               precision: str = "float32") -> Tensor:
    """The items of one view, likewise: (n, d)."""
    return torch.cat(list(_embedded(model, split, view, device, precision)))


def _embedded(model: TwoViewModel, split: PairSplit, view: int, device: str | torch.device, precision: str
              ) -> Iterator[Tensor]:
    """The items of one view, embedded batch by batch."""
    project = model.embed_view1 if view == 1 else model.embed_view2
    with evaluating(model), tower_precision(precision, device):
        for items in view_batches(split, view, EMBED_BATCH, device, part=(rank(), size())):
            yield gather_rows(project(items))[0]


def write_embeddings(model: TwoViewModel, data: PairedData, split: str, path: Path, *,
                     device: str | torch.device = "cpu", precision: str = "float32") -> None:
    """Writes a split's embeddings to an HDF5 file, block by block: they are never in memory as a whole.

    ``view1`` (n1, d) and ``view2`` (n2, d) float32, and what the split has of ``pairs``, ``labels``, ``ids``,
    ``caption1`` and ``caption2``; attributes ``data``, ``split`` and ``fingerprint``. Of several processes the first
    one writes.

    Raises:
        NumericalError: an embedding is not finite; names view and rows. There is no file then.
        OSError: the disk is full or the folder can't be written to; ``path`` is then what it was.
    """
    chosen = data.split(split)
    with ExitStack() as files:
        file = None
        if rank() == 0:
            file = files.enter_context(creating_h5(files.enter_context(replacing(path))))
            file.attrs.update({"data": data.name, "split": split, "fingerprint": data.fingerprint})
        for view, count in ((1, len(chosen.view1)), (2, len(chosen.view2))):
            done = 0
            for z in _embedded(model, chosen, view, device, precision):
                as_matrix(z, f"view {view}", first_row=done)
                if file is not None:
                    rows = file.require_dataset(f"view{view}", (count, z.shape[1]), np.float32)
                    rows[done:done + len(z)] = z.float().cpu().numpy()
                done += len(z)
        if file is not None:
            for key in ("pairs", "labels"):
                if (table := getattr(chosen, key)) is not None:
                    file[key] = table.numpy()
            for key in ("ids", "caption1", "caption2"):
                if (texts := getattr(chosen, key)) is not None:
                    file.create_dataset(key, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())


def embedded_moments(model: TwoViewModel, split: PairSplit, *, device: str | torch.device = "cpu",
                     precision: str = "float32") -> Moments:
    """Means and covariances of a split's embedded pairs, batch by batch, so that the split may be of any size."""
    def embedded() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in pair_batches(split, EMBED_BATCH, device=device, part=(rank(), size())):
            yield model.embed_view1(batch.view1), model.embed_view2(batch.view2)

    with evaluating(model), tower_precision(precision, device):
        covariance = merge_moments(PairCovariance.of(embedded()))
    if covariance.count < 2:
        raise DataError(f"covariances need at least two pairs, the {split.name} split has {covariance.count}")
    return covariance.moments()


def chosen_split(data: PairedData, split: str, n_test: int | None) -> PairSplit:
    """A split by its name, or its first ``n_test`` pairs."""
    chosen = data.split(split)
    return chosen if n_test is None else chosen.take(n_test)
