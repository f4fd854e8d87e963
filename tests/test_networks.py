"""TwoTower and CorrNet: what their parts do, put together."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from xmodal.errors import DataError, ExperimentError
from xmodal.layers import CCALayer, LearnedProjection, LengthNorm
from xmodal.networks import CorrNet, TwoTower, evaluating
from xmodal.towers import mlp, tied_decoder


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


# -- one tower for both views ----------------------------------------------------------------------------------------

def siamese(batch_norm: bool = True) -> TwoTower:
    torch.manual_seed(0)
    tower = mlp((6,), [8], 4, batch_norm=batch_norm)
    return TwoTower(tower, tower, LearnedProjection(4, shared=True))


@pytest.mark.parametrize("train", [True, False])
def test_swapped_views_have_swapped_embeddings(train):
    one, two, x = siamese(), siamese(), batch()[0]
    y = x.flip(0) + 1
    for model, given in ((one, (x, y)), (two, (y, x))):
        model.refit([given])
        model.train(train)
    forwards, backwards = one(x, y), two(y, x)
    torch.testing.assert_close(forwards.view1, backwards.view2)
    torch.testing.assert_close(forwards.view2, backwards.view1)
    one.eval()
    assert torch.equal(one.embed_view1(x), one.embed_view2(x))


def test_shared_weights_are_counted_and_trained_once_and_saved_under_both_names():
    model, x = siamese(batch_norm=False), batch()[0]
    parameters = dict(model.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == (6 * 8 + 8) + (8 * 4 + 4) + 4 * 4
    assert {name.replace("tower1", "tower2") for name in model.state_dict() if name.startswith("tower1")} == \
        {name for name in model.state_dict() if name.startswith("tower2")}
    tower = copy.deepcopy(model.tower1)
    apart = TwoTower(tower, copy.deepcopy(tower), copy.deepcopy(model.head))
    for each in (model, apart):
        embedded = each(x, x.flip(0) * 2)
        (embedded.view1 * embedded.view2).sum().backward()
    torch.testing.assert_close(model.tower1[0].weight.grad,
                               apart.tower1[0].weight.grad + apart.tower2[0].weight.grad)
    copied = copy.deepcopy(model)
    assert copied.tower1 is copied.tower2 and copied.tower1 is not model.tower1


# -- CorrNet ---------------------------------------------------------------------------------------------------------

def corrnet(batch_norm: bool = False, dropout: float = 0.0) -> CorrNet:
    torch.manual_seed(0)
    options = {"batch_norm": batch_norm, "dropout": dropout, "nonlinearity": nn.Sigmoid}
    return CorrNet(mlp((6,), [8], 4, **options), mlp((5,), [8], 4, **options), mlp((4,), [8], 6, **options),
                   mlp((4,), [8], 5, **options), nn.Sigmoid())


def test_one_layer_is_the_papers_formula():
    torch.manual_seed(0)
    encoder1, encoder2, decoder1, decoder2 = nn.Linear(6, 4), nn.Linear(5, 4, bias=False), nn.Linear(4, 6), \
        nn.Linear(4, 5)
    model = CorrNet(encoder1, encoder2, decoder1, decoder2, nn.Sigmoid())
    x, y = batch(9)
    W, b, V = encoder1.weight.mT, encoder1.bias, encoder2.weight.mT
    torch.testing.assert_close(model.code(x, y), torch.sigmoid(x @ W + y @ V + b))
    torch.testing.assert_close(model.code(x=x), torch.sigmoid(x @ W + b))
    torch.testing.assert_close(model.code(y=y), torch.sigmoid(y @ V + b))
    h = torch.sigmoid(y @ V + b)
    torch.testing.assert_close(model.reconstruct(y=y), (decoder1(h), decoder2(h)))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_one_view_is_the_pair_with_zeros_for_the_other(batch_norm):
    model, (x, y) = corrnet(batch_norm), batch(30)
    model(x, y)                                         # batch norm has statistics of its own by now
    model.eval()
    with torch.no_grad():
        embedded, zeros1, zeros2 = model(x, y), torch.zeros_like(x), torch.zeros_like(y)
        for alone, with_zeros in ((model.embed_view1(x), model.code(x, zeros2)),
                                  (model.embed_view2(y), model.code(zeros1, y)),
                                  (model.code(x=x), model.code(x, zeros2)),
                                  (embedded.view1, model.code(x, zeros2)), (embedded.view2, model.code(zeros1, y)),
                                  (embedded.extras["code"], model.code(x, y))):
            torch.testing.assert_close(alone, with_zeros)
        torch.testing.assert_close(model.reconstruct(x=x), model.reconstruct(x, zeros2))
        torch.testing.assert_close(model.embed_view1(x[3:4]), model.embed_view1(x)[3:4])


def test_extras_are_the_decoded_codes():
    model, (x, y) = corrnet().eval(), batch(7)
    extras = model(x, y).extras
    assert extras["view1"] is x and extras["view2"] is y
    for source, given in (("both", {"x": x, "y": y}), ("view1", {"x": x}), ("view2", {"y": y})):
        restored = model.reconstruct(**given)
        for view in (1, 2):
            torch.testing.assert_close(extras[f"view{view}_from_{source}"], restored[view - 1])
    assert set(extras) == {"view1", "view2", "code"} | {f"view{v}_from_{s}" for v in (1, 2)
                                                        for s in ("both", "view1", "view2")}
    assert len(extras) == 9 and "correlations" not in extras
    with pytest.raises(KeyError):
        extras["view3"]


def test_what_no_objective_asks_for_is_not_decoded():
    model, (x, y), decoded = corrnet(), batch(7), []
    model.decoder1.register_forward_hook(lambda *_: decoded.append(1))
    model.decoder2.register_forward_hook(lambda *_: decoded.append(2))
    extras = model(x, y).extras
    assert decoded == []
    assert extras["view2_from_view1"] is extras["view2_from_view1"] and decoded == [2]


def test_encoders_may_run_in_bfloat16_codes_and_decoders_do_not():
    model, (x, y) = corrnet(), batch(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = model(x, y)
        assert model.embed_view1(x).dtype == torch.float32
        assert model.reconstruct(x=x)[0].dtype == torch.float32
    assert embedded.extras["view1_from_both"].dtype == torch.float32
    assert embedded.view1.dtype == embedded.extras["code"].dtype == torch.float32
    exact = model(x, y)
    torch.testing.assert_close(embedded.view1, exact.view1, atol=0.02, rtol=0)
    assert not torch.equal(embedded.view1, exact.view1)


def test_an_absent_item_takes_part_in_the_batch_norm_of_training():
    model, (x, y) = corrnet(batch_norm=True), batch(30)
    part = model.encoder1(torch.cat([x, torch.zeros(1, 6)]))
    absent = model.encoder2(torch.cat([y, torch.zeros(1, 5)]))[-1:]
    torch.testing.assert_close(model(x, y).view1, torch.sigmoid(part[:-1] + absent))
    assert torch.isfinite(model(x[:1], y[:1]).view1).all()      # a batch of one pair, too


def test_corrnet_says_what_it_lacks():
    model, (x, y) = corrnet(), batch(7)
    with pytest.raises(DataError, match="need a view"):
        model.reconstruct()
    for call in (model.code, model.forward):
        with pytest.raises(DataError, match="as many rows of view1 as of view2; got 7 and 6"):
            call(x, y[:6])
    assert model.refit([(x, y)]) == 0
    for widths in ((5, 4), (1, 4)):         # a width of 1 would broadcast
        uneven = CorrNet(nn.Linear(6, widths[0]), nn.Linear(5, widths[1]), nn.Linear(4, 6), nn.Linear(4, 5))
        with pytest.raises(ExperimentError, match=r"encoders must have outputs of one shape; items become \(\d,\) and"):
            uneven(x, y)


def tied() -> CorrNet:
    torch.manual_seed(0)
    encoder1, encoder2 = mlp((6,), [8], 4, batch_norm=False), mlp((5,), [], 4)
    decoder1 = tied_decoder(encoder1, nn.Tanh, nn.Sigmoid)
    return CorrNet(encoder1, encoder2, decoder1, tied_decoder(encoder2), nn.Sigmoid())


def test_tied_decoder_by_hand():
    model, (x, _) = tied(), batch(7)
    (first, _, second), h = model.encoder1, torch.randn(7, 4)
    expected = torch.sigmoid(torch.tanh(h @ second.weight) @ first.weight)
    torch.testing.assert_close(model.decoder1(h), expected)     # fresh biases are zero
    assert model.reconstruct(x=x)[0].shape == x.shape


def test_tied_weights_are_the_same_weights():
    model, (_, y) = tied(), batch(20)
    names = dict(model.named_parameters())
    assert not [name for name in names if name.startswith("decoder") and name.endswith("weight")]
    assert sum(p.numel() for p in names.values()) == (6 * 8 + 8) + (8 * 4 + 4) + (5 * 4 + 4) + (8 + 6) + 5
    assert set(model.state_dict()) == set(names)                # saved once
    model.reconstruct(y=y)[1].sum().backward()                  # through decoder 2 the encoder's weight gets a gradient
    direct = torch.autograd.grad(model.decoder2(model.code(y=y).detach()).sum(), model.encoder2[0].weight)[0]
    assert direct.abs().sum() > 0
    before = model.decoder2(torch.eye(4)).detach().clone()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.allclose(model.decoder2(torch.eye(4)) - model.decoder2[0].bias, before)
    torch.testing.assert_close(model.decoder2(torch.eye(4)), model.encoder2[0].weight + model.decoder2[0].bias)


def test_tied_weights_stay_tied_in_copies_and_casts():
    for copied in (copy.deepcopy(tied()), tied().double()):
        with torch.no_grad():
            copied.encoder2[0].weight.fill_(2.0)
        h = torch.eye(4, dtype=copied.encoder2[0].weight.dtype)
        torch.testing.assert_close(copied.decoder2(h), torch.full((4, 5), 2.0, dtype=h.dtype))
