"""Cutting one table of pairs into train, valid and test so that no item is on two sides."""
from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from xmodal.data.pairs import PairedData, PairSplit
from xmodal.errors import DataError

SPLIT_SEED = 23


def split_table(table: PairSplit, name: str, seed: int = SPLIT_SEED) -> PairedData:
    """Split pairs 80/10/10, the same way for the same ``seed``.

    With a pair table, whole groups of pairs that share items (the connected components of the table) go to one side,
    so that no item of either view is in two splits; the sizes are then as near as whole groups allow, and items
    without a partner are dropped.

    Raises:
        DataError: fewer than 10 pairs, or too few groups to fill three splits.
    """
    if table.n_pairs < 10:
        raise DataError(f"{name}: {table.n_pairs} pairs are too few to split 80/10/10; give at least 10, or arrays "
                        "train_view1, train_view2, valid_view1, ...")
    rng = np.random.RandomState(seed)  # the legacy generator: its streams never change between NumPy versions
    if table.pairs is None:
        order = rng.permutation(table.n_pairs)
        held_out = table.n_pairs // 10
        parts = [order[2 * held_out:], order[:held_out], order[held_out:2 * held_out]]
        dropped = 0
    else:
        parts = _split_groups(table.pairs, len(table.view1), len(table.view2), rng, name)
        dropped = sum(count - len(torch.unique(table.pairs[:, column]))
                      for column, count in ((0, len(table.view1)), (1, len(table.view2))))
    train, valid, test = (table.select(torch.from_numpy(np.sort(rows)), split)
                          for rows, split in zip(parts, ("train", "valid", "test"), strict=True))
    note = f"split 80/10/10 with seed {seed}" + (f"; {dropped:,} items without a partner dropped" if dropped else "")
    return PairedData(name, train, valid, test, split_seed=seed, note=note)


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


def _split_groups(pairs: Tensor, n1: int, n2: int, rng: np.random.RandomState, name: str) -> list[np.ndarray]:
    """Rows of the pair table for train, valid, test; each group of pairs that share items stays whole."""
    left, right = pairs[:, 0].numpy(), pairs[:, 1].numpy() + n1
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (left, right)), shape=(n1 + n2, n1 + n2))
    _, component = connected_components(graph, directed=False)
    _, group, sizes = np.unique(component[left], return_inverse=True, return_counts=True)
    target = max(len(pairs) // 10, int(sizes.min()))
    side = _sides(sizes, (target, target), rng)
    parts = [np.flatnonzero(side[group] == where) for where in range(3)]
    if not all(len(part) for part in parts):
        raise DataError(f"{name}: its {len(pairs):,} pairs form only {len(sizes)} groups that share no item, too few "
                        "to split without an item on two sides; give arrays train_view1, train_view2, ...")
    return parts
