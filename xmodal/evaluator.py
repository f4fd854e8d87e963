"""Embeds a split and reports its metrics. :mod:`xmodal.metrics` computes them; this only brings things together."""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import creating_h5, replacing
from xmodal.covariance import Moments, PairCovariance
from xmodal.data import PairedData, PairSplit, pair_batches, view_batches
from xmodal.distributed import gather_rows, merge_moments, rank, size
from xmodal.errors import DataError
from xmodal.linear import LinearCCA
from xmodal.metrics import (
    DIRECTIONS,
    Judged,
    Ranks,
    best_threshold,
    bootstrap_interval,
    canonical_correlation,
    group_retrieval,
    hubness,
    judge_pairs,
    mean_squared_errors,
    retrieval_metrics,
    retrieval_ranks,
    split_ids,
    sum_correlation,
    transfer_accuracy,
    transfer_folds,
    verification,
)
from xmodal.metrics.groups import TOLERANCE, VOTES
from xmodal.metrics.hubness import CORRECTIONS
from xmodal.metrics.views import as_matrix, check_pairs, check_views
from xmodal.networks import CorrNet, evaluating

#: Items per forward pass when embedding; a matter of memory only.
EMBED_BATCH = 1000
#: Training pairs whose embeddings stand for queries to come, when hubs are corrected for.
HUB_BANK = 10_000
#: What a bootstrap interval is given for.
WITH_INTERVAL = ("r1", "r5", "r10", "r25", "median_rank", "mean_rank", "mrr")


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
    z1, z2 = (torch.cat(list(_embedded(model, split, view, device, precision))) for view in (1, 2))
    return z1, z2


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


def evaluate(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
             device: str | torch.device = "cpu", precision: str = "float32", intervals: bool = False, seed: int = 0
             ) -> dict[str, Any]:
    """All metrics of a model on a split.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: its training pairs fit the projection of the canonical correlation.
        split: "test", "valid" or "train".
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        intervals: also bootstrap 95 % intervals over queries, as ``"intervals"`` of each direction.
        seed: of the bootstrap.

    Returns:
        ``{"V1_to_V2": {...}, "V2_to_V1": {...}, "sum_correlation", "canonical_correlation", "dim", "split",
        "n_pairs"}``; see :func:`xmodal.metrics.retrieval_metrics`. Rates are percent.

    Raises:
        NumericalError: an embedding is not finite; names view and rows.
    """
    embedded = embed_split(model, data, split, n_test=n_test, device=device, precision=precision)
    return metrics_of(embedded, intervals=intervals, seed=seed)


class EmbeddedSplit(NamedTuple):
    """What an evaluation is made of: a split, its items embedded (n1, d) and (n2, d), the ranks of both directions, and
    the moments of the embedded training pairs."""

    split: PairSplit
    z1: Tensor
    z2: Tensor
    ranks: Ranks
    fit: Moments


def embed_split(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
                device: str | torch.device = "cpu", precision: str = "float32") -> EmbeddedSplit:
    """The slow half of :func:`evaluate`, whose arguments it has."""
    chosen = _chosen(data, split, n_test)
    z1, z2 = embed(model, chosen, device=device, precision=precision)
    ranks = retrieval_ranks(z1, z2, chosen.pairs, shared=True)
    return EmbeddedSplit(chosen, z1, z2, ranks, embedded_moments(model, data.train, device=device, precision=precision))


def metrics_of(embedded: EmbeddedSplit, *, intervals: bool = False, seed: int = 0) -> dict[str, Any]:
    """The other half: what :func:`evaluate` returns."""
    chosen, z1, z2, ranks, fit = embedded
    report: dict[str, Any] = retrieval_metrics(z1, z2, chosen.pairs, labels1=chosen.labels,
                                               labels2=_partner_labels(chosen), ranks=ranks)
    if intervals:
        for direction in DIRECTIONS:
            report[direction]["intervals"] = {key: bootstrap_interval(getattr(ranks, direction), key, seed=seed)[1:]
                                              for key in WITH_INTERVAL}
    return {**report,
            "sum_correlation": sum_correlation(z1, z2, chosen.pairs),
            "canonical_correlation": canonical_correlation(z1, z2, fit, chosen.pairs),
            "dim": z1.shape[1], "split": chosen.name, "n_pairs": len(chosen)}


def _chosen(data: PairedData, split: str, n_test: int | None) -> PairSplit:
    chosen = data.split(split)
    return chosen if n_test is None else chosen.take(n_test)


