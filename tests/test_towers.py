"""Towers: shapes, sizes, initialisation."""
from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from xmodal.errors import ExperimentError
from xmodal.towers import Coordinates, conv_autoencoder, conv_tower, mlp, text_tower, tied_decoder


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("shape", "hidden", "expected"), [
    ((7,), [], 7 * 4 + 4),
    ((7,), [5], 7 * 5 + 2 * 5 + 5 * 4 + 4),                    # batch norm: a scale and a shift in place of the bias
    ((1, 3, 2), [5, 6], 6 * 5 + 2 * 5 + 5 * 6 + 2 * 6 + 6 * 4 + 4),
])
def test_mlp(shape, hidden, expected):
    tower = mlp(shape, hidden, 4)
    assert tower(torch.randn(9, *shape)).shape == (9, 4)
    assert n_parameters(tower) == expected


def test_mlp_by_hand():
    tower = mlp((3,), [5], 2)
    with torch.no_grad():
        tower[1].weight.copy_(torch.rand(5)), tower[1].bias.copy_(torch.rand(5))
    x = torch.randn(8, 3)
    h = x @ tower[0].weight.mT
    h = (h - h.mean(dim=0)) / (h.var(dim=0, unbiased=False) + 1e-5).sqrt() * tower[1].weight + tower[1].bias
    h = torch.where(h > 0, h, h.exp() - 1)
    torch.testing.assert_close(tower(x), h @ tower[3].weight.mT + tower[3].bias)


def test_mlp_options():
    tower = mlp((6,), [5, 5], 2, batch_norm=False, dropout=0.5, nonlinearity=nn.Tanh)
    assert [type(layer) for layer in tower] == [nn.Linear, nn.Tanh, nn.Dropout] * 2 + [nn.Linear]
    assert n_parameters(tower) == 6 * 5 + 5 + 5 * 5 + 5 + 5 * 2 + 2
    assert tower[2].p == 0.5


@pytest.mark.parametrize(("shape", "channels", "convolutions"), [
    ((3, 8, 12), [4, 6], 2), ((8, 8), [4], 1), ((1, 4, 4), [2, 2], 3), ((2, 5, 7), [3, 3], 2), ((2, 3, 3), [], 2)])
def test_conv_tower(shape, channels, convolutions):
    tower = conv_tower(shape, channels, 5, convolutions=convolutions)
    assert tower(torch.randn(3, *shape)).shape == (3, 5)
    fan_in, expected = shape[0] if len(shape) == 3 else 1, 0
    for width in channels:
        for _ in range(convolutions):
            expected += 9 * fan_in * width + 2 * width
            fan_in = width
    assert n_parameters(tower) == expected + fan_in * 5 + 2 * 5


def test_conv_tower_averages_over_all_positions():
    """The tower but for its last two modules gives a map; its output is the map's mean."""
    tower = conv_tower((1, 8, 8), [4], 5).eval()
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(tower(x), tower[:-2](x).mean(dim=(2, 3)))
    assert tower[:-2](x).shape == (3, 5, 4, 4)


def test_images_without_a_channel_axis_are_those_with_one_channel():
    tower = conv_tower((8, 6), [4], 5).eval()
    x = torch.randn(3, 8, 6)
    assert torch.equal(tower(x), tower[1:](x[:, None]))


@pytest.mark.parametrize("shape", [(64,), (1, 2, 3, 4), ()])
def test_items_that_are_no_images(shape):
    with pytest.raises(ExperimentError, match=r"needs items of shape \(channels, height, width\)"):
        conv_tower(shape, [4], 5)


@pytest.mark.parametrize(("shape", "blocks", "most"), [((1, 7, 9), 3, 2), ((3, 100), 2, 1), ((1, 1, 5), 1, 0)])
def test_images_too_small_for_so_many_blocks(shape, blocks, most):
    with pytest.raises(ExperimentError, match=rf"{blocks} blocks halve an item of .* use at most {most} blocks"):
        conv_tower(shape, [4] * blocks, 5)
    conv_tower(shape, [4] * most, 5).eval()(torch.randn(2, *shape))


