"""Linear algebra of CCA against SciPy, NumPy and finite differences."""
from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import DataError, NumericalError
from xmodal.linalg import (
    LEAST_RIDGE,
    PolarFactor,
    _krylov_svd,
    cca_solution,
    cholesky,
    describe_spectrum,
    fix_signs,
    leading_svd,
    noise_floor,
    ridged,
    square_svd,
    whiten,
    whitened_cross_covariance,
)

F32, F64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def covariances(n: int, d1: int, d2: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, min(d1, d2)))
    x = shared @ rng.normal(size=(min(d1, d2), d1)) + rng.normal(size=(n, d1))
    y = shared @ rng.normal(size=(min(d1, d2), d2)) + rng.normal(size=(n, d2))
    S = np.cov(x.T, y.T)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in (S[:d1, :d1], S[d1:, d1:], S[:d1, d1:]))


def inverse_square_root(S: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(S)
    return vectors @ np.diag(values ** -0.5) @ vectors.T


# -- CCA -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("d1", "d2"), [(5, 5), (7, 3), (3, 7), (1, 1), (1, 4)])
@pytest.mark.parametrize(("r1", "r2"), [(0.0, 0.0), (0.3, 0.01)])
def test_correlations_solve_the_generalised_eigenproblem(d1, d2, r1, r2):
    """[[0, S12], [S21, 0]] w = ρ [[S11, 0], [0, S22]] w (Hotelling 1936)."""
    S11, S22, S12 = covariances(200, d1, d2)
    left = np.block([[np.zeros((d1, d1)), S12.numpy()], [S12.numpy().T, np.zeros((d2, d2))]])
    right = scipy.linalg.block_diag(S11.numpy() + r1 * np.eye(d1), S22.numpy() + r2 * np.eye(d2))
    values, vectors = scipy.linalg.eigh(left, right)
    k = min(d1, d2)
    U, V, correlations = cca_solution(S11, S22, S12, r1, r2)
    assert U.shape == (d1, k) and V.shape == (d2, k)
    np.testing.assert_allclose(correlations, values[::-1][:k], rtol=0, atol=1e-12)
    for i in range(k):                                  # and so do the directions, each up to its sign
        w = np.concatenate([U[:, i], V[:, i]])
        reference = vectors[:, ::-1][:, i] * np.sqrt(2)
        np.testing.assert_allclose(w, reference * np.sign(reference @ w), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
def test_correlations_are_the_singular_values_of_the_explicitly_whitened_matrix(d1, d2, seed):
    S11, S22, S12 = covariances(60, d1, d2, seed)
    T = inverse_square_root(S11.numpy()) @ S12.numpy() @ inverse_square_root(S22.numpy())
    U, V, correlations = cca_solution(S11, S22, S12)
    np.testing.assert_allclose(correlations, np.linalg.svd(T, compute_uv=False), rtol=0, atol=1e-9)
    k = min(d1, d2)
    np.testing.assert_allclose(U.T @ S11 @ U, np.eye(k), atol=1e-8)
    np.testing.assert_allclose(V.T @ S22 @ V, np.eye(k), atol=1e-8)
    np.testing.assert_allclose(U.T @ S12 @ V, np.diag(correlations), rtol=0, atol=1e-8)
    assert (correlations.diff() <= 0).all() and (correlations >= 0).all() and (correlations <= 1).all()


def test_components_are_the_first_of_all():
    S = covariances(100, 6, 4)
    every, two = cca_solution(*S), cca_solution(*S, n_components=2)
    assert two.U.shape == (6, 2) and two.V.shape == (4, 2)
    torch.testing.assert_close(two, type(two)(every.U[:, :2], every.V[:, :2], every.correlations[:2]))


def test_identical_views_have_correlations_of_one_and_never_more():
    S11, _, _ = covariances(50, 6, 6)
    correlations = cca_solution(S11, S11, S11).correlations
    assert correlations.max() <= 1 and correlations.min() > 1 - 1e-9


def test_covariances_that_rounding_made_inconsistent_have_no_correlation_above_one():
    S11, _, _ = covariances(50, 4, 4)
    assert cca_solution(S11, S11, S11 * (1 + 1e-6)).correlations.max() == 1


def test_whitening_against_explicit_inverses():
    S11, S22, S12 = covariances(80, 5, 3)
    L1, L2 = cholesky(S11, "a"), cholesky(S22, "b")
    expected = np.linalg.inv(L1.numpy()) @ S12.numpy() @ np.linalg.inv(L2.numpy()).T
    np.testing.assert_allclose(whitened_cross_covariance(S12, L1, L2), expected, atol=1e-11)
    A = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(whiten(A, L1), A.numpy() @ np.linalg.inv(L1.numpy()).T, atol=1e-11)


def test_signs_make_the_largest_entry_of_each_column_of_u_positive_and_keep_the_product():
    rng = np.random.default_rng(0)
    U, V = (torch.from_numpy(rng.normal(size=s)) for s in ((6, 4), (5, 4)))
    U2, V2 = fix_signs(U, V)
    for i in range(4):
        sign = np.sign(float(U[np.argmax(np.abs(U[:, i].numpy())), i]))
        np.testing.assert_array_equal(U2[:, i], sign * U[:, i])
        np.testing.assert_array_equal(V2[:, i], sign * V[:, i])
    flips = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(fix_signs(U * flips, V * flips), (U2, V2), strict=True))


def test_signs_of_a_column_of_zeros():
    U, V = fix_signs(torch.zeros(3, 1), torch.ones(3, 1))
    assert torch.equal(V, torch.ones(3, 1)) and torch.equal(U, torch.zeros(3, 1))


# -- the polar factor ------------------------------------------------------------------------------------------------

def with_singular_values(values: list[float], seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    E, F = (np.linalg.qr(rng.normal(size=(len(values),) * 2))[0] for _ in range(2))
    return torch.from_numpy(E @ np.diag(values) @ F.T)


def test_polar_factor_is_scipys_and_orthogonal():
    T = with_singular_values([0.9, 0.5, 0.3, 0.1])
    Q, sigma = PolarFactor.apply(T, 1e-8)
    np.testing.assert_allclose(Q, scipy.linalg.polar(T.numpy())[0], atol=1e-13)
    np.testing.assert_allclose(Q @ Q.T, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(sigma, [0.9, 0.5, 0.3, 0.1], atol=1e-13)
    symmetric = Q.T @ T                                  # T = Q P with P positive semidefinite
    np.testing.assert_allclose(symmetric, symmetric.T, atol=1e-13)
    assert np.linalg.eigvalsh(symmetric.numpy()).min() > 0


@pytest.mark.parametrize("values", [[0.9, 0.5, 0.3, 0.1], [0.7, 0.7, 0.3, 0.3], [0.6, 0.6, 0.6, 0.6],
                                    [0.9, 0.5, 0.2, 1e-3]],
                         ids=["distinct", "two repeated", "all equal", "one near zero"])
def test_polar_factor_gradcheck(values):
    T = with_singular_values(values).requires_grad_()
    assert torch.autograd.gradcheck(lambda T: PolarFactor.apply(T, 1e-12)[0], (T,), eps=1e-7, atol=1e-5)
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    if len(set(values)) == 4:      # one σ of a repeated set has no derivative, their sum has
        assert torch.autograd.gradcheck(lambda T: PolarFactor.apply(T, 1e-12)[1] * weights, (T,), eps=1e-7)
    assert torch.autograd.gradcheck(lambda T: PolarFactor.apply(T, 1e-12)[1].sum(), (T,), eps=1e-7, atol=1e-6)


def test_gradient_of_the_trace_norm_is_the_polar_factor():
    T = with_singular_values([0.9, 0.5, 0.5, 0.0]).requires_grad_()
    Q, sigma = PolarFactor.apply(T, 1e-8)
    sigma.sum().backward()
    torch.testing.assert_close(T.grad, Q.detach(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("values", [[0.5, 0.2, 0.0, 0.0], [0.0] * 4, [1e-9] * 4])
def test_gradient_through_vanishing_singular_values_is_bounded_by_the_damping(values):
    """(H − Hᵀ) ∘ K with K ≤ 1/(2ε): at most ‖H‖/ε, in Frobenius norm."""
    T, eps = with_singular_values(values).requires_grad_(), 1e-4
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 4)))
    (PolarFactor.apply(T, eps)[0] * weights).sum().backward()
    assert torch.isfinite(T.grad).all() and T.grad.norm() <= weights.norm() / eps


def test_damping_by_the_formula():
    """E [(H − Hᵀ) ∘ s/(s² + ε²)] Fᵀ, entry by entry."""
    T, eps = with_singular_values([0.8, 0.3, 0.1]).requires_grad_(), 0.05
    grad = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 3)))
    PolarFactor.apply(T, eps)[0].backward(grad)
    E, sigma, Ft = np.linalg.svd(T.detach().numpy())
    H, inner = E.T @ grad.numpy() @ Ft.T, np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            s = sigma[i] + sigma[j]
            inner[i, j] = (H[i, j] - H[j, i]) * s / (s**2 + eps**2)
    np.testing.assert_allclose(T.grad, E @ inner @ Ft, atol=1e-13)


