"""Splits in which items that have something in common stay together."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.splitting import split_groups


def components(keys: list[list[int]]) -> list[set[int]]:
    """Oracle: merge items that share a key until nothing changes."""
    groups = [({i}, set(one)) for i, one in enumerate(keys)]
    merged = True
    while merged:
        merged = False
        for a in range(len(groups)):
            for b in range(a + 1, len(groups)):
                if groups[a][1] & groups[b][1]:
                    groups[a] = (groups[a][0] | groups[b][0], groups[a][1] | groups[b][1])
                    del groups[b]
                    merged = True
                    break
            if merged:
                break
    return [items for items, _ in groups]


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=3, max_size=40), st.integers(0, 5))
def test_items_that_are_linked_by_keys_are_never_parted(keys, seed):
    side = split_groups(keys, seed=seed)
    assert side.shape == (len(keys),) and set(side.tolist()) <= {0, 1, 2}
    for group in components(keys):
        assert len({int(side[i]) for i in group}) == 1
    sizes, target = sorted(map(len, components(keys))), max(1, round(0.1 * len(keys)))
    if len(sizes) >= 3 and sizes[1] <= target:
        assert (side == 1).sum() <= target and (side == 2).sum() <= target
    assert len(set(side.tolist())) == min(3, len(sizes))
    assert side.tolist() == split_groups(keys, seed=seed).tolist()


def test_shares_are_met_where_items_have_nothing_in_common():
    side = split_groups([[i] for i in range(200)], (0.1, 0.25))
    assert np.bincount(side).tolist() == [130, 20, 50]
    assert split_groups([[i] for i in range(200)], (0.1, 0.25), seed=1).tolist() != side.tolist()


@pytest.mark.parametrize("same", [lambda i: ["a"], lambda i: [i, i + 1]])
def test_a_group_that_is_too_large_trains(same):
    side = split_groups([*([same(i) for i in range(50)]), *([f"single {i}"] for i in range(12))])
    assert side[:50].tolist() == [0] * 50 and np.bincount(side[50:]).tolist() == [0, 6, 6]


def test_the_smallest_groups_may_exceed_the_shares():
    side = split_groups([[i // 10] for i in range(40)], (0.05, 0.05))
    assert np.bincount(side).tolist() == [20, 10, 10]


def test_items_without_keys_stand_alone():
    assert np.bincount(split_groups([[] for _ in range(30)])).tolist() == [24, 3, 3]
