"""What a page of a run counts: chance by enumeration, components by SVD, correlations that add up to their totals."""
from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from xmodal.errors import DataError, NumericalError
from xmodal.metrics import canonical_correlation, retrieval_metrics, retrieval_ranks, sum_correlation
from xmodal.metrics.chance import chance_metrics, chance_recall, match_counts
from xmodal.metrics.correlation import canonical_correlations, dimension_correlations
from xmodal.metrics.plane import neighbour_map, principal_plane


def test_chance_is_the_share_of_all_draws_that_hold_a_match():
    matches, n = [1, 1, 3], 7
    for k in range(1, n + 1):
        draws = list(combinations(range(n), k))
        shares = [np.mean([any(item < m for item in draw) for draw in draws]) for m in matches]
        assert chance_recall(matches, n, [k]) == pytest.approx([100 * np.mean(shares)], abs=1e-9)
    assert chance_recall([1], 7, [25]) == pytest.approx([100.0])
    assert chance_recall([1], 1, [1, 5]).tolist() == [100, 100]
    assert chance_recall(torch.ones(9), 100_000, [1, 10]) == pytest.approx([0.001, 0.01], rel=1e-6)


@pytest.mark.parametrize(("matches", "n"), [([1], 1), ([1], 7), ([1], 6), ([2, 2, 1], 6), ([1, 1, 3], 7), ([5], 5)])
def test_metrics_of_chance_are_those_of_all_orders(matches, n):
    best = [1 + min(places) for m in matches for places in combinations(range(n), m)]
    weights = np.concatenate([np.full(count, 1 / count) for count in (len(list(combinations(range(n), m)))
                                                                      for m in matches)]) / len(matches)
    found = chance_metrics(matches, n, (1, 3))
    assert found["mean_rank"] == pytest.approx(weights @ best)
    assert found["mrr"] == pytest.approx(weights @ (1 / np.array(best)))
    assert found["r1"] == pytest.approx(100 * weights @ (np.array(best) <= 1))
    assert found["r3"] == pytest.approx(100 * weights @ (np.array(best) <= 3))
    copies = [order for order, weight in zip(best, weights, strict=True) for _ in range(round(weight * 2520))]
    assert found["median_rank"] == np.median(copies)


def test_metrics_of_chance_are_those_of_random_embeddings_and_of_large_galleries():
    draw = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.arange(900) // 3, torch.arange(900)], dim=1)     # three captions for each picture
    z1, z2 = torch.randn(300, 8, generator=draw), torch.randn(900, 8, generator=draw)
    measured, ranks = retrieval_metrics(z1, z2, pairs), retrieval_ranks(z1, z2, pairs)
    for direction, matches, n in zip(("V1_to_V2", "V2_to_V1"), match_counts(pairs, ranks, 300, 900), (900, 300),
                                     strict=True):
        chance = chance_metrics(matches, n)
        assert measured[direction]["mean_rank"] == pytest.approx(chance["mean_rank"], rel=0.15)
        assert measured[direction]["median_rank"] == pytest.approx(chance["median_rank"], rel=0.2)
        assert measured[direction]["mrr"] == pytest.approx(chance["mrr"], abs=0.01)
    many = chance_metrics([1], 100_000)
    assert many["mrr"] == pytest.approx((1 / np.arange(1, 100_001)).sum() / 100_000, rel=1e-9)
    assert many["median_rank"] == 50_000.5 and many["mean_rank"] == 50_000.5


def test_partners_are_counted_for_queries_alone():
    pairs = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 2]])       # items 1 and 2 of view 1 have none, nor 0 of view 2
    ranks = retrieval_ranks(torch.eye(4)[:, :3] + 1, torch.eye(3), pairs)
    assert [counts.tolist() for counts in match_counts(pairs, ranks, 4, 3)] == [[2, 1], [1, 2]]


def test_chance_of_all_items_warns_of_nothing():
    with np.errstate(all="raise"):
        assert chance_recall([1, 2], 7, [6, 7, 8])[1:] == pytest.approx([100.0, 100.0])


@pytest.mark.parametrize("matches", [[], [0], [8]])
def test_chance_refuses_what_cannot_be(matches):
    with pytest.raises(DataError, match="from 1 to 7"):
        chance_recall(matches, 7, [1])


