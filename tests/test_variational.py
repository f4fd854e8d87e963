"""Variational autoencoders: posteriors by numeric integration, the bound by loops, either view made from the other."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from xmodal.errors import DataError, ExperimentError
from xmodal.layers import Embedded
from xmodal.networks import VariationalAutoencoder, evaluating
from xmodal.networks.variational import EXPERTS, Posterior, product_of_experts
from xmodal.objectives import EvidenceBound
from xmodal.towers import mlp

K = 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(experts: str, hidden: int = 8) -> VariationalAutoencoder:
    torch.manual_seed(0)
    parts = [mlp((6,), [hidden], 2 * K), mlp((5,), [hidden], 2 * K), mlp((K,), [hidden], 6), mlp((K,), [hidden], 5)]
    return VariationalAutoencoder(K, *parts, experts=experts,
                                  joint=mlp((11,), [hidden], 2 * K) if experts == "joint" else None)


def test_the_product_of_experts_is_the_normalised_product_of_densities():
    one, two = (Posterior(draw(4, 1, seed=s), draw(4, 1, seed=s + 9)) for s in (1, 2))
    found = product_of_experts(one, two)
    z = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    for row in range(4):
        density = Normal(0.0, 1.0).log_prob(z)
        for experts, answer in (((one, two), found), ((one,), product_of_experts(one))):
            logs = density
            for mean, log_variance in experts:
                logs = logs + Normal(mean[row].double(), (log_variance[row].double() / 2).exp()).log_prob(z)
            weights = logs.exp() / logs.exp().sum()
            mean = float((weights * z).sum())
            assert float(answer.mean[row]) == pytest.approx(mean, abs=1e-4)
            assert float(answer.log_variance[row].exp()) == pytest.approx(float((weights * (z - mean) ** 2).sum()),
                                                                         rel=1e-4)


def test_a_products_posteriors_are_those_of_a_linear_gaussian_model():
    """z ~ N(0, 1), x and y each z and noise of variance 0.1: experts N(x, 0.1), posteriors in closed form."""
    def expert() -> nn.Module:
        layer = nn.Linear(1, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
            layer.bias.copy_(torch.tensor([0.0, math.log(0.1)]))
        return layer

    model = VariationalAutoencoder(1, expert(), expert(), nn.Linear(1, 1), nn.Linear(1, 1), "product").eval()
    x = torch.ones(1, 1)
    extras = model(x, x).extras
    for source, precision in (("view1", 11.0), ("view2", 11.0), ("both", 21.0)):
        assert extras[f"mean_{source}"].item() == pytest.approx((precision - 1) / precision, rel=1e-5)
        assert extras[f"log_variance_{source}"].exp().item() == pytest.approx(1 / precision, rel=1e-5)
    assert model.code(x, x).item() == pytest.approx(20 / 21, rel=1e-5)
    assert model.embed_view2(x).item() == pytest.approx(10 / 11, rel=1e-5)


@pytest.mark.parametrize("experts", EXPERTS)
def test_what_is_restored_from_what(experts):
    model, x, y = model_of(experts), draw(12, 6), draw(12, 5, seed=1)
    restored = {name for name in model(x, y).extras if "_from_" in name}
    own = {"view1_from_view1", "view2_from_view2"}
    assert restored == {"separate": own, "mixture": own | {"view1_from_view2", "view2_from_view1"},
                        "product": own | {"view1_from_both", "view2_from_both"},
                        "joint": {"view1_from_both", "view2_from_both"}}[experts]
    assert model.needs_no_pairs == (experts == "separate")
    assert model.refit([(x, y)]) == 0


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("error", ["squared", "cross_entropy"])
def test_the_bound_by_loops(experts, error):
    model, x, y = model_of(experts), torch.rand(7, 6), torch.rand(7, 5)
    model.decoder1.append(nn.Sigmoid())
    model.decoder2.append(nn.Sigmoid())
    embedded = model(x, y)
    extras = {name: value.detach() for name, value in embedded.extras.items()}
    found = EvidenceBound(error, beta=0.7, variance=0.3, pull=0.2)(embedded)

    def normal(source: str) -> Normal:
        return Normal(extras[f"mean_{source}"], (extras[f"log_variance_{source}"] / 2).exp())

    bounds = []
    for source in ("both", "view1", "view2"):
        views = [view for view in ("view1", "view2") if f"{view}_from_{source}" in extras]
        total = 0.0
        for item in range(7 if views else 0):
            for view in views:
                for t, r in zip(extras[view][item].tolist(), extras[f"{view}_from_{source}"][item].tolist(),
                                strict=True):
                    total += (t - r) ** 2 / 0.6 if error == "squared" else \
                        -t * math.log(r) - (1 - t) * math.log(1 - r)
            total += 0.7 * float(kl_divergence(normal(source), Normal(0.0, 1.0))[item].sum())
        bounds += [total / 7] if views else []
    expected = float(np.mean(bounds))
    if experts == "joint":
        expected += 0.2 * sum(float(kl_divergence(normal("both"), normal(view)).sum(dim=1).mean())
                              for view in ("view1", "view2"))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("experts", EXPERTS)
def test_train_mode_draws_and_eval_mode_does_not(experts):
    model, x, y = model_of(experts).train(), draw(30, 6), draw(30, 5, seed=1)
    name = "view1_from_both" if experts in ("joint", "product") else "view1_from_view1"
    assert not torch.equal(model(x, y).extras[name], model(x, y).extras[name])
    with evaluating(model):
        embedded = model(x, y)
        assert torch.equal(embedded.extras[name], model(x, y).extras[name])
        assert torch.equal(embedded.view1, model.embed_view1(x)) and torch.equal(embedded.view2, model.embed_view2(y))
        both = model.code(x, y)
        if experts == "separate":
            assert torch.equal(both, torch.cat(embedded[:2], dim=1))
            with pytest.raises(DataError, match="need both views, x and y: each has a code of its own"):
                model.reconstruct(x=x)
            restored = model.restorings(x, y)
            assert restored.keys() == {"view1_from_view1", "view2_from_view2"}
            assert all(torch.equal(values, embedded.extras[name]) for name, values in restored.items())
        else:
            assert torch.equal(model.code(x=x), embedded.view1) and torch.equal(model.code(y=y), embedded.view2)
            torch.testing.assert_close(both, (embedded.view1 + embedded.view2) / 2 if experts == "mixture" else
                                       embedded.extras["mean_both"])
            assert torch.equal(model.reconstruct(x=x)[1], model.decode(embedded.view1)[1])
            every = {f"view{v}_from_{s}" for v in (1, 2) for s in ("view1", "view2", "both")}
            assert set(model.restorings(x, y)) == every
        one, two = model.sample(9, seed=4)
        assert one.shape == (9, 6) and two.shape == (9, 5) and torch.equal(one, model.sample(9, seed=4)[0])
    with pytest.raises(DataError, match="need a view"):
        model.code()


def test_draws_have_the_posteriors_mean_and_variance():
    model = model_of("separate").train()
    posterior = Posterior(torch.tensor([[1.0, -2.0, 0.0]]).repeat(20_000, 1), torch.tensor([[0.0, -4.0, 1.0]])
                          .repeat(20_000, 1))
    torch.manual_seed(0)
    drawn = model._drawn(posterior)
    torch.testing.assert_close(drawn.mean(dim=0), posterior.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(dim=0), posterior.log_variance[0].exp(), rtol=0.05, atol=0)


def train(model: VariationalAutoencoder, x: Tensor, y: Tensor, steps: int) -> float:
    torch.manual_seed(0)
    objective, optimizer = EvidenceBound(beta=1.0, variance=0.05), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective(model.train()(x, y))
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("experts", ["joint", "product", "mixture"])
def test_either_view_is_generated_from_the_other(experts):
    factors, mix1, mix2 = draw(400, 2), draw(2, 6, seed=1), draw(2, 5, seed=2)
    x, y = factors @ mix1, factors @ mix2
    model = model_of(experts, hidden=32)
    train(model, x[:300], y[:300], 500)
    with evaluating(model):
        made = model.restorings(x[300:], y[300:])
    for name, view in (("view1_from_view2", x), ("view2_from_view1", y)):
        error = float((made[name] - view[300:]).square().mean())
        assert error < 0.2 * float(view.var()), (name, error)


def test_the_optimum_of_a_linear_one_is_probabilistic_pca():
    """Tipping and Bishop 1999: with variance σ², the decoder's rank keeps the directions whose variance exceeds σ²,
    and the posterior variance of a direction of eigenvalue λ is σ²/λ."""
    basis, _ = torch.linalg.qr(draw(6, 6))
    spread = torch.tensor([4.0, 2.0, 0.02, 0.02, 0.02, 0.02]).sqrt()
    x = draw(3000, 6, seed=5) * spread @ basis.T
    torch.manual_seed(0)
    model = VariationalAutoencoder(2, nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(2, 6), nn.Linear(2, 6), "separate")
    train(model, x, x, 1500)
    with evaluating(model):
        extras = model(x, x).extras
    S = x.T.cov()
    directions = torch.linalg.qr(model.decoder1.weight.detach()).Q
    kept = float((directions.T @ S @ directions).trace())
    assert kept == pytest.approx(float(torch.linalg.eigvalsh(S)[-2:].sum()), rel=0.01)
    variances = extras["log_variance_view1"].exp().mean(dim=0).sort().values
    # whatever the rotation of the code, the posterior covariance has trace Σ σ²/λ only along principal axes
    expected = (0.05 / torch.linalg.eigvalsh(S)[-2:].flip(0)).sort().values
    torch.testing.assert_close(variances, expected, rtol=0.35, atol=0)


def test_far_items_give_finite_losses_and_gradients():
    model, x = model_of("product"), 1e4 * draw(10, 6)
    loss = EvidenceBound()(model(x, 1e4 * draw(10, 5, seed=1)))
    loss.backward()
    assert bool(torch.isfinite(loss)) and all(bool(torch.isfinite(p.grad).all()) for p in model.parameters()
                                              if p.grad is not None)


def test_mistakes_are_said():
    parts = [mlp((6,), [], 2 * K), mlp((5,), [], 2 * K), mlp((K,), [], 6), mlp((K,), [], 5)]
    with pytest.raises(ExperimentError, match="experts must be one of separate, joint, product, mixture; got 'poe'"):
        VariationalAutoencoder(K, *parts, experts="poe")
    with pytest.raises(ExperimentError, match="experts='joint' needs an encoder joint"):
        VariationalAutoencoder(K, *parts, experts="joint")
    with pytest.raises(ExperimentError, match="side by side, here \\(n, 8\\); got \\(n, 6\\)"):
        VariationalAutoencoder(4, *parts)(draw(4, 6), draw(4, 5))
    with pytest.raises(ExperimentError, match=r"use VariationalAutoencoder"):
        EvidenceBound()(Embedded(draw(4, 3), draw(4, 3)))
    with pytest.raises(ExperimentError, match="variance above 0"):
        EvidenceBound(variance=0)
