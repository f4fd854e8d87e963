"""Moments of two views against numpy.cov, whatever the batching, and Pearson against SciPy."""
from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.covariance import Moments, PairCovariance, ViewCovariance, batch_moments, blend, pearson
from xmodal.errors import DataError


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def pairs(n: int, d1: int = 3, d2: int = 2, seed: int = 0, mean: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d1)) + mean
    return torch.from_numpy(x), torch.from_numpy(x[:, :1] + rng.normal(size=(n, d2)))


def expected(x, y) -> Moments:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    S, d1 = np.cov(x.T, y.T), x.shape[1]
    return Moments(x.mean(axis=0), y.mean(axis=0), S[:d1, :d1], S[d1:, d1:], S[:d1, d1:])


def accumulated(*batches) -> PairCovariance:
    covariance = PairCovariance(batches[0][0].shape[1], batches[0][1].shape[1])
    for x, y in batches:
        covariance.update(x, y)
    return covariance


def assert_moments(actual, reference, rtol=1e-9, atol=1e-10) -> None:
    for name, a, b in zip(Moments._fields, actual, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


# -- exact -----------------------------------------------------------------------------------------------------------

def test_batch_moments_are_numpys():
    x, y = pairs(40)
    assert_moments(batch_moments(x, y), expected(x, y))


def test_batch_moments_of_two_rows_and_of_one():
    x, y = pairs(2)
    assert_moments(batch_moments(x, y), expected(x, y))
    assert not any(S.any() for S in batch_moments(x[:1], y[:1])[2:])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 1),
       st.integers(0, 10**6), st.sampled_from([0.0, -3.0, 1e4]), st.sampled_from([1e-3, 1.0, 1e3]), st.randoms())
def test_any_batch_sizes_in_any_order_give_numpys_covariance(sizes, seed, mean, scale, random):
    x, y = (v * scale for v in pairs(sum(sizes), seed=seed, mean=mean))
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    random.shuffle(batches)
    covariance = accumulated(*batches)
    assert covariance.count == sum(sizes)
    assert_moments(covariance.moments(), expected(x, y), rtol=1e-8, atol=1e-8 * scale**2)


@settings(max_examples=30, deadline=None)
@given(*[st.integers(0, 8)] * 3, st.integers(0, 10**6))
def test_merging_is_associative_and_commutative(a, b, c, seed):
    x, y = pairs(a + b + c + 2, seed=seed, mean=5.0)
    parts = list(zip(x.split([a + 2, b, c]), y.split([a + 2, b, c]), strict=True))
    results = []
    for first, rest in (((0, 1), (2,)), ((1, 2), (0,)), ((2, 0), (1,))):
        one, other = (accumulated(*(parts[i] for i in group)) for group in (first, rest))
        one.merge(other)
        results.append(one)
    for result in results:
        assert result.count == len(x)
        assert_moments(result.moments(), expected(x, y))


def test_merging_leaves_the_other_one_alone():
    one, other = accumulated(pairs(5)), accumulated(pairs(4, seed=1))
    before = other.moments()
    one.merge(other)
    one.update(*pairs(3, seed=2))
    assert other.count == 4 and all(torch.equal(a, b) for a, b in zip(before, other.moments(), strict=True))


def test_a_mean_of_ten_thousand_in_float32_cancels_nothing():
    x, y = (v.float() for v in pairs(3000, mean=1e4))
    covariance = accumulated(*zip(x.split(7), y.split(7), strict=True))
    assert_moments(covariance.moments(), expected(x, y), rtol=1e-9)
    naive = (x.mT @ x / len(x) - torch.outer(x.mean(0), x.mean(0)))     # the sum-of-products form, in float32
    assert np.abs(naive.numpy() - expected(x, y).S11).max() > 0.1


def test_moments_are_copies():
    covariance = accumulated(pairs(5))
    kept = covariance.moments()
    before = [m.clone() for m in kept]
    covariance.update(*pairs(5, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))


