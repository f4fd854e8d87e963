"""Kernel CCA and its features against the dual eigenproblem in SciPy, and scikit-learn's kernels."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from xmodal.errors import DataError, NumericalError
from xmodal.linear import KernelCCA, LinearCCA
from xmodal.linear import kernel as kernel_module
from xmodal.linear.features import (
    FeatureMap,
    Kernel,
    fourier,
    inverse_root,
    median_gamma,
    nystroem,
    precomputed,
    squared_distances,
)
from xmodal.linear.kernel import bach_jordan_whitening

pytestmark = pytest.mark.filterwarnings("ignore:view[12]. :UserWarning")


def curved_views(n: int, seed: int = 0, d1: int = 3, d2: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """View 2 follows the squares of view 1, which no line does."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d1))
    y = rng.normal(size=(n, d2)) * 0.3
    y[:, 0] += x[:, 0] ** 2
    y[:, -1] += np.sin(2 * x[:, 1])
    return x, y


def centred(K: np.ndarray) -> np.ndarray:
    H = np.eye(len(K)) - 1 / len(K)
    return H @ K @ H


def dual(K1: np.ndarray, K2: np.ndarray, r1: float, r2: float, regularisation: str
         ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dual weights of the items and correlations, by the generalised eigenproblem.

    [[0, K1 K2], [K2 K1, 0]] w = ρ blockdiag(D1, D2) w of centred matrices, with t = trace(K)/(n − 1) the variance in
    feature space and κ = r t. A function's variance is aᵀK²a/(n − 1) and its squared norm aᵀKa, so "norm" is
    D = K² + (n − 1) κ K. Bach and Jordan's covariance (C + κ/2)² C⁻¹ becomes D = (K + (n − 1) κ/2)².
    Restricted to the range of the matrices, where D has an inverse.
    """
    n, parts, sides = len(K1), [], []
    for K, r in ((centred(K1), r1), (centred(K2), r2)):
        values, vectors = scipy.linalg.eigh(K)
        kept = values > 1e-10 * values[-1]
        values, kappa = values[kept], r * np.trace(K) / (n - 1)
        D = values**2 + (n - 1) * kappa * values if regularisation == "norm" else (values + (n - 1) * kappa / 2) ** 2
        parts.append((vectors[:, kept], values, D))
        sides.append(len(values))
    (Q1, values1, D1), (Q2, values2, D2) = parts
    cross = values1[:, None] * (Q1.T @ Q2) * values2
    left = np.block([[np.zeros((sides[0],) * 2), cross], [cross.T, np.zeros((sides[1],) * 2)]])
    rho, w = scipy.linalg.eigh(left, np.diag(np.concatenate([D1, D2])))
    k = min(sides)
    w = w[:, ::-1][:, :k] * np.sqrt(2 * (n - 1))
    return Q1 @ w[:sides[0]], Q2 @ w[sides[0]:], rho[::-1][:k]


def between(K: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Kernel values (m, n) of new items with the fitted ones, centred like the fitted ones' matrix K (n, n)."""
    return new - K.mean(axis=0) - new.mean(axis=1, keepdims=True) + K.mean()


def aligned(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return expected * np.sign((actual * expected).sum(axis=0))


KERNELS = {
    "rbf": ({"gamma": 0.3}, lambda a, b: rbf_kernel(a, b, gamma=0.3)),
    "poly": ({"gamma": 0.5, "degree": 2, "coef0": 2.0},
             lambda a, b: polynomial_kernel(a, b, gamma=0.5, degree=2, coef0=2.0)),
    "linear": ({}, lambda a, b: a @ b.T),
}


# -- exact -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("regularisation", ["norm", "bach_jordan"])
@pytest.mark.parametrize("given", [False, True], ids=["computed", "precomputed"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("r1", "r2"), [(0.05, 0.05), (1e-3, 0.2)])
def test_the_dual_eigenproblem(kernel, given, regularisation, r1, r2):
    parameters, function = KERNELS[kernel]
    x, y = curved_views(60)
    x, new_x, y, new_y = x[:50], x[50:], y[:50], y[50:]
    K1, K2 = function(x, x), function(y, y)
    a, b, rho = dual(K1, K2, r1, r2, regularisation)
    model = KernelCCA(2, "precomputed" if given else kernel, r1=r1, r2=r2, regularisation=regularisation,
                      random_state=0, **({} if given else parameters))
    model.fit(*((K1, K2) if given else (x, y)))
    np.testing.assert_allclose(model.correlations_, rho[:2], rtol=0, atol=1e-8)
    for z, old, new, weights in (
            (model.transform(function(new_x, x) if given else new_x), K1, function(new_x, x), a),
            (model.transform_view2(function(new_y, y) if given else new_y), K2, function(new_y, y), b)):
        expected = between(old, new) @ weights[:, :2]
        np.testing.assert_allclose(z, aligned(z, expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regularisation", ["norm", "bach_jordan"])
def test_all_components_of_the_dual_eigenproblem(regularisation):
    x, y = curved_views(40)
    K1, K2 = rbf_kernel(x, gamma=0.3), rbf_kernel(y, gamma=1.0)
    rho = dual(K1, K2, 0.02, 0.01, regularisation)[2]
    model = KernelCCA(gamma=(0.3, 1.0), r1=0.02, r2=0.01, regularisation=regularisation, random_state=0).fit(x, y)
    assert model.gammas_ == (0.3, 1.0)
    k = min(len(rho), len(model.correlations_))
    np.testing.assert_allclose(model.correlations_[:k], rho[:k], atol=1e-7)
    assert (np.diff(model.correlations_) <= 1e-12).all()


def test_a_pair_of_kernels():
    x, y = curved_views(50)
    rho = dual(rbf_kernel(x, gamma=0.3), y @ y.T, 0.05, 0.01, "norm")[2]
    for kernels in (("rbf", "linear"), ["rbf", "linear"], ("rbf", "precomputed"), ("precomputed", "linear")):
        model = KernelCCA(2, kernels, gamma=0.3, r1=0.05, r2=0.01, random_state=0)
        model.fit(rbf_kernel(x, gamma=0.3) if kernels[0] == "precomputed" else x,
                  y @ y.T if kernels[1] == "precomputed" else y)
        np.testing.assert_allclose(model.correlations_, rho[:2], rtol=0, atol=1e-8)


@pytest.mark.parametrize("batches", [False, True])
def test_a_linear_kernel_is_linear_cca_with_the_ridge_of_one_column(batches):
    """Relative to all variance here, to the mean variance of a column there."""
    x, y = curved_views(60)
    model, linear = KernelCCA(2, "linear", r1=0.01, r2=0.02), LinearCCA(2, r1=0.01 * 3, r2=0.02 * 2).fit(x, y)
    model = model.fit_batches([(torch.from_numpy(x), torch.from_numpy(y))]) if batches else model.fit(x, y)
    np.testing.assert_allclose(model.correlations_, linear.correlations_, rtol=0, atol=1e-9)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    np.testing.assert_allclose(model.embed_view1(a), linear.embed_view1(a), atol=1e-8)
    np.testing.assert_allclose(model.embed_view2(b), linear.embed_view2(b), atol=1e-8)


def test_precomputed_is_rbf_when_given_scikit_learns_matrices():
    x, y = curved_views(70)
    x, new = x[:50], x[50:]
    y = y[:50]
    rbf = KernelCCA(2, gamma=0.3, r1=0.01, r2=0.01, random_state=0).fit(x, y)
    given = KernelCCA(2, "precomputed", r1=0.01, r2=0.01).fit(rbf_kernel(x, gamma=0.3), rbf_kernel(y, gamma=0.3))
    np.testing.assert_allclose(given.correlations_, rbf.correlations_, rtol=0, atol=1e-9)
    z, expected = given.transform(rbf_kernel(new, x, gamma=0.3)), rbf.transform(new)
    np.testing.assert_allclose(z, aligned(z, expected), rtol=1e-4, atol=1e-5)


def test_it_finds_what_linear_cca_misses():
    x, y = curved_views(300)
    held_out = curved_views(300, seed=1)
    kernel, linear = KernelCCA(2, r1=0.02, r2=0.02, random_state=0).fit(x, y), LinearCCA(2).fit(x, y)
    assert kernel.score(*held_out) > linear.score(*held_out) + 0.5


@pytest.mark.parametrize("regularisation", ["norm", "bach_jordan"])
def test_independent_and_shuffled_views_score_nothing_out_of_sample(regularisation):
    x, y = curved_views(2200)
    y = np.random.default_rng(1).permutation(y)
    model = KernelCCA(1, r1=0.1, r2=0.1, regularisation=regularisation, random_state=0).fit(x[:200], y[:200])
    assert abs(model.score(x[200:], y[200:])) < 0.1     # chance: 1/√2000


def test_batches_are_arrays():
    x, y = curved_views(50)
    batches = list(zip(torch.from_numpy(x).split(7), torch.from_numpy(y).split(7), strict=True))
    for model in (KernelCCA(2, gamma=0.3, random_state=0), KernelCCA(2, "poly", random_state=0),
                  KernelCCA(2, random_state=0)):
        streamed, expected = clone(model).fit_batches(iter(batches)), clone(model).fit(x, y)
        np.testing.assert_allclose(streamed.correlations_, expected.correlations_, rtol=0, atol=1e-8)
        assert streamed.n_pairs_ == 50 and streamed.gammas_ == pytest.approx(expected.gammas_)


def test_small_blocks_are_one(monkeypatch):
    x, y = curved_views(50)
    model = KernelCCA(2, approximation="fourier", n_features=30, gamma=0.3, random_state=0)
    expected = clone(model).fit(x, y)
    monkeypatch.setattr(kernel_module, "BLOCK", 3)
    np.testing.assert_allclose(clone(model).fit(x, y).correlations_, expected.correlations_, rtol=0, atol=1e-9)


# -- items without a partner -----------------------------------------------------------------------------------------

def with_items_alone() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = curved_views(50)
    return x, np.r_[y[::-1], y[:5] + 1], np.stack([np.arange(30), 49 - np.arange(30)], axis=1)


@pytest.mark.parametrize("regularisation", ["norm", "bach_jordan"])
@pytest.mark.parametrize("weight", ["auto", 0.3])
def test_items_alone_count_in_their_views_variance_only(regularisation, weight):
    """In explicit features: x ↦ K(x, all) K⁻¹ᐟ², whose inner products are the kernel's values. There are more of them
    than of items alone, which count fully by default."""
    X, Y, pairs = with_items_alone()
    features, whitenings = [], []
    for i, Z in enumerate((X, Y)):
        values, vectors = np.linalg.eigh(rbf_kernel(Z, gamma=0.5))
        F = vectors * np.sqrt(values.clip(0))
        w = np.full(len(Z), 1 if weight == "auto" else weight)
        w[pairs[:, i]] = 1
        centred_F = F - np.average(F, axis=0, weights=w)
        C = centred_F.T * w @ centred_F / (w.sum() - 1)
        kappa, (values, vectors) = 0.4 * C.trace(), np.linalg.eigh(C)
        values = values.clip(0)
        whitenings.append(vectors * (1 / np.sqrt(values + kappa) if regularisation == "norm"
                                     else np.sqrt(values) / (values + kappa / 2)) @ vectors.T)
        features.append(F[pairs[:, i]])
    A, B = features
    S12 = (A - A.mean(axis=0)).T @ (B - B.mean(axis=0)) / 29
    rho = np.linalg.svd(whitenings[0] @ S12 @ whitenings[1], compute_uv=False)
    assert rho[0] < 1     # else it is clipped
    model = KernelCCA(3, gamma=0.5, r1=0.4, r2=0.4, regularisation=regularisation, random_state=0,
                      unpaired_weight=weight)
    np.testing.assert_allclose(model.fit(X, Y, pairs=pairs).correlations_, rho[:3], atol=1e-7)
    given = KernelCCA(3, "precomputed", r1=0.4, r2=0.4, regularisation=regularisation, unpaired_weight=weight)
    given.fit(rbf_kernel(X, gamma=0.5), rbf_kernel(Y, gamma=0.5), pairs=pairs)
    np.testing.assert_allclose(given.correlations_, rho[:3], atol=1e-7)


@pytest.mark.parametrize("approximation", [None, "nystroem", "fourier"])
def test_items_alone_can_be_left_out(approximation):
    """Then they may still be landmarks, which changes nothing where every item is one."""
    X, Y, pairs = with_items_alone()
    model = KernelCCA(2, gamma=0.5, approximation=approximation, n_features=100, random_state=0, unpaired_weight=0)
    left_out, pairs_alone = clone(model).fit(X, Y, pairs=pairs), clone(model).fit(X[pairs[:, 0]], Y[pairs[:, 1]])
    assert left_out.n_pairs_ == 30
    if approximation != "fourier":     # other numbers of rows draw other frequencies
        np.testing.assert_allclose(left_out.correlations_, pairs_alone.correlations_, atol=1e-7)


@pytest.mark.parametrize("kernel", ["linear", "approximated"])
def test_items_alone_by_any_way_in_are_the_same(kernel):
    X, Y, pairs = with_items_alone()
    model = KernelCCA(2, "linear") if kernel == "linear" else \
        KernelCCA(2, approximation="fourier", gamma=0.5, n_features=20, random_state=0)
    x, y, lone1, lone2 = X[:30], Y[49 - np.arange(30)], X[30:], Y[np.r_[:20, 50:55]]
    by_parts = clone(model).partial_fit(x, y).partial_fit(lone1).partial_fit(Y=lone2)
    assert by_parts.n_pairs_ == 30
    first = clone(model).partial_fit(x, y)
    by_parts2 = first.partial_fit(Y=lone2[:3]).partial_fit(X=lone1).partial_fit(Y=lone2[3:])
    np.testing.assert_allclose(by_parts2.correlations_, by_parts.correlations_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(by_parts2.transform(X), by_parts.transform(X), atol=1e-7)
    if kernel == "linear":
        np.testing.assert_allclose(clone(model).fit(X, Y, pairs=pairs).correlations_, by_parts.correlations_, atol=1e-9)


def test_items_alone_first_are_refused_and_do_no_harm():
    X, Y, pairs = with_items_alone()
    model = KernelCCA(1, approximation="nystroem", n_features=20, random_state=0)
    with pytest.raises(DataError, match="items without a partner come after"):
        model.partial_fit(X)
    assert model.partial_fit(X, Y, pairs=pairs).n_pairs_ == 30


def test_items_alone_in_batches_are_items_alone_in_arrays():
    X, Y, pairs = with_items_alone()
    x, y, lone1, lone2 = map(torch.from_numpy, (X[:30], Y[49 - np.arange(30)], X[30:], Y[np.r_[:20, 50:55]]))
    model = KernelCCA(2, gamma=0.5, r1=0.5, r2=0.5, random_state=0)
    expected, actual = clone(model).fit(X, Y, pairs=pairs), clone(model)
    assert expected.correlations_[0] < 1
    np.testing.assert_allclose(actual.fit_batches([(x, y)], lone1=[lone1], lone2=[lone2]).correlations_,
                               expected.correlations_, atol=1e-8)


# -- Nyström ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kernel", ["rbf", "poly"])
@pytest.mark.parametrize("regularisation", ["norm", "bach_jordan"])
def test_with_all_items_as_landmarks_it_is_exact(kernel, regularisation):
    x, y = curved_views(60)
    new = curved_views(10, seed=1)
    models = [KernelCCA(2, kernel, approximation=approximation, n_features=500, r1=0.05, r2=0.05, random_state=0,
                        regularisation=regularisation).fit(x, y) for approximation in (None, "nystroem")]
    exact, approximate = models
    np.testing.assert_allclose(approximate.correlations_, exact.correlations_, rtol=0, atol=1e-8)
    for z, expected in zip(approximate.transform(*new), exact.transform(*new), strict=True):
        np.testing.assert_allclose(z, aligned(z, expected), rtol=1e-4, atol=1e-5)


def test_nystroem_features_have_scikit_learns_inner_products():
    x, _ = curved_views(80)
    reference = Nystroem("rbf", gamma=0.3, n_components=15, random_state=0).fit(x)
    features = nystroem(Kernel("rbf", 0.3), torch.from_numpy(reference.components_))
    F, expected = features(torch.from_numpy(x)).numpy(), reference.transform(x)
    np.testing.assert_allclose(F @ F.T, expected @ expected.T, atol=1e-8)
    approximate = features(torch.from_numpy(reference.components_)).numpy()
    np.testing.assert_allclose(approximate @ approximate.T, rbf_kernel(reference.components_, gamma=0.3), atol=1e-8)


def test_nystroem_is_linear_cca_of_scikit_learns_features():
    x, y = curved_views(200)
    model = KernelCCA(2, approximation="nystroem", n_features=25, gamma=(0.3, 0.5), r1=0.01, r2=0.02,
                      random_state=0).fit(x, y)
    F1, F2 = (Nystroem("rbf", gamma=features.kernel.gamma, n_components=25).fit(features.landmarks.numpy()).transform(z)
              for features, z in zip(model._maps, (x, y), strict=True))
    assert {tuple(row) for row in model._maps[0].landmarks.tolist()} <= {tuple(row) for row in x.tolist()}
    linear = LinearCCA(2, r1=0.01 * F1.shape[1], r2=0.02 * F2.shape[1]).fit(F1, F2)
    np.testing.assert_allclose(model.correlations_, linear.correlations_, atol=1e-7)
    z, expected = model.transform(x), linear.transform(F1)
    np.testing.assert_allclose(z, aligned(z, expected), atol=1e-4)


def test_more_landmarks_come_closer():
    x, y = curved_views(150)
    exact = KernelCCA(1, gamma=0.5, r1=0.02, r2=0.02, random_state=0).fit(x, y).correlations_
    errors = [np.mean([abs(KernelCCA(1, gamma=0.5, r1=0.02, r2=0.02, approximation="nystroem", n_features=m,
                                     random_state=seed).fit(x, y).correlations_ - exact) for seed in range(3)])
              for m in (5, 25, 150)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-8


# -- random Fourier features ------------------------------------------------------------------------------------------

def test_fourier_features_approximate_the_kernel_as_one_over_the_root_of_their_number():
    """An inner product is a mean of q/2 cosines: its standard error is at most 1/√q, and √50 times less for 50 times
    as many features."""
    x, _ = curved_views(30)
    K, errors = rbf_kernel(x, gamma=0.4), []
    for q in (200, 10_000):
        squares = []
        for seed in range(6):
            F = fourier(Kernel("rbf", 0.4), 3, q, torch.Generator().manual_seed(seed))(torch.from_numpy(x)).numpy()
            assert F.shape == (30, q)
            np.testing.assert_allclose((F**2).sum(axis=1), 1)
            squares.append(np.mean((F @ F.T - K) ** 2))
        errors.append(np.sqrt(np.mean(squares)))
        assert errors[-1] < 1.2 / np.sqrt(q)
    assert 5 < errors[0] / errors[1] < 10


def test_an_odd_number_of_fourier_features_is_rounded_up():
    assert fourier(Kernel("rbf"), 3, 7, torch.Generator())(torch.zeros(2, 3)).shape == (2, 8)


def test_fourier_features_converge_to_exact():
    x, y = curved_views(100)
    exact = KernelCCA(2, gamma=0.4, r1=0.05, r2=0.05, random_state=0).fit(x, y).correlations_
    errors = [np.mean([np.abs(KernelCCA(2, gamma=0.4, r1=0.05, r2=0.05, approximation="fourier", n_features=q,
                                        random_state=seed).fit(x, y).correlations_ - exact).max() for seed in range(3)])
              for q in (30, 300, 10_000)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


@pytest.mark.parametrize("cuts", [[25, 25], [20, 30], [50], [7, 3, 40]])
def test_fourier_features_of_a_fixed_gamma_stream(cuts):
    """The first call has 50 rows, as the fit that is compared: they draw the same features."""
    x, y = curved_views(150)
    model = KernelCCA(2, gamma=0.3, approximation="fourier", n_features=20, random_state=0)
    expected = clone(model).fit(x[:50], y[:50]).partial_fit(x[50:], y[50:])
    streamed, low = clone(model).partial_fit(x[:50], y[:50]), 50
    for size in [*cuts, 150 - 50 - sum(cuts)]:
        if size:
            streamed.partial_fit(x[low:low + size], y[low:low + size])
        low += size
    np.testing.assert_allclose(streamed.correlations_, expected.correlations_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(streamed.transform(x), expected.transform(x), atol=1e-7)
    features = FeatureMap(Kernel("rbf", 0.3), frequencies=streamed._maps[0].frequencies)(torch.from_numpy(x)).numpy()
    others = FeatureMap(Kernel("rbf", 0.3), frequencies=streamed._maps[1].frequencies)(torch.from_numpy(y)).numpy()
    linear = LinearCCA(2, r1=1e-3 * 20, r2=1e-3 * 20).fit(features, others)
    np.testing.assert_allclose(streamed.correlations_, linear.correlations_, rtol=0, atol=1e-8)


def test_fourier_features_of_a_fixed_gamma_and_random_state_are_the_same_for_any_cut():
    x, y = curved_views(150)
    model = KernelCCA(2, gamma=0.3, approximation="fourier", n_features=20, random_state=0)
    expected = clone(model).fit(x, y)
    streamed = clone(model).partial_fit(x[:40], y[:40]).partial_fit(x[40:], y[40:])
    np.testing.assert_allclose(streamed.correlations_, expected.correlations_, rtol=0, atol=1e-9)


def test_merging_parts_of_unequal_length_with_one_gamma_and_random_state():
    """As the error message of merge advises."""
    x, y = curved_views(150)
    model = KernelCCA(2, gamma=0.3, approximation="fourier", n_features=20, random_state=0)
    merged = clone(model).fit(x[:40], y[:40]).merge(clone(model).fit(x[40:], y[40:]))
    assert merged.n_pairs_ == 150


# -- bandwidths -------------------------------------------------------------------------------------------------------

def test_the_median_heuristic_by_hand():
    """The middle one of the squared distances between different rows, the lower of two."""
    assert median_gamma(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(1 / (2 * 4))      # of 1, 4, 9
    assert median_gamma(torch.tensor([[0.0], [0.0], [3.0]])) == pytest.approx(1 / (2 * 9))      # of 9, 9; never 0
    assert median_gamma(torch.tensor([[0.0], [1.0], [3.0], [7.0]])) == pytest.approx(1 / (2 * 9))    # 1 4 9|16 36 49
    for constant in (0.0, 5.0, 1e8):
        assert median_gamma(torch.full((4, 2), constant, dtype=torch.float64)) == 1.0
    assert median_gamma(torch.ones(1, 2)) == 1.0


def test_the_median_heuristic_leaves_out_rows_that_are_equal_but_for_rounding():
    for seed in range(20):
        a, b = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 50)))
        expected = pytest.approx(1 / (2 * float((a - b).square().sum())))
        assert median_gamma(torch.stack([a, a, a, a, b])) == expected


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_median_heuristic_of_a_fit(scale):
    x, y = curved_views(61)
    x = x * scale
    for model in (KernelCCA(1, random_state=0).fit(x, y), KernelCCA(1, random_state=1).fit(x, y),
                  KernelCCA(1, approximation="fourier", n_features=10).fit(x, y),
                  KernelCCA(1, random_state=0).fit_batches([(torch.from_numpy(x), torch.from_numpy(y))])):
        for gamma, view in zip(model.gammas_, (x, y), strict=True):
            distances = np.sort(pdist(view, "sqeuclidean"))
            assert gamma == pytest.approx(1 / (2 * distances[(len(distances) - 1) // 2]), rel=1e-6)
    assert KernelCCA(1, gamma=(None, 0.7), random_state=0).fit(x, y).gammas_ == pytest.approx((gamma_of(x), 0.7))


def gamma_of(view: np.ndarray) -> float:
    distances = np.sort(pdist(view, "sqeuclidean"))
    return 1 / (2 * distances[(len(distances) - 1) // 2])


@pytest.mark.parametrize("mean", [1e4, 1e7])
def test_the_median_heuristic_does_not_depend_on_the_mean(mean):
    x, _ = curved_views(61)
    assert median_gamma(torch.from_numpy(x + mean)) == pytest.approx(gamma_of(x), rel=1e-4)


def test_many_items_are_sampled(monkeypatch):
    monkeypatch.setattr(kernel_module, "MEDIAN_SAMPLE", 200)
    x, y = curved_views(2000)
    x[:300] *= 100      # not a fair sample: taken first, they would decide
    model = KernelCCA(1, approximation="fourier", n_features=10, random_state=0).fit(x, y)
    for gamma, view in zip(model.gammas_, (x, y), strict=True):
        assert gamma == pytest.approx(gamma_of(view), rel=0.3)


def test_gamma_of_a_polynomial_is_one_over_the_width():
    x, y = curved_views(30)
    assert KernelCCA(1, "poly", random_state=0).fit(x, y).gammas_ == (1 / 3, 1 / 2)
    assert KernelCCA(1, "poly", gamma=0.2, random_state=0).fit(x, y).gammas_ == (0.2, 0.2)


# -- seeds ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("approximation", ["nystroem", "fourier"])
def test_seeds(approximation):
    x, y = curved_views(100)
    model = KernelCCA(1, approximation=approximation, n_features=8)

    def z(random_state):
        return clone(model).set_params(random_state=random_state).fit(x, y).transform(x)

    np.testing.assert_array_equal(z(0), z(0))
    assert not np.allclose(z(0), z(1))
    np.testing.assert_array_equal(z(np.random.RandomState(3)), z(np.random.RandomState(3)))
    torch.manual_seed(5)
    first, second = z(None), z(None)
    torch.manual_seed(5)
    np.testing.assert_array_equal(z(None), first)
    assert not np.allclose(first, second)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    z(0)
    assert torch.equal(torch.get_rng_state(), before), "a given seed leaves the global generator alone"


# -- parts -------------------------------------------------------------------------------------------------------------

def test_exact_has_no_partial_fit():
    for exact in (KernelCCA(), KernelCCA(kernel="poly"), KernelCCA(kernel="precomputed"),
                  KernelCCA(kernel=("rbf", "linear"))):
        assert not hasattr(exact, "partial_fit")
        with pytest.raises(AttributeError):
            exact.partial_fit([[0.0], [1.0]], [[0.0], [1.0]])
    for other in (KernelCCA(approximation="nystroem"), KernelCCA(approximation="fourier"), KernelCCA(kernel="linear")):
        assert hasattr(other, "partial_fit")


@pytest.mark.parametrize("approximation", ["nystroem", "fourier"])
def test_the_first_rows_choose_the_features(approximation):
    x, y = curved_views(120)
    model = KernelCCA(2, approximation=approximation, n_features=15, random_state=0)
    streamed = clone(model).partial_fit(x[:50], y[:50])
    gammas = streamed.gammas_
    streamed.partial_fit(x[50:80] * 9, y[50:80]).partial_fit(x[80:] * 9, y[80:])
    expected = clone(model).partial_fit(x[:50], y[:50]).partial_fit(x[50:] * 9, y[50:])
    assert streamed.gammas_ == gammas and streamed.n_pairs_ == 120
    np.testing.assert_allclose(streamed.correlations_, expected.correlations_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(streamed.transform(x), expected.transform(x), atol=1e-6)
    np.testing.assert_array_equal(clone(model).partial_fit(x, y).transform(x), clone(model).fit(x, y).transform(x))


def test_merging_what_has_the_same_features():
    x, y = curved_views(120)
    model = KernelCCA(2, gamma=0.3, approximation="fourier", n_features=20, random_state=0)
    one, other = (clone(model).fit(x[part], y[part]) for part in (slice(60), slice(60, None)))
    expected = clone(model).fit(x[:60], y[:60]).partial_fit(x[60:], y[60:])
    for merged in (pickle.loads(pickle.dumps(one)).merge(other), clone(model).merge(one).merge(other)):
        assert merged.n_pairs_ == 120 and merged.gammas_ == (0.3, 0.3)
        np.testing.assert_allclose(merged.correlations_, expected.correlations_, rtol=0, atol=1e-9)
        np.testing.assert_allclose(merged.transform(x), expected.transform(x), atol=1e-7)
    linear = KernelCCA(2, "linear").fit(x[:60], y[:60]).merge(KernelCCA(2, "linear").fit(x[60:], y[60:]))
    np.testing.assert_allclose(linear.correlations_, KernelCCA(2, "linear").fit(x, y).correlations_, rtol=0, atol=1e-9)


def test_merging_a_copy_that_went_on_elsewhere():
    x, y = curved_views(120)
    one = KernelCCA(2, approximation="nystroem", n_features=15, random_state=0).fit(x[:50], y[:50])
    other = pickle.loads(pickle.dumps(one)).partial_fit(x[50:], y[50:])
    expected = pickle.loads(pickle.dumps(other)).partial_fit(x[:50], y[:50])
    np.testing.assert_allclose(one.merge(other).correlations_, expected.correlations_, rtol=0, atol=1e-9)
    assert one.n_pairs_ == 170


def test_merging_refuses_other_features():
    x, y = curved_views(100)
    fitted = [model.fit(x[:50], y[:50]) for model in (
        KernelCCA(1, gamma=0.3, approximation="fourier", n_features=20, random_state=0),
        KernelCCA(1, gamma=0.3, approximation="fourier", n_features=20, random_state=1),
        KernelCCA(1, gamma=0.4, approximation="fourier", n_features=20, random_state=0),
        KernelCCA(1, gamma=0.3, approximation="nystroem", n_features=20, random_state=0),
        KernelCCA(1, gamma=0.3, random_state=0), KernelCCA(1, "linear"))]
    for i, one in enumerate(fitted):
        for j, other in enumerate(fitted):
            if i != j:
                with pytest.raises(DataError, match="same features on both sides"):
                    one.merge(other)
        assert one.n_pairs_ == 50
    exact = KernelCCA(1, gamma=0.3, random_state=0).fit(x[50:], y[50:])
    with pytest.raises(DataError, match="landmarks of other rows are other features"):
        fitted[4].merge(exact)


# -- hard kernels -----------------------------------------------------------------------------------------------------

def test_given_matrices_that_are_no_kernels():
    x, _ = curved_views(20)
    K = rbf_kernel(x)
    crooked = K.copy()
    crooked[3, 5] += 0.1
    for bad, message in ((K[:, :10], r"square to be fitted to, \(items, items\); got \(20, 10\)"),
                         (crooked, "must be symmetric"), (K - 2 * np.eye(20), "not positive semi-definite"),
                         (-K, "not positive semi-definite: eigenvalues from -")):
        with pytest.raises(DataError, match=message):
            KernelCCA(1, "precomputed").fit(bad, K)
        with pytest.raises(DataError, match=message):
            KernelCCA(1, ("linear", "precomputed")).fit(x, bad)
    with pytest.raises(ValueError, match="X has 10 features, but KernelCCA is expecting 20"):
        KernelCCA(1, "precomputed").fit(K, K).transform(K[:, :10])


def test_rounding_is_no_crime_of_a_given_matrix():
    x, y = curved_views(40)
    K1, K2 = (rbf_kernel(z, gamma=0.01).astype(np.float32) for z in (x, y))     # eigenvalues of -1e-7, half the bits
    K1[0, 1] *= 1 + 1e-7
    exact = KernelCCA(1, gamma=0.01, r1=0.1, r2=0.1, random_state=0).fit(x, y)
    given = KernelCCA(1, "precomputed", r1=0.1, r2=0.1).fit(K1, K2)
    np.testing.assert_allclose(given.correlations_, exact.correlations_, atol=1e-4)


def test_duplicated_items_and_constant_views_are_finite():
    x, y = curved_views(40)
    twice, still = np.r_[x, x], np.ones((40, 3))
    for model in (KernelCCA(random_state=0), KernelCCA(kernel="poly", random_state=0), KernelCCA(kernel="linear"),
                  KernelCCA(approximation="nystroem", n_features=10, random_state=0), KernelCCA(r1=0, r2=0),
                  KernelCCA(approximation="fourier", n_features=10, random_state=0)):
        for a, b in ((twice, np.r_[y, y]), (still, y), (x, still[:, :2]), (still, still), (x[:2], y[:2]),
                     (x[:, :1], y[:, :1])):
            fitted = clone(model).fit(a, b)
            z1, z2 = fitted.transform(a, b)
            assert np.isfinite(z1).all() and np.isfinite(z2).all()
            assert fitted.correlations_.max() <= 1 and fitted.correlations_.min() >= -1e-12
            if a is still and b is y:
                np.testing.assert_allclose(fitted.correlations_, 0, atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("r", [0.0, 1e-3])
def test_duplicated_items_are_finite_with_bach_and_jordans_regularisation(kernel, r):
    x, y = curved_views(40)
    model = KernelCCA(kernel=kernel, r1=r, r2=r, regularisation="bach_jordan", random_state=0)
    for a, b in ((np.r_[x, x], np.r_[y, y]), (x[:2], y[:2]), (x[:, :1], y[:, :1])):
        z1, z2 = clone(model).fit(a, b).transform(a, b)
        assert np.isfinite(z1).all() and np.isfinite(z2).all()


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("r", [0.0, 1e-3])
def test_constant_views_are_finite_with_bach_and_jordans_regularisation(kernel, r):
    x, y = curved_views(40)
    model = KernelCCA(1, kernel, r1=r, r2=r, regularisation="bach_jordan", random_state=0)
    for a, b in ((np.ones((40, 3)), y), (x, np.zeros((40, 2)))):
        np.testing.assert_allclose(clone(model).fit(a, b).correlations_, 0, atol=1e-6)


def test_items_seen_twice_change_nothing_but_the_divisor():
    """κ is relative, and the divisor n − 1 is a factor of everything else."""
    x, y = curved_views(40)
    once, twice = (KernelCCA(2, gamma=0.3, r1=0.05, r2=0.05, random_state=0).fit(a, b)
                   for a, b in ((x, y), (np.r_[x, x], np.r_[y, y])))
    np.testing.assert_allclose(twice.correlations_, once.correlations_, atol=1e-7)


@pytest.mark.parametrize(("scale", "coef0"), [(1e120, 1.0), (1.0, float("nan"))])
def test_kernel_values_that_overflow(scale, coef0):
    x, y = curved_views(40)
    with pytest.raises((DataError, NumericalError), match=r"finite|coef0"):
        KernelCCA(1, "poly", coef0=coef0, random_state=0).fit(x * scale, y)


def test_a_kernel_of_zeros_is_a_constant_view():
    x, y = curved_views(40)
    np.testing.assert_array_equal(KernelCCA(1, "poly", coef0=0.0, random_state=0).fit(0 * x, y).correlations_, 0)
    np.testing.assert_array_equal(KernelCCA(1, "precomputed").fit(np.zeros((40, 40)), y @ y.T).correlations_, 0)


# -- features themselves ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_kernel_values_are_scikit_learns(mean):
    a, b = (torch.from_numpy(view) for view in (curved_views(20)[0] + mean, curved_views(30, seed=1)[0] + mean))
    distances = ((a[:, None] - b[None]) ** 2).sum(dim=2)
    np.testing.assert_allclose(squared_distances(a, b), distances, atol=1e-8, rtol=1e-8)
    np.testing.assert_allclose(Kernel("rbf", 0.7)(a, b), np.exp(-0.7 * distances.numpy()), atol=1e-8)
    assert squared_distances(a, a).min() >= 0
    np.testing.assert_allclose(Kernel("linear")(a, b), a.numpy() @ b.numpy().T)
    if not mean:
        np.testing.assert_allclose(Kernel("poly", 0.3, 4, 0.5)(a, b),
                                   polynomial_kernel(a, b, gamma=0.3, degree=4, coef0=0.5))


def test_the_inverse_root_is_that_of_the_pseudo_inverse():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(12, 5))
    W = inverse_root(torch.from_numpy(F @ F.T)).numpy()     # of rank 5
    assert W.shape == (12, 5)
    np.testing.assert_allclose(W @ W.T, np.linalg.pinv(F @ F.T, rcond=1e-10), atol=1e-8)


def test_features_of_a_given_matrix_have_its_inner_products():
    K = rbf_kernel(curved_views(30)[0], gamma=2.0)
    F = precomputed(torch.from_numpy(K))(torch.from_numpy(K)).numpy()
    np.testing.assert_allclose(F @ F.T, K, atol=1e-9)


def test_bach_and_jordans_whitening_by_its_definition():
    rng = np.random.default_rng(0)
    C = np.cov(rng.normal(size=(40, 6)).T)
    W = bach_jordan_whitening(torch.from_numpy(C), 0.3).numpy()
    D = (C + 0.15 * np.eye(6)) @ (C + 0.15 * np.eye(6)) @ np.linalg.inv(C)
    np.testing.assert_allclose(W @ W.T, np.linalg.inv(D), atol=1e-9)


def test_tensors_name_what_a_map_is_made_of():
    x = torch.from_numpy(curved_views(10)[0])
    assert set(nystroem(Kernel("rbf", 0.3), x).tensors()) == {"gamma", "landmarks", "whitening"}
    assert set(fourier(Kernel("rbf", 0.3), 3, 4, torch.Generator()).tensors()) == {"gamma", "frequencies"}
    assert set(FeatureMap(Kernel("linear")).tensors()) == {"gamma"}
    assert set(precomputed(x @ x.mT).tensors()) == {"gamma", "whitening"}


def test_solvers_agree():
    x, y = curved_views(300)
    exact, random = (KernelCCA(2, approximation="fourier", n_features=200, gamma=0.5, random_state=0, r1=0.02, r2=0.02,
                               svd_solver=solver).fit(x, y) for solver in ("exact", "randomized"))
    np.testing.assert_allclose(random.correlations_, exact.correlations_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(random.transform(x), exact.transform(x), atol=1e-4)
