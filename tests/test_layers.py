"""The CCA layer against its textbook form, its statistics against NumPy, and the other heads."""
from __future__ import annotations

import copy
import io
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.covariance import Moments, batch_moments, blend
from xmodal.errors import DataError, ExperimentError, NumericalError
from xmodal.layers import (
    CCALayer,
    CCAReadout,
    Embedded,
    LearnedProjection,
    LengthNorm,
    auto_alpha,
    effective_sample_size,
)
from xmodal.linalg import fix_signs, noise_floor
from xmodal.objectives import PairwiseRanking, TraceNorm

RIDGE = 1e-3


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def correlated_pairs(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64, noise: float = 1.0
                     ) -> tuple[torch.Tensor, torch.Tensor]:
    """Full rank, distinct correlations, means that are not zero."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, d))
    x = shared @ rng.normal(size=(d, d)) + 3
    y = (shared * np.linspace(0.5, 2, d)) @ rng.normal(size=(d, d)) + noise * rng.normal(size=(n, d)) - 1
    return torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)


# -- the textbook form -----------------------------------------------------------------------------------------------

def inverse_square_root(S: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(S)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.mT


def textbook_cca(a: torch.Tensor, b: torch.Tensor, r: float = RIDGE, old: Moments | None = None, alpha: float = 1.0
                 ) -> Embedded:
    """CCA as Andrew et al. 2013 and Dorfer et al. 2018 write it, differentiated through four ``eigh``."""
    def covariance(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        return (A - A.mean(dim=0)).mT @ (B - B.mean(dim=0)) / max(len(A) - 1, 1)

    moments = Moments(a.mean(dim=0), b.mean(dim=0), covariance(a, a), covariance(b, b), covariance(a, b))
    if old is not None:
        moments = blend(old.detach(), moments, alpha)
    eye = torch.eye(a.shape[1], dtype=a.dtype)
    K1, K2 = inverse_square_root(moments.S11 + r * eye), inverse_square_root(moments.S22 + r * eye)
    T = K1 @ moments.S12 @ K2
    squares, E = torch.linalg.eigh(T @ T.mT)
    _, F = torch.linalg.eigh(T.mT @ T)
    signs = torch.diagonal(E.mT @ T @ F).sign().detach()       # so that each pair of directions correlates positively
    return Embedded((a - moments.mean1) @ K1 @ E, (b - moments.mean2) @ K2 @ F * signs, squares.sqrt())


OBJECTIVES = {"TraceNorm": TraceNorm(), "TraceNorm rT": TraceNorm(rT=1e-3), "ranking": PairwiseRanking(0.5),
              "symmetric ranking": PairwiseRanking(0.5, symmetric=True),
              "hardest": PairwiseRanking(0.3, negatives="hardest")}


def loss_and_gradients(form, objective, a, b) -> tuple[float, torch.Tensor, torch.Tensor]:
    a, b = a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()
    loss = objective(form(a, b))
    loss.backward()
    return float(loss.detach()), a.grad, b.grad


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("n", "d"), [(200, 8), (40, 5), (12, 3), (30, 1)])
def test_loss_and_gradients_are_those_of_the_textbook_form(name, n, d):
    x, y = correlated_pairs(n, d)
    loss, *gradients = loss_and_gradients(CCALayer(d, RIDGE, RIDGE), OBJECTIVES[name], x, y)
    expected, *reference = loss_and_gradients(textbook_cca, OBJECTIVES[name], x, y)
    assert loss == pytest.approx(expected, abs=1e-10)
    for gradient, wanted in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-10, rtol=0)


@pytest.mark.filterwarnings("ignore:CCALayer")
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("alpha", [0.1, 0.5, "auto"])
def test_blended_with_detached_statistics_too(name, alpha):
    layer = CCALayer(6, RIDGE, RIDGE, alpha=alpha)
    layer(*correlated_pairs(50, 6, seed=1))
    old = Moments(*(m.clone() for m in layer.moments()))
    x, y = correlated_pairs(40, 6, seed=2)
    weight = 2 * 40 / (50 * 6 + 40) if alpha == "auto" else alpha
    loss, *gradients = loss_and_gradients(layer, OBJECTIVES[name], x, y)
    expected, *reference = loss_and_gradients(lambda a, b: textbook_cca(a, b, RIDGE, old, weight), OBJECTIVES[name],
                                              x, y)
    assert loss == pytest.approx(expected, abs=1e-10)
    for gradient, wanted in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-10, rtol=0)


def test_gradient_of_one_view_when_the_other_wants_none():
    x, y = correlated_pairs(30, 4)
    _, wanted, _ = loss_and_gradients(CCALayer(4), OBJECTIVES["ranking"], x, y)
    x.requires_grad_()
    PairwiseRanking()(CCALayer(4)(x, y)).backward()
    torch.testing.assert_close(x.grad, wanted)
    assert not CCALayer(4)(x.detach(), y).view1.requires_grad


def test_inputs_that_are_not_contiguous():
    x, y = correlated_pairs(30, 4)
    wide = torch.stack([x, y], dim=2)
    _, *reference = loss_and_gradients(CCALayer(4), OBJECTIVES["ranking"], x, y)
    wide.requires_grad_()
    PairwiseRanking()(CCALayer(4)(wide[:, :, 0], wide.permute(2, 0, 1)[1])).backward()
    torch.testing.assert_close(wide.grad, torch.stack(reference, dim=2))


@pytest.mark.filterwarnings("ignore:CCALayer")
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_gradcheck_of_what_no_rotation_changes(alpha):
    """Inner products between and within the views, and the correlations' sum."""
    x, y = correlated_pairs(9, 3)
    first = correlated_pairs(20, 3, seed=4)

    def invariants(a, b):
        layer = CCALayer(3, RIDGE, RIDGE, alpha=alpha)
        layer(*first)
        z1, z2, correlations, _ = layer(a, b)
        return z1 @ z2.mT, z1 @ z1.mT, z2 @ z2.mT, correlations.sum()

    assert torch.autograd.gradcheck(invariants, (x.requires_grad_(), y.requires_grad_()), eps=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(2, 40), st.integers(0, 7), st.sampled_from([1e-6, 1e-2, 1.0, 1e3, 1e6]),
       st.sampled_from([0.0, 1e-5, 1e-3, 1.0]), st.sampled_from([0.0, 1.0, 100.0]), st.integers(0, 10**6))
