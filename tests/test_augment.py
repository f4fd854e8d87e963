"""RandomAffine against SciPy's affine transform, RandomSound against its formula, and both by their edges."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from xmodal.augment import RandomAffine, RandomSound
from xmodal.errors import ExperimentError


def pictures(n: int, *shape: int) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def by_scipy(picture: np.ndarray, matrix: np.ndarray, outside: str = "grid-constant") -> np.ndarray:
    """The picture at places given by (2, 3) in axes from -1 to 1, by SciPy in pixels; order of SciPy's axes: y, x."""
    h, w = picture.shape
    to_unit = np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])   # centres of pixels
    pixels = np.linalg.inv(to_unit) @ np.vstack([matrix, [0, 0, 1]]) @ to_unit
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    return ndimage.affine_transform(picture, swap @ pixels @ swap, order=1, mode=outside)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (8, 8)])
def test_is_scipys_affine_transform(shape):
    layer, batch = RandomAffine(shape, rotate=30, scale=0.3, shear=0.3, shift=0.2), pictures(5, *shape).double()
    torch.manual_seed(3)
    changed = layer(batch)
    torch.manual_seed(3)
    matrices = layer._matrices(5, batch)
    for before, after, matrix in zip(batch, changed, matrices, strict=True):
        np.testing.assert_allclose(after, by_scipy(before.numpy(), matrix.numpy()), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(28, 14), (10, 20), (9, 9)])
def test_turning_keeps_distances_in_pixels(height, width):
    layer = RandomAffine((height, width), rotate=45)
    matrix = layer._matrices(4, pictures(1, 1, 1))[:, :, :2].double()
    to_pixels = torch.diag(torch.tensor([width / 2, height / 2], dtype=torch.float64))
    turns = to_pixels @ matrix @ torch.linalg.inv(to_pixels)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(2, dtype=torch.float64).expand(4, 2, 2), atol=1e-6, rtol=0)
    assert (turns[:, 0, 0] >= math.cos(math.radians(45)) - 1e-6).all()


@pytest.mark.parametrize(("end", "columns"), [(-1, 10), (1, 6)])     # 8 columns, stretched by 1/0.8 and 1/1.2
def test_scale_stretches_by_the_reciprocals(monkeypatch, end, columns):
    bar = torch.zeros(1, 1, 40)
    bar[:, :, 16:24] = 1.0
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(end * high))
    assert round(float(RandomAffine((1, 40), scale=0.2)(bar).sum())) in (columns, columns + 1)


def test_shift_by_whole_pixels(monkeypatch):
    layer, batch = RandomAffine((4, 5), shift=0.2), pictures(3, 4, 5)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(high))    # the most of everything
    expected = torch.zeros(3, 4, 5)
    expected[:, :, :4] = batch[:, :, 1:]                                     # 0.2 of 5 columns; 0.2 of 4 rows is 0.8
    expected = 0.2 * expected + 0.8 * torch.cat([expected[:, 1:], torch.zeros(3, 1, 5)], dim=1)
    torch.testing.assert_close(layer(batch), expected)


@pytest.mark.parametrize("given", [(20,), (4, 5), (1, 4, 5)])
def test_shape_and_dtype_stay(given):
    batch = pictures(3, *given)
    torch.manual_seed(0)
    expected = RandomAffine((4, 5), rotate=10)(batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(RandomAffine((4, 5), rotate=10)(batch), expected)    # places stay exact
    layer = RandomAffine((4, 5), rotate=10)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        out = layer(pictures(3, *given).to(dtype))
        assert out.shape == (3, *given) and out.dtype == dtype
    colours = RandomAffine((3, 4, 5), rotate=10)
    assert colours(pictures(2, 60)).shape == (2, 60)
    assert colours(pictures(0, 60)).shape == (0, 60)


def test_amounts_are_drawn_for_each_picture_and_each_time():
    layer, same = RandomAffine((8, 8), shift=0.3), pictures(1, 8, 8).expand(4, 8, 8)
    torch.manual_seed(0)
    first, second = layer(same), layer(same)
    assert len({tuple(picture.flatten().tolist()) for picture in (*first, *second)}) == 8
    torch.manual_seed(0)
    assert torch.equal(layer(same), first)


def test_eval_mode_and_amounts_of_zero_change_nothing():
    batch = pictures(3, 20)
    assert RandomAffine((4, 5), 90, 0.9, 2, 1).eval()(batch) is batch
    torch.testing.assert_close(RandomAffine((4, 5))(batch), batch)


def test_arguments():
    with pytest.raises(ExperimentError, match=r"shape \(height, width\).*got \(20,\)"):
        RandomAffine((20,))
    for wrong in ({"scale": 1.0}, {"rotate": -1}, {"shear": -0.1}, {"shift": -0.1}):
        with pytest.raises(ExperimentError, match="RandomAffine: scale must be"):
            RandomAffine((4, 5), **wrong)
    assert "rotate=20" in repr(RandomAffine((4, 5), rotate=20))


# what moves in from outside

@pytest.mark.parametrize("shape", [(12, 7), (8, 8)])
def test_the_edge_repeated_is_scipys_nearest(shape):
    layer = RandomAffine(shape, rotate=30, scale=0.3, shear=0.3, shift=0.3, outside="edge")
    batch = pictures(5, *shape).double() + 1
    torch.manual_seed(3)
    changed = layer(batch)
    torch.manual_seed(3)
    for before, after, matrix in zip(batch, changed, layer._matrices(5, batch), strict=True):
        np.testing.assert_allclose(after, by_scipy(before.numpy(), matrix.numpy(), "nearest"), atol=1e-5)
    assert changed.min() >= 1  # no black
    with pytest.raises(ExperimentError, match="RandomAffine: outside must be 'black' or 'edge', got 'white'"):
        RandomAffine(shape, outside="white")


# RandomSound

def sounds(n: int, *shape: int) -> torch.Tensor:
    return 2 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(6,), (4, 6), (1, 4, 6)])
