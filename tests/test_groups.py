"""Retrieval of groups: the oracle counts votes, ranks and densities one by one in Python."""
from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmodal.cli import run_eval, run_train
from xmodal.data import PairedData, PairSplit, load_data, write_h5
from xmodal.errors import DataError, NumericalError
from xmodal.evaluator import check_groups, embed, linear_cca_baseline, retrieve_groups
from xmodal.metrics import group_retrieval, split_ids
from xmodal.report import group_block

MODEL = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")
Side = tuple[Tensor, list, list]    # embeddings, groups, places


def drawn_side(n: int, d: int, n_groups: int, seed: int, integers: bool = False) -> Side:
    """Items of random groups at places that are multiples of 1/4, several at the same one."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator)
    groups = torch.randint(n_groups, (n,), generator=generator)
    places = torch.randint(4 * n, (n,), generator=generator) / 4
    return (2 * z).round() if integers else z, [f"g{group}" for group in groups.tolist()], places.tolist()


def related_sides(integers: bool) -> tuple[Side, Side]:
    """41 items of 7 groups, and 37 that resemble some of them, up to 3/4 away in place; each side has a group alone."""
    z, groups, places = drawn_side(41, 4, 7, 1, integers)
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randint(41, (37,), generator=generator).tolist()
    noise = 0.6 * torch.randn(37, 4, generator=generator)
    moved = torch.randint(-3, 4, (37,), generator=generator) / 4
    return (z, groups, places), (z[drawn] + (noise.round() if integers else noise),
                                 ["other" if groups[i] == "g6" else groups[i] for i in drawn],
                                 [places[i] + shift for i, shift in zip(drawn, moved.tolist(), strict=True)])


def ask(side1: Side, side2: Side, **options: Any) -> dict[str, dict[str, float]]:
    return group_retrieval(side1[0], side2[0], *side1[1:], *side2[1:], **options)


def slow_middle(items: list[int], places: list[float], excerpt: int | None) -> list[int]:
    """Drops items from both ends, one from the end first, and keeps those at the places that are left."""
    kept = sorted(places[i] for i in items)
    while excerpt is not None and len(kept) > excerpt:
        kept = kept[:-1] if (len(kept) - excerpt) % 2 else kept[1:]
    return [i for i in items if kept[0] <= places[i] <= kept[-1]]


def slow_modes(differences: list[tuple[float, float]], tolerance: float) -> list[float]:
    heights = {x: sum(weight * max(0.0, 1 - abs(y - x) / tolerance) for y, weight in differences)
               for x, _ in differences}
    return [x for x, height in heights.items() if height > max(heights.values()) - 1e-9]


def slow_direction(query: Side, gallery: Side, votes: int, excerpt: int | None, tolerance: float) -> dict[str, float]:
    (zq, groups_q, places_q), (zg, groups_g, places_g) = query, gallery
    units = [[row / (np.linalg.norm(row) or 1.0) for row in z.double().numpy()] for z in (zq, zg)]
    ranks, errors, within, located, n_items = [], [], 0.0, 0.0, 0
    for group in sorted(set(groups_q) & set(groups_g)):
        items = [i for i, other in enumerate(groups_q) if other == group]
        voting = slow_middle(items, places_q, excerpt)
        totals = dict.fromkeys(groups_g, 0.0)
        differences = []
        for i in items:
            n_items += 1
            scores = [round(float(units[0][i] @ row), 9) for row in units[1]]
            for j, score in enumerate(scores):
                better, same = sum(s > score for s in scores), scores.count(score)
                vote = sum(1 / place**2 for place in range(better + 1, better + same + 1) if place <= votes) / same
                away = places_g[j] - places_q[i]
                located += (groups_g[j] == group and abs(away) <= tolerance and better == 0) / same
                if i in voting:
                    totals[groups_g[j]] += vote
                    if groups_g[j] == group and vote > 0:
                        differences.append((away, vote))
        above = sum(total > totals[group] + 1e-9 for total in totals.values())
        same = sum(abs(total - totals[group]) <= 1e-9 for total in totals.values())
        ranks.append(above + (same + 1) / 2)
        if ranks[-1] == 1:
            modes = slow_modes(differences, tolerance)
            errors.append(sum(map(abs, modes)) / len(modes))
            within += sum(abs(mode) <= tolerance for mode in modes) / len(modes)
    n = len(ranks)
    return {"r1": 100 * sum(rank <= 1 for rank in ranks) / n, "r5": 100 * sum(rank <= 5 for rank in ranks) / n,
            "mrr": sum(1 / rank for rank in ranks) / n, "median_rank": median(ranks),
            "offset_error": median(errors) if errors else math.nan, "offset_within": 100 * within / n,
            "located": 100 * located / n_items, "n_groups": n, "n_gallery": len(set(groups_g)), "n_items": n_items}


def assert_equals_loop(side1: Side, side2: Side, votes: int = 25, excerpt: int | None = None, tolerance: float = 1.0,
                       ) -> dict[str, dict[str, float]]:
    got = ask(side1, side2, votes=votes, excerpt=excerpt, tolerance=tolerance)
    expected = {"V1_to_V2": slow_direction(side1, side2, votes, excerpt, tolerance),
                "V2_to_V1": slow_direction(side2, side1, votes, excerpt, tolerance)}
    assert got.keys() == expected.keys()
    for direction, values in expected.items():
        assert got[direction] == pytest.approx(values, abs=1e-9, nan_ok=True)
    return got


# -- the metric --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("block", [None, 1, 100])
@pytest.mark.parametrize(("votes", "excerpt", "tolerance"), [(1, None, 1.0), (3, None, 4.0), (25, 3, 2.0), (25, 2, 0.5),
                                                             (1000, 1, 8.0)])
@pytest.mark.parametrize("integers", [False, True])
def test_votes_equal_the_loop(votes: int, excerpt: int | None, tolerance: float, integers: bool, block: int | None,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    if block is not None:
        monkeypatch.setattr("xmodal.metrics.groups.BLOCK_VALUES", block)
    got = assert_equals_loop(*related_sides(integers), votes, excerpt, tolerance)
    for values in got.values():         # numbers that could have come out otherwise
        assert 0 < values["located"] < 100 and 0 < values["r1"] <= 100 and values["offset_error"] > 0


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(1, 5), st.integers(1, 12),
       st.none() | st.integers(1, 6), st.sampled_from([0.25, 1.0, 4.0]), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_votes_equal_the_loop_on_anything_small(n1: int, n2: int, d: int, n_groups: int, votes: int,
                                                excerpt: int | None, tolerance: float, integers: bool, seed: int,
                                                ) -> None:
    side1, side2 = drawn_side(n1, d, n_groups, seed, integers), drawn_side(n2, d, n_groups, seed + 1, integers)
    if set(side1[1]) & set(side2[1]):
        assert_equals_loop(side1, side2, votes, excerpt, tolerance)


def test_votes_worked_by_hand() -> None:
    """Item a1 ranks a, b, b, c: 1 for a, 1/4 + 1/9 for b. Item a2 ranks b, b (a tie), c, a: (1 + 1/4) for b."""
    z2 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    gallery = (z2, ["a", "b", "b", "c"], [5.0, 0.0, 1.0, 2.0])
    z1 = torch.tensor([[1.0, 0.1], [-0.1, 1.0]])
    one = ask((z1[:1], ["a"], [5.5]), gallery, votes=3)["V1_to_V2"]
    assert (one["r1"], one["offset_error"], one["offset_within"], one["located"]) == (100, 0.5, 100, 100)
    assert (one["n_groups"], one["n_gallery"], one["n_items"]) == (1, 3, 1)
    both = ask((z1, ["a", "a"], [5.5, 9.0]), gallery, votes=3)["V1_to_V2"]
    assert (both["median_rank"], both["r1"], both["r5"], both["mrr"]) == (2, 0, 100, 0.5)    # 1 for a, 1.61 for b
    assert (both["offset_within"], both["located"]) == (0, 50) and math.isnan(both["offset_error"])
    tied = ask((z1[1:], ["b"], [0.9]), gallery, tolerance=0.5)["V1_to_V2"]
    assert (tied["r1"], tied["located"]) == (100, 50)            # best items at 0 and 1, one of them near
    assert tied["offset_error"] == pytest.approx(0.5) and tied["offset_within"] == 50   # offsets −0.9 and 0.1


def test_groups_without_a_vote_share_the_last_ranks() -> None:
    z2 = torch.eye(6)
    got = ask((z2[:1], ["f"], [0.0]), (z2, list("abcdef"), [0.0] * 6), votes=1)["V1_to_V2"]
    assert got["median_rank"] == 4          # one group has the vote, five share ranks 2 to 6


def test_the_offset_is_the_mode_and_not_pulled_by_stray_votes() -> None:
    """Six items of ten vote 2.0 late, the others anywhere; their mean is far away and their median as well."""
    z = torch.eye(12)
    away = [2.0, 2.1, 1.9, 2.0, 2.0, 2.0, 900.0, -7.0, 40.0, 41.5]
    query = (z[:10], ["a"] * 10, [float(place) for place in range(0, 100, 10)])
    gallery = (z, ["a"] * 10 + ["b"] * 2, [place + shift for place, shift in zip(query[2], away, strict=True)] + [0, 0])
    got = ask(query, gallery, votes=1)["V1_to_V2"]
    assert (got["offset_error"], got["offset_within"]) == (2.0, 0.0)
    assert ask(query, gallery, votes=1, tolerance=2.0)["V1_to_V2"]["offset_within"] == 100


def test_an_excerpt_is_the_middle_by_place() -> None:
    """Of items at 0, 1, 2, 3, 4, given out of order, the middle three find a; the ends would find b."""
    z2, order = torch.eye(2), [3, 0, 4, 1, 2]
    z1 = torch.tensor([[0.0, 5.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])[order]
    side1, side2 = (z1, ["a"] * 5, [float(i) for i in order]), (z2, ["a", "b"], [2.0, 0.0])
    assert ask(side1, side2, votes=1, excerpt=3)["V1_to_V2"]["offset_within"] == 100
    lone = ask((z1[:, [1, 0]], *side1[1:]), side2, votes=1, excerpt=3)["V1_to_V2"]
    assert (lone["r1"], lone["located"]) == (0, 0)
    assert ask(side1, side2, votes=1, excerpt=1)["V1_to_V2"]["located"] == 60    # all five items, whatever votes


def test_items_that_do_not_vote_have_no_say_in_the_offset() -> None:
    """Of three items the middle one votes, half for 10.0 and half for 10.5; the last one's difference is 0.1."""
    query = (torch.eye(3), ["a"] * 3, [0.0, 10.0, 20.0])
    gallery = (torch.eye(3)[[1, 1, 2]], ["a"] * 3, [10.0, 10.5, 20.1])
    got = ask(query, gallery, votes=1, excerpt=1)["V1_to_V2"]
    assert (got["offset_error"], got["offset_within"]) == (0.25, 100)


