"""Oracles of xmodal.metrics: scipy's rankdata, scikit-learn's average precision and nDCG, numpy's corrcoef."""
from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, ndcg_score
from torch import Tensor

from xmodal.errors import DataError, NumericalError
from xmodal.metrics import (
    PRIMARY,
    bootstrap_interval,
    canonical_correlation,
    mean_squared_errors,
    paired_bootstrap_difference,
    rank_metrics,
    retrieval_metrics,
    retrieval_ranks,
    sum_correlation,
)

TILES = [None, 1, (13, 4), (3, 11), (64, 1000)]


def random_views(n1: int, n2: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n1, d, generator=generator), torch.randn(n2, d, generator=generator)


def random_pairs(n1: int, n2: int, m: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack((torch.randint(n1, (m,), generator=generator), torch.randint(n2, (m,), generator=generator)), 1)


def slow_scores(z1: Tensor, z2: Tensor) -> np.ndarray:
    """Cosines one by one in float64, rounded so that what is equal in exact arithmetic is equal here."""
    rows1, rows2 = ([row / (np.linalg.norm(row) or 1.0) for row in z.double().numpy()] for z in (z1, z2))
    return np.array([[round(float(a @ b), 11) for b in rows2] for a in rows1])


def slow_ranks(scores: np.ndarray, pairs: np.ndarray) -> tuple[list[float], list[bool]]:
    ranks, tied = [], []
    for query in sorted(set(pairs[:, 0].tolist())):
        matches = pairs[pairs[:, 0] == query, 1]
        average = rankdata(-scores[query], method="average")
        ranks.append(average[matches].min())
        tied.append(int((scores[query] == scores[query][matches].max()).sum()) > 1)
    return ranks, tied


def assert_equals_oracle(z1: Tensor, z2: Tensor, pairs: Tensor | None, tile: object = None) -> None:
    got = retrieval_ranks(z1, z2, pairs, tile=tile)
    table = np.stack([np.arange(len(z1))] * 2, axis=1) if pairs is None else pairs.numpy()
    scores = slow_scores(z1, z2)
    for given_ranks, given_tied, given_queries, oracle, column in (
            (got.V1_to_V2, got.tied1, got.queries1, slow_ranks(scores, table), 0),
            (got.V2_to_V1, got.tied2, got.queries2, slow_ranks(scores.T, table[:, ::-1]), 1)):
        assert given_ranks.tolist() == oracle[0]
        assert given_tied.tolist() == oracle[1]
        assert given_queries.tolist() == sorted(set(table[:, column].tolist()))


# -- ranks -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("n1", "n2", "d"), [(11, 3, 4), (13, 4, 2), (1, 1, 1), (1, 7, 3), (40, 40, 1), (97, 61, 16)])
def test_ranks_equal_scipy_with_any_pairs_and_tile(n1: int, n2: int, d: int, tile: object) -> None:
    z1, z2 = random_views(n1, n2, d)
    assert_equals_oracle(z1, z2, random_pairs(n1, n2, n1 + 3), tile)


@pytest.mark.parametrize("tile", TILES)
def test_ranks_equal_scipy_without_a_pair_table(tile: object) -> None:
    assert_equals_oracle(*random_views(60, 60, 8), None, tile)


@pytest.mark.parametrize("tile", TILES)
def test_tied_codes_take_average_ranks(tile: object) -> None:
    z1, z2 = random_views(70, 50, 6)
    assert_equals_oracle(z1.sign(), z2.sign(), random_pairs(70, 50, 90), tile)
    assert_equals_oracle(z1.round(), z2.round(), random_pairs(70, 50, 90), tile)  # with zero vectors


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(1, 25), st.integers(1, 9),
       st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_ranks_equal_scipy_on_small_integers(n1: int, n2: int, d: int, m: int, rows: int, columns: int,
                                             seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = (torch.randint(-2, 3, (n, d), generator=generator).float() for n in (n1, n2))
    assert_equals_oracle(z1, z2, random_pairs(n1, n2, m, seed), (rows, columns))


def test_near_ties_are_decided_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 64, generator=generator, dtype=torch.float64)
    z2 = base + 1e-6 * torch.randn(300, 64, generator=generator, dtype=torch.float64)   # cosines 1e-12 apart
    z1 = base + 0.1 * torch.randn(300, 64, generator=generator, dtype=torch.float64)    # cosines 1e-7 apart
    scores = torch.nn.functional.normalize(z1) @ torch.nn.functional.normalize(z2).T
    expected = [rankdata(-row.numpy())[i] for i, row in enumerate(scores)]
    got = retrieval_ranks(z1, z2, tile=(100, 37))
    assert np.abs(got.V1_to_V2.numpy() - np.array(expected)).max() <= 0.5   # 1e-13 apart counts as the same
    assert got.tied1.float().mean() < 0.05


@pytest.mark.parametrize("tile", [None, (7, 5), (100, 33)])
@pytest.mark.parametrize("value", ["ones", "zeros", "random"])
def test_a_collapsed_model_scores_chance(value: str, tile: object) -> None:
    n, row = 101, random_views(1, 1, 128)[0]
    z = {"ones": torch.ones(n, 128), "zeros": torch.zeros(n, 128), "random": row.expand(n, 128)}[value]
    ranks = retrieval_ranks(z, z * 3.7, tile=tile)
    assert ranks.V1_to_V2.tolist() == ranks.V2_to_V1.tolist() == [(n + 1) / 2] * n
    assert bool(ranks.tied1.all()) and bool(ranks.tied2.all())


def test_duplicated_rows_tie_exactly_across_tiles() -> None:
    z1, z2 = random_views(90, 30, 128)
    z2 = z2.repeat(3, 1)                # items i, i + 30, i + 60 are the same
    ranks = retrieval_ranks(z1, z2, tile=(32, 29))
    thirds = retrieval_ranks(z1[:30], z2[:30])
    assert torch.equal(ranks.V1_to_V2[:30], 3 * (thirds.V1_to_V2 - 1) + 2)
    assert bool(ranks.tied1.all()) and not bool(thirds.tied1.any())


def test_ranks_are_float64_and_queries_whole_numbers() -> None:
    ranks = retrieval_ranks(*random_views(9, 9, 3))
    assert [values.dtype for values in ranks] == [torch.float64] * 2 + [torch.bool] * 2 + [torch.int64] * 2


def test_threads_change_nothing() -> None:
    z1, z2 = random_views(300, 300, 8)
    before = torch.get_num_threads()
    single = retrieval_ranks(z1, z2, tile=(17, 64))
    try:
        torch.set_num_threads(3)
        with torch.inference_mode():
            several = retrieval_ranks(z1 + 0, z2 + 0, tile=(17, 64))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(single, several, strict=True))


