"""Splits in which items that have something in common stay together."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data import PairedData, PairSplit
from xmodal.data.splitting import split_groups, split_table


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


# -- tables without pairs --------------------------------------------------------------------------------------------

def drawn(n: int, width: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def sides_of(data: PairedData, view: int) -> dict[bytes, set[str]]:
    """In which splits each distinct item is."""
    found: dict[bytes, set[str]] = {}
    for split in data.splits():
        for item in (split.view1, split.view2)[view]:
            found.setdefault(item.numpy().tobytes(), set()).add(split.name)
    return found


@pytest.mark.parametrize("view", [0, 1])
def test_captions_that_are_rows_beside_their_picture_stay_with_it(view):
    views = [drawn(40)[torch.arange(200) // 5], drawn(200, seed=1)]
    data = split_table(PairSplit("toy", *(views if view == 0 else views[::-1])), "toy")
    assert [split.n_pairs for split in data.splits()] == [160, 20, 20]
    assert all(len(where) == 1 for where in sides_of(data, view).values()) and len(sides_of(data, view)) == 40
    assert data.note == "split 80/10/10 with seed 23; 40 repeated items kept together"


def test_names_of_classes_and_blanks_do_not_pull_whole_classes_to_one_side():
    pictures, classes = drawn(300), torch.arange(300) % 10
    names = torch.eye(10)[classes]
    data = split_table(PairSplit("toy", pictures, names), "toy")
    assert [split.n_pairs for split in data.splits()] == [240, 30, 30]
    assert len(data.test.view2.unique(dim=0)) > 7
    assert "; 10 items with equal rows on several sides: too many of them" in data.note
    alone = split_table(PairSplit("toy", pictures, drawn(300, seed=1)), "toy")
    assert torch.equal(data.test.view1, alone.test.view1)  # as if nothing was repeated
    blank = torch.where(torch.arange(300)[:, None] < 50, 0.0, drawn(125, seed=2)[(torch.arange(300) - 50) // 2 % 125])
    mixed = split_table(PairSplit("toy", pictures, blank), "toy")
    assert sum(len(where) > 1 for where in sides_of(mixed, 1).values()) == 1
    assert "; 125 repeated items kept together; 1 item with equal rows on several sides: too many" in mixed.note


def test_the_view_that_repeats_more_is_kept_whole_where_both_link_everything():
    pictures = drawn(60)[torch.arange(300) // 5]
    of_others = torch.randint(150, (300,), generator=torch.Generator().manual_seed(2))
    common = drawn(150, seed=1)[of_others]      # most captions of a picture are another one's as well
    data = split_table(PairSplit("toy", pictures, common), "toy")
    assert min(split.n_pairs for split in data.splits()) >= 15
    kept = [all(len(where) == 1 for where in sides_of(data, view).values()) for view in (0, 1)]
    assert kept == [True, False] and "60 repeated items kept together" in data.note


@given(st.integers(10, 80), st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
def test_any_repeats_are_split_and_told(n, distinct1, distinct2, seed):
    rng = np.random.default_rng(seed)
    views = [torch.arange(100.0)[torch.from_numpy(rng.integers(distinct, size=n))][:, None]
             for distinct in (distinct1, distinct2)]
    data = split_table(PairSplit("toy", *views), "toy")
    assert sorted(torch.cat([split.view1 for split in data.splits()]).tolist()) == sorted(views[0].tolist())
    assert all(split.n_pairs >= 1 for split in data.splits())
    apart = sum(len(where) > 1 for view in (0, 1) for where in sides_of(data, view).values())
    assert (f"; {apart} item" in data.note) == (apart > 0)


@pytest.mark.parametrize("view", [0, 1])
def test_equal_items_of_a_pair_table_stay_together_too(view):
    """A table switches nothing off: of these pictures each has two files, and each file two captions."""
    pictures = drawn(100)[torch.arange(200) % 100]
    captions, pairs = drawn(400, seed=1), torch.stack([torch.arange(400) // 2, torch.arange(400)], dim=1)
    table = PairSplit("toy", pictures, captions, pairs) if view == 0 else \
        PairSplit("toy", captions, pictures, pairs.flip(1))
    data = split_table(table, "toy")
    assert [split.n_pairs for split in data.splits()] == [320, 40, 40]
    assert all(len(where) == 1 for where in sides_of(data, view).values())
    assert data.note == "split 80/10/10 with seed 23; 100 repeated items kept together"


def test_a_pair_table_of_nothing_repeated_is_split_by_its_links_alone():
    pairs = torch.stack([torch.arange(90) // 3, torch.arange(90)], dim=1)
    named = torch.eye(3)[torch.arange(90) % 3]  # equal to a third of the others: classes
    data, other = (split_table(PairSplit("toy", drawn(30), view, pairs), "toy") for view in (drawn(90, seed=1), named))
    assert all(torch.equal(one.view1, two.view1) for one, two in zip(data.splits(), other.splits(), strict=True))
    assert data.note == "split 80/10/10 with seed 23" and "; 3 items with equal rows on several sides" in other.note