def test_singular_values_above_one_are_rounding():
    assert PolarFactor.apply(with_singular_values([1 + 1e-9, 0.5]), 1e-8)[1].max() == 1


def test_second_derivatives_are_refused_not_wrong():
    T = with_singular_values([0.8, 0.3]).requires_grad_()
    grad, = torch.autograd.grad(PolarFactor.apply(T, 1e-8)[0].pow(3).sum(), T, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# -- ridges and errors -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("eps", "relative"), [(F32, (256 * F32) ** 2), (2.0**-7, 1 / 256), (2.0**-10, 1 / 256),
                                               (F64, 4 * 5 * F64)])
def test_noise_floor_by_the_formula(eps, relative):
    S = covariances(50, 5, 5)[0]
    floor = relative * np.trace(S) / 5
    np.testing.assert_allclose(noise_floor(S, eps), floor, rtol=1e-12)
    np.testing.assert_allclose(ridged(S, 0.5, eps), S.numpy() + (0.5 + floor) * np.eye(5), rtol=1e-12)


def test_all_zero_covariance_is_factorable_without_a_ridge():
    L = cholesky(ridged(torch.zeros(3, 3, dtype=torch.float64), 0.0), "view1")
    np.testing.assert_allclose(L @ L.T, LEAST_RIDGE * np.eye(3))
    assert torch.finfo(torch.float32).max ** 0.5 > 1 / LEAST_RIDGE**0.5     # whitened values can still be squared


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e6, 1e-6])
def test_noise_floor_keeps_rounding_of_rank_20_features_from_counting(scale):
    """Rank 20 of 50, rounded to float32: with no other ridge the sum of correlations is 20, not more."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(200, 20))
    x, y = ((shared @ rng.normal(size=(20, 50)) * scale).astype(np.float32).astype(np.float64) for _ in range(2))
    S = np.cov(x.T, y.T)
    S11, S22, S12 = (torch.from_numpy(np.ascontiguousarray(p)) for p in (S[:50, :50], S[50:, 50:], S[:50, 50:]))
    assert cca_solution(S11, S22, S12, eps=F32).correlations.sum() <= 20 + 1e-3
    assert cca_solution(S11, S22, S12).correlations.sum() > 20.1        # what the floor is for


def test_cholesky_says_what_and_why():
    with pytest.raises(NumericalError, match=r"covariance of view1 is not positive definite: smallest eigenvalues "
                                             r"-1, 2, 3; largest 5 .*r1, r2"):
        cholesky(torch.diag(torch.tensor([2.0, -1.0, 3.0, 5.0], dtype=torch.float64)), "view1")
    broken = torch.eye(4, dtype=torch.float64)
    broken[2, 1] = broken[1, 2] = float("nan")
    with pytest.raises(NumericalError, match=r"of view2 .*not finite in 2 of 4 dimensions \(first: \[1, 2\]\)"):
        cholesky(broken, "view2")


def test_cca_solution_names_the_view_that_is_not_finite():
    S11, S22, S12 = covariances(50, 3, 3)
    with pytest.raises(NumericalError, match="view2"):
        cca_solution(S11, S22 * float("inf"), S12)
    with pytest.raises(NumericalError, match="view1"):
        cca_solution(S11 * float("nan"), S22, S12)


def test_what_is_wrong_is_told_in_few_words():
    broken = torch.eye(9, dtype=torch.float64)
    broken[1:8, 1:8] = float("inf")
    assert describe_spectrum(broken) == "not finite in 7 of 9 dimensions (first: [1, 2, 3, 4, 5])"
    S11, S22, S12 = covariances(50, 3, 3)
    for own, name in (((-S11, S22), "view1"), ((S11, -S22), "view2")):
        with pytest.raises(NumericalError, match=f"^the covariance of {name} is not positive definite: "):
            cca_solution(*own, S12)


def test_spectrum_of_one_dimension():
    assert describe_spectrum(torch.tensor([[3.0]])) == "smallest eigenvalues 3; largest 3"


@pytest.mark.parametrize("smallest, ridge, advised", [
    (0.02, 0.0, False), (1e-8, 0.0, False), (1e-10, 0.0, True), (0.0, 0.0, True), (-1e-17, 0.0, True),
    (0.0, 1e-3, False), (0.0, 1e-10, True), (0.0, None, False)])
def test_a_larger_ridge_is_advised_where_whitening_would_blow_up_rounding_errors(smallest, ridge, advised):
    text = describe_spectrum(torch.diag(torch.tensor([smallest, 0.5, 1.0], dtype=torch.float64)), ridge)
    assert ("(a larger ridge r1, r2 would help)" in text) == advised and "largest 1" in text


# -- the leading singular triplets -----------------------------------------------------------------------------------

def with_spectrum(values: np.ndarray, d1: int, d2: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    E, F = (np.linalg.qr(rng.normal(size=(d, len(values))))[0] for d in (d1, d2))
    return torch.from_numpy(E * values @ F.T)


def assert_leading(T: torch.Tensor, k: int, solver: str, subspaces: bool = True) -> None:
    E, sigma, F = leading_svd(T, k, solver)
    left, values, right = np.linalg.svd(T.numpy(), full_matrices=False)
    assert E.shape == (T.shape[0], k) and sigma.shape == (k,) and F.shape == (T.shape[1], k)
    np.testing.assert_allclose(sigma, values[:k], rtol=0, atol=1e-10 * max(values[0], 1e-300))
    np.testing.assert_allclose(E.mT @ E, np.eye(k), atol=1e-10)
    np.testing.assert_allclose(F.mT @ F, np.eye(k), atol=1e-10)
    assert (sigma.diff() <= 1e-12 * values[0]).all()
    np.testing.assert_allclose(T @ F, E * sigma, atol=2e-7 * values[0])
    if subspaces:
        np.testing.assert_allclose(E @ E.mT, left[:, :k] @ left[:, :k].T, atol=1e-5)
        np.testing.assert_allclose(F @ F.mT, right[:k].T @ right[:k], atol=1e-5)


@pytest.fixture
def krylov_results(monkeypatch):
    """What the randomised solver found, call by call; None where it gave up."""
    results = []

    def recorded(T, k):
        results.append(_krylov_svd(T, k))
        return results[-1]

    monkeypatch.setattr("xmodal.linalg._krylov_svd", recorded)
    return results


@pytest.mark.parametrize("solver", ["exact", "auto", "randomized"])
@pytest.mark.parametrize(("d1", "d2", "k"), [(150, 120, 3), (120, 150, 1), (300, 200, 8)])
def test_leading_triplets_are_numpys(solver, d1, d2, k, krylov_results):
    T = with_spectrum(0.95 * 0.5 ** np.arange(40), d1, d2)
    assert_leading(T, k, solver)
    assert [found is not None for found in krylov_results] == ([True] if solver == "randomized" else [])


def test_a_few_correlations_above_noise(krylov_results):
    """What CCA has: some correlations, and hundreds by chance with hardly a gap between them."""
    for noise in (0.1, 0.5):
        values = np.concatenate([[0.9, 0.85, 0.8, 0.6], np.linspace(noise, 0, 290)])
        assert_leading(with_spectrum(values, 320, 300), 4, "randomized")
    assert krylov_results[0] is not None


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("decay", [0.75, 0.85])
def test_every_triplet_s_residual_is_below_the_tolerance_at_any_scale(scale, decay, krylov_results):
    """‖T f − σ e‖ ≤ 1e-7 ‖T‖, triplet by triplet; a scale that counted would stop too early, or never."""
    T = with_spectrum(scale * decay ** np.arange(90), 200, 180)
    E, sigma, F = leading_svd(T, 4, "randomized")
    assert krylov_results[0] is not None
    assert (T @ F - E * sigma).norm(dim=0).max() <= 1.001e-7 * scale
    np.testing.assert_allclose(sigma, scale * decay ** np.arange(4), rtol=1e-9)


def test_an_unknown_solver():
    with pytest.raises(DataError, match="svd_solver must be 'auto', 'exact' or 'randomized', got 'arpack'"):
        leading_svd(torch.zeros(3, 3), 1, "arpack")


@pytest.mark.parametrize("value", [1.0, 1e-8])
def test_a_flat_spectrum_falls_back_or_gives_some_of_the_equal_ones(value):
    T = with_spectrum(np.full(150, value), 150, 150)
    assert_leading(T, 5, "randomized", subspaces=False)


def test_a_spectrum_without_gaps_falls_back(krylov_results):
    T = with_spectrum(1 - 1e-3 * np.arange(120) / 120, 120, 120)
    assert_leading(T, 5, "randomized", subspaces=False)
    assert krylov_results == [None]


@pytest.mark.parametrize("k", [30, 39, 40])
def test_nearly_all_triplets_fall_back(k, krylov_results):
    assert_leading(with_spectrum(0.9 ** np.arange(40), 60, 40), k, "randomized")
    assert krylov_results == [None]


def test_repeated_singular_values_and_zeros():
    T = with_spectrum(np.array([0.9, 0.9, 0.9, 0.5] + [0.1] * 30), 100, 100)
    assert_leading(T, 3, "randomized")
    assert_leading(with_spectrum(np.array([0.9, 0.4]), 100, 100), 5, "randomized", subspaces=False)     # of rank 2
    E, sigma, F = leading_svd(torch.zeros(60, 50, dtype=torch.float64), 2, "randomized")
    assert not sigma.any() and torch.isfinite(E).all() and torch.isfinite(F).all()


def test_tiny_matrices():
    for shape in ((1, 1), (1, 5), (5, 1), (2, 2)):
        T = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
        for solver in ("exact", "auto", "randomized"):
            assert_leading(T, 1, solver)


def test_the_randomised_solver_is_deterministic():
    T = with_spectrum(0.9 ** np.arange(90), 120, 100)
    before = torch.get_rng_state()
    first, second = leading_svd(T, 3, "randomized"), leading_svd(T, 3, "randomized")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("d1", "d2", "k", "randomised"), [(1001, 1100, 100, True), (1001, 1100, 101, False),
                                                           (1000, 3000, 5, False), (3000, 1001, 5, True),
                                                           (1100, 1010, 101, True)])
def test_auto_is_randomised_for_few_triplets_of_wide_matrices(d1, d2, k, randomised, monkeypatch):
    calls = []
    monkeypatch.setattr("xmodal.linalg._krylov_svd", lambda T, k: calls.append(k) or (T, T, T))
    monkeypatch.setattr("torch.linalg.svd", lambda T, full_matrices: (T,) * 3)
    leading_svd(torch.empty(1, 1).expand(d1, d2), k)
    assert calls == [k] * randomised
    calls.clear()
    leading_svd(torch.empty(1, 1).expand(d1, d2), k, "exact")
    assert not calls


def test_auto_of_a_wide_matrix_is_right(krylov_results):
    """1,001 columns, of which the covariance's own structure is diagonal: singular values need no other solver."""
    values = np.concatenate([[0.9, 0.8, 0.7], np.linspace(0.4, 0, 998)])
    order = np.random.default_rng(0).permutation(1001)
    T = torch.zeros(1001, 1001, dtype=torch.float64)
    T[torch.arange(1001), torch.from_numpy(order)] = torch.from_numpy(values)
    E, sigma, F = leading_svd(T, 3)
    assert krylov_results[0] is not None
    np.testing.assert_allclose(sigma, [0.9, 0.8, 0.7], atol=1e-10)
    np.testing.assert_allclose(E[:3].abs(), np.eye(3), atol=1e-5)
    np.testing.assert_allclose(F[torch.from_numpy(order[:3])].abs(), np.eye(3), atol=1e-5)
    np.testing.assert_allclose(T @ F, E * sigma, atol=1e-6)


