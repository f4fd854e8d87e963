"""Autoencoders: their parts by hand, the linear one against principal components, penalties against slow references."""
from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import subspace_angles
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from xmodal.augment import GaussianNoise, Masking
from xmodal.cli import run_train
from xmodal.config import TrainConfig
from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.layers.binary import Bits
from xmodal.networks import Autoencoders, compiled_towers, evaluating
from xmodal.networks.jacobian import squared_jacobian
from xmodal.objectives import PredictiveSparse, Reconstruction
from xmodal.objectives.autoencoding import sparse_codes
from xmodal.towers import Dictionary, Gain, conv_autoencoder, mlp, remembering, tied_decoder
from xmodal.trainer import fit


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perceptrons(k: int = 3, **more: nn.Module) -> Autoencoders:
    torch.manual_seed(0)
    return Autoencoders(mlp((6,), [8], k), mlp((5,), [8], k), mlp((k,), [8], 6), mlp((k,), [8], 5), **more)


# -- the model ---------------------------------------------------------------------------------------------------

def test_forward_is_each_view_through_its_own_tower_and_decoder():
    model, x, y = perceptrons().eval(), draw(20, 6), draw(20, 5, seed=1)
    embedded = model(x, y)
    for view, items, tower, decoder in ((1, x, model.tower1, model.decoder1), (2, y, model.tower2, model.decoder2)):
        code = tower(items)
        assert torch.equal(embedded[view - 1], code)
        assert torch.equal(embedded.extras[f"view{view}_from_view{view}"], decoder(code))
        assert torch.equal(embedded.extras[f"view{view}"], items)
    assert torch.equal(embedded.view1, model.embed_view1(x)) and torch.equal(embedded.view2, model.embed_view2(y))
    assert model.refit([(x, y)]) == 0 and "atoms1" not in embedded.extras
    one, two = model.decode(model.code(x, y))
    restored = model.restorings(x, y)
    assert torch.equal(one, restored["view1_from_view1"]) and torch.equal(two, restored["view2_from_view2"])


def test_corruption_is_for_towers_in_train_mode_only():
    model = perceptrons(corruption1=Masking(0.5), corruption2=GaussianNoise(2.0)).train()
    seen: list[Tensor] = []
    for tower in (model.tower1, model.tower2):
        tower.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, y = torch.ones(200, 6), torch.zeros(200, 5)
    extras = model(x, y).extras
    assert torch.equal(extras["view1"], x) and torch.equal(extras["view2"], y)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0} and abs(float(seen[0].mean()) - 0.5) < 0.06
    assert abs(float(seen[1].std()) - 2.0) < 0.15
    seen.clear()
    model.eval()(x, y)
    assert torch.equal(seen[0], x) and torch.equal(seen[1], y)


@pytest.mark.parametrize("made", [lambda: Masking(1.0), lambda: Masking(-0.1), lambda: GaussianNoise(-1),
                                  lambda: Bits(-1), lambda: Reconstruction(l1=-1), lambda: Reconstruction(target=0),
                                  lambda: Reconstruction("absolute"), lambda: PredictiveSparse(steps=0)])
def test_impossible_settings_are_refused(made):
    with pytest.raises(ExperimentError, match="got"):
        made()


# -- training ----------------------------------------------------------------------------------------------------

def test_items_without_a_partner_train_as_well_and_the_least_loss_is_kept(captioned_pictures):
    seen: list[Tensor] = []
    torch.manual_seed(0)
    model = Autoencoders(mlp((12,), [16], 4), mlp((9,), [16], 4), mlp((4,), [16], 12), mlp((4,), [16], 9))
    model.tower2.register_forward_pre_hook(lambda tower, given: seen.append(given[0].clone()) if tower.training
                                           else None)
    config = TrainConfig(dim_latent=4, batch_size=61, learning_rate=1e-2, max_epochs=4, judge="loss")
    result = fit(model, Reconstruction(), captioned_pictures, config, seed=0)
    lonely = captioned_pictures.train.view2[-4:]
    last_epoch = torch.cat(seen[-4:])                      # 80 pictures, 244 captions: 4 batches of 61
    assert all(bool((last_epoch == one).all(dim=1).any()) for one in lonely)
    losses = [line["loss_va"] for line in result.log]
    assert result.best_value == min(losses) and losses[-1] < 0.9 * losses[0]