def test_nothing_one_row_and_empty_batches():
    covariance = PairCovariance(3, 2)
    assert covariance.count == 0 and not any(m.any() for m in covariance.moments())
    covariance.update(torch.zeros(0, 3), torch.zeros(0, 2))
    assert covariance.count == 0
    x, y = pairs(1)
    covariance.update(x, y)
    assert covariance.count == 1 and not covariance.S11.any()
    np.testing.assert_array_equal(covariance.mean1, x[0])


def test_takes_any_float_and_values_that_want_gradients():
    x, y = pairs(9)
    covariance = accumulated((x.half().requires_grad_(), y.bfloat16()))
    assert not covariance.S11.requires_grad
    assert_moments(covariance.moments(), expected(x.half(), y.bfloat16().float()))


def test_of_all_batches_of_items_of_any_shape():
    x, y = pairs(30, 12, 6, mean=3.0)
    covariance = PairCovariance.of(zip(x.reshape(30, 3, 4).split(8), y.reshape(30, 2, 3).split(8), strict=True))
    assert covariance.count == 30
    assert_moments(covariance.moments(), expected(x, y))
    with pytest.raises(DataError, match="a covariance needs at least one batch"):
        PairCovariance.of([])


def test_state_carries_all_that_was_seen():
    """To another process and back: the same moments, the same after more pairs, and merged as the sender would be."""
    x, y = pairs(40, 5, 3, mean=7.0)
    seen = accumulated((x[:11], y[:11]))
    state = seen.state()
    assert state.dtype == torch.float64 and state.shape == (1 + 5 + 3 + 25 + 9 + 15,)
    made = PairCovariance.from_state(state, 5, 3)
    state.zero_()  # the accumulator has its own
    assert made.count == 11 and all(torch.equal(a, b) for a, b in zip(made.moments(), seen.moments(), strict=True))
    made.update(x[11:30], y[11:30])
    rest = accumulated((x[30:], y[30:]))
    made.merge(PairCovariance.from_state(rest.state(), 5, 3))
    assert made.count == made.view1.count == made.view2.count == 40
    assert_moments(made.moments(), expected(x, y))
    assert_moments(PairCovariance.from_state(made.state(), 5, 3).moments(), expected(x, y))
    empty = PairCovariance.from_state(PairCovariance(5, 3).state(), 5, 3)
    empty.merge(seen)
    assert_moments(empty.moments(), expected(x[:11], y[:11]))


@pytest.mark.parametrize(("x", "y"), [((4, 2), (4, 2)), ((4, 3), (4, 3)), ((4, 3), (5, 2)), ((4, 3, 1), (4, 2))])
def test_shapes_that_do_not_fit(x, y):
    with pytest.raises(DataError, match=r"expected batches \(n, 3\) and \(n, 2\), got"):
        PairCovariance(3, 2).update(torch.zeros(x), torch.zeros(y))


# -- blended ---------------------------------------------------------------------------------------------------------

def test_blend_by_hand():
    """Two pairs of numbers: old mean 0, variances 1, covariance 0; new means 2 and 4, variances 3, covariance −1."""
    old = Moments(*(torch.tensor(v) for v in ([0.0], [0.0], [[1.0]], [[1.0]], [[0.0]])))
    new = Moments(*(torch.tensor(v) for v in ([2.0], [4.0], [[3.0]], [[3.0]], [[-1.0]])))
    for alpha, by_hand in ((0.0, (0, 0, 1, 1, 0)), (1.0, (2, 4, 3, 3, -1)),
                           (0.5, (1, 2, (1 + 3) / 2 + 4 / 4, (1 + 3) / 2 + 16 / 4, -1 / 2 + 8 / 4))):
        assert tuple(float(m) for m in blend(old, new, alpha)) == by_hand