def test_components_are_those_of_an_svd():
    generator = torch.Generator().manual_seed(0)
    z1 = torch.randn(30, 6, generator=generator) * torch.tensor([5.0, 3.0, 1, 1, 1, 1]) + 1
    z2 = torch.randn(20, 6, generator=generator)
    plane = principal_plane(z1, 1e20 * z2)
    unit = torch.nn.functional.normalize(torch.cat([z1, z2]).double(), dim=1)
    centred = unit - unit.mean(dim=0)
    _, s, Vt = torch.linalg.svd(centred, full_matrices=False)
    places = centred @ Vt[:2].T
    drawn = np.concatenate((plane.view1, plane.view2))
    np.testing.assert_allclose(np.abs(drawn), places.abs().numpy(), atol=1e-6)
    assert plane.shares == pytest.approx((s[:2] ** 2 / (s ** 2).sum()).tolist(), rel=1e-5)


def test_axes_point_to_where_their_largest_entry_is_positive():
    """Items spread along e1 most and along e2: the first value is drawn to the right, the second upwards."""
    draw = torch.Generator().manual_seed(0)
    for turn in (torch.tensor([1.0, 1, 1]), torch.tensor([-1.0, 1, 1]), torch.tensor([1.0, -1, -1])):
        spread = torch.randn(300, 2, generator=draw) * torch.tensor([0.8, 0.3])
        z = torch.cat([spread, torch.ones(300, 1)], dim=1) * turn
        plane = principal_plane(z[:200], z[200:])
        unit = torch.nn.functional.normalize(z).numpy()
        drawn = np.concatenate((plane.view1, plane.view2))
        assert drawn.dtype == np.float64
        for axis in (0, 1):
            assert np.corrcoef(drawn[:, axis], unit[:, axis])[0, 1] > 0.99


def test_what_cannot_be_drawn_is_named():
    z = torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    bad = z.index_fill(0, torch.tensor([4]), torch.nan)
    for view, views in ((1, (bad, z)), (2, (z, bad))):
        with pytest.raises(NumericalError, match=f"^view {view}: 1 of 25"):
            principal_plane(*views)
    with pytest.raises(NumericalError, match=r"^embeddings: 1 of 25"):
        neighbour_map(bad)


def test_the_fewest_items_and_two_dimensions_have_a_map():
    places = neighbour_map(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)))
    assert places is not None and places.shape == (20, 2) and places.dtype == np.float64


def test_a_line_and_a_point_have_a_plane_too():
    one = principal_plane(torch.tensor([[1.0], [-2.0]]), torch.tensor([[3.0]]))
    assert one.view1.shape == (2, 2) and one.shares == (pytest.approx(1.0), 0.0) and not one.view1[:, 1].any()
    same = principal_plane(torch.ones(3, 4), torch.ones(2, 4))
    np.testing.assert_allclose(same.view1, 0, atol=1e-7)
    assert max(same.shares) < 1e-6


def test_a_map_keeps_clusters_and_is_the_same_again():
    centres = torch.eye(3).repeat_interleave(12, dim=0)
    z = centres + 0.05 * torch.randn(36, 3, generator=torch.Generator().manual_seed(1))
    places = neighbour_map(z)
    np.testing.assert_array_equal(places, neighbour_map(z))
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag([np.inf] * 36)
    assert (distance.argmin(axis=1) // 12 == np.arange(36) // 12).all()


@pytest.mark.parametrize("z", [torch.ones(40, 3), torch.zeros(40, 3), torch.rand(19, 3), torch.rand(40, 1)])
def test_nothing_to_map(z):
    assert neighbour_map(z) is None


def test_correlations_per_dimension_add_up_to_the_totals():
    generator = torch.Generator().manual_seed(0)
    fit1 = torch.randn(200, 40, generator=generator)
    fit2 = fit1[:, :38] + torch.randn(200, 38, generator=generator)
    fit1[:, 5] = fit1[:, 4]
    z1, z2 = fit1[:50], fit2[:50]
    canonical = canonical_correlations(z1, z2, (fit1, fit2))
    assert canonical.shape == (38,) and float(canonical.sum()) == \
        pytest.approx(canonical_correlation(z1, z2, (fit1, fit2)), abs=1e-12)
    pairs = torch.tensor([[0, 1], [0, 2], [3, 4], [7, 7]])
    per_dimension = dimension_correlations(z1[:, :38], z2, pairs)
    expected = [np.corrcoef(z1[pairs[:, 0], i], z2[pairs[:, 1], i])[0, 1] for i in range(38)]
    np.testing.assert_allclose(per_dimension, expected, atol=1e-6)
    assert float(per_dimension.sum()) == pytest.approx(sum_correlation(z1[:, :38], z2, pairs), abs=1e-12)