AUTOENCODERS = '''"""Autoencoders of digits' halves."""
from xmodal import Autoencoders, Reconstruction, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=8, max_epochs=2, judge="loss")

def build_model(view1_shape, view2_shape):
    return Autoencoders(mlp(view1_shape, [16], 8), mlp(view2_shape, [16], 8), mlp((8,), [], *view1_shape),
                        mlp((8,), [], *view2_shape))

def build_objective():
    return Reconstruction()
'''
TWO_TOWER = '''"""Two towers that start from autoencoders."""
from xmodal import InfoNCE, LearnedProjection, Start, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=8, max_epochs=1, learning_rate=1e-12)
START = Start("runs/auto")

def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [16], 8), mlp(view2_shape, [16], 8), LearnedProjection(8))

def build_objective():
    return InfoNCE()
'''


def test_two_towers_start_from_autoencoders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    for name, text in (("auto", AUTOENCODERS), ("pair", TWO_TOWER)):
        Path(f"{name}.py").write_text(text)
        assert run_train.main(["--model", f"{name}.py", "--data", "digits"]) == 0
    out = capsys.readouterr().out
    assert "best validation loss" in out and "started from runs/auto" in out and "head.U" in out
    before, after = (load_file(f"runs/{name}/weights.safetensors") for name in ("auto", "pair"))
    for name in ("tower1.0.weight", "tower2.3.bias"):
        torch.testing.assert_close(after[name], before[name], atol=1e-7, rtol=0)


# -- linear autoencoders are principal components ----------------------------------------------------------------

@pytest.mark.parametrize("tied", [True, False])
def test_a_linear_autoencoder_spans_the_first_principal_components(tied):
    n, d, k = 200, 8, 3
    x = (draw(n, d).double() @ torch.diag(torch.linspace(3, 0.5, d).double()) @ draw(d, d, seed=1).double())
    x = x - x.mean(dim=0)
    torch.manual_seed(0)
    tower = nn.Linear(d, k, bias=False)
    decoder = tied_decoder(tower) if tied else nn.Linear(k, d, bias=False)
    model, objective = Autoencoders(tower, tower, decoder, decoder).double(), Reconstruction()
    parameters = [p for name, p in model.named_parameters() if "bias" not in name]
    optimizer = torch.optim.LBFGS(parameters, max_iter=4000, tolerance_grad=1e-12, tolerance_change=1e-16,
                                  line_search_fn="strong_wolfe", history_size=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model(x, x)) / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    _, sigma, Vh = torch.linalg.svd(x, full_matrices=False)
    assert max(subspace_angles(tower.weight.detach().numpy().T, Vh[:k].numpy().T)) < 1e-3
    with evaluating(model):
        restored = model.restorings(x, x)["view1_from_view1"].double()
        assert float(objective(model(x, x)) / 2) == pytest.approx(float(sigma[k:].square().sum() / (n * d)), rel=1e-6)
    best = x @ Vh[:k].T @ Vh[:k]                      # the truncated singular value decomposition
    torch.testing.assert_close(restored, best, atol=1e-3, rtol=0)


def test_tied_weights_get_the_gradients_of_both_uses():
    torch.manual_seed(0)
    x = draw(30, 6)
    tied = nn.Linear(6, 4)
    apart, back = copy.deepcopy(tied), nn.Linear(4, 6)
    with torch.no_grad():
        back.weight.copy_(tied.weight.T)
        back.bias.zero_()
    losses = [(Autoencoders(tower, tower, decoder, decoder)(x, x).extras["view1_from_view1"] - x).square().mean()
              for tower, decoder in ((tied, tied_decoder(tied)), (apart, back))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(tied.weight.grad, apart.weight.grad + back.weight.grad.T)
    torch.testing.assert_close(tied.bias.grad, apart.bias.grad)


# -- contractive -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("function", [nn.Sigmoid, nn.Tanh, nn.ELU, None])
def test_the_jacobian_of_one_layer_is_exact(function):
    torch.manual_seed(0)
    encoder = nn.Sequential(mlp((2, 3), [], 4), *([function()] if function else []))  # nested, as mlp makes it
    x = draw(7, 2, 3)
    found = squared_jacobian(encoder.train(), x)
    assert torch.equal(found, squared_jacobian(encoder, x))  # nothing is drawn
    for row in range(7):
        J = torch.autograd.functional.jacobian(lambda item: encoder(item[None])[0], x[row])
        torch.testing.assert_close(found[row], J.square().sum())


def test_functions_that_work_in_place_have_their_own_slope():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), draw(7, 6)
    assert torch.equal(squared_jacobian(nn.Sequential(layer, nn.ReLU(inplace=True)), x),
                       squared_jacobian(nn.Sequential(layer, nn.ReLU()), x))