def test_sums_live_where_they_are_asked_to():
    """On torch's device without values, which needs no GPU: batches and other accumulators are moved there."""
    covariance, (x, y) = PairCovariance(3, 2, device="meta"), pairs(6)
    assert {m.device.type for m in (*covariance.moments(), covariance.state())} == {"meta"}
    covariance.update(x, y)
    covariance.merge(accumulated((x, y)))
    view = ViewCovariance(3, "meta")
    view.update(x)
    view.merge(accumulated((x, y)).view1)
    assert {m.device.type for m in (*covariance.moments(), view.mean, view.S)} == {"meta"}
    assert covariance.count == view.count == 12
    assert PairCovariance.of([(x.to("meta"), y.to("meta"))]).S12.device.type == "meta"


def test_alpha_of_one_forgets_even_what_is_not_finite():
    new = batch_moments(*pairs(5))
    old = Moments(*(torch.full_like(m, float("nan")) for m in new))
    assert all(torch.equal(a, b) for a, b in zip(blend(old, new, 1.0), new, strict=True))
    assert all(m.isnan().all() for m in blend(old, new, 0.5))


@pytest.mark.parametrize("copies", [1, 3])
def test_blend_is_the_covariance_of_an_explicit_mixture(copies):
    """alpha = ½ of equal parts, and ¼ where the old part occurs three times; population (ddof 0) moments."""
    (x1, y1), (x2, y2) = pairs(30), pairs(30, seed=1, mean=2.0)
    population = [Moments(x.mean(0), y.mean(0), *(torch.from_numpy(np.asarray(S)) * 29 / 30
                  for S in expected(x, y)[2:])) for x, y in ((x1, y1), (x2, y2))]
    x, y = torch.cat([x1] * copies + [x2]), torch.cat([y1] * copies + [y2])
    mixture, n = expected(x, y), len(x)
    mixture = Moments(*mixture[:2], *(S * (n - 1) / n for S in mixture[2:]))
    assert_moments(blend(*population, 1 / (copies + 1)), mixture)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.floats(0.01, 1.0), st.floats(-100, 100)), min_size=1, max_size=8),
       st.integers(0, 10**6))
def test_blended_joint_covariance_stays_positive_semidefinite(batches, seed):
    moments = batch_moments(*pairs(4, seed=seed))
    for i, (n, alpha, mean) in enumerate(batches):
        moments = blend(moments, batch_moments(*pairs(n, seed=seed + i + 1, mean=mean)), alpha)
    joint = np.block([[moments.S11.numpy(), moments.S12.numpy()], [moments.S12.numpy().T, moments.S22.numpy()]])
    assert np.linalg.eigvalsh(joint).min() >= -1e-12 * np.trace(joint)


def test_detach_cuts_the_graph():
    x, y = pairs(5)
    moments = batch_moments(x.requires_grad_(), y)
    assert moments.S12.requires_grad and not any(m.requires_grad for m in moments.detach())


# -- Pearson ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pearson_is_scipys(scale, dtype):
    x, y = (v.to(dtype) for v in pairs(50, 4, 4))
    y = y * scale
    reference = [scipy.stats.pearsonr(x[:, i].double(), y[:, i].double()).statistic for i in range(4)]
    actual = pearson(x, y)
    assert actual.dtype == torch.float64
    np.testing.assert_allclose(actual, reference, atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_pearson_of_what_cannot_be_squared(scale):
    x, y = pairs(50, 2, 2)
    torch.testing.assert_close(pearson(x * scale, y / scale), pearson(x, y))


def test_rounding_makes_no_correlation_beyond_one():
    x, _ = pairs(7, 2000, 1)
    for factor in (0.1, -0.1):
        r = factor * 10 * pearson(x.float(), factor * x.float())
        assert r.max() == 1 and r.min() > 1 - 1e-6


def test_pearson_sees_a_small_spread_on_a_big_mean_but_not_rounding():
    x, y = (v.double() for v in pairs(500, 2, 2))
    x = (x + 1000).float()
    x[:, 1] = 1000 + 2.0**-14 * (y[:, 1] > 0)      # the last bit of a float32: a perfect match, but only rounding
    actual = pearson(x, y.float())
    assert actual[1] == 0
    np.testing.assert_allclose(actual[0], scipy.stats.pearsonr(x[:, 0].double(), y[:, 0]).statistic, atol=1e-6)
    tiny = pearson(1e4 + 1e-4 * y, y)          # float64 resolves this one
    np.testing.assert_allclose(tiny, [1, 1], atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e-30])
