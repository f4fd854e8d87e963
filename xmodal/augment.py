"""Random changes of training pictures: first layers of a tower, at work in train mode only, on whole batches."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from xmodal.errors import ExperimentError


class RandomAffine(nn.Module):
    """Turns, stretches, slants and shifts each picture of a batch by amounts of its own, drawn anew each time.

    Amounts are uniform in plus or minus what the arguments say; what moves in from outside is black (0). Draws come
    from torch's global random state. In eval mode pictures pass unchanged.

    Args:
        shape: of one item, ``(height, width)`` or ``(channels, height, width)``; flat items of as many values are
            taken as such pictures, and stay flat.
        rotate: degrees.
        scale: 0.2 stretches each axis by 1/1.2 to 1/0.8.
        shear: how many pixels to the side per pixel of height.
        shift: fraction of height and of width.
    """

    def __init__(self, shape: Sequence[int], rotate: float = 0.0, scale: float = 0.0, shear: float = 0.0,
                 shift: float = 0.0) -> None:
        super().__init__()
        if len(shape) not in (2, 3):
            raise ExperimentError(f"RandomAffine needs pictures of shape (height, width) or (channels, height, width), "
                                  f"got {tuple(shape)}")
        if not (0 <= scale < 1 and all(0 <= amount < float("inf") for amount in (rotate, shear, shift))):
            raise ExperimentError("RandomAffine: scale must be in [0, 1) and rotate, shear and shift not negative, "
                                  f"got {scale}, {rotate}, {shear} and {shift}")
        self.shape = (1, *shape) if len(shape) == 2 else tuple(shape)
        self.rotate, self.scale, self.shear, self.shift = rotate, scale, shear, shift

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (n, *shape) or (n, values) to others of the same shape."""
        if not self.training:
            return pictures
        with torch.autocast(pictures.device.type, enabled=False):  # places need more digits than bfloat16 has
            images = pictures.reshape(len(pictures), *self.shape).to(
                torch.promote_types(pictures.dtype, torch.float32))
            grid = affine_grid(self._matrices(len(images), images), list(images.shape), align_corners=False)
            return grid_sample(images, grid, align_corners=False).reshape(pictures.shape).to(pictures.dtype)

    def _matrices(self, n: int, like: Tensor) -> Tensor:
        """(n, 2, 3) maps from places in the result to places in the picture, where both axes go from -1 to 1."""
        def amounts(most: float) -> Tensor:
            return torch.empty(n, device=like.device).uniform_(-most, most)

        angle = torch.deg2rad(amounts(self.rotate))
        wide, high = 1 + amounts(self.scale), 1 + amounts(self.scale)
        slant, right, down = amounts(self.shear), amounts(2 * self.shift), amounts(2 * self.shift)
        ratio = self.shape[1] / self.shape[2]  # of the axes' units: angles are those of square pixels
        cos, sin = angle.cos(), angle.sin()
        rows = [torch.stack([wide * cos, wide * ratio * (slant * cos - sin), right], dim=1),
                torch.stack([high * sin / ratio, high * (slant * sin + cos), down], dim=1)]
        return torch.stack(rows, dim=1).to(like.dtype)

    def extra_repr(self) -> str:
        return (f"{self.shape}, rotate={self.rotate:g}, scale={self.scale:g}, shear={self.shear:g}, "
                f"shift={self.shift:g}")
