"""Items of a split told by their nearest neighbours, across views and within them."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError
from xmodal.evaluator.embedding import TwoViewModel, chosen_split, embed
from xmodal.evaluator.partners import partners_of
from xmodal.metrics import DIRECTIONS, identification, retrieval_metrics, within_metrics
from xmodal.nearest import spread_rows

#: Training pairs whose items are the gallery, at most.
MOST_KNOWN = 50_000
#: Directions, and within the views.
WAYS = (*DIRECTIONS, "V1_to_V1", "V2_to_V2")


class Classed(NamedTuple):
    """Embeddings (n, d) of the items of a view that have a class, their classes, and their view-1 items, (n,) each."""

    z: Tensor
    labels: np.ndarray
    owners: np.ndarray


def identify(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
             device: str | torch.device = "cpu", precision: str = "float32", seed: int = 0) -> dict[str, Any]:
    """Whose class is it, told by cosines alone; see :func:`xmodal.metrics.identification`.

    The gallery are training items (of ``MOST_KNOWN`` pairs at most, evenly spread), unless these lack a class of the
    split, or the training pairs are the split: then it is the split's other items, without the partners of the query
    and whatever shares them. A view-2 item has the class of its partner (the last one's in the pair table, if it has
    several); those without a partner take no part.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: with labels in the split.
        split: "test", "valid", "train" or a further test split.
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        seed: of what is drawn.

    Returns:
        ``{"V1_to_V2": {...}, "V2_to_V1": {...}, "V1_to_V1": {...}, "V2_to_V2": {...}}`` (query to gallery), each as
        :func:`xmodal.metrics.identification` has it, and with ``map``, that of queries against all items of the split
        itself, within a view without the query; ``gallery``, the name of its split;
        ``among_themselves``, whether that is the queries' own; ``n_known_pairs``, of how many pairs of it the gallery
        was made; ``n_pairs``, of how many there are.

    Raises:
        DataError: no labels, one class only.
        NumericalError: an embedding is not finite; names view and rows.
    """
    asked = chosen_split(data, split, n_test)
    check_identification(asked)
    spread = data.train
    if len(spread) > MOST_KNOWN:
        spread = spread.select(spread_rows(len(spread), MOST_KNOWN))
    trained = split != "train" and _covers(spread, asked)
    known, n_pairs = (spread, len(data.train)) if trained else (asked, len(asked))
    embedded = embed(model, asked, device=device, precision=precision)
    queries = _classed(asked, *embedded)
    gallery = _classed(known, *embed(model, known, device=device, precision=precision)) if trained else queries
    maps = _class_maps(queries)
    report: dict[str, Any] = {}
    for way in WAYS:
        one, other = queries[int(way[1]) - 1], gallery[int(way[-1]) - 1]
        owners = None if trained else (one.owners, other.owners)
        report[way] = {**identification(one.z, other.z, one.labels, other.labels, seed, owners=owners),
                       "map": maps[way]}
    return {**report, "gallery": known.name, "among_themselves": not trained, "n_known_pairs": len(known),
            "n_pairs": n_pairs}


def check_identification(split: PairSplit) -> None:
    """Raises what :func:`identify` would say of these data, before a model is run.

    Raises:
        DataError: no labels, one class only.
    """
    if split.labels is None:
        raise DataError(f"identification needs labels, and the {split.name} pairs have none; add labels, the classes "
                        "of the view-1 items, to the data")
    for view, labels in ((1, split.labels.numpy()), (2, split.labels.numpy()[_kept(split)[1]])):
        if len(np.unique(labels)) < 2:
            raise DataError(f"identification needs items of at least two classes, and those of view {view} in the "
                            f"{split.name} pairs are of one")


def classed_items(split: PairSplit, view: int) -> tuple[Tensor, np.ndarray]:
    """Rows (int64) of the items of a view that have a class, all of view 1 and those of view 2 with a partner, and
    their classes.

    Raises:
        DataError: no labels.
    """
    if split.labels is None:
        raise DataError(f"retrieval by class needs labels, and the {split.name} pairs have none; add labels, the "
                        "classes of the view-1 items, to the data")
    if view == 1:
        return torch.arange(len(split.view1)), split.labels.numpy()
    rows, partners = _kept(split)
    return torch.from_numpy(rows), split.labels.numpy()[partners]


def _kept(split: PairSplit) -> tuple[np.ndarray, np.ndarray]:
    """View-2 items with a partner, and the partners."""
    partners = partners_of(split)
    rows = np.flatnonzero(partners >= 0)
    return rows, partners[rows]


def _classed(split: PairSplit, z1: Tensor, z2: Tensor) -> tuple[Classed, Classed]:
    """What takes part of both views of a split."""
    found = []
    for view, z in ((1, z1), (2, z2)):
        rows, labels = classed_items(split, view)
        owners = np.arange(len(z1)) if view == 1 else _kept(split)[1]
        found.append(Classed(z.cpu()[rows], labels, owners))
    return found[0], found[1]


def _covers(train: PairSplit, split: PairSplit) -> bool:
    """Whether all classes of a split are among those of the training pairs, in both views."""
    if train.labels is None:
        return False
    return all(np.isin(classed_items(split, view)[1], classed_items(train, view)[1]).all() for view in (1, 2))


def _class_maps(queries: tuple[Classed, Classed]) -> dict[str, float]:
    one, two = queries
    across = retrieval_metrics(one.z, two.z, np.stack([two.owners, np.arange(len(two.z))], axis=1), (1,),
                               labels1=one.labels, labels2=two.labels)
    return {**{direction: across[direction]["map"] for direction in DIRECTIONS},
            "V1_to_V1": within_metrics(one.z, one.labels)["map"], "V2_to_V2": within_metrics(two.z, two.labels)["map"]}