CONVOLUTIONAL = {"conv_tower": conv_tower, "conv_autoencoder": conv_autoencoder}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(8, 8, 3), (28, 14, 4), (480, 640, 3)])
def test_channels_that_come_last_are_told_whatever_the_blocks(name, shape):
    height, width, channels = shape
    with pytest.raises(ExperimentError, match=rf"^{name}: items of shape \({height}, {width}, {channels}\) look like .*"
                                              rf"channels come first, as in \({channels}, {height}, {width}\): "
                                              r"view\.transpose\(0, 3, 1, 2\)$"):
        CONVOLUTIONAL[name](shape, [4], 5)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape, hinted", [((28, 28, 1), True), ((40, 300, 3), True), ((64, 3, 3), True),
                                           ((4, 8, 3), False), ((28, 3), False), ((1, 3, 3), False)])
def test_channels_that_may_come_last_are_hinted_at_where_the_blocks_are_too_many(name, shape, hinted):
    with pytest.raises(ExperimentError, match=rf"^{name}: 2 blocks halve") as error:
        CONVOLUTIONAL[name](shape, [4, 4], 5)
    assert ("is (height, width, channels): channels come first" in str(error.value)) == hinted


@pytest.mark.parametrize("shape", [(3, 8, 8), (16, 4, 4), (64, 3, 3), (512, 7, 4), (4, 8, 3), (92, 4)])
def test_maps_of_few_columns_are_no_pictures_with_channels_last(shape):
    assert conv_tower(shape, [4], 5).eval()(torch.randn(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize(("tower", "fan_ins"), [
    (lambda: mlp((300,), [200], 100), [300, 200]),
    (lambda: conv_tower((16, 8, 8), [64, 64], 128, convolutions=1), [144, 576, 64])], ids=["mlp", "conv"])
def test_weights_have_variance_one_over_fan_in(tower, fan_ins):
    torch.manual_seed(0)
    tower = tower()
    weights = [m.weight for m in tower.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for weight, fan_in in zip(weights, fan_ins, strict=True):
        assert float(weight.detach().var()) * fan_in == pytest.approx(1, rel=0.05)
        assert abs(float(weight.detach().mean())) < 4 / (fan_in * weight.numel()) ** 0.5
        assert float(weight.detach().abs().max()) <= (3 / fan_in) ** 0.5 * (1 + 1e-6)
    assert all(not m.bias.any() for m in tower.modules() if isinstance(m, nn.Linear) and m.bias is not None)


@pytest.mark.parametrize("shape", [(1, 28, 14), (9, 5), (2, 8, 8)])
def test_conv_tower_over_all_positions(shape):
    tower = conv_tower(shape, [3, 4], 5, hidden=[6])
    x = torch.randn(7, *shape)
    rows, columns = (-(-size // 4) for size in shape[-2:])
    assert [m.weight.shape[1] for m in tower.modules() if isinstance(m, nn.Linear)] == [4 * rows * columns, 6]
    torch.testing.assert_close(tower(x), tower[-1](tower[:-1](x)))
    assert tower(x).shape == (7, 5)
    moved = tower.eval()(x.roll(2, dims=-2)) - tower(x)         # it knows where something is
    assert moved.abs().max() > 1e-3


class Old(nn.Sequential):
    """A tower as its blocks used to be: each pools what the nonlinearity gave."""

    def __init__(self, tower: nn.Sequential) -> None:
        layers = list(tower)
        for i, (layer, after) in enumerate(pairwise(layers)):
            if isinstance(layer, nn.MaxPool2d) and isinstance(after, nn.ELU | nn.ReLU | nn.LeakyReLU | nn.GELU):
                layers[i], layers[i + 1] = after, layer
        super().__init__(*layers)


def kinds(tower: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in tower]


@pytest.mark.parametrize("hidden", [None, [6]])
@pytest.mark.parametrize("nonlinearity", [nn.ELU, nn.ReLU, nn.GELU, nn.SiLU])
def test_pooling_before_a_monotone_nonlinearity_changes_nothing(nonlinearity, hidden):
    torch.manual_seed(0)
    tower = conv_tower((2, 9, 14), [3, 4], 5, nonlinearity=nonlinearity, hidden=hidden)
    old, x = Old(copy.deepcopy(tower)), torch.randn(6, 2, 9, 14)
    block = ["Conv2d", "BatchNorm2d", nonlinearity.__name__] * 2 + ["MaxPool2d"]
    assert kinds(old)[:14] == 2 * block
    moved = nonlinearity in (nn.ELU, nn.ReLU)
    assert kinds(tower)[5:7] == (["MaxPool2d", nonlinearity.__name__] if moved else block[5:7])
    torch.testing.assert_close(tower(x), old(x))  # train mode: the batch's statistics
    torch.testing.assert_close(tower.eval()(x), old.eval()(x))
    assert [i for i, layer in enumerate(tower[:14]) if isinstance(layer, nn.Conv2d)] == [0, 3, 7, 10]
    assert list(tower.state_dict()) == list(old.state_dict())  # checkpoints of either fit the other


def test_a_nonlinearity_that_is_not_monotone_is_pooled_after_it():
    """For GELU the order matters: of -3 and -0.7 the larger gives the smaller value."""
    tower = conv_tower((1, 2, 2), [1], 3, convolutions=1, nonlinearity=nn.GELU).eval()
    with torch.no_grad():
        tower[0].weight.zero_()[0, 0, 1, 1] = 1.0
    x = torch.tensor([[[[-3.0, -0.7], [-0.7, -0.7]]]])
    torch.testing.assert_close(tower[:4](x).flatten(), torch.nn.functional.gelu(torch.tensor([-3.0])), atol=1e-4,
                               rtol=1e-4)


def test_dropout_over_all_positions():
    tower = conv_tower((1, 8, 8), [3], 5, hidden=[6, 7], dropout=0.3)
    assert [layer.p for layer in tower.modules() if isinstance(layer, nn.Dropout)] == [0.3] * 3
    assert isinstance(tower[-2], nn.Dropout)
    assert not any(isinstance(layer, nn.Dropout) for layer in conv_tower((1, 8, 8), [3], 5, hidden=[6]).modules())


@pytest.mark.parametrize(("encoder", "options", "message"), [
    (nn.Sequential(nn.Tanh()), {}, "needs an encoder of linear layers, such as mlp makes"),
    (nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(4, 3)), {}, "this one has Conv1d"),
    (mlp((4,), [5], 3), {}, "2 linear layers; say which nonlinearity"),
])
def test_tied_decoder_refuses(encoder, options, message):
    with pytest.raises(ExperimentError, match=message):
        tied_decoder(encoder, **options)


def test_tied_decoder_mirrors_a_layer_as_often_as_it_is_used():
    twice = nn.Linear(4, 4)
    decoder = tied_decoder(nn.Sequential(twice, nn.Tanh(), twice), nn.Tanh)
    h = torch.randn(2, 4)
    torch.testing.assert_close(decoder(h), torch.tanh(h @ twice.weight) @ twice.weight)


def test_tied_decoder_mirrors_only_linear_layers():
    decoder = tied_decoder(mlp((7,), [6, 5], 3, dropout=0.2), nn.ReLU, nn.Sigmoid)
    assert [type(step).__name__ for step in decoder] == ["_Transposed", "ReLU", "_Transposed", "ReLU", "_Transposed",
                                                         "Sigmoid"]
    assert decoder(torch.randn(2, 3)).shape == (2, 7) and "tied" in repr(decoder)


# coordinates

def test_coordinates_are_the_places_of_pixels():
    pictures = torch.rand(2, 3, 4, 5)
    placed = Coordinates()(pictures)
    assert placed.shape == (2, 5, 4, 5)
    torch.testing.assert_close(placed[:, :3], pictures)
    for row in range(4):
        for column in range(5):
            expected = torch.tensor([-1 + 2 * row / 3, -1 + 2 * column / 4])
            torch.testing.assert_close(placed[1, 3:, row, column], expected)


def test_with_coordinates_a_network_that_averages_tells_places_apart():
    high, low = torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)
    high[..., 5, 10] = low[..., 14, 10] = 1.0
    convolution = nn.Conv2d(3, 8, 1)
    tower = nn.Sequential(Coordinates(), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert (tower(high) - tower(low)).abs().max() > 1e-5
    with torch.no_grad():
        convolution.weight[:, 1:] = 0  # what is left sees what is there only
    torch.testing.assert_close(tower(high), tower(low))


@pytest.mark.parametrize("shape", [(2, 20), (2, 4, 5), (2, 1, 4, 5, 6)])
def test_coordinates_of_what_is_no_picture(shape):
    with pytest.raises(ExperimentError, match=r"Coordinates needs pictures \(n, channels, height, width\)"):
        Coordinates()(torch.zeros(shape))


# text

def text_reference(codes, tower):
    """Byte by byte: vectors, padded convolutions, batch norm and ReLU, the maximum of each filter, a linear layer."""
    vectors = tower[0].vectors.weight.detach().double().numpy()
    values = vectors[codes.numpy().astype(int)].transpose(0, 2, 1)  # (n, dim, length)
    layers = list(tower)[1:]
    while isinstance(layers[0], nn.Conv1d):
        conv, norm, _ = layers[:3]
        kernel = conv.weight.detach().double().numpy()
        half = kernel.shape[2] // 2
        padded = np.pad(values, ((0, 0), (0, 0), (half, half)))
        values = np.stack([np.einsum("ncw,ocw->no", padded[:, :, i:i + kernel.shape[2]], kernel)
                           for i in range(values.shape[2])], axis=2)
        scale = norm.weight.detach().double().numpy() / np.sqrt(norm.running_var.double().numpy() + norm.eps)
        values = (values - norm.running_mean.double().numpy()[None, :, None]) * scale[None, :, None] \
            + norm.bias.detach().double().numpy()[None, :, None]
        values = values.clip(min=0)
        layers = layers[3:]
    last = tower[-1]
    return values.max(axis=2) @ last.weight.detach().double().numpy().T + last.bias.detach().double().numpy()


@pytest.mark.parametrize(("channels", "width"), [([5], 3), ([4, 6], 5), ([], 1)])
def test_the_text_tower_is_convolutions_over_bytes(channels, width):
    torch.manual_seed(0)
    tower = text_tower((9,), channels, 3, embedding=4, width=width, dropout=0.5)
    codes = torch.tensor([[100.0, 111, 103, 0, 0, 0, 0, 0, 0], [0.0] * 9, [255.0, 1, 2, 3, 4, 5, 6, 7, 8]])
    tower.train()
    for _ in range(3):
        tower(codes)  # so that batch norm has statistics of its own
    tower.eval()
    with torch.no_grad():
        np.testing.assert_allclose(tower(codes).numpy(), text_reference(codes, tower), atol=1e-5)


def test_the_byte_zero_learns_nothing():
    tower = text_tower((4,), [3], 2, embedding=2)
    tower(torch.tensor([[0.0, 0, 5, 0], [7.0, 0, 0, 0]])).square().sum().backward()
    gradient = tower[0].vectors.weight.grad
    assert gradient[0].abs().sum() == 0 and gradient[5].abs().sum() > 0 and gradient[9].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_bytes_of_any_dtype_are_read(dtype):
    tower = text_tower((4,), [3], 2).eval()
    codes = torch.tensor([[200, 3, 0, 0]])
    assert torch.equal(tower(codes.to(dtype)), tower(codes.float()))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: text_tower((3, 4), [2], 2), "needs items of shape"), (lambda: text_tower((4,), [2], 2, width=2), "odd"),
    (lambda: text_tower((4,), [2], 2)(torch.full((2, 4), 256.0)), "needs bytes"),
    (lambda: text_tower((4,), [2], 2)(torch.full((2, 4), -1.0)), "needs bytes"),
    (lambda: text_tower((4,), [2], 2)(torch.rand(2, 4) * 0.9 + 0.05), "needs bytes"),  # such as TF-IDF
    (lambda: text_tower((4,), [2], 2)(torch.tensor([[1.0, 2.0, torch.nan, 0.0]])), "needs bytes")])
def test_what_is_no_text(make, message):
    with pytest.raises(ExperimentError, match=message):
        make()