def restore(model: CorrNet, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What is restored of a batch of pairs: ``view1_from_view1``, ``view1_from_view2``, ``view1_from_both``, and the
    same of view 2."""
    made = {"view1": model.reconstruct(x=x), "view2": model.reconstruct(y=y), "both": model.reconstruct(x, y)}
    return {f"view{view}_from_{source}": views[view - 1].float() for view in (1, 2) for source, views in made.items()}


def restoring_errors(model: CorrNet, data: PairedData, split: str = "test", *, n_test: int | None = None,
                     device: str | torch.device = "cpu", precision: str = "float32") -> dict[str, float]:
    """Mean squared errors of what is restored, over all values of all pairs, by the names of :func:`restore`."""
    def batches() -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        for batch in pair_batches(_chosen(data, split, n_test), EMBED_BATCH, device=device):
            restored = restore(model, batch.view1, batch.view2)
            yield restored, {name: batch.view1 if name.startswith("view1") else batch.view2 for name in restored}

    with evaluating(model), tower_precision(precision, device):
        return mean_squared_errors(batches())


def _partner_labels(split: PairSplit) -> Tensor | None:
    """Labels of view-2 items: those of their partners in view 1 (the last one's, if they differ); a class of its own
    for items without a partner."""
    if split.labels is None or split.pairs is None:
        return split.labels
    labels = torch.full((len(split.view2),), int(split.labels.min()) - 1, dtype=split.labels.dtype)
    labels[split.pairs[:, 1]] = split.labels[split.pairs[:, 0]]
    return labels


def transfer(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
             device: str | torch.device = "cpu", precision: str = "float32", folds: int = 5) -> dict[str, Any]:
    """How far classes learned from one view carry over to the other; see :func:`xmodal.metrics.transfer_accuracy`.

    Rows are pairs, and the class of a row is that of its view-1 item. Folds are cut by view-1 items, so that none is
    on both sides. Where several of these share a view-2 item, ``V2_to_V2`` and ``raw_V2_to_V2`` test on items that
    were trained on; the other keys are not touched by that.

    The raw items of both views are held in memory and take most of the time: on one core, 15 s of 25 s for 10,000
    MNIST halves (10 fits of 8,000 × 392), and 50 s for each fit of 6,400 × 4,096.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: with labels in the split.
        split: "test", "valid" or "train".
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers. The SVMs run on the CPU.
        folds: how many.

    Returns:
        Accuracies in percent: ``V1_to_V2`` (trained on embeddings of view 1, tested on those of view 2),
        ``V2_to_V1``, the single-view baselines ``V1_to_V1`` and ``V2_to_V2``, and ``raw_V1_to_V1`` and
        ``raw_V2_to_V2``, the same on flattened items; ``folds``; ``unconverged``, how many of the 6 · folds fits
        stopped at the iteration limit.

    Raises:
        DataError: no labels, too few items, one class only.
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = _chosen(data, split, n_test)
    check_transfer(chosen, folds)
    z1, z2 = check_views(*embed(model, chosen, device=device, precision=precision))
    raw1, raw2 = (torch.cat([items.flatten(1) for items in view_batches(chosen, view, EMBED_BATCH)])
                  for view in (1, 2))
    rows1, rows2, labels = _transfer_rows(chosen)
    z1, z2 = z1.cpu()[rows1], z2.cpu()[rows2]
    sides = {"V1_to_V2": (z1, z2), "V2_to_V1": (z2, z1), "V1_to_V1": (z1, z1), "V2_to_V2": (z2, z2),
             "raw_V1_to_V1": (raw1[rows1],) * 2, "raw_V2_to_V2": (raw2[rows2],) * 2}
    results = {key: transfer_accuracy(*side, labels, folds, groups=rows1) for key, side in sides.items()}
    return {**{key: result.accuracy for key, result in results.items()},
            "folds": folds, "unconverged": sum(result.unconverged for result in results.values())}


def check_transfer(split: PairSplit, folds: int = 5) -> None:
    """Raises what :func:`transfer` would say of these data, before a model is run.

    Raises:
        DataError: no labels, too few items, a training part of one class.
    """
    rows1, _, labels = _transfer_rows(split)
    transfer_folds(labels, folds, groups=rows1)


def _transfer_rows(split: PairSplit) -> tuple[Tensor, Tensor, Tensor]:
    """View-1 item, view-2 item and class of each distinct pair, (m,) int64 each."""
    if split.labels is None:
        raise DataError(f"transfer between views needs labels, and the {split.name} pairs have none; "
                        "add labels, the classes of the view-1 items, to the data")
    rows1, rows2 = check_pairs(split.pairs, len(split.view1), len(split.view2)).unbind(dim=1)
    return rows1, rows2, split.labels[rows1]


def retrieve_groups(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
                    device: str | torch.device = "cpu", precision: str = "float32", votes: int = VOTES,
                    excerpt: int | None = None, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Whole groups of one view find their own in the other; see :func:`xmodal.metrics.group_retrieval`.

    Groups and places come from the ids of the view-1 items, ``PIECE@PLACE``. A view-2 item has those of its partner
    (the last one's in the pair table, if it has several). View-2 items without a partner are left out, from the
    gallery as well.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: with ids in the split.
        split: a split's name.
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        votes, excerpt, tolerance: see :func:`xmodal.metrics.group_retrieval`.

    Returns:
        ``{"V1_to_V2": {...}, "V2_to_V1": {...}, "votes", "excerpt", "tolerance"}``.

    Raises:
        DataError: ids are missing or read otherwise.
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = _chosen(data, split, n_test)
    names, places = check_groups(chosen)
    z1, z2 = check_views(*embed(model, chosen, device=device, precision=precision))
    partners = _partners(chosen)
    kept = np.flatnonzero(partners >= 0)
    named = [names[partner] for partner in partners[kept]]
    found = group_retrieval(z1, z2[torch.from_numpy(kept)], names, places, named, places[partners[kept]],
                            votes=votes, excerpt=excerpt, tolerance=tolerance)
    return {**found, "votes": votes, "excerpt": excerpt, "tolerance": tolerance}


def check_groups(split: PairSplit) -> tuple[list[str], np.ndarray]:
    """Group and place of the view-1 items; raises what :func:`retrieve_groups` would, before a model is run.

    Raises:
        DataError: ids are missing or read otherwise.
    """
    if split.ids is None:
        raise DataError(f"retrieval of groups needs ids of the view-1 items, and the {split.name} pairs have none; "
                        "ids must read PIECE@PLACE, such as bach/bwv10.7@12.500")
    return split_ids(split.ids)


def _partners(split: PairSplit) -> np.ndarray:
    """View-1 partner of each view-2 item, (n2,) int64: the last one in the table, −1 where there is none."""
    partners = np.full(len(split.view2), -1, dtype=np.int64)
    table = split.pair_table().cpu().numpy()
    partners[table[:, 1]] = table[:, 0]
    return partners


def find_hubs(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
              device: str | torch.device = "cpu", precision: str = "float32") -> dict[str, dict[str, Any]]:
    """How strong hubs are in a split, and what is found where scores are corrected; see :func:`xmodal.metrics.hubness`.

    Favours of hubs are worked out twice: from training queries (``HUB_BANK`` pairs at most, evenly spread), as one
    would in use, and from all queries of the split at once, as the papers do.

    Returns:
        ``{"V1_to_V2": {"plain": {...}, "csls_train": {...}, "csls": {...}, "inverted_softmax_train": {...},
        "inverted_softmax": {...}}, "V2_to_V1": {...}}``.

    Raises:
        NumericalError: an embedding is not finite; names view and rows.
    """
    chosen = _chosen(data, split, n_test)
    z1, z2 = embed(model, chosen, device=device, precision=precision)
    spread = torch.linspace(0, len(data.train) - 1, min(HUB_BANK, len(data.train))).long()
    banks = embed(model, data.train.select(spread), device=device, precision=precision)
    trained, together = hubness(z1, z2, chosen.pairs, *banks), hubness(z1, z2, chosen.pairs)
    found = {}
    for direction in DIRECTIONS:
        ways = {"plain": together[direction]["plain"]}
        for how in CORRECTIONS:
            ways |= {f"{how}_train": trained[direction][how], how: together[direction][how]}
        found[direction] = ways
    return found


class Verified(NamedTuple):
    """What :func:`verify` found: ``report`` for people and files, ``judged`` pairs of the split for curves."""

    report: dict[str, Any]
    judged: Judged


def verify(model: TwoViewModel, data: PairedData, split: str = "test", *, n_test: int | None = None,
           device: str | torch.device = "cpu", precision: str = "float32", seed: int = 0) -> Verified:
    """Are these two items the same? Matching pairs of a split against others, by cosines.

    Others are drawn at random (20 for each matching pair, a million at most), or hard: for each view-1 item the nearest
    one that doesn't match. The thresholds come from the validation pairs, for either kind of others.

    Args:
        model: anything with ``embed_view1`` and ``embed_view2``.
        data: its validation pairs give the thresholds.
        split: "test", "valid", "train" or a further test split.
        n_test: only the first so many pairs.
        device, precision: where and how to run the towers.
        seed: of the random pairs.

    Returns:
        A report ``{"random": {...}, "hard": {...}}``, each as :func:`xmodal.metrics.verification` has it, and the
        cosines.

    Raises:
        NumericalError: an embedding is not finite; names view and rows.
    """
    def judged(chosen: PairSplit) -> Judged:
        z1, z2 = embed(model, chosen, device=device, precision=precision)
        return judge_pairs(z1, z2, chosen.pairs, seed)

    valid, found = judged(data.valid), judged(_chosen(data, split, n_test))
    report = {kind: verification(found.matching, getattr(found, kind),
                                 best_threshold(valid.matching, getattr(valid, kind)))
              for kind in ("random", "hard") if len(getattr(found, kind)) and len(getattr(valid, kind))}
    return Verified(report, found)


def linear_cca_baseline(data: PairedData, dim: int) -> LinearCCA:
    """Linear CCA of the raw views, fitted on the training pairs: what a deep model has to beat."""
    width = min(dim, *(torch.Size(shape).numel() for shape in (data.view1_shape, data.view2_shape)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of columns that a ridge is there for; who trains it is told
        return LinearCCA(width).fit_split(data.train)
