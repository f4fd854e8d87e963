"""Cutting one table of pairs into train, valid and test so that no item is on two sides."""
from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from xmodal.data.pairs import PairedData, PairSplit, View
from xmodal.errors import DataError

SPLIT_SEED = 23
#: Items that more rows of a view are equal to don't stay on one side.
MOST_REPEATS = 20
ROWS_AT_ONCE = 1 << 12


def split_table(table: PairSplit, name: str, seed: int = SPLIT_SEED) -> PairedData:
    """Split pairs 80/10/10, the same way for the same ``seed``.

    With a pair table, whole groups of pairs that share items (the connected components of the table) go to one side,
    so that no item of either view is in two splits; the sizes are then as near as whole groups allow, and items
    without a partner are dropped.

    Equal rows of a view are one item, such as a picture that stands beside each of its five captions, and stay together
    likewise. Items of more than ``MOST_REPEATS`` rows (of more than a twentieth of a small view) do not: these are
    names of classes or blanks, and whole classes would be missing from training. Nor do those of a view that so links
    nearly everything with everything that less than half its share is left for a side. The note says how many were
    kept together, and how many are on several sides.

    Raises:
        DataError: fewer than 10 pairs, or too few groups to fill three splits.
    """
    if table.n_pairs < 10:
        raise DataError(f"{name}: {table.n_pairs} pairs are too few to split 80/10/10; give at least 10, or arrays "
                        "train_view1, train_view2, valid_view1, ...")
    parts, remark = _split(table, seed, name)
    if table.pairs is not None:
        dropped = sum(count - len(torch.unique(table.pairs[:, column]))
                      for column, count in ((0, len(table.view1)), (1, len(table.view2))))
        remark += f"; {dropped:,} items without a partner dropped" if dropped else ""
    train, valid, test = (table.select(torch.from_numpy(np.sort(rows)), split)
                          for rows, split in zip(parts, ("train", "valid", "test"), strict=True))
    return PairedData(name, train, valid, test, split_seed=seed, note=f"split 80/10/10 with seed {seed}{remark}")