def test_any_shape_scale_rank_and_ridge_stays_finite_and_within_bounds(d, n, rank, scale, r, mean, seed):
    rng = np.random.default_rng(seed)
    rank = min(rank, d)
    x, y = (torch.from_numpy(rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) * scale + mean).float()
            for _ in range(2))
    x.requires_grad_(), y.requires_grad_()
    embedded = CCALayer(d, r, r)(x, y)
    (TraceNorm(1e-3)(embedded) + PairwiseRanking()(embedded)).backward()
    for value in (*embedded[:3], x.grad, y.grad):
        assert torch.isfinite(value).all()
    assert embedded.correlations.min() >= 0 and embedded.correlations.max() <= 1
    if scale >= 1 and mean <= scale:       # else the mean's rounding adds rank of its own
        assert embedded.correlations.sum() <= min(rank, n - 1) + 1e-3


# -- coordinates -----------------------------------------------------------------------------------------------------

def test_training_coordinates_are_the_canonical_ones_up_to_one_shared_rotation():
    x, y = correlated_pairs(200, 5)
    layer = CCALayer(5, RIDGE, RIDGE)
    train = layer.train()(x, y)
    canonical = layer.eval()(x, y)
    R = torch.linalg.lstsq(canonical.view1, train.view1).solution
    # the noise floor of eval is that of the stored precision, float64 here as in training
    torch.testing.assert_close(R @ R.mT, torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(canonical.view1 @ R, train.view1, atol=1e-9, rtol=0)
    torch.testing.assert_close(canonical.view2 @ R, train.view2, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eval_projects_as_training_did_in_low_precision_too(dtype):
    x, y = correlated_pairs(300, 6, dtype=dtype)
    layer = CCALayer(6)
    train = layer(x, y)
    canonical = layer.eval()(x, y)
    torch.testing.assert_close(train.view1 @ train.view2.mT, canonical.view1 @ canonical.view2.mT, atol=1e-4, rtol=1e-4)
    refitted = CCALayer(6)
    refitted.refit([(x, y)])
    torch.testing.assert_close(refitted.solution(), layer.solution())


def test_eval_coordinates_are_sorted_signed_and_truncatable():
    x, y = correlated_pairs(300, 6)
    layer = CCALayer(6, 0.0, 0.0).eval()
    layer.refit([(x, y)])
    z1, z2, correlations, _ = layer(x, y)
    assert (correlations.diff() < 0).all()
    U, V, canonical = layer.solution()
    torch.testing.assert_close(correlations, canonical, atol=1e-9, rtol=0)
    for i in range(6):
        assert U[U[:, i].abs().argmax(), i] > 0
    assert all(torch.equal(kept, signed) for kept, signed in zip((U, V), fix_signs(U, V), strict=True))
    # any k coordinates are those of the best k-dimensional CCA: uncorrelated, unit variance, in order
    cross = np.cov(z1.numpy().T, z2.numpy().T)
    np.testing.assert_allclose(cross[:6, :6], np.eye(6), atol=1e-9)
    np.testing.assert_allclose(cross[:6, 6:], np.diag(canonical), atol=1e-9)


def test_one_view_is_embedded_without_the_other():
    x, y = correlated_pairs(100, 4)
    layer = CCALayer(4)
    layer.refit([(x, y)])
    layer.eval()
    both = layer(x[:7], y[:7])
    assert torch.equal(layer.embed_view1(x[:7]), both.view1)
    torch.testing.assert_close(layer.embed_view1(x[:1]), both.view1[:1])
    assert torch.equal(layer.embed_view2(y[:7]), both.view2)
    torch.testing.assert_close(both.view1, (x[:7] - x.mean(dim=0)) @ layer.solution().U)
    assert layer.embed_view1(x[:0]).shape == (0, 4)


def test_correlations_of_held_out_pairs_are_pearsons():
    layer = CCALayer(4).eval()
    layer.refit([correlated_pairs(100, 4)])
    z1, z2, correlations, _ = layer(*correlated_pairs(30, 4, seed=9))
    expected = [np.corrcoef(z1[:, i], z2[:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(correlations, expected, atol=1e-12)


# -- train, eval, refit ----------------------------------------------------------------------------------------------

def assert_state(layer: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name]), name


def state_of(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def test_training_stores_the_blended_moments_and_eval_changes_nothing():
    layer = CCALayer(3, alpha=0.25)
    first, second = correlated_pairs(40, 3), correlated_pairs(40, 3, seed=1)
    layer(*first)
    np.testing.assert_allclose(layer.S12, batch_moments(*first).S12)        # the first batch counts in full
    layer(*second)
    for actual, expected in zip(layer.moments(), blend(batch_moments(*first), batch_moments(*second), 0.25),
                                strict=True):
        torch.testing.assert_close(actual, expected)
    assert int(layer.count) == 80
    state = state_of(layer)
    layer.eval()(*first)
    layer.embed_view1(first[0])
    assert_state(layer, state)


@pytest.mark.parametrize("r", [0.0, 1e-3])
def test_eval_without_a_single_step(r):
    layer = CCALayer(4, r, r).eval()
    assert not layer.has_statistics
    embedded = layer(*correlated_pairs(10, 4, dtype=torch.float32))
    assert torch.isfinite(embedded.view1).all() and torch.isfinite(LengthNorm()(embedded.view2)).all()
    assert layer.correlations.tolist() == [0, 0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 12))
def test_refit_is_the_statistics_of_all_pairs_however_batched(sizes):
    x, y = correlated_pairs(sum(sizes), 3)
    layer = CCALayer(3, 0.0, 0.0, alpha=0.1)
    layer(*correlated_pairs(20, 3, seed=8))
    assert layer.refit(zip(x.split(sizes), y.split(sizes), strict=True)) == sum(sizes) == int(layer.count)
    S = np.cov(x.numpy().T, y.numpy().T)
    for actual, expected in ((layer.S11, S[:3, :3]), (layer.S22, S[3:, 3:]), (layer.S12, S[:3, 3:])):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
    z1, z2, correlations, _ = layer.eval()(x, y)
    np.testing.assert_allclose(correlations, layer.correlations, atol=1e-9)
    np.testing.assert_allclose([np.corrcoef(z1[:, i], z2[:, i])[0, 1] for i in range(3)], layer.correlations, atol=1e-9)


def test_refit_of_fewer_than_two_pairs_changes_nothing():
    layer = CCALayer(3)
    layer(*correlated_pairs(20, 3))
    state = state_of(layer)
    assert layer.refit([]) == 0 and layer.refit([correlated_pairs(1, 3)]) == 1
    assert_state(layer, state)


def test_state_dict_brings_back_the_projection():
    x, y = correlated_pairs(100, 4)
    layer, other = CCALayer(4), CCALayer(4)
    layer(x, y)
    other(*correlated_pairs(50, 4, seed=3))
    wrong = other.solution()                       # cached; loading must drop it
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(other.solution(), layer.solution(), strict=True))
    assert not torch.equal(wrong.U, other.solution().U)
    assert torch.equal(other.eval().embed_view1(x), layer.eval().embed_view1(x))


CHANGES = {
    "a training step": lambda layer: layer.train()(*correlated_pairs(60, 4, seed=5)),
    "refit": lambda layer: layer.refit([correlated_pairs(60, 4, seed=5)]),
    "load_state_dict": lambda layer: layer.load_state_dict({**state_of(layer), "S12": layer.S12 / 2}),
    ".to()": lambda layer: (layer.to(torch.float32), layer.S12.div_(2)),
    "assigned": lambda layer: layer.load_state_dict({**state_of(layer), "S12": layer.S12 / 2}, assign=True),
    "a step in inference mode": lambda layer: in_inference_mode(layer),
    "a buffer written to": lambda layer: layer.S12.div_(2),
    "the precision": lambda layer: layer.eps.fill_(2.0**-7),
}


def in_inference_mode(layer: CCALayer) -> None:
    with torch.inference_mode():
        layer.refit([correlated_pairs(60, 4, seed=5)])


@pytest.mark.parametrize("change", CHANGES)
def test_the_cached_projection_follows(change):
    layer = CCALayer(4)
    layer(*correlated_pairs(50, 4))
    before = layer.solution()
    assert layer.solution() is before              # cached
    CHANGES[change](layer)
    fresh = CCALayer(4)
    fresh.load_state_dict(layer.state_dict())
    assert not torch.equal(layer.solution().correlations, before.correlations)
    assert torch.equal(layer.solution().correlations, fresh.solution().correlations)


@pytest.mark.parametrize("steps_before", [1, 2, 3, 5])
@pytest.mark.parametrize("steps_after", range(6))
def test_a_copy_never_serves_the_originals_projection(steps_before, steps_after):
    """The cache goes by version counters, which a copy starts anew: they may meet the original's by chance."""
    layer = CCALayer(3)
    for seed in range(steps_before):
        layer.refit([correlated_pairs(30, 3, seed=seed)])
    layer.solution()
    duplicate = copy.deepcopy(layer)
    for seed in range(steps_after):
        duplicate.refit([correlated_pairs(30, 3, seed=100 + seed)])
    fresh = CCALayer(3)
    fresh.load_state_dict(duplicate.state_dict())
    assert torch.equal(duplicate.correlations, fresh.correlations)


def test_a_projection_solved_in_inference_mode_serves_gradients_later():
    layer = CCALayer(3).eval()
    layer.refit([correlated_pairs(30, 3)])
    with torch.inference_mode():
        layer(*correlated_pairs(5, 3))
    x, y = correlated_pairs(5, 3)
    layer(x.requires_grad_(), y)[0].sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()


# -- how much a batch weighs -----------------------------------------------------------------------------------------

def test_effective_sample_size_is_the_variance_of_an_exponential_average():
    """Weights α(1−α)^k of independent batches: variance Σ w² of one batch's."""
    for alpha in (0.05, 0.3, 1.0):
        weights = [alpha * (1 - alpha) ** k for k in range(2000)]
        assert effective_sample_size(64, alpha) == pytest.approx(64 / sum(w * w for w in weights))


@pytest.mark.parametrize(("n", "d"), [(64, 50), (1000, 50), (100, 32), (5000, 10), (2, 500)])
def test_auto_alpha_is_the_largest_with_fifty_effective_pairs_per_dimension(n, d):
    candidates = np.linspace(1e-5, 1, 100_000)
    good = candidates[n * (2 - candidates) / candidates >= 50 * d]
    assert auto_alpha(n, d) == pytest.approx(good.max() if len(good) else 0, abs=2e-5)


def test_auto_alpha_by_hand():
    assert auto_alpha(64, 50) == pytest.approx(128 / 2564)
    assert auto_alpha(2500, 50) == 1.0 and auto_alpha(10_000, 50) == 1.0
    layer = CCALayer(50, alpha="auto")
    assert layer.batch_alpha(64) == 1.0            # nothing stored yet
    layer.count.fill_(1)
    assert layer.batch_alpha(64) == pytest.approx(128 / 2564) and layer.batch_alpha(1) == 0.0


def test_a_small_batch_warns_once_with_its_numbers():
    layer = CCALayer(8, alpha=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(4):
            layer(*correlated_pairs(12, 8, seed=seed))
    message, = [str(w.message) for w in caught]
    assert "CCALayer(8): batches of 12 pairs with alpha=0.5 amount to 36 pairs, 4.5 per dimension" in message
    assert f"alpha='auto' ({24 / 412:.2g} here)" in message


@pytest.mark.parametrize(("alpha", "n"), [("auto", 12), (1.0, 80), (0.5, 27)])
def test_enough_pairs_do_not_warn(alpha, n):
    layer = CCALayer(8, alpha=alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(*correlated_pairs(n, 8))
        layer(*correlated_pairs(n, 8, seed=1))


@pytest.mark.parametrize("alpha", [1.0, 0.5, "auto"])
@pytest.mark.parametrize("objective", [TraceNorm(), TraceNorm(1e-3), PairwiseRanking(symmetric=True)], ids=str)
@pytest.mark.parametrize("stored", [False, True])
def test_a_batch_of_one_row_leaves_the_statistics_alone_and_keeps_the_graph(alpha, objective, stored):
    layer = CCALayer(3, alpha=alpha)
    if stored:
        layer(*correlated_pairs(40, 3))
    state = state_of(layer)
    x, y = correlated_pairs(1, 3, seed=1, dtype=torch.float32)
    embedded = layer(x.requires_grad_(), y.requires_grad_())
    objective(embedded).backward()
    assert_state(layer, state)
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()
    if stored:     # projected by the stored moments, as in eval mode
        canonical = layer.eval()(x, y)
        torch.testing.assert_close((embedded.view1 * embedded.view2).sum(), (canonical.view1 * canonical.view2).sum())


# -- noise -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("n", "d"), [(256, 64), (1000, 50), (100, 50)])
def test_unrelated_gaussian_views_correlate_as_much_as_theory_says(n, d):
    """Squared sample correlations of independent views: mean d/(n−1) (that of a multiple correlation), largest about
    4·(d/n)(1 − d/n) (Wachter 1980)."""
    rng = np.random.default_rng(0)
    found = torch.stack([CCALayer(d, 0, 0)(*(torch.from_numpy(rng.normal(size=(n, d))) for _ in range(2))).correlations
                         for _ in range(8)])
    assert float(found.square().mean()) == pytest.approx(d / (n - 1), rel=0.03)
    assert float(found.max(dim=1).values.mean()) == pytest.approx(2 * math.sqrt(d / n * (1 - d / n)), abs=0.05)


def test_population_correlations_are_recovered_from_a_big_sample():
    population = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.0], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)
    x = normal(100_000, 5)
    y = x * population + normal(100_000, 5) * (1 - population**2).sqrt()
    x, y = (x @ normal(5, 5) + 4).float(), (y @ normal(5, 5)).float()
    layer = CCALayer(5, 1e-6, 1e-6)
    torch.testing.assert_close(layer(x, y).correlations.double(), population, atol=0.01, rtol=0)
    torch.testing.assert_close(layer.correlations, population, atol=0.01, rtol=0)


# -- precision -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("head", [CCALayer, LearnedProjection])
def test_heads_leave_autocast(head):
    x, y = correlated_pairs(60, 8, dtype=torch.float32)
    plain, cast = head(8), head(8)
    cast.load_state_dict(plain.state_dict())
    expected = plain(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = cast(x, y)
        assert torch.equal(actual.view1, expected.view1) and torch.equal(actual.view2, expected.view2)
        assert cast.refit([(x, y)]) == 60
        embedded = cast.eval()(x, y)
    plain.refit([(x, y)])
    assert_state(cast, plain.state_dict())
    assert torch.equal(plain.eval()(x, y).view1, embedded.view1)


@pytest.mark.parametrize(("first", "second", "result"), [
    (torch.float64, torch.float32, torch.float64), (torch.bfloat16, torch.float16, torch.float32),
    (torch.bfloat16, torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("head", [CCALayer, LearnedProjection])
def test_mixed_dtypes(head, first, second, result):
    """As the rounded values in float64, with the coarser dtype's noise floor as ridge."""
    x, y = (v.to(dtype) for v, dtype in zip(correlated_pairs(60, 4), (first, second), strict=True))
    torch.manual_seed(0)
    layer = head(4)
    exact = copy.deepcopy(layer).double()
    if head is CCALayer:
        eps, moments = max(torch.finfo(d).eps for d in (first, second)), batch_moments(x.double(), y.double())
        exact.r1 += float(noise_floor(moments.S11, eps))
        exact.r2 += float(noise_floor(moments.S22, eps))
    embedded, reference = layer(x.requires_grad_(), y), exact(x.detach().double(), y.double())
    embedded.view1.sum().backward()
    assert x.grad.dtype == first and embedded.view1.dtype == embedded.view2.dtype == result
    torch.testing.assert_close(embedded.view1.detach().double() @ embedded.view2.detach().double().mT,
                               reference.view1.detach() @ reference.view2.detach().mT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_casting_the_model_leaves_the_statistics_exact(cast):
    """A covariance rounded to 8 bits is not positive definite any more."""
    x, y = correlated_pairs(200, 8)
    x = x * torch.logspace(-3, 1, 8)
    layer = CCALayer(8, 1e-6, 1e-6, alpha=0.9)
    layer(x, y)
    state, before = state_of(layer), layer.eval()(x, y)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), layer).to(cast)
    assert model[0].weight.dtype == cast
    assert_state(layer, state)
    assert all(m.dtype == torch.float64 for m in layer.moments())
    assert torch.equal(layer(x, y).view1, before.view1)
    layer.train()(x.to(cast), y.to(cast))
    assert torch.isfinite(layer.correlations).all()


def test_half_the_model_moves_back_and_forth():
    layer = CCALayer(3)
    layer(*correlated_pairs(20, 3))
    state = state_of(layer)
    assert_state(layer.half().bfloat16().float().double().cpu(), state)
    assert layer.to("meta").S11.device.type == "meta" and layer.S11.dtype == torch.float64


# -- errors ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("head", [CCALayer, LearnedProjection])
def test_shapes_that_do_not_fit(head, mode):
    layer, name = head(4).train(mode), head.__name__
    with pytest.raises(ExperimentError, match=rf"{name}\(4\) expects .* \(n, 4\); view2 has \(5, 3\)"):
        layer(torch.zeros(5, 4), torch.zeros(5, 3))
    with pytest.raises(ExperimentError, match=r"view1 has \(5, 4, 1\)"):
        layer(torch.zeros(5, 4, 1), torch.zeros(5, 4))
    with pytest.raises(DataError, match="as many rows of view1 as of view2; got 5 and 6"):
        layer(torch.zeros(5, 4), torch.zeros(6, 4))
    with pytest.raises(DataError, match="without rows"):
        layer(torch.zeros(0, 4), torch.zeros(0, 4))
    with pytest.raises(ExperimentError, match="floating dtype; view1 has torch"):
        layer(torch.zeros(5, 4, dtype=torch.int64), torch.zeros(5, 4))
    assert not layer.has_statistics


@pytest.mark.filterwarnings("ignore:CCALayer")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
@pytest.mark.parametrize("view", [1, 2])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("n", [1, 20])
def test_not_finite_names_the_view_and_stores_nothing(value, view, alpha, n):
    layer = CCALayer(3, alpha=alpha)
    layer(*correlated_pairs(20, 3))
    state = state_of(layer)
    pair = correlated_pairs(n, 3, seed=1)
    pair[view - 1][-1, 1] = value
    if n > 1 or value != 1e200:
        with pytest.raises(NumericalError, match=f"view{view}"):
            layer(*pair)
        with pytest.raises(NumericalError, match=f"view{view}"):
            layer.refit([correlated_pairs(5, 3), pair])
    assert_state(layer, state)


@pytest.mark.parametrize("arguments", [{"dim": 0}, {"r1": -1e-3}, {"r2": -1}, {"r1": float("nan")}, {"alpha": 0},
                                       {"alpha": 1.1}, {"alpha": "fast"}, {"alpha": None}, {"alpha": float("nan")}],
                         ids=str)
def test_arguments_of_the_cca_layer(arguments):
    with pytest.raises(ExperimentError, match=next(iter(arguments))):
        CCALayer(**{"dim": 3, **arguments})


def test_printed_form():
    assert repr(CCALayer(4, alpha="auto")) == "CCALayer(4, r1=0.001, r2=0.001, alpha='auto')"
    assert repr(LearnedProjection(4)) == "LearnedProjection(4, alpha=1)"
    assert repr(LengthNorm()) == "LengthNorm(eps=1e-06)"


# -- the other heads -------------------------------------------------------------------------------------------------

def test_learned_projection_centres_by_the_batch_and_projects():
    x, y = correlated_pairs(20, 4, dtype=torch.float32)
    layer = LearnedProjection(4)
    U, V = layer.U.detach().numpy(), layer.V.detach().numpy()
    np.testing.assert_allclose(U.T @ U, np.eye(4), atol=1e-5)
    z1, z2, correlations, _ = layer(x, y)
    np.testing.assert_allclose(z1.detach(), (x - x.mean(dim=0)).numpy() @ U, atol=1e-5)
    np.testing.assert_allclose(z2.detach(), (y - y.mean(dim=0)).numpy() @ V, atol=1e-5)
    assert correlations is None


def test_learned_projection_running_means_by_hand():
    layer = LearnedProjection(1, alpha=0.5)
    for value in (2.0, 4.0, 10.0):                  # 2; (2 + 4)/2 = 3; (3 + 10)/2 = 6.5
        layer(torch.full((5, 1), value), torch.full((5, 1), -value))
    assert float(layer.mean1) == 6.5 and float(layer.mean2) == -6.5 and int(layer.count) == 15
    state = state_of(layer)
    embedded = layer.eval()(torch.full((2, 1), 7.5), torch.zeros(2, 1))
    torch.testing.assert_close(embedded.view1, layer.U.expand(2, 1))
    assert_state(layer, state)
    assert layer.refit([(torch.ones(3, 1), torch.zeros(3, 1)), (torch.full((1, 1), 5.0), torch.zeros(1, 1))]) == 4
    assert float(layer.mean1) == 2.0 and float(layer.mean2) == 0.0
    assert layer.refit([]) == 0 and float(layer.mean1) == 2.0


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_learned_projection_gradcheck(alpha):
    x, y = correlated_pairs(5, 3)
    first = correlated_pairs(5, 3, seed=1)
    torch.manual_seed(0)
    U, V = LearnedProjection(3).double().state_dict()["U"], LearnedProjection(3).double().state_dict()["V"]

    def project(a, b, U, V):
        layer = LearnedProjection(3, alpha=alpha).double()
        torch.func.functional_call(layer, {"U": U, "V": V}, first)
        return torch.func.functional_call(layer, {"U": U, "V": V}, (a, b))[:2]

    assert torch.autograd.gradcheck(project, [t.clone().requires_grad_() for t in (x, y, U, V)])


@pytest.mark.parametrize("alpha", [0, -1, 1.5, "auto", float("nan")])
def test_arguments_of_the_learned_projection(alpha):
    with pytest.raises(ExperimentError, match="alpha"):
        LearnedProjection(3, alpha=alpha)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_length_norm(dtype):
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(6, 3))).to(dtype)
    z[2] = 0
    z.requires_grad_()
    unit = LengthNorm()(z)
    unit.sum().backward()
    assert unit.dtype == dtype and torch.isfinite(z.grad).all() == (dtype != torch.float16)   # 1/ε is no float16
    assert not unit[2].any()
    reference = z.detach().double().numpy()
    reference = reference / np.sqrt((reference**2).sum(axis=1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(unit.detach().double(), reference, atol=2 * torch.finfo(dtype).eps)


def test_length_norm_gradcheck_and_its_bound():
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(LengthNorm(), (z,))
    zero = torch.zeros(1, 3, requires_grad=True)
    LengthNorm(1e-6)(zero).sum().backward()
    torch.testing.assert_close(zero.grad, torch.full((1, 3), 1e6))


# -- CCAReadout ------------------------------------------------------------------------------------------------------

def test_the_readout_takes_no_part_in_training():
    (a, b), readout = correlated_pairs(60, 4, dtype=torch.float32), CCAReadout(4)
    readout.refit([(a, b)])
    before = state_of(readout)
    embedded = readout(a, b)
    assert torch.equal(embedded.view1, a) and torch.equal(embedded.view2, b) and embedded.correlations is None
    assert_state(readout, before)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_a_shared_projection_treats_both_views_alike(train, alpha):
    a, b = correlated_pairs(40, 3)
    one, two = (LearnedProjection(3, alpha=alpha, shared=True).double() for _ in range(2))
    two.load_state_dict(one.state_dict())
    assert set(one.state_dict()) == {"U", "mean1", "count"} and one.V is None and one.mean2 is None
    assert one.refit([(a[:15], b[:15]), (a[15:], b[15:])]) == two.refit([(b, a)]) == 40
    torch.testing.assert_close(one.mean1, torch.cat([a, b]).mean(dim=0))
    one.train(train), two.train(train)
    forwards, backwards = one(a, b), two(b, a)
    torch.testing.assert_close(forwards.view1, backwards.view2)
    torch.testing.assert_close(forwards.view2, backwards.view1)
    torch.testing.assert_close(forwards.view1, (a - torch.cat([a, b]).mean(dim=0)) @ one.U)
    assert torch.equal(one.embed_view1(a), one.embed_view2(a))
    assert repr(one) == f"LearnedProjection(3, alpha={alpha:g}, shared)"


def test_a_shared_projection_blends_one_mean():
    (a, b), layer = correlated_pairs(40, 3), LearnedProjection(3, alpha=0.25, shared=True).double()
    means = [torch.cat([x[rows], y[rows]]).mean(dim=0) for x, y in [(a, b)] for rows in (slice(0, 20), slice(20, 40))]
    layer(a[:20], b[:20])
    torch.testing.assert_close(layer.mean1, means[0])
    layer(a[20:], b[20:])
    torch.testing.assert_close(layer.mean1, 0.75 * means[0] + 0.25 * means[1])


@pytest.mark.parametrize("power", [0, 1, 2.5])
def test_the_readout_is_the_cca_layers_projection_weighted_by_its_correlations(power):
    (a, b), layer, readout = correlated_pairs(200, 5), CCALayer(5, 1e-3, 1e-2), CCAReadout(5, 1e-3, 1e-2, power=power)
    assert layer.refit([(a, b)]) == readout.refit([(a[:70], b[:70]), (a[70:], b[70:])]) == 200
    layer.eval(), readout.eval()
    weights = layer.correlations**power
    torch.testing.assert_close(readout.embed_view1(a), layer.embed_view1(a) * weights)
    torch.testing.assert_close(readout.embed_view2(b), layer.embed_view2(b) * weights)
    embedded = readout(a, b)
    assert torch.equal(embedded.view1, readout.embed_view1(a)) and torch.equal(embedded.view2, readout.embed_view2(b))


def test_at_power_one_the_readout_is_what_least_squares_predicts():
    a, b = correlated_pairs(300, 4)
    readout, plain = CCAReadout(4, 0, 0).eval(), CCAReadout(4, 0, 0, power=0).eval()
    readout.refit([(a, b)]), plain.refit([(a, b)])
    z1, z2 = plain.embed_view1(a).numpy(), plain.embed_view2(b).numpy()
    predicted = z1 @ np.linalg.lstsq(z1, z2, rcond=None)[0]
    np.testing.assert_allclose(readout.embed_view1(a), predicted, atol=1e-5)


def test_the_readout_before_a_refit_and_its_mistakes():
    a, b = correlated_pairs(10, 3, dtype=torch.float32)
    fresh = CCAReadout(3).eval()
    assert torch.isfinite(fresh(a, b).view1).all()
    with pytest.raises(ExperimentError, match=r"CCAReadout\(3\) expects tower outputs of shape \(n, 3\)"):
        fresh(a[:, :2], b)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ExperimentError, match="power must not be negative"):
            CCAReadout(3, power=wrong)