def test_the_estimate_is_of_each_item_alone_and_leaves_no_trace():
    torch.manual_seed(0)
    encoder, x = mlp((6,), [7], 4, dropout=0.5).train(), draw(5, 6)
    before = copy.deepcopy(encoder.state_dict())
    draws = torch.stack([squared_jacobian(encoder, x).detach() for _ in range(2000)])
    assert encoder.training and encoder[1].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    encoder.eval()
    exact = torch.stack([torch.autograd.functional.jacobian(lambda item: encoder(item[None])[0], row).square().sum()
                         for row in x])
    assert bool(((draws.mean(dim=0) - exact).abs() < 5 * draws.std(dim=0) / 2000 ** 0.5).all())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # which torch hides, but not from us
def test_compiled_towers_have_a_second_derivative_and_switches():
    torch.manual_seed(0)
    encoder, decoder = conv_autoencoder((1, 8, 8), [4], 3)
    for model, x in ((perceptrons(), draw(9, 6)), (Autoencoders(encoder, encoder, decoder, decoder), draw(9, 1, 8, 8))):
        y = draw(9, 5) if x.ndim == 2 else x
        objective = Reconstruction(contractive=0.5)
        with evaluating(model):
            expected = objective(model(x, y))
            with compiled_towers(model):
                torch.testing.assert_close(objective(model(x, y)), expected, atol=1e-4, rtol=1e-4)
        with compiled_towers(model):
            objective(model.train()(x, y)).backward()


def test_rifais_formula_and_its_gradient():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    x, encoder = draw(6, 5).double(), nn.Sequential(layer, nn.Sigmoid())
    h = encoder(x)
    expected = ((h * (1 - h)).square() * layer.weight.square().sum(dim=1)).sum(dim=1)
    torch.testing.assert_close(squared_jacobian(encoder, x), expected)

    loss = squared_jacobian(encoder, x).sum()
    loss.backward()
    step, numeric = 1e-6, torch.zeros_like(layer.weight)
    with torch.no_grad():
        for place in np.ndindex(*layer.weight.shape):
            sums = []
            for sign in (1, -1):
                layer.weight[place] += sign * step
                sums.append(float(squared_jacobian(encoder, x).sum()))
                layer.weight[place] -= sign * step
            numeric[place] = (sums[0] - sums[1]) / (2 * step)
    torch.testing.assert_close(layer.weight.grad, numeric, atol=1e-6, rtol=1e-6)


def test_deep_encoders_are_estimated_without_bias_and_alike_in_eval_mode():
    torch.manual_seed(0)
    encoder, x = mlp((6,), [7], 4, batch_norm=False).train(), draw(5, 6)
    exact = torch.stack([torch.autograd.functional.jacobian(lambda item: encoder(item[None])[0], row).square().sum()
                         for row in x])
    draws = torch.stack([squared_jacobian(encoder, x).detach() for _ in range(2000)])
    deviation = draws.std(dim=0) / 2000 ** 0.5
    assert bool(((draws.mean(dim=0) - exact).abs() < 5 * deviation).all())
    encoder.eval()
    assert torch.equal(squared_jacobian(encoder, x), squared_jacobian(encoder, x))


def test_the_penalty_is_computed_where_gradients_are_off_and_only_when_asked_for():
    model = perceptrons()
    with evaluating(model):
        embedded = model(draw(9, 6), draw(9, 5))
        plain, calm = Reconstruction()(embedded), Reconstruction(contractive=0.5)(embedded)
        jacobians = [squared_jacobian(tower, draw(9, width)).mean() for tower, width in
                     ((model.tower1, 6), (model.tower2, 5))]
    torch.testing.assert_close(calm - plain, 0.5 * sum(jacobians).detach(), atol=1e-5, rtol=1e-5)