def test_equal_sums_of_votes_tie_whatever_their_order() -> None:
    """Item i of ten ranks group i first, i + 1 next, and so on around. Each group has the same in the end, in thirds
    (its three items tie) whose sums differ in the last bit."""
    z1 = torch.stack([torch.arange(10, 0, -1.0).roll(i) for i in range(10)])
    gallery = (torch.eye(10).repeat(3, 1), list("abcdefghij") * 3, [0.0] * 30)
    for group in "adg":
        got = ask((z1, [group] * 10, [0.0] * 10), gallery)["V1_to_V2"]
        assert (got["median_rank"], got["r1"], got["r5"]) == (5.5, 0, 0)


# -- properties --------------------------------------------------------------------------------------------------

SIZES = (1, 40, 7, 2, 25, 1, 90)    # groups of one item beside large ones


def perfect_pairs(sizes: tuple[int, ...] = SIZES, d: int = 16) -> Side:
    n = sum(sizes)
    groups = [f"p@{number}" for number, size in enumerate(sizes) for _ in range(size)]
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(0)), groups,
            [0.6 * place for size in sizes for place in range(size)])


@pytest.mark.parametrize("votes", [1, 2, 25, 1000])
@pytest.mark.parametrize("excerpt", [None, 1, 5])
def test_perfect_embeddings_find_everything(votes: int, excerpt: int | None) -> None:
    side = perfect_pairs()
    for values in ask(side, (3 * side[0], *side[1:]), votes=votes, excerpt=excerpt).values():
        assert values == {"r1": 100, "r5": 100, "mrr": 1, "median_rank": 1, "offset_error": 0, "offset_within": 100,
                          "located": 100, "n_groups": 7, "n_gallery": 7, "n_items": 166}