@pytest.mark.parametrize("solver", ["exact", "randomized"])
def test_cca_by_either_solver_solves_the_generalised_eigenproblem(solver, krylov_results):
    S11, S22, S12 = covariances(400, 60, 50)
    left = np.block([[np.zeros((60, 60)), S12.numpy()], [S12.numpy().T, np.zeros((50, 50))]])
    values = scipy.linalg.eigh(left, scipy.linalg.block_diag(S11.numpy(), S22.numpy()) + 0.1 * np.eye(110),
                               eigvals_only=True)
    U, V, correlations = cca_solution(S11, S22, S12, 0.1, 0.1, n_components=2, svd_solver=solver)
    np.testing.assert_allclose(correlations, values[::-1][:2], rtol=0, atol=1e-10)
    np.testing.assert_allclose(U.mT @ S12 @ V, torch.diag(correlations), atol=1e-6)
    assert len(krylov_results) == (solver == "randomized")


def test_cca_by_the_randomised_solver_where_it_gets_there(krylov_results):
    S12 = with_spectrum(0.9 * 0.5 ** np.arange(40), 150, 120)
    U, V, correlations = cca_solution(*(torch.eye(d, dtype=torch.float64) for d in (150, 120)), S12, n_components=3,
                                      svd_solver="randomized")
    assert krylov_results[0] is not None
    np.testing.assert_allclose(correlations, [0.9, 0.45, 0.225], rtol=0, atol=1e-10)
    np.testing.assert_allclose(U.mT @ S12 @ V, torch.diag(correlations), atol=1e-6)
    np.testing.assert_allclose(U.mT @ U, np.eye(3), atol=1e-10)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5, 1e-7, 1e-12, 0.0])