def split_groups(keys: Sequence[Iterable[Hashable]], shares: tuple[float, float] = (0.1, 0.1),
                 seed: int = SPLIT_SEED) -> np.ndarray:
    """Cuts items so that those that have a key in common, or are linked by others that do, stay together.

    Args:
        keys: of each of the n items, such as its title and what its picture looks like; anything hashable.
        shares: of the items that are to validate and to test.
        seed: of the order in which groups are dealt out.

    Returns:
        (n,) int64: 0 for train, 1 for valid, 2 for test. The shares are met as nearly as whole groups allow; where
        all groups are larger than a share, it gets the smallest.
    """
    number = {key: i for i, key in enumerate(dict.fromkeys(key for one in keys for key in one))}
    items = np.repeat(np.arange(len(keys)), [len(list(one)) for one in keys])
    named = np.array([number[key] for one in keys for key in one], dtype=np.int64) + len(keys)
    total = len(keys) + len(number)
    graph = coo_array((np.ones(len(items), dtype=np.int8), (items, named)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    _, group, sizes = np.unique(component[:len(keys)], return_inverse=True, return_counts=True)
    n_valid, n_test = (max(1, round(share * len(keys))) for share in shares)
    side = _sides(sizes, (n_valid, n_test), np.random.RandomState(seed))
    for where in (1, 2):
        train = np.flatnonzero(side == 0)
        if not (side == where).any() and len(train) > 1:
            side[train[sizes[train].argmin()]] = where
    dealt: np.ndarray = side[group]
    return dealt


def _sides(sizes: np.ndarray, targets: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """0 (train), 1 (valid) or 2 (test) for each group; valid and test are filled in random order, up to ``targets``."""
    side = np.zeros(len(sizes), dtype=np.int64)
    filled = [0, 0, 0]
    for one in rng.permutation(len(sizes)):
        for where, target in ((1, targets[0]), (2, targets[1])):
            if filled[where] + sizes[one] <= target:
                side[one] = where
                filled[where] += int(sizes[one])
                break
    return side


def _split_linked(links: np.ndarray, seed: int, name: str) -> list[np.ndarray]:
    """Rows of a pair table (m, 2) for train, valid, test; each group of pairs that share items stays whole."""
    parts, n_groups = _dealt(links, seed)
    if not all(len(part) for part in parts):
        raise DataError(f"{name}: its {len(links):,} pairs form only {n_groups} groups that share no item, too few "
                        "to split without an item on two sides; give arrays train_view1, train_view2, ...")
    return parts


def _dealt(links: np.ndarray, seed: int) -> tuple[list[np.ndarray], int]:
    """Rows of (m, 2) numbers of items for train, valid, test, which may be empty, and the number of groups."""
    left, right = links[:, 0], links[:, 1] + links[:, 0].max() + 1
    total = int(right.max()) + 1
    graph = coo_array((np.ones(len(links), dtype=np.int8), (left, right)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    _, group, sizes = np.unique(component[left], return_inverse=True, return_counts=True)
    target = max(len(links) // 10, int(sizes.min()))
    side = _sides(sizes, (target, target), np.random.RandomState(seed))
    return [np.flatnonzero(side[group] == where) for where in range(3)], len(sizes)


def _split(table: PairSplit, seed: int, name: str) -> tuple[list[np.ndarray], str]:
    """Rows of the pair table for train, valid, test, equal items kept together where that can be, and what is to be
    said of these."""
    n, pairs = table.n_pairs, table.pair_table().numpy()
    parts = _shuffled(n, seed) if table.pairs is None else _split_linked(pairs, seed, name)
    enough = min(n // 10, len(parts[1]), len(parts[2]))
    items = [_numbered(view) for view in (table.view1, table.view2)]
    times = [np.bincount(item)[item] for item in items]
    linking = [(count > 1) & (count <= min(MOST_REPEATS, max(2, len(count) // 20))) for count in times]
    more, less = sorted((0, 1), key=lambda view: -int(linking[view].sum()))
    kept = [np.zeros_like(linking[view]) for view in (0, 1)]
    for views in ((0, 1), (more,), (less,)):
        those = [linking[view] & (view in views) for view in (0, 1)]
        if not any(which.any() for which in those):
            break
        links = [np.where(those[view], items[view], len(items[view]) + np.arange(len(items[view])))[pairs[:, view]]
                 for view in (0, 1)]
        dealt, _ = _dealt(np.stack(links, axis=1), seed)
        if 2 * min(len(dealt[1]), len(dealt[2])) >= enough:
            parts, kept = dealt, those
            break
    side = np.zeros(n, dtype=np.int64)
    for where, part in enumerate(parts):
        side[part] = where
    together = sum(len(np.unique(item[which])) for item, which in zip(items, kept, strict=True))
    apart = sum(int((np.bincount(np.unique(3 * item[pairs[:, view]] + side) // 3) > 1).sum())
                for view, item in enumerate(items))
    return parts, _remark(together, apart)


def _remark(together: int, apart: int) -> str:
    said = f"; {together:,} repeated item{'s' * (together > 1)} kept together" if together else ""
    if apart:
        said += (f"; {apart:,} item{'s' * (apart > 1)} with equal rows on several sides: too many of them, or linked "
                 "with nearly all")
    return said


def _shuffled(n: int, seed: int) -> list[np.ndarray]:
    order, held_out = np.random.RandomState(seed).permutation(n), n // 10
    return [order[2 * held_out:], order[:held_out], order[held_out:2 * held_out]]


def item_hashes(view: View, items: Tensor) -> Iterator[bytes]:
    """A hash of each of the ``items`` (k,) of a view, the same for equal ones."""
    for some in items.split(ROWS_AT_ONCE):
        block = view[some] if isinstance(view, Tensor) else view.gather(some)
        for item in block.flatten(1).cpu().numpy() + 0.0:  # −0 is 0
            yield hashlib.blake2b(item, digest_size=16).digest()


def _numbered(view: View) -> np.ndarray:
    """(n,) int64: a number for each item, the same for equal ones, in the order in which they come."""
    numbers: dict[bytes, int] = {}
    hashes = item_hashes(view, torch.arange(len(view)))
    return np.fromiter((numbers.setdefault(one, len(numbers)) for one in hashes), np.int64, len(view))
