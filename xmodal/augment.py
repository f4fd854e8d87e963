"""Random changes of training items: first layers of a tower, at work in train mode only, on whole batches."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from xmodal.errors import ExperimentError


class RandomAffine(nn.Module):
    """Turns, stretches, slants and shifts each picture of a batch by amounts of its own, drawn anew each time.

    Amounts are uniform in plus or minus what the arguments say. Draws come from torch's global random state. In eval
    mode pictures pass unchanged.

    Args:
        shape: of one item, ``(height, width)`` or ``(channels, height, width)``; flat items of as many values are
            taken as such pictures, and stay flat.
        rotate: degrees.
        scale: 0.2 stretches each axis by 1/1.2 to 1/0.8.
        shear: how many pixels to the side per pixel of height.
        shift: fraction of height and of width.
        outside: what moves in from there: black (0), or the picture's edge, repeated.
    """

    def __init__(self, shape: Sequence[int], rotate: float = 0.0, scale: float = 0.0, shear: float = 0.0,
                 shift: float = 0.0, outside: Literal["black", "edge"] = "black") -> None:
        super().__init__()
        if outside not in ("black", "edge"):
            raise ExperimentError(f"RandomAffine: outside must be 'black' or 'edge', got {outside!r}")
        if len(shape) not in (2, 3):
            raise ExperimentError(f"RandomAffine needs pictures of shape (height, width) or (channels, height, width), "
                                  f"got {tuple(shape)}")
        if not (0 <= scale < 1 and all(0 <= amount < float("inf") for amount in (rotate, shear, shift))):
            raise ExperimentError("RandomAffine: scale must be in [0, 1) and rotate, shear and shift not negative, "
                                  f"got {scale}, {rotate}, {shear} and {shift}")
        self.shape = (1, *shape) if len(shape) == 2 else tuple(shape)
        self.rotate, self.scale, self.shear, self.shift, self.outside = rotate, scale, shear, shift, outside

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (n, *shape) or (n, values) to others of the same shape."""
        if not self.training or len(pictures) == 0:
            return pictures
        with torch.autocast(pictures.device.type, enabled=False):  # places need more digits than bfloat16 has
            images = pictures.reshape(len(pictures), *self.shape).to(
                torch.promote_types(pictures.dtype, torch.float32))
            grid = affine_grid(self._matrices(len(images), images), list(images.shape), align_corners=False)
            padding = "zeros" if self.outside == "black" else "border"
            changed = grid_sample(images, grid, padding_mode=padding, align_corners=False)
            return changed.reshape(pictures.shape).to(pictures.dtype)

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
                f"shift={self.shift:g}, outside={self.outside}")


class Masking(nn.Module):
    """Sets each value of an item to zero with some probability, anew each time: masking noise (Vincent et al. 2010,
    JMLR 11). In eval mode items pass unchanged; unlike dropout it scales nothing.

    Args:
        probability: of a value.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ExperimentError(f"Masking: probability must be from 0 to below 1, got {probability}")
        self.probability = probability

    def forward(self, items: Tensor) -> Tensor:
        """(n, *shape) to (n, *shape)."""
        if not self.training:
            return items
        return items * (torch.rand(items.shape, device=items.device) >= self.probability)

    def extra_repr(self) -> str:
        return f"{self.probability:g}"


class GaussianNoise(nn.Module):
    """Adds normal noise to each value of an item, anew each time; in eval mode items pass unchanged.

    Args:
        deviation: standard deviation of the noise, in units of the values.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        if not 0 <= deviation < float("inf"):
            raise ExperimentError(f"GaussianNoise: deviation must not be negative, got {deviation}")
        self.deviation = deviation

    def forward(self, items: Tensor) -> Tensor:
        """(n, *shape) to (n, *shape)."""
        return items + self.deviation * torch.randn_like(items) if self.training else items

    def extra_repr(self) -> str:
        return f"{self.deviation:g}"


class RandomSound(nn.Module):
    """Moves each spectrogram of a batch in time and makes it louder or softer, by amounts of its own, drawn anew each
    time.

    Spectrograms hold ``log10(1 + x)`` of magnitudes ``x``, frames last; a gain of ``g`` gives ``log10(1 + g·x)``. Draws
    come from torch's global random state. In eval mode spectrograms pass unchanged.

    Args:
        frames: by how many frames to either side, all equally likely; the frame at the edge is repeated.
        gain: decibels to either side, uniform.
    """

    def __init__(self, frames: int = 0, gain: float = 0.0) -> None:
        super().__init__()
        if not (isinstance(frames, int) and frames >= 0 and 0 <= gain < float("inf")):
            raise ExperimentError("RandomSound: frames must be a whole number and gain a number, neither negative; "
                                  f"got {frames!r} and {gain!r}")
        self.frames, self.gain = frames, gain

    def forward(self, sounds: Tensor) -> Tensor:
        """Spectrograms (n, ..., frames) to others of the same shape."""
        if not self.training:
            return sounds
        n, length = len(sounds), sounds.shape[-1]
        late = torch.randint(-self.frames, self.frames + 1, (n, 1), device=sounds.device)
        source = (torch.arange(length, device=sounds.device) - late).clamp(0, length - 1)
        moved = sounds.gather(-1, source.view(n, *[1] * (sounds.ndim - 2), length).expand_as(sounds))
        decibels = torch.empty(n, device=sounds.device).uniform_(-self.gain, self.gain)
        factor = (10 ** (decibels / 20)).view(n, *[1] * (sounds.ndim - 1))
        logs = moved.float().clamp(min=0) * math.log(10)  # ln(1 + x); all by logarithms, so that nothing overflows
        louder = torch.logaddexp(logs + torch.log(-torch.expm1(-logs)) + factor.log(), torch.zeros(()).to(logs))
        return (louder / math.log(10)).to(sounds.dtype)

    def extra_repr(self) -> str:
        return f"frames={self.frames}, gain={self.gain:g}"