@pytest.mark.parametrize("d", [1, 2, 17, 60])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_square_svd_is_the_svd(spread, d, scale):
    """Oracle: LAPACK. The factors are compared by what is unique of them, whatever the smallest singular value."""
    generator = torch.Generator().manual_seed(d)
    Q1, Q2 = (torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    sigma = torch.linspace(1.0, spread, d, dtype=torch.float64) * scale
    T = Q1 @ torch.diag(sigma) @ Q2.mT
    E, found, Ft = square_svd(T)
    assert torch.allclose(found, torch.linalg.svdvals(T), atol=1e-10 * scale)
    assert bool((found.diff() <= 0).all())
    assert torch.allclose(E @ torch.diag(found) @ Ft, T, atol=1e-9 * scale)
    for factor in (E, Ft):
        assert torch.allclose(factor.mT @ factor, torch.eye(d, dtype=torch.float64), atol=1e-9)
    if spread > 1e-6:
        assert torch.allclose(E @ Ft, Q1 @ Q2.mT, atol=1e-8)


def test_square_svd_of_nothing_and_of_float32():
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    E, sigma, Ft = square_svd(zeros)
    assert torch.equal(sigma, torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(E @ E.mT, torch.eye(3, dtype=torch.float64)) and torch.allclose(Ft @ Ft.mT, torch.eye(
        3, dtype=torch.float64))
    T = torch.randn(5, 5)
    E, sigma, Ft = square_svd(T)
    assert sigma.dtype == torch.float32 and torch.allclose(E @ torch.diag(sigma) @ Ft, T, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e-1, 1e-3, 1e-6])
def test_square_svd_of_float32_is_as_exact_as_lapacks(spread):
    """The way by ``TᵀT`` would square the condition number, which float32 hasn't the digits for."""
    generator = torch.Generator().manual_seed(0)
    Q1, Q2 = (torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q for _ in range(2))
    expected = torch.logspace(0, math.log10(spread), 12)
    E, sigma, Ft = square_svd(Q1 * expected @ Q2.mT)
    assert sigma.dtype == torch.float32
    torch.testing.assert_close(sigma, expected, atol=1e-6, rtol=0)
    for factor in (E, Ft):
        torch.testing.assert_close(factor @ factor.mT, torch.eye(12), atol=1e-5, rtol=0)
