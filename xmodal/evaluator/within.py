"""Retrieval within one view of a split: by the model's embedding, by reductions of the raw items, by binary codes."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xmodal.data import PairedData, PairSplit, view_batches
from xmodal.errors import DataError
from xmodal.evaluator.embedding import EMBED_BATCH, TwoViewModel, chosen_split, embed_view
from xmodal.evaluator.identification import classed_items
from xmodal.metrics import fit_reductions, within_codes, within_metrics
from xmodal.metrics.views import make_view
from xmodal.nearest import spread_rows

#: Training pairs whose items codes are fitted to, at most.
CODE_BANK = 20_000
#: From unit embeddings (n, d) of training items and of the items of the split to packed codes (m, bytes) of the latter.
Coder = Callable[[Tensor, Tensor], Tensor]


def retrieve_within(model: TwoViewModel, data: PairedData, view: int, split: str = "test", *,
                    n_test: int | None = None, device: str | torch.device = "cpu", precision: str = "float32",
                    coders: Mapping[str, tuple[int, Coder]] | None = None) -> dict[str, Any]:
    """Every item of a view asks for the others of its class; see :func:`xmodal.metrics.within_metrics`.

    By cosines of the model's embedding, and of what it has to beat: the raw items, and their PCA and LSA (a truncated
    SVD, not centred) to as many dimensions, fitted on all training items. PCA scores are centred by the mean of the
    training items. The raw items of the view are held in memory, and covariances of their width.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: with labels in the split.
        view: 1 or 2. View-2 items have the class of their partner; those without a partner take no part.
        split: "test", "valid", "train" or a further test split.
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        coders: by name, how many bits, and what makes codes of so many of the embedding, to be compared by Hamming
            distance. They are fitted to training items (of ``CODE_BANK`` pairs at most, evenly spread).

    Returns:
        ``{"model": {...}, "pca": {...}, "lsa": {...}, "raw": {...}}`` and an entry for each coder, each as
        :func:`xmodal.metrics.within_metrics` has it, and ``size``: dimensions, or bits.

    Raises:
        DataError: no labels, or a single item.
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = chosen_split(data, split, n_test)
    check_within(chosen, view)
    rows, labels = classed_items(chosen, view)
    z = make_view(embed_view(model, chosen, view, device=device, precision=precision), f"view {view}").raw.cpu()[rows]
    raw = torch.cat([items.flatten(1) for items in view_batches(chosen, view, EMBED_BATCH)])[rows]
    reduced = fit_reductions((items.flatten(1) for items in view_batches(data.train, view, EMBED_BATCH)), z.shape[1])
    items = {"model": z, "pca": reduced.by_pca(raw), "lsa": reduced.by_lsa(raw), "raw": raw}
    found = {name: {**within_metrics(values, labels), "size": values.shape[1]} for name, values in items.items()}
    if coders:
        some = data.train.select(spread_rows(len(data.train), CODE_BANK))
        bank = embed_view(model, some, view, device=device, precision=precision)
        units = [make_view(values, f"view {view}").unit.cpu() for values in (bank, z)]
        for name, (bits, coder) in coders.items():
            found[name] = {**within_codes(coder(*units), labels), "size": bits}
    return found


def check_within(split: PairSplit, view: int) -> None:
    """Raises what :func:`retrieve_within` would say of these data, before a model is run.

    Raises:
        DataError: no such view, no labels, no two items of a class.
    """
    if view not in (1, 2):
        raise DataError(f"view must be 1 or 2, got {view}")
    _, labels = classed_items(split, view)
    if len(set(labels.tolist())) == len(labels):
        raise DataError(f"retrieval within a view needs two items of a class, and in view {view} of the {split.name} "
                        "pairs each is the only one of its class")
