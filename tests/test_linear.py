"""Linear CCA against closed forms and scikit-learn."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from xmodal.errors import DataError
from xmodal.linear import LinearCCA


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def correlated_pairs(n: int, population: list[float], d1: int, d2: int, seed: int = 0
                     ) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian views with these population correlations, mixed by random maps."""
    rng = np.random.default_rng(seed)
    k, rho = len(population), np.array(population)
    x, y = rng.normal(size=(n, d1)), rng.normal(size=(n, d2))
    y[:, :k] = x[:, :k] * rho + y[:, :k] * np.sqrt(1 - rho**2)
    return torch.from_numpy(x @ rng.normal(size=(d1, d1)) + 7), torch.from_numpy(y @ rng.normal(size=(d2, d2)) - 2)


def test_one_dimension_is_pearsons_r():
    x, y = correlated_pairs(50, [0.6], 1, 1)
    model = LinearCCA(r1=0, r2=0).fit([(x, y)])
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert float(model.correlations) == pytest.approx(abs(r), abs=1e-9)
    np.testing.assert_allclose(model.embed_view1(x), (x - x.mean()) / x.std(), atol=1e-9)


def test_ridge_of_one_dimension_by_hand():
    """cov/√((1 + r1) var₁ (1 + r2) var₂), as the ridges are relative to the variance."""
    x, y = correlated_pairs(50, [0.6], 1, 1)
    r = abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    model = LinearCCA(r1=0.5, r2=0.1).fit([(x, y)])
    assert float(model.correlations) == pytest.approx(r / np.sqrt(1.5 * 1.1), abs=1e-9)


def test_correlations_are_scikit_learns():
    x, y = correlated_pairs(200, [0.9, 0.6, 0.3], 5, 4)
    model = LinearCCA(3, r1=0, r2=0).fit([(x, y)])
    reference = CCA(n_components=3, max_iter=5000, tol=1e-12).fit(x.numpy(), y.numpy())
    scores1, scores2 = reference.transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(scores1[:, i], scores2[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(model.correlations, expected, atol=1e-6)
    z1, z2 = model.embed_view1(x), model.embed_view2(y)
    for z, scores in ((z1, scores1), (z2, scores2)):
        for i in range(3):
            assert abs(np.corrcoef(z[:, i], scores[:, i])[0, 1]) == pytest.approx(1, abs=1e-5)


def test_population_correlations():
    population = [0.9, 0.7, 0.4, 0.0]
    x, y = correlated_pairs(100_000, population, 6, 4)
    model = LinearCCA(r1=0, r2=0).fit(zip(x.split(9999), y.split(9999), strict=True))
    np.testing.assert_allclose(model.correlations, population, atol=0.01)
    held_out = correlated_pairs(1000, population, 6, 4)        # the same maps (same seed), the first rows
    z1, z2 = model.embed_view1(held_out[0]), model.embed_view2(held_out[1])
    assert z1.shape == z2.shape == (1000, 4)


def test_scale_means_nothing():
    x, y = correlated_pairs(100, [0.9, 0.5], 4, 3)
    model = LinearCCA().fit([(x, y)])
    for s1, s2 in ((1e6, 1e-6), (1e-9, 1.0), (1e-3, 1e9)):
        scaled = LinearCCA().fit([(x * s1, y * s2)])
        np.testing.assert_allclose(scaled.correlations, model.correlations, rtol=1e-6)
        np.testing.assert_allclose(scaled.embed_view1(x * s1), model.embed_view1(x), rtol=1e-5, atol=1e-6)


def test_items_are_flattened_and_batches_make_no_difference():
    x, y = correlated_pairs(100, [0.9, 0.5], 6, 3)
    flat = LinearCCA(2).fit([(x, y)])
    shaped = LinearCCA(2).fit(zip(x.view(100, 2, 3).split(33), y.split(33), strict=True))
    np.testing.assert_allclose(shaped.embed_view1(x.view(100, 2, 3)), flat.embed_view1(x), atol=1e-9)
    np.testing.assert_allclose(shaped.embed_view2(y), flat.embed_view2(y), atol=1e-9)


def test_constant_and_duplicated_columns_and_a_view_of_zeros():
    x, y = correlated_pairs(100, [0.9, 0.5], 4, 3)
    x = torch.cat([x, x[:, :2], torch.ones(100, 1)], dim=1)
    for model in (LinearCCA(), LinearCCA(r1=0, r2=0)):
        model.fit([(x, y)])
        assert torch.isfinite(model.embed_view1(x)).all() and model.correlations.max() <= 1
        model.fit([(torch.zeros(100, 4), y)])
        assert model.correlations.tolist() == [0, 0, 0] and torch.isfinite(model.embed_view1(x[:, :4])).all()


@pytest.mark.parametrize("batches", [[], [(torch.zeros(1, 3), torch.zeros(1, 2))], [(torch.zeros(0, 3),) * 2]],
                         ids=["none", "one pair", "empty batch"])
def test_fewer_than_two_pairs(batches):
    with pytest.raises(DataError, match="at least two pairs"):
        LinearCCA().fit(batches)


def test_not_fitted():
    for use in (lambda m: m.correlations, lambda m: m.embed_view1(torch.zeros(2, 3)),
                lambda m: m.embed_view2(torch.zeros(2, 3))):
        with pytest.raises(DataError, match="call fit first"):
            use(LinearCCA())


def test_batches_that_do_not_fit_the_first():
    with pytest.raises(DataError, match=r"expected batches \(n, 3\)"):
        LinearCCA().fit([(torch.zeros(4, 3), torch.zeros(4, 2)), (torch.zeros(4, 2), torch.zeros(4, 2))])
