"""TwoTower: what its parts do, put together."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from xmodal.layers import CCALayer, LearnedProjection, LengthNorm
from xmodal.networks import TwoTower, evaluating
from xmodal.towers import mlp


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def model_with(head: nn.Module | None = None, norm: nn.Module | None = None, dropout: float = 0.0) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(mlp((6,), [8], 4, dropout=dropout), mlp((5,), [8], 4, dropout=dropout), head or CCALayer(4), norm)


def batch(n: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return x, x[:, :5] + torch.randn(n, 5, generator=g)


@pytest.mark.parametrize("head", [CCALayer, LearnedProjection])
@pytest.mark.parametrize("train", [True, False])
def test_forward_is_towers_then_head_then_norm(head, train):
    model, parts = model_with(head(4), LengthNorm()), model_with(head(4))
    parts.load_state_dict(model.state_dict())
    model.train(train), parts.train(train)
    x, y = batch()
    whole, (z1, z2, correlations, _) = model(x, y), parts.head(parts.tower1(x), parts.tower2(y))
    torch.testing.assert_close(whole.view1, z1 / z1.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.view2, z2 / z2.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    assert (whole.correlations is None) == (head is LearnedProjection)
    if correlations is not None:
        torch.testing.assert_close(whole.correlations, correlations)


def test_without_a_norm_coordinates_keep_their_scale():
    x, y = batch()
    model = model_with().eval()
    model.refit([(x, y)])
    embedded = model(x, y)
    torch.testing.assert_close(embedded.view1.var(dim=0), torch.ones(4), atol=0.1, rtol=0)
    assert torch.equal(embedded.view1, model.embed_view1(x)) and torch.equal(embedded.view2, model.embed_view2(y))


@pytest.mark.parametrize("head", [CCALayer, LearnedProjection])
def test_refit_is_the_heads_refit_on_the_towers_outputs(head):
    model = model_with(head(4), dropout=0.5)
    x, y = batch()
    for _ in range(3):
        model.tower1(x), model.tower2(y)             # batch norm has statistics of its own by now
    running = model.tower1[1].running_mean.clone()
    assert model.refit(zip(x.split(17), y.split(17), strict=True)) == 60
    model.eval()
    expected = head(4)
    expected.load_state_dict(model.head.state_dict())
    expected.refit([(model.tower1(x), model.tower2(y))])
    for name, value in model.head.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], atol=1e-6, rtol=1e-6)
    assert torch.equal(model.tower1[1].running_mean, running)      # eval mode: batch norm learned nothing


def test_refit_in_train_mode_runs_the_towers_as_training_does():
    model, x, y = model_with(), *batch()
    model.refit([(x, y)], train_mode=True)
    stored = [m.clone() for m in model.head.moments()]
    model.train()(x, y)                              # alpha 1: the head takes this batch's moments
    for a, b in zip(stored, model.head.moments(), strict=True):
        torch.testing.assert_close(a, b)
    model.refit([(x, y)])
    assert not torch.allclose(stored[2], model.head.S11, rtol=0.05)


@pytest.mark.parametrize("train_mode", [True, False])
def test_refit_brings_back_every_mode_even_after_an_error(train_mode):
    model = model_with().train()
    model.tower1.eval()
    model.tower2[1].eval()
    modes = [m.training for m in model.modules()]
    assert model.refit([batch()], train_mode) == 60
    assert [m.training for m in model.modules()] == modes

    def breaks():
        yield batch()
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        model.refit(breaks(), train_mode)
    assert [m.training for m in model.modules()] == modes and torch.is_grad_enabled()


def test_evaluating():
    model = model_with().train()
    model.tower2.eval()
    with evaluating(model):
        assert not any(m.training for m in model.modules())
        assert not model.tower1(batch()[0]).requires_grad
    assert model.training and model.tower1[1].training and not model.tower2.training and not model.tower2[1].training
    assert torch.is_grad_enabled()


def test_refit_keeps_no_graph_and_its_batches_may_be_reused_buffers():
    x, y = batch()
    buffers = torch.empty(20, 6), torch.empty(20, 5)

    def reused():
        for a, b in zip(x.split(20), y.split(20), strict=True):
            yield buffers[0].copy_(a), buffers[1].copy_(b)

    model, other = model_with(), model_with()
    assert model.refit(reused()) == other.refit([(x, y)]) == 60
    torch.testing.assert_close(model.head.S12, other.head.S12, atol=1e-6, rtol=1e-6)
    assert not model.head.S12.requires_grad


def test_both_views_get_gradients_in_every_parameter():
    model = model_with()
    embedded = model(*batch())
    (-embedded.correlations.sum()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
    assert model.tower1[0].weight.grad.any() and model.tower2[0].weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_whole_model_cast(dtype):
    """Towers in bfloat16, statistics still float64: embeddings stay near those of float32."""
    x, y = batch(400)
    model = model_with().eval()
    model.refit([(x, y)])
    expected = model(x, y)
    model.to(dtype)
    model.refit([(x.to(dtype), y.to(dtype))])
    actual = model(x.to(dtype), y.to(dtype))
    assert model.head.S11.dtype == torch.float64
    torch.testing.assert_close(actual.correlations.float(), expected.correlations.float(), atol=0.01, rtol=0)


def test_bfloat16_autocast_of_the_towers_only():
    x, y = batch(400)
    model = model_with()
    expected = model(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = model(x, y)
        refitted = model.refit([(x, y)])
    assert refitted == 400 and actual.view1.dtype == torch.float32
    assert float(model.head.eps) == torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(actual.correlations, expected.correlations, atol=0.02, rtol=0)