# -- sparse ------------------------------------------------------------------------------------------------------

def test_reconstruction_by_loops():
    codes, extras = [torch.rand(9, 4), torch.rand(9, 4)], {}
    for view, shape in ((1, (9, 6)), (2, (9, 2, 3))):
        extras |= {f"view{view}": torch.rand(shape), f"view{view}_from_view{view}": torch.rand(shape)}
    embedded = Embedded(*codes, extras=extras)
    for error in ("squared", "cross_entropy"):
        loss = Reconstruction(error, l1=0.3, sparse=0.7, target=0.1)(embedded)
        expected = 0.0
        for view, code in ((1, codes[0]), (2, codes[1])):
            values = [(float(t), float(r)) for t, r in zip(extras[f"view{view}"].flatten(),
                                                           extras[f"view{view}_from_view{view}"].flatten(),
                                                           strict=True)]
            errors = [(t - r) ** 2 if error == "squared" else -t * np.log(r) - (1 - t) * np.log(1 - r)
                      for t, r in values]
            expected += sum(errors) / len(errors)
            expected += 0.3 * sum(float(abs(h)) for h in code.flatten()) / 9
            for unit in code.T:
                active = float(unit.mean())
                expected += 0.7 * (0.1 * np.log(0.1 / active) + 0.9 * np.log(0.9 / (1 - active)))
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_what_objectives_need_is_said():
    nothing = Embedded(draw(4, 3), draw(4, 3))
    with pytest.raises(ExperimentError, match="Reconstruction needs a model that restores its views"):
        Reconstruction()(nothing)
    with pytest.raises(ExperimentError, match=r"PredictiveSparse needs decoders that are a xmodal.towers.Dictionary"):
        PredictiveSparse()(nothing)
    model = perceptrons()
    with pytest.raises(ExperimentError, match=r"end the towers in nn.Sigmoid\(\), or use l1"):
        Reconstruction(sparse=1.0)(model(draw(30, 6), draw(30, 5)))


def test_units_that_never_fire_leave_finite_gradients():
    code = torch.zeros(5, 3, requires_grad=True)
    x = torch.rand(5, 2)
    extras = {"view1": x, "view2": x, "view1_from_view1": x, "view2_from_view2": x}
    Reconstruction(sparse=1.0)(Embedded(code, code, extras=extras)).backward()
    assert bool(torch.isfinite(code.grad).all())


@pytest.mark.parametrize("predict", [0.0, 0.7])
def test_sparse_codes_are_those_of_the_lasso(predict):
    x, atoms, guess = draw(6, 10).double(), draw(10, 15, seed=1).double(), draw(6, 15, seed=2).double()
    atoms = atoms / atoms.norm(dim=0)
    found = sparse_codes(x, atoms, guess, 0.4, predict, steps=5000)
    rows = torch.cat([atoms, predict ** 0.5 * torch.eye(15).double()])  # ‖z − F‖² as further rows of a regression
    for item in range(6):
        wanted = torch.cat([x[item], predict ** 0.5 * guess[item]])
        lasso = Lasso(alpha=0.4 / (2 * len(rows)), fit_intercept=False, tol=1e-12, max_iter=100_000)
        lasso.fit(rows.numpy(), wanted.numpy())
        np.testing.assert_allclose(found[item].numpy(), lasso.coef_, atol=1e-5)


def test_predictive_sparse_by_its_formula_and_without_a_gradient_through_codes():
    torch.manual_seed(0)
    towers = [nn.Sequential(mlp((6,), [], 9), nn.Tanh(), Gain(9)) for _ in range(2)]
    model = Autoencoders(*towers, Dictionary(9, (2, 3)), Dictionary(9, (2, 3)))
    x, y = draw(8, 2, 3), draw(8, 2, 3, seed=1)
    for tower in towers:
        tower.insert(0, nn.Flatten())
    embedded = model(x, y)
    objective, expected = PredictiveSparse(l1=0.3, predict=0.5, steps=30), 0.0
    for items, decoder, code in ((x, model.decoder1, embedded.view1), (y, model.decoder2, embedded.view2)):
        D = decoder.atoms.detach()
        torch.testing.assert_close(D.norm(dim=0), torch.ones(9))
        z = sparse_codes(items.flatten(1), D, code, 0.3, 0.5, 30)
        for i in range(8):
            expected += float(((items[i].flatten() - D @ z[i]) ** 2).sum() + 0.3 * z[i].abs().sum()
                              + 0.5 * ((z[i] - code[i].detach()) ** 2).sum()) / 8
    loss = objective(embedded)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    z = sparse_codes(x.flatten(1), model.decoder1.atoms, embedded.view1, 0.3, 0.5, 30)
    by_hand, = torch.autograd.grad(0.5 * (z - model.tower1(x)).square().sum(dim=1).mean(), model.tower1[1][0].weight)
    torch.testing.assert_close(model.tower1[1][0].weight.grad, by_hand)


