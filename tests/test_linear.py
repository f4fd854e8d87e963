"""Linear CCA, PLS and Identity, and the sums they are made of, against closed forms, SciPy and scikit-learn."""
from __future__ import annotations

import multiprocessing
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import CCA, PLSSVD
from sklearn.exceptions import NotFittedError

from xmodal.errors import DataError
from xmodal.linear import PLS, Identity, LinearCCA
from xmodal.linear import inputs as linear_inputs
from xmodal.linear.inputs import Rows, block_rows, lone_blocks, paired_blocks
from xmodal.linear.sums import PairSums

# Few pairs and dependent columns are warned of; the tests of these warnings catch them.
pytestmark = pytest.mark.filterwarnings("ignore:view[12]. :UserWarning")


def gaussian_views(n: int, population: list[float], d1: int, d2: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Views with these population correlations, mixed by random maps, far from zero."""
    rng = np.random.default_rng(seed)
    mix1, mix2 = rng.normal(size=(d1, d1)), rng.normal(size=(d2, d2))  # the same for every n
    k, rho = len(population), np.array(population)
    x, y = rng.normal(size=(n, d1)), rng.normal(size=(n, d2))
    y[:, :k] = x[:, :k] * rho + y[:, :k] * np.sqrt(1 - rho**2)
    return x @ mix1 + 7, y @ mix2 - 2


def tensors(*views: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(view) for view in views]


def inverse_root(S: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(S)
    return vectors / np.sqrt(values) @ vectors.T


def solved(S11: np.ndarray, S22: np.ndarray, S12: np.ndarray, r1: float, r2: float
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, V and correlations by explicit whitening, ridges relative to the mean variance."""
    W1 = inverse_root(S11 + r1 * S11.diagonal().mean() * np.eye(len(S11)))
    W2 = inverse_root(S22 + r2 * S22.diagonal().mean() * np.eye(len(S22)))
    E, correlations, Ft = np.linalg.svd(W1 @ S12 @ W2, full_matrices=False)
    return W1 @ E, W2 @ Ft.T, correlations


def covariances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d1 = x.shape[1]
    S = np.cov(x.T, y.T)
    return S[:d1, :d1], S[d1:, d1:], S[:d1, d1:]


def closed_form(x: np.ndarray, y: np.ndarray, r1: float = 0.0, r2: float = 0.0
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return solved(*covariances(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)), r1, r2)


def semi_paired(X: np.ndarray, Y: np.ndarray, pairs: np.ndarray, weight: float | str = "auto") -> list[np.ndarray]:
    """Means and covariances by hand: views of all items, paired ones as often as the table names them and others by
    their weight, the cross-covariance of the pairs around their own means."""
    means, covariances = [], []
    for i, Z in enumerate((X, Y)):
        alone = np.delete(Z, pairs[:, i], axis=0)
        w = np.full(len(alone), min(1, Z.shape[1] / len(alone)) if weight == "auto" else weight)
        w = np.concatenate([np.ones(len(pairs)), w])
        Z = np.concatenate([Z[pairs[:, i]], alone])
        means.append(np.average(Z, axis=0, weights=w))
        covariances.append((Z - means[-1]).T * w @ (Z - means[-1]) / (w.sum() - 1))
    x, y = X[pairs[:, 0]], Y[pairs[:, 1]]
    return [*means, *covariances, (x - x.mean(axis=0)).T @ (y - y.mean(axis=0)) / (len(pairs) - 1)]


def aligned(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The expected columns with the signs of the actual ones."""
    return expected * np.sign((actual * expected).sum(axis=0))


def cross_map(model) -> np.ndarray:
    """``U diag(ρ) Vᵀ``: of all components, it depends neither on signs nor on a choice among equal correlations."""
    return model.U_ * model.correlations_ @ model.V_.T


def assert_same_fit(actual, expected, rtol: float = 1e-7, atol: float = 1e-8) -> None:
    assert actual.n_pairs_ == expected.n_pairs_
    for name in ("mean1_", "mean2_", "correlations_"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol, atol, err_msg=name)
    whole = cross_map(expected)
    np.testing.assert_allclose(cross_map(actual), whole, rtol, atol * max(1.0, np.abs(whole).max()))


def fit_elsewhere(task):
    model, x, y = task
    return model.fit(x, y)


# -- closed forms ----------------------------------------------------------------------------------------------------

def test_one_dimension_is_pearsons_r():
    x, y = gaussian_views(50, [0.6], 1, 1)
    model = LinearCCA(r1=0, r2=0).fit(x, y)
    assert model.correlations_ == pytest.approx(abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1]), abs=1e-9)
    np.testing.assert_allclose(model.transform(x), (x - x.mean()) / x.std(ddof=1), atol=1e-9)


def test_ridge_of_one_dimension_by_hand():
    """cov/√((1 + r1) var₁ (1 + r2) var₂), as the ridges are relative to the variance."""
    x, y = gaussian_views(50, [0.6], 1, 1)
    r = abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    model = LinearCCA(r1=0.5, r2=0.1).fit(x, y)
    assert model.correlations_ == pytest.approx(r / np.sqrt(1.5 * 1.1), abs=1e-9)


@pytest.mark.parametrize(("d1", "d2"), [(5, 5), (7, 3), (3, 7), (1, 4), (4, 1)])
@pytest.mark.parametrize(("r1", "r2"), [(0.0, 0.0), (1e-3, 1e-3), (0.3, 0.01)])
def test_everything_is_that_of_the_closed_form(d1, d2, r1, r2):
    x, y = gaussian_views(100, [0.8], d1, d2)
    model = LinearCCA(r1=r1, r2=r2).fit(x, y)
    U, V, correlations = closed_form(x, y, r1, r2)
    np.testing.assert_allclose(model.correlations_, correlations, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.U_, aligned(model.U_, U), rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.V_, aligned(model.V_, V), rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.mean1_, x.mean(axis=0))
    np.testing.assert_allclose(model.mean2_, y.mean(axis=0))
    assert model.n_pairs_ == 100


@pytest.mark.parametrize(("r1", "r2"), [(0.0, 0.0), (0.2, 0.05)])
def test_correlations_solve_the_generalised_eigenproblem(r1, r2):
    """[[0, S12], [S21, 0]] w = ρ [[S11 + R1, 0], [0, S22 + R2]] w (Hotelling 1936)."""
    x, y = gaussian_views(80, [0.9, 0.5], 6, 4)
    S11, S22, S12 = covariances(x, y)
    left = np.block([[np.zeros((6, 6)), S12], [S12.T, np.zeros((4, 4))]])
    right = scipy.linalg.block_diag(S11 + r1 * np.trace(S11) / 6 * np.eye(6), S22 + r2 * np.trace(S22) / 4 * np.eye(4))
    values, vectors = scipy.linalg.eigh(left, right)
    model = LinearCCA(r1=r1, r2=r2).fit(x, y)
    np.testing.assert_allclose(model.correlations_, values[::-1][:4], rtol=0, atol=1e-8)
    joint = np.concatenate([model.U_, model.V_])
    np.testing.assert_allclose(joint, aligned(joint, vectors[:, ::-1][:, :4] * np.sqrt(2)), atol=1e-8)


def test_correlations_are_scikit_learns():
    x, y = gaussian_views(200, [0.9, 0.6, 0.3], 5, 4)
    model = LinearCCA(3, r1=0, r2=0).fit(x, y)
    reference = CCA(n_components=3, max_iter=5000, tol=1e-12).fit(x, y)
    scores1, scores2 = reference.transform(x, y)
    expected = [np.corrcoef(scores1[:, i], scores2[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(model.correlations_, expected, atol=1e-6)
    for z, scores in zip(model.transform(x, y), (scores1, scores2), strict=True):
        for i in range(3):
            assert abs(np.corrcoef(z[:, i], scores[:, i])[0, 1]) == pytest.approx(1, abs=1e-5)


def test_coordinates_are_white_and_meet_in_the_diagonal():
    x, y = gaussian_views(60, [0.9, 0.5], 5, 4)
    model = LinearCCA(r1=0, r2=0).fit(x, y)
    z1, z2 = model.transform(x, y)
    S11, S22, S12 = covariances(z1, z2)
    np.testing.assert_allclose(S11, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(S22, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(S12, np.diag(model.correlations_), rtol=0, atol=1e-8)
    assert (np.diff(model.correlations_) <= 0).all()


def test_score_is_the_sum_of_correlations_out_of_sample():
    x, y = gaussian_views(150, [0.9, 0.5], 5, 4)
    model = LinearCCA(2, r1=0, r2=0).fit(x[:100], y[:100])
    assert model.score(x[:100], y[:100]) == pytest.approx(model.correlations_.sum(), abs=1e-8)
    a, b = model.transform(x[100:]), model.transform_view2(y[100:])
    assert model.score(x[100:], y[100:]) == pytest.approx(sum(np.corrcoef(a.T, b.T)[i, 2 + i] for i in range(2)))


def test_components_are_the_first_of_all():
    x, y = gaussian_views(60, [0.9, 0.5], 5, 4)
    every, two = LinearCCA().fit(x, y), LinearCCA(2).fit(x, y)
    np.testing.assert_allclose(two.transform(x), every.transform(x)[:, :2], atol=1e-10)
    np.testing.assert_allclose(two.correlations_, every.correlations_[:2], rtol=0, atol=1e-12)


def test_signs_make_the_largest_entry_of_each_column_of_u_positive():
    x, y = gaussian_views(60, [0.9, 0.5], 5, 4)
    for model in (LinearCCA().fit(x, y), LinearCCA().fit(-x, y), PLS().fit(x, -y), LinearCCA().fit(x[:4], y[:4])):
        assert (model.U_[np.abs(model.U_).argmax(axis=0), range(model.U_.shape[1])] > 0).all()


# -- what changes nothing --------------------------------------------------------------------------------------------

@settings(max_examples=30)
@given(st.integers(0, 10**6), st.booleans())
def test_invertible_maps_of_a_view_change_nothing(seed, of_view1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4))
    y = x * [0.9, 0.6, 0.3, 0] + rng.normal(size=(60, 4))
    Q, R = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    A, b = Q * np.exp(rng.uniform(-2, 2, size=4)) @ R, rng.normal(size=4) * 100     # condition up to 55
    plain = LinearCCA(r1=0, r2=0).fit(x, y)
    x2, y2 = (x @ A + b, y) if of_view1 else (x, y @ A + b)
    mapped = LinearCCA(r1=0, r2=0).fit(x2, y2)
    np.testing.assert_allclose(mapped.correlations_, plain.correlations_, rtol=0, atol=1e-8)
    for z, expected in zip(mapped.transform(x2, y2), plain.transform(x, y), strict=True):
        np.testing.assert_allclose(z * plain.correlations_, aligned(z, expected) * plain.correlations_, atol=1e-5)


def test_scale_means_nothing_ridge_included():
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    plain = LinearCCA().fit(x, y)
    for s1, s2 in ((1e6, 1e-6), (1e-9, 1.0), (1e-3, 1e9)):
        scaled = LinearCCA().fit(x * s1, y * s2)
        np.testing.assert_allclose(scaled.correlations_, plain.correlations_, rtol=1e-6)
        np.testing.assert_allclose(scaled.transform(x * s1), plain.transform(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("model", "s1", "s2"), [(LinearCCA(1), 1e-20, 1.0), (LinearCCA(1), 1e-17, 1e-17),
                                                 (PLS(1), 1e-100, 1e-60)], ids=str)
def test_tiny_scales_mean_nothing_either(model, s1, s2):
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    expected = model.fit(x, y).correlations_
    np.testing.assert_allclose(model.fit(x * s1, y * s2).correlations_, expected, rtol=1e-6)


def test_views_can_be_swapped():
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    one, other = LinearCCA(r1=0.1, r2=0.01).fit(x, y), LinearCCA(r1=0.01, r2=0.1).fit(y, x)
    np.testing.assert_allclose(one.correlations_, other.correlations_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cross_map(one), cross_map(other).T, atol=1e-12)


# -- known correlations ----------------------------------------------------------------------------------------------

def test_population_correlations():
    population = [0.9, 0.7, 0.4, 0.0]
    x, y = gaussian_views(100_000, population, 6, 4)
    model = LinearCCA(r1=0, r2=0).fit(x, y)
    np.testing.assert_allclose(model.correlations_, population, atol=0.01)


@pytest.mark.parametrize("few", [False, True], ids=["n > d", "n < d"])
def test_an_invertible_map_of_the_other_view_is_perfect_correlation(few):
    x, _ = gaussian_views(4 if few else 80, [0.5], 5, 5)
    y = x @ np.random.default_rng(1).normal(size=(5, 5)) - 3
    model = LinearCCA(3, r1=0, r2=0).fit(x, y)
    np.testing.assert_allclose(model.correlations_, 1, rtol=0, atol=1e-8)
    assert model.correlations_.max() <= 1 and model.score(x, y) == pytest.approx(3, abs=1e-6)


def test_independent_and_shuffled_views_have_none():
    """Of n pairs, the largest chance correlation is about (√d1 + √d2)/√n: here 0.03."""
    x, y = gaussian_views(20_000, [0.9, 0.8], 4, 4)
    rng = np.random.default_rng(1)
    assert LinearCCA(r1=0, r2=0).fit(x, y).correlations_[0] > 0.89
    assert LinearCCA(r1=0, r2=0).fit(x, y[rng.permutation(len(y))]).correlations_.max() < 0.05
    assert LinearCCA(r1=0, r2=0).fit(x, rng.normal(size=(20_000, 4))).correlations_.max() < 0.05


def test_orthogonal_views_have_a_correlation_of_exactly_none():
    H = scipy.linalg.hadamard(8)[:, 1:].astype(float)    # orthogonal columns of sum zero
    np.testing.assert_allclose(LinearCCA().fit(H[:, :3], H[:, 3:]).correlations_, 0, atol=1e-15)
    np.testing.assert_allclose(PLS().fit(H[:, :3], H[:, 3:]).correlations_, 0, atol=1e-15)


# -- one pass over the pairs, in any order and cut -------------------------------------------------------------------

@settings(max_examples=60)
@given(st.integers(1, 7), st.integers(1, 5), st.lists(st.integers(1, 8), min_size=1, max_size=10),
       st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_partial_fit_in_any_order_and_cut_is_fit(d1, d2, sizes, seed, random):
    sizes = [*sizes, 2]
    x, y = gaussian_views(sum(sizes), [0.8], d1, d2, seed)
    batches = list(zip(np.split(x, np.cumsum(sizes)[:-1]), np.split(y, np.cumsum(sizes)[:-1]), strict=True))
    random.shuffle(batches)
    model = LinearCCA(r1=0.01, r2=0.01)
    for batch in batches:
        model.partial_fit(*batch)
    assert_same_fit(model, LinearCCA(r1=0.01, r2=0.01).fit(x, y))


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 5), st.lists(st.integers(2, 40), min_size=2, max_size=4),
       st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_merging_parts_in_any_order_is_fit(d1, d2, sizes, seed, random):
    """Parts of 2 to 40 pairs of 1 to 9 columns: some keep rows, some covariances."""
    x, y = gaussian_views(sum(sizes), [0.8], d1, d2, seed)
    parts = [LinearCCA(r1=0.01, r2=0.01).fit(a, b) for a, b in zip(
        np.split(x, np.cumsum(sizes)[:-1]), np.split(y, np.cumsum(sizes)[:-1]), strict=True)]
    random.shuffle(parts)
    merged = LinearCCA(r1=0.01, r2=0.01) if random.random() < 0.5 else parts.pop()
    for part in parts:
        assert merged.merge(part) is merged
    assert_same_fit(merged, LinearCCA(r1=0.01, r2=0.01).fit(x, y))


@pytest.mark.parametrize("first", ["few", "many"])
def test_merging_rows_with_covariances_and_the_reverse(first):
    """4 pairs of 12 and 9 columns are kept as rows, 300 as covariances; the other one stays as it was."""
    x, y = gaussian_views(304, [0.8], 12, 9)
    few, many = LinearCCA().fit(x[:4], y[:4]), LinearCCA().fit(x[4:], y[4:])
    one, other = (few, many) if first == "few" else (many, few)
    before = cross_map(other)
    assert_same_fit(one.merge(other), LinearCCA().fit(x, y))
    assert_same_fit(one.partial_fit(x[:7], y[:7]), LinearCCA().fit(np.r_[x, x[:7]], np.r_[y, y[:7]]))
    other.partial_fit(x[:2], y[:2])
    assert other.n_pairs_ in (6, 302)
    assert one.n_pairs_ == 311 and not np.array_equal(before, cross_map(one))


def test_merging_leaves_the_other_one_alone():
    x, y = gaussian_views(304, [0.8], 12, 9)
    for cut in (4, 150):
        one, other = LinearCCA().fit(x[cut:], y[cut:]), LinearCCA().fit(x[:cut], y[:cut])
        one.merge(other)
        one.partial_fit(x, y)
        other.partial_fit(x[:3], y[:3])
        assert_same_fit(other, LinearCCA().fit(np.r_[x[:cut], x[:3]], np.r_[y[:cut], y[:3]]))
        assert one.n_pairs_ == 608


def test_merging_parts_fitted_in_another_process_is_fit():
    x, y = gaussian_views(304, [0.8], 12, 9)
    tasks = [(LinearCCA(), x[cut], y[cut]) for cut in (slice(4), slice(4, 200), slice(200, None))]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(fit_elsewhere, tasks))
    merged = LinearCCA()
    for part in parts:
        merged.merge(part)
    assert_same_fit(merged, LinearCCA().fit(x, y))
    assert merged.transform(x).shape == (304, 9) and merged.n_features_in_ == 12


@pytest.mark.parametrize("n", [5, 200], ids=["rows", "covariances"])
def test_unpickled_it_goes_on_as_before(n):
    x, y = gaussian_views(210, [0.8], 12, 9)
    copy = pickle.loads(pickle.dumps(LinearCCA().fit(x[:n], y[:n])))
    assert_same_fit(copy, LinearCCA().fit(x[:n], y[:n]))
    assert_same_fit(copy.partial_fit(x[n:], y[n:]), LinearCCA().fit(x, y))


WIDTHS = [pytest.param((6, 3), id="covariances"), pytest.param((100, 40), id="rows")]


@pytest.mark.parametrize("widths", WIDTHS)
def test_batches_may_reuse_one_buffer(widths):
    x, y = tensors(*gaussian_views(60, [0.9, 0.5], *widths))

    def batches():
        a, b = torch.empty(20, widths[0], dtype=torch.float64), torch.empty(20, widths[1], dtype=torch.float64)
        for i in range(0, 60, 20):
            a.copy_(x[i:i + 20]), b.copy_(y[i:i + 20])
            yield a, b
        a.zero_(), b.zero_()

    assert_same_fit(LinearCCA().fit_batches(batches()), LinearCCA().fit(x, y))


@pytest.mark.parametrize("widths", WIDTHS)
def test_batches_of_items_alone_may_reuse_one_buffer(widths):
    x, y = tensors(*gaussian_views(60, [0.9, 0.5], *widths))

    def alone(view):
        buffer = torch.empty(10, view.shape[1], dtype=torch.float64)
        for i in range(30, 60, 10):
            yield buffer.copy_(view[i:i + 10])
        buffer.zero_()

    table = np.stack([np.arange(30)] * 2, axis=1)
    assert_same_fit(LinearCCA().fit_batches([(x[:30], y[:30])], lone1=alone(x), lone2=alone(y)),
                    LinearCCA().fit(x, y, pairs=table))


@pytest.mark.parametrize("widths", WIDTHS)
def test_partial_fit_may_reuse_one_buffer(widths):
    x, y = gaussian_views(60, [0.9, 0.5], *widths)
    model, a, b = LinearCCA(), np.empty((20, widths[0])), np.empty((20, widths[1]))
    for i in range(0, 60, 20):
        a[:], b[:] = x[i:i + 20], y[i:i + 20]
        model.partial_fit(a, b)
    assert_same_fit(model, LinearCCA().fit(x, y))


@pytest.mark.parametrize("widths", WIDTHS)
def test_arrays_may_change_after_fit(widths):
    x, y = gaussian_views(60, [0.9, 0.5], *widths)
    a, b = x[:30].copy(), y[:30].copy()
    model = LinearCCA().fit(a, b)
    a[:], b[:] = 0, 0
    assert_same_fit(model.partial_fit(x[30:], y[30:]), LinearCCA().fit(x, y))


def test_items_of_any_shape_are_flattened():
    x, y = tensors(*gaussian_views(100, [0.9, 0.5], 32, 3))
    flat = LinearCCA(2).fit(x, y)
    shaped = LinearCCA(2).fit_batches(zip(x.view(100, 4, 8).split(33), y.split(33), strict=True))
    np.testing.assert_allclose(shaped.embed_view1(x.view(100, 4, 8)), flat.embed_view1(x), atol=1e-9)
    np.testing.assert_allclose(shaped.embed_view2(y), flat.transform_view2(y), atol=1e-9)
    assert_same_fit(shaped.fit_batches([(x[:50].view(50, 8, 4), y[:50])]), LinearCCA(2).fit(x[:50], y[:50]))


def test_empty_batches_count_nothing():
    x, y = tensors(*gaussian_views(40, [0.9], 4, 3))
    batches = [(x[:0], y[:0]), (x[:9], y[:9]), (x[:0], y[:0]), (x[9:], y[9:])]
    assert_same_fit(LinearCCA().fit_batches(batches), LinearCCA().fit(x, y))


def test_fitting_anew_forgets():
    x, y = gaussian_views(60, [0.9], 6, 3)
    model = LinearCCA().fit(x, y)
    assert_same_fit(model.fit(x[:30, :4], y[:30]), LinearCCA().fit(x[:30, :4], y[:30]))
    assert model.transform(x[:, :4]).shape == (60, 3)
    assert_same_fit(model.fit_batches([tensors(x[:20, :4], y[:20])]), LinearCCA().fit(x[:20, :4], y[:20]))


# -- fewer pairs than columns: the dual form ------------------------------------------------------------------------

@pytest.mark.parametrize(("d1", "d2"), [(60, 40), (60, 3), (3, 60), (12, 60)])
@pytest.mark.parametrize(("r1", "r2"), [(1e-3, 1e-3), (0.5, 0.01)])
def test_few_pairs_are_the_explicit_solution_in_all_columns(d1, d2, r1, r2):
    x, y = gaussian_views(112, [0.9, 0.6], d1, d2)
    x, new_x, y, new_y = x[:12], x[12:], y[:12], y[12:]
    U, V, correlations = closed_form(x, y, r1, r2)
    model = LinearCCA(r1=r1, r2=r2).fit(x, y)
    k = min(d1, d2, 11)           # 12 centred items have rank 11
    np.testing.assert_allclose(model.correlations_[:k], correlations[:k], rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.correlations_[k:], 0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(cross_map(model), U * correlations @ V.T, rtol=0, atol=1e-8)
    for z, new, mean, directions in ((model.transform(new_x), new_x, x.mean(axis=0), U),
                                     (model.transform_view2(new_y), new_y, y.mean(axis=0), V)):
        expected = (new - mean) @ directions[:, :k]
        np.testing.assert_allclose(z[:, :k], aligned(z[:, :k], expected), atol=1e-6)


def test_two_hundred_thousand_columns_need_no_square_matrix_of_them():
    """Width squared would be 320 GB. The oracle is the dual form by Gram matrices of 20 items."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 200_000)).astype(np.float32)
    y = x[:, :7] + 0.5 * rng.normal(size=(20, 7)).astype(np.float32)
    model = LinearCCA(3, r1=0.05, r2=0.05).fit(x, y)
    roots = []
    for z, r in ((x, 0.05), (y, 0.05)):
        z = z.astype(np.float64)
        z -= z.mean(axis=0)
        values, vectors = np.linalg.eigh(z @ z.T / 19)
        values = values.clip(0)
        roots.append(vectors * np.sqrt(values / (values + r * values.sum() / z.shape[1])))
    expected = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False)[:3]
    np.testing.assert_allclose(model.correlations_, expected, rtol=0, atol=1e-8)
    assert model.transform(x[:4]).shape == (4, 3)
    assert LinearCCA(2).fit(x[:, :150_000], x[:, 150_000:]).U_.shape == (150_000, 2)
    assert PLS(2).fit(x, y).U_.shape == (200_000, 2)


def test_as_many_pairs_as_columns_and_one_more_or_less():
    for n in (6, 7, 8, 5):
        x, y = gaussian_views(n, [0.9], 7, 6)
        np.testing.assert_allclose(LinearCCA(r1=0.01, r2=0.01).fit(x, y).correlations_[:n - 1],
                                   closed_form(x, y, 0.01, 0.01)[2][:n - 1], atol=1e-8)


def test_two_pairs():
    """Two points always correlate fully; the ridge r is that part of the mean variance of d columns, all of which
    lies in one direction."""
    x, y = gaussian_views(2, [0.5], 4, 3)
    model = LinearCCA(r1=0.4, r2=0.3).fit(x, y)
    assert model.correlations_[0] == pytest.approx(1 / np.sqrt((1 + 0.4 / 4) * (1 + 0.3 / 3)), abs=1e-9)
    np.testing.assert_allclose(model.correlations_[1:], 0, rtol=0, atol=1e-9)
    for model in (LinearCCA(r1=0, r2=0), LinearCCA(), PLS(), LinearCCA(1)):
        z1, z2 = model.fit(x, y).transform(x, y)
        assert np.isfinite(z1).all() and np.isfinite(z2).all() and model.correlations_.max() <= 1


# -- items without a partner -----------------------------------------------------------------------------------------

SHAPES = {"covariances": (5, 4), "rows": (60, 50), "rows of one view": (60, 4)}


def with_items_alone(shape: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """40 and 30 items, which lie elsewhere where they have no partner; 20 pairs in no order."""
    d1, d2 = SHAPES[shape]
    x, y = gaussian_views(40, [0.9, 0.5], d1, d2, seed)
    rng = np.random.default_rng(seed)
    X, Y, pairs = x, y[:30], np.stack([rng.permutation(40)[:20], rng.permutation(30)[:20]], axis=1)
    X, Y = X.copy(), Y.copy()
    Y[pairs[:, 1], :2] += X[pairs[:, 0], :2]
    X[np.setdiff1d(range(40), pairs[:, 0])] += 3
    Y[np.setdiff1d(range(30), pairs[:, 1])] *= 2
    return X, Y, pairs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r", [1e-3, 0.1])
@pytest.mark.parametrize("weight", ["auto", 1, 0.3, 0.0])
def test_items_alone_count_in_their_view_and_pairs_in_both(shape, r, weight):
    X, Y, pairs = with_items_alone(shape)
    mean1, mean2, S11, S22, S12 = semi_paired(X, Y, pairs, weight)
    U, V, correlations = solved(S11, S22, S12, r, r)
    model = LinearCCA(r1=r, r2=r, unpaired_weight=weight).fit(X, Y, pairs=pairs)
    np.testing.assert_allclose(model.mean1_, mean1)
    np.testing.assert_allclose(model.mean2_, mean2)
    k, correlations = min(len(correlations), len(model.correlations_)), correlations.clip(max=1)
    np.testing.assert_allclose(model.correlations_[:k], correlations[:k], rtol=0, atol=1e-8)
    np.testing.assert_allclose(cross_map(model), U * correlations @ V.T, rtol=0, atol=1e-8)
    assert model.n_pairs_ == 20


@pytest.mark.parametrize("shape", SHAPES)
def test_items_alone_by_any_way_in_are_the_same(shape):
    X, Y, pairs = with_items_alone(shape)
    x, y = X[pairs[:, 0]], Y[pairs[:, 1]]
    lone1, lone2 = np.delete(X, pairs[:, 0], axis=0), np.delete(Y, pairs[:, 1], axis=0)
    expected = LinearCCA().fit(X, Y, pairs=pairs)
    assert_same_fit(LinearCCA().partial_fit(x, y).partial_fit(lone1).partial_fit(Y=lone2), expected)
    assert_same_fit(LinearCCA().partial_fit(Y=lone2).partial_fit(lone1).partial_fit(x, y), expected)
    assert_same_fit(LinearCCA().partial_fit(X=lone1[:3]).partial_fit(x[:9], y[:9]).partial_fit(Y=lone2)
                    .partial_fit(X=lone1[3:]).partial_fit(x[9:], y[9:]), expected)
    assert_same_fit(LinearCCA().partial_fit(X, Y, pairs=pairs), expected)
    one, other = LinearCCA().partial_fit(x[:9], y[:9]).partial_fit(lone1), LinearCCA().partial_fit(Y=lone2)
    assert_same_fit(one.merge(other.partial_fit(x[9:], y[9:])), expected)
    t = tensors(x, y, lone1, lone2)
    assert_same_fit(LinearCCA().fit_batches([(t[0][:9], t[1][:9]), (t[0][9:], t[1][9:])], lone1=t[2].split(4),
                                            lone2=iter([t[3]])), expected)
    pls = PLS(4).fit_batches([(t[0], t[1])], lone1=[t[2]], lone2=[t[3]])
    np.testing.assert_allclose(pls.correlations_, PLS(4).fit(X, Y, pairs=pairs).correlations_, rtol=0, atol=1e-8)


def test_items_alone_only_are_no_pairs():
    x, y = tensors(*gaussian_views(20, [0.9], 4, 3))
    with pytest.raises(DataError, match="at least two pairs, got 0"):
        LinearCCA().fit_batches([], lone1=[x], lone2=[y])


def test_merging_pairs_into_items_alone():
    x, y = gaussian_views(20, [0.9], 4, 3)
    merged = LinearCCA().partial_fit(x[:5]).merge(LinearCCA().fit(x[5:], y[5:]))
    np.testing.assert_allclose(merged.transform_view2(y),
                               LinearCCA().fit(x[5:], y[5:]).partial_fit(x[:5]).transform_view2(y), atol=1e-8)


def test_merging_items_alone_of_both_forms():
    X, Y, pairs = with_items_alone("covariances")
    many = LinearCCA().fit(np.tile(X, (5, 1)), np.tile(Y, (5, 1)), pairs=pairs)
    expected = LinearCCA().partial_fit(np.tile(X, (5, 1)), np.tile(Y, (5, 1)), pairs=pairs) \
        .partial_fit(X[:3]).partial_fit(Y=Y[:2])
    few = LinearCCA().partial_fit(X[:3]).partial_fit(Y=Y[:2])
    assert_same_fit(pickle.loads(pickle.dumps(many)).merge(few), expected)
    assert_same_fit(few.merge(many), expected)


def test_one_to_many_tables_count_an_item_as_often_as_it_is_named():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(15, 4)), rng.normal(size=(40, 3))
    pairs = np.stack([np.repeat(np.arange(12), 3), np.arange(36)], axis=1)     # 3 items of X and 4 of Y are left
    Y[:36, :2] += X[pairs[:, 0], :2]
    _, _, S11, S22, S12 = semi_paired(X, Y, pairs)
    model = LinearCCA().fit(X, Y, pairs=rng.permutation(np.concatenate([pairs, pairs[:5]])))    # named twice: once
    U, V, correlations = solved(S11, S22, S12, 1e-3, 1e-3)
    np.testing.assert_allclose(cross_map(model), U * correlations @ V.T, rtol=0, atol=1e-8)
    assert model.n_pairs_ == 36


def test_a_table_of_all_rows_is_none():
    x, y = gaussian_views(60, [0.9, 0.5], 5, 4)
    assert_same_fit(LinearCCA().fit(x, y, pairs=np.stack([np.arange(60)] * 2, axis=1)), LinearCCA().fit(x, y))
    order = np.random.default_rng(0).permutation(60)
    assert_same_fit(LinearCCA().fit(x, y[order], pairs=np.stack([order, np.arange(60)], axis=1).tolist()),
                    LinearCCA().fit(x, y))


@pytest.mark.parametrize("seed", range(6))
def test_items_alone_help_where_pairs_are_few_and_weakly_correlated(seed):
    """30 pairs of 15 columns each, about where the pairs' own whitening is worst (d1 + d2 = n), of very unequal
    variance; the true maps have a score of 1.8."""
    rng = np.random.default_rng(seed)
    mix1, mix2 = (np.logspace(0.5, -0.5, 15)[:, None] * np.linalg.qr(rng.normal(size=(15, 15)))[0] for _ in range(2))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = rng.normal(size=(2, n, 15))
        y[:, :10] = 0.6 * x[:, :10] + 0.8 * y[:, :10]
        return x @ mix1, y @ mix2

    (x, y), (lone1, _), (_, lone2), held_out = draw(30), draw(1000), draw(1000), draw(2000)
    pairs = LinearCCA(3, r1=1e-6, r2=1e-6).fit(x, y)
    for weight in ("auto", 1.0):
        alone_too = LinearCCA(3, r1=1e-6, r2=1e-6, unpaired_weight=weight).fit(x, y)
        alone_too.partial_fit(lone1).partial_fit(Y=lone2)
        assert alone_too.score(*held_out) > pairs.score(*held_out) + 0.1
        assert alone_too.n_pairs_ == 30


@pytest.mark.parametrize("shape", SHAPES)
def test_items_alone_can_be_left_out(shape):
    X, Y, pairs = with_items_alone(shape)
    x, y = X[pairs[:, 0]], Y[pairs[:, 1]]
    expected, (a, b) = LinearCCA().fit(x, y), tensors(x, y)
    for model in (LinearCCA(unpaired_weight=0).fit(X, Y, pairs=pairs),
                  LinearCCA(unpaired_weight=0).partial_fit(X).partial_fit(x, y).partial_fit(Y=Y),
                  LinearCCA(unpaired_weight=0.0).fit_batches([(a, b)], lone1=[a, a], lone2=[b])):
        assert_same_fit(model, expected)


def test_items_alone_fade_as_pairs_get_many():
    """By default they count as many as there are columns: 3 of 1000, whose variance is 100 times larger."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3))
    y = 0.8 * x + 0.6 * rng.normal(size=(20_000, 3))
    lone1, lone2 = 10 * rng.normal(size=(2, 1000, 3))
    few, many = (LinearCCA().fit(x[:n], y[:n]).partial_fit(lone1).partial_fit(Y=lone2).correlations_
                 for n in (20, 20_000))
    assert few.max() < 0.5
    np.testing.assert_allclose(many, 0.8, atol=0.05)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan"), "all", None])
def test_weights_of_items_alone_that_are_none(weight):
    x, y = gaussian_views(30, [0.9], 4, 3)
    with pytest.raises(DataError, match="unpaired_weight must be 'auto' or a number from 0 to 1, got"):
        LinearCCA(unpaired_weight=weight).fit(x, y)


def test_a_split_is_fitted_with_its_items_alone(captioned_pictures):
    """80 pictures with three captions each and four captions of nothing."""
    split, steps = captioned_pictures.train, []
    model = LinearCCA().fit_split(split, progress=steps.append)
    X, Y, pairs = split.view1.double().numpy(), split.view2.double().numpy(), split.pairs.numpy()
    assert_same_fit(model, LinearCCA().fit(X, Y, pairs=pairs))
    assert model.n_pairs_ == 240 and steps == [1]
    assert_same_fit(LinearCCA(unpaired_weight=0).fit_split(split, seed=3),
                    LinearCCA().fit(X[pairs[:, 0]], Y[:240]))


# -- columns with nothing of their own -------------------------------------------------------------------------------

def warned(model, x, y, **arguments) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, **arguments)
        z1, z2 = model.transform(x), model.transform_view2(y)
    assert all(issubclass(warning.category, UserWarning) for warning in caught)
    assert np.isfinite(z1).all() and np.isfinite(z2).all()
    assert np.isfinite(model.correlations_).all() and model.correlations_.max() <= 1
    return [str(warning.message) for warning in caught]


KEPT, NO_RIDGE = "the ridge of 0.001 keeps the fit finite", \
    "there is no ridge, and what such columns contribute is arbitrary: a ridge above 0 would help"


@pytest.mark.parametrize(("r", "end"), [(1e-3, KEPT), (0.0, NO_RIDGE)])
def test_warnings_name_the_columns(r, end):
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    one = np.ones((100, 1))

    def of_view1(*columns) -> list[str]:
        return warned(LinearCCA(r1=r, r2=0.1), np.concatenate([x, *columns], axis=1), y)

    assert of_view1() == []
    assert of_view1(x[:, 1:2]) == [f"view1: column 4 is a combination of others; {end}"]
    assert of_view1(7 * one) == [f"view1: column 4 is constant; {end}"]
    assert of_view1(x[:, :1] + 3 * x[:, 2:3] - 5) == [f"view1: column 4 is a combination of others; {end}"]
    assert of_view1(x[:, :2], 0 * one, x.sum(axis=1, keepdims=True), 0.1 * one) == [
        f"view1: 2 columns (6, 8) are constant; 3 columns (4, 5, 7) are combinations of others; {end}"]
    assert of_view1(x, x, x) == [
        f"view1: 12 columns (4, 5, 6, 7, 8, ...) are combinations of others; {end}"]
    assert warned(LinearCCA(r1=0.1, r2=r), x, np.concatenate([one, y], axis=1)) == [
        f"view2: column 0 is constant; {end}"]
    assert warned(LinearCCA(r1=r, r2=r), np.concatenate([x, one], axis=1), np.concatenate([y, y[:, :1]], axis=1)) == [
        f"view1: column 4 is constant; {end}", f"view2: column 3 is a combination of others; {end}"]
    assert warned(LinearCCA(r1=r, r2=0.1), x[:3], y[:3, :2]) == [f"view1: there are 3 items for 4 columns; {end}"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["own", "constant", "copy", "sum"]), min_size=1, max_size=9),
       st.sampled_from([(np.float32, 0.0), (np.float64, 0.0), (np.float64, 1e4)]), st.integers(0, 10**6))
def test_warnings_name_exactly_the_right_columns(kinds, dtype_and_mean, seed):
    (dtype, mean), rng = dtype_and_mean, np.random.default_rng(seed)
    kinds, columns, own = ["own", "own", *kinds], [], []
    for kind in kinds:
        if kind == "own":
            own.append(rng.normal(size=200) * 10.0 ** rng.integers(-1, 2) + mean)
        pick = rng.permutation(len(own))[:2]
        columns.append({"own": own[-1], "constant": np.full(200, rng.normal() + mean), "copy": own[pick[0]] * 2 + 1,
                        "sum": own[pick[0]] - own[pick[-1]]}[kind])
    x = np.stack(columns, axis=1).astype(dtype)
    found = warned(LinearCCA(1), x, rng.normal(size=(200, 1)))
    constant = [i for i, kind in enumerate(kinds) if kind == "constant"]
    dependent = [i for i, kind in enumerate(kinds) if kind in ("copy", "sum")]
    expected = []
    for numbers, one, several in ((constant, "is constant", "are constant"),
                                  (dependent, "is a combination of others", "are combinations of others")):
        if numbers:
            listed = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
            expected.append(f"column {listed} {one}" if len(numbers) == 1 else
                            f"{len(numbers)} columns ({listed}) {several}")
    assert found == ([f"view1: {'; '.join(expected)}; {KEPT}"] if expected else [])


@pytest.mark.parametrize("scales", [1.0, np.logspace(-3, 3, 8)], ids=["equal", "unequal scales"])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_healthy_data_are_not_warned_of(scales, mean):
    x, y = gaussian_views(300, [0.9], 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (LinearCCA(), LinearCCA(r1=0, r2=0), LinearCCA(2)):
            model.fit((x + mean) * scales, y * scales).transform(x, y)
        LinearCCA().fit(((x + mean) * scales).astype(np.float32), (x[:, :4] > 7).astype(np.float32))
        LinearCCA().fit(x[:, :1], y[:, :1])
        LinearCCA().partial_fit(x[:2], y[:2]).partial_fit(x[2:], y[2:]).score(x, y)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6, 1e-30])
@pytest.mark.parametrize("r", [1e-3, 0.0])
def test_a_constant_view_correlates_with_nothing(value, r):
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    still = np.full((100, 4), value)
    model = LinearCCA(r1=r, r2=r)
    message, = warned(model, still, y)
    assert message.startswith("view1: 4 columns (0, 1, 2, 3) are constant")
    np.testing.assert_allclose(model.correlations_, 0, atol=1e-6)
    message, = warned(model, x, still[:, :3])
    assert message.startswith("view2: 3 columns (0, 1, 2) are constant")
    np.testing.assert_allclose(model.correlations_, 0, atol=1e-6)
    assert len(warned(model, still, still)) == 2


@pytest.mark.parametrize(("model", "n"), [(LinearCCA(), 1000), (LinearCCA(r1=0, r2=0), 1000), (PLS(), 40)], ids=str)
def test_two_constant_views_do_not_correlate(model, n):
    """What rounding leaves of them is no signal."""
    model.fit(np.full((n, 4), 1e8 + 0.1), np.full((n, 3), 1.7e8 + 0.1))
    np.testing.assert_allclose(model.correlations_, 0, atol=1e-6)


def test_pls_of_three_pairs_and_a_constant_view():
    y = np.random.default_rng(0).normal(size=(3, 3))
    np.testing.assert_allclose(PLS().fit(np.full((3, 4), 0.1), y).correlations_, 0, atol=1e-6)


def test_a_column_below_the_floor_is_named_where_there_is_no_ridge():
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    x[:, 2] *= 1e-9
    with pytest.warns(UserWarning, match=r"view1: column 2 hardly varies beside the others; there is no ridge"):
        LinearCCA(r1=0, r2=0).fit(x, y)


@pytest.mark.parametrize("r", [1e-3, 0.0])
def test_dependent_columns_add_no_correlation(r):
    """The correlations are those of the columns that count, and a ridge of next to nothing changes nothing."""
    x, y = gaussian_views(100, [0.9, 0.5], 4, 3)
    more = np.concatenate([x, x[:, :2], x[:, 2:3] + x[:, 3:4], np.ones((100, 1))], axis=1)
    small = 1e-12 if r else 0
    np.testing.assert_allclose(LinearCCA(r1=small, r2=small).fit(more, y).correlations_,
                               closed_form(x, y)[2], rtol=0, atol=1e-6)


def test_a_single_column_in_either_view():
    x, y = gaussian_views(100, [0.9], 4, 1)
    expected = closed_form(x, y, 0.01, 0.01)[2]
    assert warned(LinearCCA(r1=0.01, r2=0.01), x, y) == warned(LinearCCA(r1=0.01, r2=0.01), y, x) == []
    np.testing.assert_allclose(LinearCCA(r1=0.01, r2=0.01).fit(x, y).correlations_, expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(LinearCCA(r1=0.01, r2=0.01).fit(y, x).correlations_, expected, rtol=0, atol=1e-8)


def test_a_large_mean_in_float32_cancels_nothing():
    x, y = gaussian_views(2000, [0.9, 0.6, 0.3], 5, 4)
    x, y = (x + 1e4).astype(np.float32), (y - 1e4).astype(np.float32)
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    expected = closed_form(x64 - x64.mean(axis=0), y64 - y64.mean(axis=0))[2]
    for model in (LinearCCA(r1=0, r2=0).fit(x, y),
                  LinearCCA(r1=0, r2=0).fit_batches(zip(*(view.split(77) for view in tensors(x, y)), strict=True))):
        np.testing.assert_allclose(model.correlations_, expected, rtol=0, atol=1e-8)
    naive = x.T @ y / len(x) - np.outer(x.mean(axis=0), y.mean(axis=0))     # the sum of products, in float32
    assert np.abs(naive - covariances(x64, y64)[2]).max() > 0.1


# -- the singular value decomposition ---------------------------------------------------------------------------------

def test_solvers_agree():
    x, y = gaussian_views(400, [0.9, 0.7, 0.5], 60, 40)
    exact, random = (LinearCCA(3, svd_solver=solver).fit(x, y) for solver in ("exact", "randomized"))
    np.testing.assert_allclose(random.correlations_, exact.correlations_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(random.transform(x), exact.transform(x), atol=1e-5)
    np.testing.assert_allclose(random.transform_view2(y), exact.transform_view2(y), atol=1e-5)
    np.testing.assert_allclose(LinearCCA(3).fit(x, y).correlations_, exact.correlations_, rtol=0, atol=1e-12)
    exact, random = (PLS(3, svd_solver=solver).fit(x, y) for solver in ("exact", "randomized"))
    np.testing.assert_allclose(random.transform(x), exact.transform(x), atol=1e-4)


# -- the sums themselves ---------------------------------------------------------------------------------------------

def in_columns(view) -> np.ndarray:
    return view.S.numpy() if view.basis is None else (view.basis @ view.S @ view.basis.mT).numpy()


def summed(parts) -> PairSums:
    sums = PairSums()
    for x, y in parts:
        sums.add(None if x is None else torch.from_numpy(x), None if y is None else torch.from_numpy(y))
    return sums


@pytest.mark.parametrize(("n", "d1", "d2"), [(50, 4, 3), (5, 9, 7), (8, 20, 3), (3, 3, 3), (2, 1, 1)])
def test_sums_are_numpys_covariances(n, d1, d2):
    x, y = gaussian_views(n, [0.5], d1, d2)
    view1, view2, S12 = summed([(x, y)]).statistics()
    S11, S22, cross = covariances(x, y)
    for view, z, S in ((view1, x, S11), (view2, y, S22)):
        np.testing.assert_allclose(view.mean, z.mean(axis=0))
        np.testing.assert_allclose(view.variances, S.diagonal(), atol=1e-12)
        np.testing.assert_allclose(in_columns(view), S, atol=1e-10)
        assert view.items == n and view.S.shape[0] == min(n, z.shape[1])
        if view.basis is not None:
            np.testing.assert_allclose(view.basis.mT @ view.basis, np.eye(n), atol=1e-12)
    left = S12 if view1.basis is None else view1.basis @ S12
    np.testing.assert_allclose(left if view2.basis is None else left @ view2.basis.mT, cross, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", ["auto", 1, 0.3])
def test_rows_kept_and_summed_up_are_the_same(shape, weight):
    X, Y, pairs = with_items_alone(shape)
    lone1, lone2 = np.delete(X, pairs[:, 0], axis=0), np.delete(Y, pairs[:, 1], axis=0)
    parts = [(X[pairs[:, 0]], Y[pairs[:, 1]]), (lone1, None), (None, lone2)]
    mean1, mean2, S11, S22, S12 = semi_paired(X, Y, pairs, weight)
    kept, covariance = summed(parts), summed(parts)
    if covariance._rows is not None:
        covariance._sum_up()
    assert (kept._rows is None) == (shape == "covariances")
    for sums in (kept, covariance):
        view1, view2, cross = sums.statistics(weight)
        np.testing.assert_allclose(view1.mean, mean1)
        np.testing.assert_allclose(view2.mean, mean2)
        np.testing.assert_allclose(in_columns(view1), S11, atol=1e-10)
        np.testing.assert_allclose(in_columns(view2), S22, atol=1e-10)
        np.testing.assert_allclose(view1.variances, S11.diagonal(), atol=1e-10)
        left = cross if view1.basis is None else view1.basis @ cross
        np.testing.assert_allclose(left if view2.basis is None else left @ view2.basis.mT, S12, atol=1e-10)
        assert (view1.items, view2.items, sums.n_pairs, sums.n_alone) == (40, 30, 20, [20, 10])


def test_rows_are_kept_only_while_they_take_less_room():
    """Covariances of 10 and 6 columns take 100 + 36 + 60 values, a pair takes 16: the thirteenth tips the scales."""
    x, y = gaussian_views(40, [0.5], 10, 6)
    sums, states = PairSums(), []
    for i in range(20):
        sums.add(*tensors(x[i:i + 1], y[i:i + 1]))
        states.append(sums._rows is not None)
    assert states == [True] * 12 + [False] * 8


def test_sums_refuse_what_does_not_fit():
    x, y = torch.zeros(4, 3), torch.zeros(4, 2)
    sums = PairSums()
    sums.add(x, y)
    for parts in ((torch.zeros(4, 2), y), (x, torch.zeros(4, 3)), (torch.zeros(4, 2), None), (x, torch.zeros(3, 2)),
                  (torch.zeros(4, 3, 1), y), (None, torch.zeros(1, 1))):
        with pytest.raises(DataError):
            sums.add(*parts)
    assert sums.n_pairs == 4 and sums.n_alone == [0, 0]
    with pytest.raises(DataError, match="at least two pairs, got 0"):
        PairSums().statistics()


# -- rows of views ---------------------------------------------------------------------------------------------------

def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(linear_inputs, "BLOCK_BYTES", 1)
    size = block_rows(5)
    n = 2 * size + 88
    x, y = gaussian_views(n, [0.5], 3, 2)
    rows1, rows2 = Rows(x, "X"), Rows(y, "Y")
    blocks = list(paired_blocks(rows1, rows2, None))
    assert [len(a) for a, _ in blocks] == [size, size, 88]
    np.testing.assert_array_equal(torch.cat([a for a, _ in blocks]), x)
    np.testing.assert_array_equal(torch.cat([b for _, b in blocks]), y)
    assert list(lone_blocks(rows1, None, 0)) == []
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.permutation(n)[:size + 44], rng.integers(0, n, size=size + 44)], axis=1)
    blocks = list(paired_blocks(rows1, rows2, pairs))
    np.testing.assert_array_equal(torch.cat([a for a, _ in blocks]), x[pairs[:, 0]])
    np.testing.assert_array_equal(torch.cat([b for _, b in blocks]), y[pairs[:, 1]])
    for column, rows, z in ((0, rows1, x), (1, rows2, y)):
        alone = np.setdiff1d(np.arange(n), pairs[:, column])
        np.testing.assert_array_equal(torch.cat(list(lone_blocks(rows, pairs, column))), z[alone])


def test_several_blocks_are_one(monkeypatch):
    x, y = gaussian_views(1300, [0.9, 0.4], 5, 4)
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.permutation(1300)[:700], rng.permutation(1300)[:700]], axis=1)
    whole, semi = LinearCCA().fit(x, y), LinearCCA().fit(x, y, pairs=pairs)
    monkeypatch.setattr(linear_inputs, "BLOCK_BYTES", 1)
    assert_same_fit(LinearCCA().fit(x, y), whole)
    assert_same_fit(LinearCCA().fit(x, y, pairs=pairs), semi)
    np.testing.assert_allclose(LinearCCA().fit(x, y).transform(x), whole.transform(x), atol=1e-9)
    for use in (lambda: LinearCCA().fit(np.where(np.arange(1300)[:, None] == 1200, np.nan, x), y),
                lambda: whole.transform(np.where(np.arange(1300)[:, None] == 1200, np.nan, x))):
        with pytest.raises(DataError, match=r"X has NaN or infinite values in 1 row .*\(row 1200\)"):
            use()


def test_rows_share_memory_with_arrays_that_can_be_shared():
    x = np.arange(12.0).reshape(4, 3)
    block = Rows(x, "X").take(slice(1, 3))
    x[1] = 7
    np.testing.assert_array_equal(block, [[7, 7, 7], [6, 7, 8]])


# -- PLS -------------------------------------------------------------------------------------------------------------

def test_pls_is_scikit_learns_svd_of_the_cross_covariance():
    x, y = gaussian_views(100, [0.9, 0.6], 6, 4)
    model, reference = PLS(3).fit(x, y), PLSSVD(3, scale=False).fit(x, y)
    np.testing.assert_allclose(model.U_, aligned(model.U_, reference.x_weights_), atol=1e-10)
    np.testing.assert_allclose(model.V_, aligned(model.V_, reference.y_weights_), atol=1e-10)
    for z, expected in zip(model.transform(x, y), reference.transform(x, y), strict=True):
        np.testing.assert_allclose(z, aligned(z, expected), atol=1e-10)
    z1, z2 = model.transform(x, y)
    np.testing.assert_allclose(model.correlations_, [np.corrcoef(z1[:, i], z2[:, i])[0, 1] for i in range(3)],
                               atol=1e-10)
    np.testing.assert_allclose(model.U_.T @ model.U_, np.eye(3), atol=1e-12)
    falling = [np.cov(z1[:, i], z2[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(falling, np.linalg.svd(covariances(x, y)[2])[1][:3], rtol=1e-10)


def test_pls_is_the_limit_of_cca_with_a_huge_ridge():
    x, y = gaussian_views(100, [0.9, 0.6], 6, 4)
    model, limit = PLS().fit(x, y), LinearCCA(r1=1e7, r2=1e7).fit(x, y)
    for actual, expected in ((limit.U_, model.U_), (limit.V_, model.V_)):
        np.testing.assert_allclose(actual / np.linalg.norm(actual, axis=0), expected, atol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([(3, 2), (30, 20), (30, 2)]),
       st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_pls_in_any_order_and_cut_is_fit(sizes, widths, seed, random):
    sizes = [*sizes, 2]
    x, y = gaussian_views(sum(sizes), [0.8], *widths, seed)
    batches = list(zip(np.split(x, np.cumsum(sizes)[:-1]), np.split(y, np.cumsum(sizes)[:-1]), strict=True))
    random.shuffle(batches)
    model, reference = PLS(1), np.linalg.svd(covariances(x, y)[2])
    for batch in batches:
        model.partial_fit(*batch)
    np.testing.assert_allclose(model.U_, aligned(model.U_, reference[0][:, :1]), atol=1e-6)
    merged = PLS(1)
    for batch in batches:
        merged.merge(PLS(1).partial_fit(*batch))
    np.testing.assert_allclose(merged.V_, aligned(merged.V_, reference[2][:1].T), atol=1e-6)


def test_pls_of_few_pairs_and_of_items_alone():
    X, Y, pairs = with_items_alone("rows")
    S12 = semi_paired(X, Y, pairs)[-1]
    E, _, Ft = np.linalg.svd(S12)
    model = PLS(4).fit(X, Y, pairs=pairs)
    np.testing.assert_allclose(model.U_, aligned(model.U_, E[:, :4]), atol=1e-8)
    np.testing.assert_allclose(model.V_, aligned(model.V_, Ft[:4].T), atol=1e-8)
    z1, z2 = X[pairs[:, 0]] @ model.U_, Y[pairs[:, 1]] @ model.V_      # items alone have no say
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(z1.T, z2.T, strict=True)]
    np.testing.assert_allclose(model.correlations_, expected, rtol=0, atol=1e-10)


def test_pls_of_a_constant_view_is_finite_and_nothing():
    x, y = gaussian_views(50, [0.9], 4, 3)
    for a, b in ((np.zeros((50, 4)), y), (x, np.full((50, 3), 5.0)), (np.ones((50, 4)), np.zeros((50, 3)))):
        model = PLS().fit(a, b)
        assert np.isfinite(model.transform(a)).all() and np.isfinite(model.transform_view2(b)).all()
        np.testing.assert_array_equal(model.correlations_, 0)


# -- Identity --------------------------------------------------------------------------------------------------------

def test_identity_changes_nothing():
    x, y = gaussian_views(50, [0.9], 4, 4)
    model = Identity().fit(x, y)
    z1, z2 = model.transform(x.astype(np.float32), y)
    np.testing.assert_array_equal(z1, x.astype(np.float32))
    np.testing.assert_array_equal(z2, y)
    assert z1.dtype == z2.dtype == np.float64 and model.n_pairs_ == 50
    assert model.score(x, y) == pytest.approx(sum(np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(4)))
    batches = zip(*(view.view(50, 2, 2).split(20) for view in tensors(x, y)), strict=True)
    assert Identity().fit_batches(batches).n_pairs_ == 50


def test_identity_refuses_unequal_widths():
    x, y = gaussian_views(50, [0.9], 4, 3)
    with pytest.raises(DataError, match="views of one width; got 4 and 3 values"):
        Identity().fit(x, y)
    with pytest.raises(DataError, match="expected 4"):
        Identity().fit_batches([tensors(x, x), tensors(y, y)])


# -- pairs that are too few ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("batches", [[], [(torch.zeros(1, 3), torch.zeros(1, 2))], [(torch.zeros(0, 3),) * 2]],
                         ids=["none", "one pair", "empty batch"])
@pytest.mark.parametrize("model", [LinearCCA(), PLS()], ids=str)
def test_fewer_than_two_pairs(batches, model):
    with pytest.raises(DataError, match="at least two pairs"):
        model.fit_batches(batches)


def test_batches_that_do_not_fit_the_first():
    for widths in ((4, 3), (60, 50)):
        x, y = tensors(*gaussian_views(30, [0.5], *widths))
        with pytest.raises(DataError, match=f"view1 has items of {widths[0] - 1} values; expected {widths[0]}"):
            LinearCCA().fit_batches([(x, y), (x[:, 1:], y)])
        with pytest.raises(DataError, match=f"view2 has items of {widths[1] - 1} values; expected {widths[1]}"):
            LinearCCA().fit_batches([(x, y), (x, y[:, 1:])])
        with pytest.raises(DataError, match=f"view1 has items of {widths[0] - 1} values; expected {widths[0]}"):
            LinearCCA().fit_batches([(x, y)], lone1=[x[:, 1:]])
        with pytest.raises(DataError, match="as many rows of view1 as of view2; got 30 and 29"):
            LinearCCA().fit_batches([(x, y), (x, y[1:])])


def test_not_fitted():
    for model in (LinearCCA(), PLS(), Identity()):
        for use in (lambda m: m.correlations_, lambda m: m.embed_view1(torch.zeros(2, 3)),
                    lambda m: m.embed_view2(torch.zeros(2, 3)), lambda m: m.transform([[1.0]]),
                    lambda m: m.state_dict(), lambda m: m.n_pairs_, lambda m: m.transform_view2([[1.0]])):
            with pytest.raises(NotFittedError, match="not fitted yet: call fit first"):
                use(model)