def test_constant_columns_count_nothing_and_have_a_finite_gradient(value):
    x, y = (v.float() for v in pairs(1000, 2, 2))
    x[:, 0] = value
    x.requires_grad_(), y.requires_grad_()
    r = pearson(x, y)
    r.sum().backward()
    assert r[0] == 0 and r[1] != 0
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all() and x.grad[:, 1].any()


def test_pearson_gradcheck_and_bounds():
    x, y = pairs(6, 2, 2)
    assert torch.autograd.gradcheck(pearson, (x.requires_grad_(), y.requires_grad_()))
    with torch.no_grad():
        assert pearson(x.float(), 3 * x.float()).max() <= 1 and pearson(x.float(), -x.float()).min() >= -1


def test_nan_stays_nan():
    x, y = pairs(6, 2, 2)
    x[3, 1] = float("nan")
    assert torch.isnan(pearson(x, y)).tolist() == [False, True]


def test_one_row_has_no_correlation():
    assert pearson(torch.ones(1, 2), torch.ones(1, 2)).tolist() == [0, 0]


# -- wide views, whose covariances are summed in blocks --------------------------------------------------------------

@pytest.mark.parametrize("d", [255, 256, 257, 1025, 1500])
def test_wide_covariances_are_numpys_and_symmetric(d):
    x, _ = pairs(40, d, 1, mean=50.0)
    view = ViewCovariance(d)
    for part in x.split(13):
        view.update(part)
    assert view.count == 40
    np.testing.assert_allclose(view.mean, x.mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(view.S, np.cov(x.numpy().T), atol=1e-11)
    assert torch.equal(view.S, view.S.mT)


def test_merging_wide_covariances():
    x, y = pairs(60, 1500, 1100, mean=-20.0)
    one, other = accumulated((x[:25], y[:25])), accumulated((x[25:40], y[25:40]), (x[40:], y[40:]))
    one.merge(other)
    assert_moments(one.moments(), expected(x, y), atol=1e-10)
    view = ViewCovariance(1500)
    view.merge(other.view1)
    view.update(x[:25])
    np.testing.assert_allclose(view.S, np.cov(x.numpy().T), atol=1e-10)
    assert torch.equal(view.S, view.S.mT) and torch.equal(one.S11, one.S11.mT)


def test_views_of_more_than_16_blocks(monkeypatch):
    monkeypatch.setattr("xmodal.covariance._BLOCK_COLUMNS", 2)
    x, y = pairs(20, 43, 50)
    assert_moments(accumulated((x[:9], y[:9]), (x[9:], y[9:])).moments(), expected(x, y))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1),
       st.integers(1, 4), st.integers(0, 10**6))
def test_blocks_of_any_width_make_no_difference(d, sizes, block, seed):
    x, _ = pairs(sum(sizes), d, 1, seed=seed, mean=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xmodal.covariance._BLOCK_COLUMNS", block)
        whole, parts = ViewCovariance(d), ViewCovariance(d)
        for i, part in enumerate(x.split(sizes)):
            if i % 2:
                whole.update(part)
            else:
                parts.update(part)
        whole.merge(parts)
    np.testing.assert_allclose(whole.S, np.atleast_2d(np.cov(x.numpy().T)), atol=1e-9)
    np.testing.assert_allclose(whole.mean, x.mean(dim=0))


def test_one_views_covariance_is_a_copy():
    view = ViewCovariance(3)
    view.update(pairs(9)[0])
    S = view.S
    S.zero_()
    assert view.S.any()


def test_no_items_one_item_and_empty_updates_of_one_view():
    view, x = ViewCovariance(3), pairs(1)[0]
    view.update(x[:0])
    view.merge(ViewCovariance(3))
    assert view.count == 0 and not view.S.any()
    view.update(x)
    assert view.count == 1 and not view.S.any()
    np.testing.assert_array_equal(view.mean, x[0])