# -- convolutional, with switches --------------------------------------------------------------------------------

def test_unpooling_puts_maxima_back_where_they_were():
    encoder, decoder = conv_autoencoder((1, 7, 6), [2], 3)
    pool, unpool = encoder[3], decoder[3]
    maps = draw(4, 2, 7, 6)
    with remembering(encoder):
        pooled = pool(maps)
        back = unpool(pooled)
    for n, c, row, column in np.ndindex(4, 2, 3, 3):
        block = maps[n, c, 2 * row:2 * row + 2, 2 * column:2 * column + 2]
        restored = back[n, c, 2 * row:2 * row + 2, 2 * column:2 * column + 2]
        torch.testing.assert_close(restored, torch.where(block == block.max(), block, torch.zeros(())))
    assert bool((back[:, :, 6] == 0).all()) and back.shape == maps.shape     # the odd row has no maximum
    corner = unpool(pooled)                                                  # outside there are no switches
    torch.testing.assert_close(corner[:, :, 0:6:2, 0::2], pooled)
    assert float(corner.abs().sum()) == pytest.approx(float(pooled.abs().sum()))


@pytest.mark.parametrize("shape", [(1, 8, 6), (8, 6), (3, 9, 11)])
def test_what_conv_autoencoders_restore_has_the_shape_of_items(shape):
    torch.manual_seed(0)
    encoder, decoder = conv_autoencoder(shape, [4, 5], 3, convolutions=2, output=nn.Sigmoid)
    model, x = Autoencoders(encoder, encoder, decoder, decoder), torch.rand(6, *shape)
    restored = model(x, x).extras["view1_from_view1"].detach()
    assert restored.shape == x.shape and 0 <= float(restored.min()) <= float(restored.max()) <= 1
    assert encoder[-1].out_features == 3 and model.decode(model.code(x, x))[0].shape == x.shape
    assert all(pool.switches is None for pool in model.modules() if hasattr(pool, "switches"))
    other = copy.deepcopy(model).eval()      # a copy's unpooling follows the copy's pooling
    assert torch.equal(other.restorings(x, x)["view1_from_view1"], model.eval().restorings(x, x)["view1_from_view1"])
    assert not torch.equal(model.decode(model.code(x, x))[0], model.restorings(x, x)["view1_from_view1"])


@pytest.mark.parametrize("shape, channels", [((12,), [4]), ((1, 4, 4), [4, 4, 4]), ((1, 8, 8), [])])
def test_conv_autoencoders_refuse_what_they_cannot_pool(shape, channels):
    with pytest.raises(ExperimentError, match="conv_autoencoder"):
        conv_autoencoder(shape, channels, 3)


# -- bits --------------------------------------------------------------------------------------------------------

def test_bits_are_signs_and_cosines_count_those_that_agree():
    bits, z = Bits(0.5).eval(), draw(20, 16, seed=3)
    codes = bits(z)
    assert torch.equal(codes, torch.where(z > 0, 1.0, -1.0)) and torch.equal(codes, bits(z))
    agree = (codes[:, None] == codes).float().mean(dim=2)
    torch.testing.assert_close((1 + codes @ codes.T / 16) / 2, agree)
    near, far = torch.full((1000, 1), 0.1), torch.full((1000, 1), 5.0)
    bits.train()
    torch.manual_seed(0)
    assert abs(float((bits(near) > 0).float().mean()) - 0.579) < 0.05 and bool((bits(far) == 1).all())
    z = torch.tensor([[0.2, -3.0]], requires_grad=True)
    Bits(0.0)(z).sum().backward()
    assert z.grad.tolist() == [[1.0, 0.0]]