def test_sounds_are_moved_and_made_louder_each_by_its_draw(shape, monkeypatch):
    batch, late, decibels = sounds(3, *shape), [-2, 0, 1], [6.0, -3.0, 0.0]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(late)[:, None])
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(torch.tensor(decibels)))
    changed = RandomSound(frames=2, gain=6.0)(batch)
    assert changed.shape == batch.shape
    for before, after, by, gain in zip(batch, changed, late, decibels, strict=True):
        for frame in range(6):
            magnitude = 10 ** before[..., min(max(frame - by, 0), 5)].double() - 1
            expected = torch.log10(1 + magnitude * 10 ** (gain / 20))
            torch.testing.assert_close(after[..., frame].double(), expected, atol=1e-5, rtol=1e-5)


def test_sounds_move_by_all_frames_alike_and_gains_fill_their_range():
    torch.manual_seed(0)
    ramp = torch.arange(9.0).expand(4000, 1, 9) / 4
    middle = RandomSound(frames=2)(ramp)[:, 0, 4] * 4
    assert torch.bincount(middle.round().long(), minlength=7)[2:7].tolist() == pytest.approx([800] * 5, rel=0.12)
    torch.testing.assert_close(middle, middle.round(), atol=1e-4, rtol=0)
    edges = RandomSound(frames=2)(ramp)[:, 0, [0, 8]] * 4
    assert edges[:, 0].max() <= 2.001 and edges[:, 1].min() >= 5.999  # the last frame repeated, not the first
    loud = torch.full((4000, 1, 1), math.log10(11.0))
    gains = 20 * torch.log10((10 ** RandomSound(gain=6.0)(loud).flatten() - 1) / 10)
    assert -6.001 <= gains.min() < -5.9 and 5.9 < gains.max() <= 6.001 and abs(float(gains.mean())) < 0.2


def test_sounds_in_eval_mode_and_of_no_change():
    batch = sounds(3, 1, 4, 6)
    assert RandomSound(3, 6.0).eval()(batch) is batch
    torch.testing.assert_close(RandomSound()(batch), batch)
    torch.manual_seed(1)
    first = RandomSound(2, 6.0)(batch)
    torch.manual_seed(1)
    assert torch.equal(RandomSound(2, 6.0)(batch), first) and not torch.equal(RandomSound(2, 6.0)(batch), first)
    half = RandomSound(2, 6.0)(batch.bfloat16())
    assert half.dtype == torch.bfloat16 and half.shape == batch.shape


@pytest.mark.parametrize("wrong", [{"frames": -1}, {"frames": 1.0}, {"gain": -1.0}, {"gain": math.inf},
                                   {"gain": math.nan}])
def test_arguments_of_random_sound(wrong):
    with pytest.raises(ExperimentError, match="RandomSound: frames must be a whole number and gain a number, neither"):
        RandomSound(**wrong)
    assert "frames=2, gain=6" in repr(RandomSound(2, 6.0))


def test_loud_and_negative_values_of_a_spectrogram_stay_finite():
    values = torch.tensor([[-0.5, 0.0, 1e-6, 1.0, 30.0, 200.0]])
    torch.manual_seed(0)
    changed = RandomSound(gain=6.0)(values)[0]
    assert torch.isfinite(changed).all() and (changed[:2] == 0).all()
    assert float(changed[5] - 200) == pytest.approx(float(changed[4] - 30), abs=1e-4)  # the gain, in tens of powers