@pytest.mark.parametrize("value", ["ones", "zeros", "random"])
@pytest.mark.parametrize("excerpt", [None, 3])
def test_a_collapsed_model_scores_chance(value: str, excerpt: int | None) -> None:
    row = torch.randn(1, 8, generator=torch.Generator().manual_seed(3))
    z = {"ones": torch.ones(64, 8), "zeros": torch.zeros(64, 8), "random": row.expand(64, 8)}[value]
    even = [f"g{i % 8}" for i in range(64)]
    places = [float(i) * 2 for i in range(64)]
    got = ask((z, even, places), (z * 3.7, even, places), excerpt=excerpt)
    for values in got.values():
        assert (values["median_rank"], values["r1"], values["r5"]) == (4.5, 0, 100)
        assert values["mrr"] == pytest.approx(1 / 4.5) and values["located"] == pytest.approx(100 / 64)
    uneven = [f"g{int(i**0.5)}" for i in range(64)]          # 8 groups of 1, 3, 5, … items: all ranks once
    for values in ask((z, uneven, places), (z, uneven, places), excerpt=excerpt).values():
        assert values["r1"] == 100 / 8 and values["median_rank"] == 4.5
        assert values["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 9)) / 8)


def test_unrelated_embeddings_score_chance() -> None:
    """200 groups of 5; so many votes that every group gets some, as those without share one rank, far down."""
    groups, places = [i // 5 for i in range(1000)], [i % 5 * 1000.0 for i in range(1000)]
    z1, z2 = (torch.randn(1000, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for values in ask((z1, groups, places), (z2, groups, places), votes=1000).values():
        assert values["median_rank"] == pytest.approx(100, abs=20) and values["r5"] < 8 and values["located"] < 1


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("excerpt", [None, 3])
def test_the_order_of_items_does_not_matter(integers: bool, excerpt: int | None) -> None:
    side1, side2 = drawn_side(60, 3, 9, 4, integers), drawn_side(50, 3, 9, 5, integers)
    expected = ask(side1, side2, excerpt=excerpt, tolerance=3.0)
    for seed in range(5):
        moved = []
        for z, groups, places in (side1, side2):
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).tolist()
            moved.append((z[order], [groups[i] for i in order], [places[i] for i in order]))
        got = ask(*moved, excerpt=excerpt, tolerance=3.0)
        for direction in expected:
            assert got[direction] == pytest.approx(expected[direction], abs=1e-9, nan_ok=True)


def test_views_change_places() -> None:
    side1, side2 = drawn_side(40, 3, 6, 6), drawn_side(30, 3, 6, 7)
    forth, back = ask(side1, side2), ask(side2, side1)
    assert forth["V1_to_V2"] == back["V2_to_V1"] and forth["V2_to_V1"] == back["V1_to_V2"]


def test_one_group_is_always_found() -> None:
    side1, side2 = drawn_side(9, 3, 1, 0), drawn_side(14, 3, 1, 1)
    for values in assert_equals_loop(side1, side2).values():
        assert (values["r1"], values["median_rank"], values["n_gallery"]) == (100, 1, 1)


def test_groups_of_one_view_alone_are_gallery_and_not_asked() -> None:
    z = torch.eye(4)
    got = ask((z, list("abcd"), [0.0] * 4), (z[:3], list("abx"), [0.0] * 3))
    assert (got["V1_to_V2"]["n_groups"], got["V1_to_V2"]["n_gallery"], got["V1_to_V2"]["n_items"]) == (2, 3, 2)
    assert (got["V2_to_V1"]["n_groups"], got["V2_to_V1"]["n_gallery"], got["V2_to_V1"]["located"]) == (2, 4, 100)
    assert got["V1_to_V2"]["r1"] == 100


def test_any_width_scale_kind_of_name_and_container() -> None:
    side1, side2 = drawn_side(40, 4, 5, 8), drawn_side(40, 4, 5, 9)
    expected = ask(side1, side2, excerpt=4)
    codes1, codes2 = (torch.tensor([int(name[1:]) for name in side[1]]) for side in (side1, side2))
    arrays = group_retrieval(side1[0].numpy(), side2[0].double().numpy(), codes1, side1[2], codes2.numpy(),
                             torch.tensor(side2[2]), excerpt=4)
    assert arrays == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scaled = group_retrieval((side1[0] * 1e-30).requires_grad_(), side2[0] * 1e30, np.array(side1[1]),
                                 np.array(side1[2]), tuple(side2[1]), side2[2], excerpt=4)
    assert scaled == expected


# -- bad input ---------------------------------------------------------------------------------------------------

def test_ids_are_cut_at_the_last_at() -> None:
    names, places = split_ids(["bach/bwv10.7@12.500", "a@b@c@-1e2", "x @ y@0"])
    assert names == ["bach/bwv10.7", "a@b@c", "x @ y"]
    assert places.dtype == np.float64 and places.tolist() == [12.5, -100, 0]


@pytest.mark.parametrize("wrong", ["bach", "bach@", "@1", "bach@x", "bach@nan", "bach@inf", "1@bach", "", "b@1,5"])
def test_a_wrong_id_is_named(wrong: str) -> None:
    with pytest.raises(DataError, match=r"; ids must read PIECE@PLACE, .* such as bach/bwv10\.7@8\.166") as caught:
        split_ids(["a@1", wrong, "b"])
    assert str(caught.value).startswith(f"id 1 is {wrong!r};")


@pytest.mark.parametrize("view", [1, 2])
def test_not_finite_names_view_and_rows(view: int) -> None:
    views = [torch.ones(10, 3), torch.ones(10, 3)]
    views[view - 1][[2, 7], 1] = math.nan
    with pytest.raises(NumericalError, match=rf"view {view}: 2 of 10 .* \(rows 2, 7\)"):
        group_retrieval(*views, ["a"] * 10, [0.0] * 10, ["a"] * 10, [0.0] * 10)


GOOD: dict[str, Any] = {"z1": torch.ones(2, 3), "z2": torch.ones(3, 3), "groups1": "ab", "places1": [0, 1],
                        "groups2": "abc", "places2": [0, 1, 2]}


@pytest.mark.parametrize(("change", "message"), [
    ({"z1": torch.ones(2, 4)}, "different dimension: 4 and 3"),
    ({"groups1": "abc"}, r"groups1: expected one per item, shape \(2,\), got \(3,\)"),
    ({"groups2": np.zeros(2)}, r"groups2: expected one per item, shape \(3,\), got \(2,\)"),
    ({"groups1": "xy"}, "no group of view 1 is in view 2"),
    ({"groups1": [1, 2]}, "groups1 and groups2: expected numbers or texts, got some of each"),
    ({"places1": [0]}, r"places1: expected one place per item, shape \(2,\), got \(1,\)"),
    ({"places2": [0, math.nan, 1]}, "places2: expected finite numbers, got nan for item 1"),
    ({"votes": 0}, "votes: expected a whole number from 1, got 0"), ({"votes": 1.5}, "votes: expected a whole"),
    ({"excerpt": 0}, "excerpt: expected a whole number from 1, got 0"),
    ({"tolerance": 0}, "tolerance: expected a positive number, got 0"), ({"tolerance": math.nan}, "positive number"),
    ({"tolerance": math.inf}, "tolerance: expected a positive number, got inf"),
])
def test_bad_input_is_told(change: dict[str, Any], message: str) -> None:
    group_retrieval(**GOOD)
    with pytest.raises(DataError, match=message):
        group_retrieval(**GOOD | change)


# -- the evaluator -----------------------------------------------------------------------------------------------

class Slices:
    """Embeds an item as its first two values."""

    def embed_view1(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]

    embed_view2 = embed_view1


def data_of(test: PairSplit) -> PairedData:
    other = PairSplit("train", test.view1, test.view2, test.pairs)
    return PairedData("grouped", other, dataclasses.replace(other, name="valid"), test)


def test_view2_has_the_ids_of_its_partners_and_lonely_items_are_left_out() -> None:
    """Pictures 0 to 5 with 1 to 3 captions each; captions 2 and 7 have no picture, caption 9 has two (the last
    counts); picture 5 has no caption."""
    generator = torch.Generator().manual_seed(5)
    view1, view2 = torch.randn(6, 3, generator=generator), torch.randn(10, 4, generator=generator)
    pairs = torch.tensor([[0, 4], [0, 0], [1, 1], [4, 9], [2, 3], [2, 5], [3, 6], [2, 9], [4, 8]])
    view2[pairs[:, 1], :2] = view1[pairs[:, 0], :2] + 0.5 * view2[pairs[:, 1], :2]
    ids = ["a@0", "b@@1.5", "a@3", "b@@2", "c@0", "d@1"]
    split = PairSplit("test", view1, view2, pairs, ids=ids)
    partner = {4: 0, 0: 0, 1: 1, 3: 2, 5: 2, 6: 3, 9: 2, 8: 4}
    rows = sorted(partner)
    names, places = ["a", "b@", "a", "b@", "c", "d"], [0, 1.5, 3, 2, 0, 1]
    side1 = view1[:, :2], names, places
    side2 = view2[rows, :2], [names[partner[row]] for row in rows], [places[partner[row]] for row in rows]
    options = {"votes": 2, "excerpt": 1, "tolerance": 0.25}
    got = retrieve_groups(Slices(), data_of(split), **options)
    assert {key: got.pop(key) for key in options} == options
    assert got == assert_equals_loop(side1, side2, **options)
    for key in options:         # each makes a difference
        assert got != ask(side1, side2, **{other: options[other] for other in options if other != key})
    assert got["V2_to_V1"]["n_items"] == 8 and got["V2_to_V1"]["n_gallery"] == 4
    few = retrieve_groups(Slices(), data_of(split), n_test=3)
    assert (few["V1_to_V2"]["n_items"], few["V2_to_V1"]["n_items"], few["V1_to_V2"]["n_groups"]) == (2, 3, 2)


def test_without_a_pair_table_items_are_partners() -> None:
    z, groups, places = perfect_pairs()
    split = PairSplit("test", z, z, ids=[f"{group}@{place:.3f}" for group, place in zip(groups, places, strict=True)])
    assert retrieve_groups(Slices(), data_of(split))["V1_to_V2"]["offset_within"] == 100


def test_missing_and_wrong_ids_are_told_before_a_model_is_run() -> None:
    z = torch.ones(3, 2)
    for ids, message in ((None, "the test pairs have none; ids must read PIECE@PLACE"), (["a@1", "b", "c"], "'b'")):
        split = PairSplit("test", z, z, ids=ids)
        with pytest.raises(DataError, match=message):
            check_groups(split)
        with pytest.raises(DataError, match=message):
            retrieve_groups(None, data_of(split))   # type: ignore[arg-type]


def test_a_nan_embedding_names_the_item_and_not_its_row_among_partners() -> None:
    class Broken(Slices):
        def embed_view2(self, y: Tensor) -> Tensor:
            return torch.where(y[:, :2] > 4, math.nan, y[:, :2])

    view2 = torch.arange(12.0).view(6, 2)
    split = PairSplit("test", torch.ones(2, 2), view2, torch.tensor([[0, 1], [1, 3]]), ids=["a@0", "b@0"])
    with pytest.raises(NumericalError, match=r"view 2: 4 of 6 .* \(rows 2, 3, 4, 5\)"):
        retrieve_groups(Broken(), data_of(split))


# -- the report and the command ----------------------------------------------------------------------------------

def digits_with_ids() -> PairedData:
    """Each class of the digits is a piece, 0.5 apart."""
    data = load_data("digits")
    ids = [f"digits@{label}@{0.5 * place:.3f}" for place, label in enumerate(data.test.labels.tolist())]
    return dataclasses.replace(data, test=dataclasses.replace(data.test, ids=ids))


def test_digits_are_found_better_than_chance() -> None:
    data = digits_with_ids()
    model = linear_cca_baseline(data, 16)
    got = retrieve_groups(model, data)
    z1, z2 = embed(model, data.test)
    sides = [(z, [f"digits@{label}" for label in data.test.labels.tolist()], [0.5 * i for i in range(400)])
             for z in (z1, z2)]
    assert got["V1_to_V2"] == ask(*sides)["V1_to_V2"]
    assert got["V1_to_V2"]["r1"] > 50 and 5 < got["V1_to_V2"]["located"] < 50


ONE = {"r1": 93.333, "r5": 100.0, "mrr": 0.9667, "median_rank": 1.0, "offset_error": 0.0123, "offset_within": 86.667,
       "located": 31.25, "n_groups": 15, "n_gallery": 16, "n_items": 2000}
RESULT = {"word": "piece", "V1_to_V2": ONE, "V2_to_V1": ONE | {"offset_error": math.nan, "n_groups": 12_345,
                                                               "n_gallery": 12_345}, "votes": 25, "excerpt": None,
          "tolerance": 1.0}


def test_block_shows_both_directions() -> None:
    assert group_block(RESULT).splitlines() == [
        "Retrieval of a whole piece: all items vote",
        "                                    V1_to_V2        V2_to_V1",
        "Asked (in the gallery)               15 (16)   12345 (12345)",
        "Top 01                                 93.33           93.33",
        "Top 05                                100.00          100.00",
        "MRR                                    0.967           0.967",
        "Median Rank                             1.00            1.00",
        "Offset, median error                   0.012               -",
        "Top 01, offset within 1                86.67           86.67",
        "Items located within 1                 31.25           31.25",
    ]


def test_block_says_who_votes_and_keeps_its_width() -> None:
    title = group_block(RESULT | {"excerpt": 20}).splitlines()[0]
    assert title == "Retrieval of a whole piece: the 20 items in its middle vote"
    long = group_block(RESULT | {"word": "recording of a movement " * 9, "excerpt": 10**9, "tolerance": 0.123456})
    assert max(map(len, long.splitlines())) <= 80


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    write_h5(digits_with_ids().with_fingerprint(), tmp_path / "pieces.h5")
    assert run_train.main(["--model", MODEL, "--data", "pieces.h5", "--set", "max_epochs=1"]) == 0
    capsys.readouterr()
    return Path("runs/digits_ccal_cont")


def test_command_prints_the_block_and_keeps_the_numbers(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--model", MODEL, "--data", "pieces.h5"]
    assert run_eval.main([*arguments, "--group", "digit", "--V2_to_V1"]) == 0
    captured = capsys.readouterr()
    kept = json.loads((trained / "metrics.json").read_text())
    assert group_block(kept["groups"]) in captured.out and "MRR  " in captured.out and not captured.err
    assert all(len(line) <= 80 for line in captured.out.splitlines())
    assert kept["groups"]["word"] == "digit" and kept["groups"]["excerpt"] is None
    assert kept["groups"]["V1_to_V2"]["n_groups"] == 10 and kept["groups"]["V2_to_V1"]["n_items"] == 400
    assert run_eval.main([*arguments, "--group", "digit", "--excerpt", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((trained / "metrics.json").read_text()) != kept
    assert printed["groups"]["excerpt"] == 3
    assert printed["groups"]["V1_to_V2"]["located"] == kept["groups"]["V1_to_V2"]["located"]
    assert run_eval.main(arguments) == 0
    assert "Retrieval of" not in capsys.readouterr().out
    assert json.loads((trained / "metrics.json").read_text())["groups"] == printed["groups"]


def test_command_counts_pairs_as_asked(trained: Path) -> None:
    arguments = ["--model", MODEL, "--data", "pieces.h5", "--group", "digit"]
    assert run_eval.main([*arguments, "--n_test", "40"]) == 0
    assert json.loads((trained / "metrics_n40.json").read_text())["groups"]["V1_to_V2"]["n_items"] == 40


@pytest.mark.parametrize(("arguments", "message"), [
    (["--group", "piece", "--split", "valid"], "the valid pairs have none; ids must read PIECE@PLACE"),
    (["--excerpt", "5"], "give --group, too, such as --group piece"),
    (["--group", "piece", "--excerpt", "0"], "--excerpt must be at least 1, got 0"),
])
def test_command_says_what_is_missing_in_one_line(trained: Path, arguments: list[str], message: str,
                                                  capsys: pytest.CaptureFixture) -> None:
    (trained / "weights.safetensors").unlink()      # said before a model is loaded
    assert run_eval.main(["--model", MODEL, "--data", "pieces.h5", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not list(trained.glob("metrics*.json"))