def test_an_error_in_a_thread_leaves_the_number_of_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError
    monkeypatch.setattr("xmodal.metrics.ranks._count_tile", fail)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(MemoryError):
            retrieval_ranks(*random_views(50, 50, 4), tile=8)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_caller_s_precision_settings_neither_matter_nor_change() -> None:
    z1, z2 = random_views(80, 80, 32)
    expected = retrieval_ranks(z1, z2)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = retrieval_ranks(z1.requires_grad_(), z2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(got.V1_to_V2, expected.V1_to_V2)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_scale_does_not_matter(scale: float) -> None:
    z1, z2 = random_views(50, 50, 16)
    expected, got = retrieval_metrics(z1, z2), retrieval_metrics(z1 * scale, z2 / scale)
    assert got["V1_to_V2"] == pytest.approx(expected["V1_to_V2"], abs=1e-6)


def test_whole_numbers_are_embeddings_too() -> None:
    z1, z2 = ((3 * z).round().to(torch.int64) for z in random_views(40, 40, 4))
    expected = retrieval_ranks(z1.float(), z2.float())
    for found in (retrieval_ranks(z1, z2), retrieval_ranks(z1.to(torch.int8), z2.numpy())):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_of_many_bad_rows_the_first_five_are_named() -> None:
    bad = torch.ones(9, 2).index_fill(0, torch.tensor([1, 2, 4, 5, 7, 8]), torch.nan)
    with pytest.raises(NumericalError, match=r"6 of 9 .* \(rows 1, 2, 4, 5, 7, …\)"):
        retrieval_ranks(bad, bad)


def test_the_scale_of_one_row_is_nothing_to_the_others() -> None:
    z1, z2 = (z.double() for z in random_views(60, 60, 4))
    scales = 10.0 ** torch.linspace(-250, 250, 60, dtype=torch.float64).unsqueeze(1)
    assert torch.equal(retrieval_ranks(z1 * scales, z2).V1_to_V2, retrieval_ranks(z1, z2).V1_to_V2)
    assert torch.equal(retrieval_ranks(z1, z2 / scales).V2_to_V1, retrieval_ranks(z1, z2).V2_to_V1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_width_and_numpy(dtype: torch.dtype) -> None:
    z1, z2 = (z.to(dtype) for z in random_views(40, 40, 8))
    ranks = retrieval_ranks(z1, z2)
    assert torch.equal(ranks.V1_to_V2, retrieval_ranks(z1.double(), z2.double()).V1_to_V2)
    arrays = retrieval_ranks(z1.double().numpy(), z2.double().numpy(), np.stack([np.arange(40)] * 2, axis=1))
    assert torch.equal(ranks.V2_to_V1, arrays.V2_to_V1)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_transposition_permutation_and_rotation(seed: int) -> None:
    z1, z2 = random_views(30, 21, 5, seed)
    pairs = random_pairs(30, 21, 25, seed)
    ranks = retrieval_ranks(z1, z2, pairs)
    swapped = retrieval_ranks(z2, z1, pairs.flip(1))
    assert torch.equal(ranks.V1_to_V2, swapped.V2_to_V1) and torch.equal(ranks.V2_to_V1, swapped.V1_to_V2)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    rotated = retrieval_ranks(z1.double() @ rotation, z2.double() @ rotation, pairs)
    assert torch.equal(ranks.V1_to_V2, rotated.V1_to_V2)
    order1, order2 = torch.randperm(30), torch.randperm(21)
    moved = torch.stack((order1.argsort()[pairs[:, 0]], order2.argsort()[pairs[:, 1]]), dim=1)
    permuted = retrieval_ranks(z1[order1], z2[order2], moved)
    assert torch.equal(ranks.V1_to_V2.sort().values, permuted.V1_to_V2.sort().values)


# -- metrics -----------------------------------------------------------------------------------------------------

def test_metrics_worked_by_hand() -> None:
    z2 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    z1 = torch.tensor([[1.0, 0.1], [1.0, 0.5], [0.1, 1.0], [0.1, -1.0]])   # ranks 1, 2, 3 and 1
    values = retrieval_metrics(z1, z2, ks=(1, 2, 10))["V1_to_V2"]
    assert (values["r1"], values["hits1"], values["r2"], values["r10"], values["hits10"]) == (50.0, 2, 75.0, 100.0, 4)
    assert (values["median_rank"], values["mean_rank"]) == (1.5, 1.75)
    assert values["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)
    distances = 1 - np.array([1, 0.5, -0.1, 1]) / np.sqrt([1.01, 1.25, 1.01, 1.01])
    assert values["mean_distance"] == pytest.approx(distances.mean())
    assert values["median_distance"] == pytest.approx(np.median(distances))
    assert (values["min_distance"], values["max_distance"]) == pytest.approx((distances.min(), distances.max()))
    assert (values["tied_queries"], values["n_queries"], values["n_gallery"]) == (0, 4, 4)


def test_items_without_a_partner_are_gallery_but_no_query() -> None:
    z = torch.eye(4)
    result = retrieval_metrics(z, torch.cat((z, z)), torch.tensor([[1, 1], [1, 1], [2, 2], [2, 6]]))
    assert (result["V1_to_V2"]["n_queries"], result["V1_to_V2"]["n_gallery"]) == (2, 8)
    assert (result["V2_to_V1"]["n_queries"], result["V2_to_V1"]["n_gallery"]) == (3, 4)
    assert result["V1_to_V2"]["tied_queries"] == 2      # item 1 with a stranger, item 2 with its own other match
    assert result["V1_to_V2"]["mean_rank"] == 1.5


def test_rounding_makes_no_distance_outside_0_to_2() -> None:
    z, _ = random_views(400, 1, 5)
    for sign, bound in ((1, 0), (-1, 2)):
        values = retrieval_metrics(z, sign * z)["V1_to_V2"]
        assert 0 <= values["min_distance"] <= values["max_distance"] <= 2
        assert values["mean_distance"] == pytest.approx(bound, abs=1e-12)


def test_ranks_can_be_handed_in() -> None:
    z1, z2 = random_views(30, 30, 4)
    ranks = retrieval_ranks(z1, z2)
    assert retrieval_metrics(z1, z2, ranks=ranks) == retrieval_metrics(z1, z2)
    assert rank_metrics(ranks, "V2_to_V1").items() <= retrieval_metrics(z1, z2)["V2_to_V1"].items()
    assert PRIMARY.key in rank_metrics(ranks, "V1_to_V2")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n1", "n2"), [(60, 47), (5, 1), (1, 9)])
def test_map_and_ndcg_equal_scikit_learn(n1: int, n2: int, ties: bool) -> None:
    z1, z2 = random_views(n1, n2, 3)
    if ties:
        z1, z2 = z1.round(), z2.round()
    rng = np.random.default_rng(0)
    labels1, labels2 = rng.integers(0, 6, n1), rng.integers(0, 5, n2)
    labels1[0], labels2[0] = 1, 1
    values = retrieval_metrics(z1, z2, random_pairs(n1, n2, 5), labels1=torch.from_numpy(labels1), labels2=labels2)
    for direction, scores, relevant in (("V1_to_V2", slow_scores(z1, z2), labels1[:, None] == labels2),
                                        ("V2_to_V1", slow_scores(z1, z2).T, labels2[:, None] == labels1)):
        asked = relevant.any(axis=1)
        scores, relevant = scores[asked], relevant[asked]
        expected = np.mean([average_precision_score(a, b) for a, b in zip(relevant, scores, strict=True)])
        assert values[direction]["map"] == pytest.approx(expected, abs=1e-12)
        if scores.shape[1] > 1:         # ndcg_score refuses a gallery of one
            for k in (1, 5, 10, 25):
                assert values[direction][f"ndcg{k}"] == pytest.approx(ndcg_score(relevant, scores, k=k), abs=1e-12)


def test_labels_in_blocks_and_without_a_common_class(monkeypatch: pytest.MonkeyPatch) -> None:
    z1, z2 = random_views(40, 40, 3)
    labels = np.array(list("abcd") * 10)
    whole = retrieval_metrics(z1, z2.round(), labels1=labels, labels2=labels)
    monkeypatch.setattr("xmodal.metrics.classes.BLOCK_VALUES", 100)
    assert retrieval_metrics(z1, z2.round(), labels1=labels, labels2=labels)["V1_to_V2"] \
        == pytest.approx(whole["V1_to_V2"])
    with np.errstate(all="raise"):  # no class in common is no division by nought
        strangers = retrieval_metrics(z1, z2, labels1=np.zeros(40), labels2=np.ones(40))
    assert np.isnan(strangers["V1_to_V2"]["map"]) and np.isnan(strangers["V2_to_V1"]["ndcg10"])


# -- correlations ------------------------------------------------------------------------------------------------

def test_sum_correlation_equals_numpy() -> None:
    z1, z2 = random_views(50, 50, 40)
    z2 = z2 + z1
    expected = sum(np.corrcoef(z1[:, j], z2[:, j])[0, 1] for j in range(40))
    assert sum_correlation(z1, z2) == pytest.approx(expected)
    pairs = random_pairs(50, 50, 70)
    expected = sum(np.corrcoef(z1[pairs[:, 0], j], z2[pairs[:, 1], j])[0, 1] for j in range(40))
    assert sum_correlation(z1, z2, pairs.unique(dim=0)) == pytest.approx(sum_correlation(z1, z2, pairs))
    assert sum_correlation(z1 * 1e-25, z2 * 1e25) == pytest.approx(sum_correlation(z1, z2))


def test_constant_dimensions_count_nothing() -> None:
    z1, z2 = random_views(30, 30, 3)
    z1[:, 1], z2[:, 2] = 0.1, 1e6
    assert sum_correlation(z1, z2) == pytest.approx(np.corrcoef(z1[:, 0], z2[:, 0])[0, 1])
    assert sum_correlation(torch.zeros(1, 3), torch.ones(1, 3)) == 0.0


def correlated_embeddings(n: int, seed: int, correlations: tuple[float, ...] = (0.9, 0.6, 0.3),
                          ) -> tuple[Tensor, Tensor]:
    x, noise = random_views(n, n, len(correlations), seed)
    r = torch.tensor(correlations)
    return x, r * x + (1 - r.square()).sqrt() * noise


def test_canonical_correlation_finds_the_population_s() -> None:
    fit, (z1, z2) = correlated_embeddings(20_000, 0), correlated_embeddings(20_000, 1)
    assert canonical_correlation(z1, z2, fit) == pytest.approx(1.8, abs=0.03)
    A, B = torch.randn(3, 3), torch.randn(3, 5)         # any linear maps, the second into more dimensions
    mixed = canonical_correlation(z1 @ A, z2 @ B, (fit[0] @ A, fit[1] @ B))
    assert mixed == pytest.approx(canonical_correlation(z1, z2, fit), abs=1e-3)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_copies_of_one_feature_count_once(scale: float) -> None:
    (f1, f2), (z1, z2) = (correlated_embeddings(2000, seed, (0.9,)) for seed in (0, 1))
    f1, f2, z1, z2 = (scale * z.expand(-1, 50) for z in (f1, f2, z1, z2))
    assert sum_correlation(z1, z2) == pytest.approx(45, abs=1)
    assert canonical_correlation(z1, z2, (f1, f2)) == pytest.approx(0.9, abs=0.02)


def test_canonical_correlation_with_pair_tables_and_degenerate_views() -> None:
    fit, (z1, z2) = correlated_embeddings(500, 0), correlated_embeddings(100, 1)
    order = torch.randperm(500)
    table = torch.stack((order.argsort(), torch.arange(500)), dim=1)
    shuffled = canonical_correlation(z1, z2, (fit[0][order], fit[1]), fit_pairs=table)
    assert shuffled == pytest.approx(canonical_correlation(z1, z2, fit))
    assert canonical_correlation(torch.zeros(9, 3), z2[:9], (torch.zeros(500, 3), fit[1])) == 0.0
    with pytest.raises(DataError, match="dimension 3, but its fit data has 2"):
        canonical_correlation(z1, z2, (fit[0][:, :2], fit[1]))


def test_a_direction_that_one_view_alone_supports_counts_nothing() -> None:
    """View 2's second column is constant where CCA is fitted, and by accident a copy of view 1's where it is not."""
    fit, (z1, z2) = correlated_embeddings(4000, 0, (0.9, 0.0)), correlated_embeddings(500, 1, (0.9, 0.0))
    fit[1][:, 1] = 0.0
    z2[:, 1] = z1[:, 1]
    for found in (canonical_correlation(z1, z2, fit), canonical_correlation(z2, z1, fit[::-1])):
        assert found == pytest.approx(0.9, abs=0.05)


def test_the_ridge_is_added_to_both_views() -> None:
    """The formula, by the symmetric eigenproblem of Hotelling, each covariance scaled to a mean variance of 1."""
    fit, (z1, z2) = random_views(60, 60, 3, 0), random_views(40, 40, 3, 1)
    fit = fit[0] * torch.tensor([1.0, 5.0, 0.2]), fit[1] + fit[0]
    (x, y), d = (z.double().numpy() for z in fit), 3
    S = np.cov(x.T, y.T)
    scales = [np.trace(block) / d for block in (S[:d, :d], S[d:, d:])]
    R1, R2 = (block / scale + 0.3 * np.eye(d) for block, scale in zip((S[:d, :d], S[d:, d:]), scales, strict=True))
    cross = S[:d, d:] / np.sqrt(scales[0] * scales[1])
    _, U = scipy.linalg.eigh(cross @ np.linalg.solve(R2, cross.T), R1)
    V = np.linalg.solve(R2, cross.T @ U)
    expected = sum(np.corrcoef(z1.double().numpy() @ U[:, i], z2.double().numpy() @ V[:, i])[0, 1] for i in range(d))
    assert canonical_correlation(z1, z2, fit, ridge=0.3) == pytest.approx(expected, abs=1e-9)


def test_canonical_correlation_names_what_is_wrong() -> None:
    fit, (z1, z2) = random_views(9, 9, 3, 0), random_views(5, 5, 3, 1)
    bad = [z.index_fill(0, torch.tensor([1]), torch.nan) for z in (z1, z2, *fit)]
    for arguments, name in (((bad[0], z2, fit), "view 1"), ((z1, bad[1], fit), "view 2"),
                            ((z1, z2, (bad[2], fit[1])), "view 1 of fit"),
                            ((z1, z2, (fit[0], bad[3])), "view 2 of fit")):
        with pytest.raises(NumericalError, match=f"^{name}: 1 of"):
            canonical_correlation(*arguments)
    for view, arguments in ((1, (z1[:, :2], z2)), (2, (z1, z2[:, :2]))):
        with pytest.raises(DataError, match=f"^view {view} has dimension 2, but its fit data has 3"):
            canonical_correlation(*arguments, fit)
    with pytest.raises(DataError, match="at least 2 fit pairs, got 1"):
        canonical_correlation(z1, z2, fit, fit_pairs=[[0, 0]])


# -- bootstrap ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["mrr", "r1", "r10", "mean_rank", "median_rank"])
def test_bootstrap_equals_a_loop(name: str) -> None:
    ranks = np.random.default_rng(1).integers(1, 60, 200).astype(float)
    statistic = {"mrr": lambda r: (1 / r).mean(), "r1": lambda r: 100 * (r <= 1).mean(), "mean_rank": np.mean,
                 "r10": lambda r: 100 * (r <= 10).mean(), "median_rank": np.median}[name]
    drawn = np.random.default_rng(5).integers(200, size=(300, 200))
    expected = np.quantile([statistic(ranks[row]) for row in drawn], [0.05, 0.95])
    interval = bootstrap_interval(torch.from_numpy(ranks), name, n_resamples=300, level=0.9, seed=5)
    assert interval == pytest.approx((statistic(ranks), *expected))


def test_bootstrap_interval_is_as_wide_as_theory_says() -> None:
    ranks = torch.cat((torch.ones(600), torch.full((400,), 3.0)))
    value, low, high = bootstrap_interval(ranks, "r1", n_resamples=2000)
    half = 1.96 * 100 * (0.6 * 0.4 / 1000)**0.5
    assert (value, low, high) == pytest.approx((60, 60 - half, 60 + half), abs=0.4)


def test_paired_difference_cancels_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(2, 40, 500).astype(float)
    value, low, high = paired_bootstrap_difference(a, a - 1, "mean_rank")
    assert value == low == high == 1.0
    assert paired_bootstrap_difference(a, a) == (0.0, 0.0, 0.0)
    with pytest.raises(DataError, match="same queries"):
        paired_bootstrap_difference(a, a[:-1])


def test_a_statistic_of_one_s_own_and_a_single_resample() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(1, 30, 40).astype(float), rng.integers(1, 30, 40).astype(float)
    named, own = "mean_rank", lambda ranks: ranks.mean(axis=-1)
    assert paired_bootstrap_difference(a, b, own) == paired_bootstrap_difference(a, b, named)
    assert bootstrap_interval(a, own) == bootstrap_interval(a, named)
    drawn = np.random.default_rng(0).integers(40, size=40)
    assert bootstrap_interval(a, named, n_resamples=1) == pytest.approx((a.mean(), *[a[drawn].mean()] * 2))
    with pytest.raises(DataError, match="n_resamples: expected at least 1, got 0"):
        bootstrap_interval(a, named, n_resamples=0)


def test_resamples_in_blocks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = np.random.default_rng(1).integers(1, 60, 50).astype(float)
    whole = bootstrap_interval(ranks, n_resamples=99)
    monkeypatch.setattr("xmodal.metrics.bootstrap.GATHERED_VALUES", 50 * 7)
    assert bootstrap_interval(ranks, n_resamples=99) == pytest.approx(whole)


# -- restoring ---------------------------------------------------------------------------------------------------

def test_squared_errors_are_means_over_all_values_of_all_items() -> None:
    restored, items = ({"one": torch.randn(11, 2, 3, generator=torch.Generator().manual_seed(seed)),
                        "two": torch.randn(11, 4, generator=torch.Generator().manual_seed(seed + 2))}
                       for seed in (0, 1))
    batches = [tuple({name: z[rows] for name, z in each.items()} for each in (restored, items))
               for rows in (slice(0, 4), slice(4, 5), slice(5, 11))]
    found = mean_squared_errors(iter(batches))
    assert found == {name: pytest.approx(np.mean((restored[name].double() - items[name].double()).numpy() ** 2))
                     for name in ("one", "two")}


# -- bad input ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("view", [1, 2])
def test_not_finite_names_view_and_rows(view: int, bad: float) -> None:
    views = [torch.ones(10, 3), torch.ones(10, 3)]
    views[view - 1][[2, 7], 1] = bad
    with pytest.raises(NumericalError, match=rf"view {view}: 2 of 10 .* \(rows 2, 7\)"):
        retrieval_metrics(*views)
    with pytest.raises(NumericalError, match=f"view {view}"):
        sum_correlation(*views)


@pytest.mark.parametrize(("arguments", "message"), [
    ((torch.ones(3, 2), torch.ones(4, 2)), "without a pair table"),
    ((torch.ones(3, 2), torch.ones(3, 4)), "different dimension: 2 and 4"),
    ((torch.ones(3), torch.ones(3)), r"shape \(n, d\)"),
    ((torch.ones(0, 2), torch.ones(0, 2)), r"at least 1, got \(0, 2\)"),
    ((torch.ones(3, 2), torch.ones(3, 2), [[0, 3]]), "column 1 holds 3 to 3, but view 2 has items 0 to 2"),
    ((torch.ones(3, 2), torch.ones(3, 2), [[-1, 0]]), "column 0 holds -1"),
    ((torch.ones(3, 2), torch.ones(3, 2), [[0.0, 1.0]]), "expected integers"),
    ((torch.ones(3, 2), torch.ones(3, 2), [[True, False]]), "expected integers, got torch.bool"),
    ((torch.ones(3, 2), torch.ones(3, 2), [[0j, 1j]]), "expected integers, got torch.complex64"),
    ((torch.ones(3, 2), torch.ones(3, 2), [0, 1]), r"array \(m, 2\)"),
    ((torch.ones(3, 2), torch.ones(3, 2), torch.zeros(0, 2, dtype=torch.int64)), "at least one row"),
    ((torch.ones(3, 2), torch.ones(3, 2), None, (0,)), "whole numbers from 1"),
    ((torch.ones(3, 2), torch.ones(3, 2), None, (1,), [1, 2, 3]), "both labels1 and labels2"),
    ((torch.ones(3, 2), torch.ones(3, 2), None, (1,), [1, 2, 3], [1, 2]), "labels2: expected one per item"),
])
def test_bad_input_is_told(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        retrieval_metrics(*arguments)


@pytest.mark.parametrize("name", ["r0", "r", "rank", "r-1", "r1.5", "5", "m5", "MRR"])
def test_no_such_statistic(name: str) -> None:
    with pytest.raises(DataError, match=f"^statistic '{name}': "):
        bootstrap_interval(np.ones(3), name)


def test_bad_options_are_told() -> None:
    with pytest.raises(DataError, match="tile"):
        retrieval_ranks(torch.ones(2, 2), torch.ones(2, 2), tile=0)
    with pytest.raises(DataError, match="did you mean mrr"):
        bootstrap_interval(np.ones(3), "mmr")
    with pytest.raises(DataError, match="level"):
        bootstrap_interval(np.ones(3), level=95)
    with pytest.raises(DataError, match="at least 1"):
        bootstrap_interval(np.ones(0))
    with pytest.raises(DataError, match="did you mean V1_to_V2"):
        rank_metrics(retrieval_ranks(torch.ones(2, 2), torch.ones(2, 2)), "V1_toV2")
