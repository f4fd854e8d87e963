"""RandomAffine against SciPy's affine transform, and by its edges."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from xmodal.augment import RandomAffine
from xmodal.errors import ExperimentError


def pictures(n: int, *shape: int) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def by_scipy(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture at places given by (2, 3) in axes from -1 to 1, by SciPy in pixels; order of SciPy's axes: y, x."""
    h, w = picture.shape
    to_unit = np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])   # centres of pixels
    pixels = np.linalg.inv(to_unit) @ np.vstack([matrix, [0, 0, 1]]) @ to_unit
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    return ndimage.affine_transform(picture, swap @ pixels @ swap, order=1, mode="grid-constant")


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
