"""The rows of the MNIST-halves study: how each is trained, and what was published for it."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from xmodal import PLS, CCALayer, CCAReadout, CorrNetObjective, Identity, KernelCCA, LengthNorm, TwoTower
from xmodal.augment import RandomAffine
from xmodal.towers import conv_tower, mlp

PAPER = "Chandar et al. 2015"
KERAS = "Bhatt 2017"  # the Keras program in the repository GauravBh1010tt/DeepLearn, its README and article
RAW = "grey values, linear SVM"
CLASSIFIER = "deep classifier, trained with the labels of 50,000 halves"
BEST = "`mnist_halves_best`"
DIM = 50
HALF = (1, 28, 14)


@dataclass(frozen=True)
class Row:
    """One method. ``published``: sum of correlations, accuracy left to right, right to left, in percent."""

    name: str
    model: str | None = None  #: file in models/; None for what no model file trains
    published: tuple[float | None, float, float] | None = None
    source: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    build_model: Callable[..., Any] | None = None  #: in place of the model file's
    build_objective: Callable[[], nn.Module] | None = None
    parts: dict[str, Callable[[Any], Any]] = field(default_factory=dict)  #: other rows, from the same trained network


def dcca(*hidden: int) -> Callable[..., nn.Module]:
    def build(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> nn.Module:
        return TwoTower(mlp(shape1, hidden, DIM), mlp(shape2, hidden, DIM), CCALayer(DIM))

    return build


def kcca(n_features: int, approximation: str = "fourier") -> Callable[..., KernelCCA]:
    return lambda *shapes: KernelCCA(DIM, approximation=approximation, n_features=n_features, r1=1e-5, r2=1e-5)


def best_with(tower: Callable[[tuple[int, ...]], nn.Module]) -> Callable[..., nn.Module]:
    def build(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> nn.Module:
        return TwoTower(tower(shape1), tower(shape2), CCAReadout(DIM, power=2), LengthNorm())

    return build


def jittered_mlp(shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(RandomAffine(HALF, rotate=20, scale=0.2, shear=0.3, shift=0.1), mlp(shape, [500, 300], DIM))


def still_convolutions(shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, HALF), conv_tower(HALF, [16, 32, 64], DIM, nonlinearity=nn.ReLU, hidden=[256]))


class WithoutReadout:
    """A TwoTower's own tower outputs, at length one."""

    def __init__(self, model: TwoTower) -> None:
        self.tower1, self.tower2, self.norm = model.tower1.eval(), model.tower2.eval(), LengthNorm()

    def embed_view1(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.norm(self.tower1(x).float())

    def embed_view2(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self.norm(self.tower2(y).float())


def corrnet(both: float, single: float, correlation: float) -> Callable[[], nn.Module]:
    return lambda: CorrNetObjective(both, single, single, correlation)


KERAS_ROW = Row("CorrNet-500-300-50, 2017 settings", "mnist_halves_corrnet_2017", (49.13, 88.79, 89.64), KERAS)
TABLES: dict[str, list[Row]] = {
    "published": [
        Row("linear CCA", "mnist_halves_cca", (17.05, 65.73, 65.44), PAPER),
        Row("KCCA", "mnist_halves_kcca", (30.58, 68.1, 75.71), PAPER),
        Row("MAE", "mnist_halves_mae", (24.40, 64.14, 68.88), PAPER),
        Row("DCCA-500-50", "mnist_halves_ccal_tno", (33.00, 66.41, 64.65), PAPER, build_model=dcca(500)),
        Row("DCCA-500-500-50", "mnist_halves_ccal_tno", (33.77, 70.06, 72.43), PAPER, build_model=dcca(500, 500)),
        Row("CorrNet", "mnist_halves_corrnet", (45.47, 77.05, 78.81), PAPER),
        Row("CorrNet-500-50", "mnist_halves_corrnet_500_50", (47.21, 77.68, 77.95), PAPER),
        Row("CorrNet-500-300-50", "mnist_halves_corrnet_500_300_50", (45.63, 80.46, 80.47), PAPER),
        KERAS_ROW,
    ],
    "ablation": [
        Row("single-view terms", KERAS_ROW.model, (None, 84.60, 84.95), KERAS, build_objective=corrnet(0, 1, 0)),
        Row("both-view and single-view terms", KERAS_ROW.model, (None, 74.26, 75.84), KERAS,
            build_objective=corrnet(1, 1, 0)),
        KERAS_ROW,
        Row("all four", KERAS_ROW.model, (None, 86.51, 87.43), KERAS, build_objective=corrnet(1, 1, 0.02)),
    ],
    "closed form": [
        Row("nothing: `Identity`", "mnist_halves_cca", build_model=lambda *shapes: Identity()),
        Row("`PLS`", "mnist_halves_cca", build_model=lambda *shapes: PLS(DIM)),
        Row("linear CCA", "mnist_halves_cca"),
        *(Row(f"KCCA, {n:,} random features", "mnist_halves_kcca", build_model=kcca(n)) for n in (1000, 2000)),
        Row("KCCA", "mnist_halves_kcca"),
        Row("KCCA, 4,000 landmarks", "mnist_halves_kcca", build_model=kcca(4000, "nystroem")),
    ],
    "best": [
        Row("CCA layer, trace norm, `ccal_tno`", "mnist_halves_ccal_tno"),
        Row("learned projection, ranking loss, `learned_cont`", "mnist_halves_learned_cont"),
        Row("CCA layer, ranking loss, `ccal_cont`", "mnist_halves_ccal_cont"),
        replace(KERAS_ROW, published=None),
        Row(BEST, "mnist_halves_best", parts={"— without the readout": WithoutReadout}),
        Row("— without the jitter", "mnist_halves_best", build_model=best_with(still_convolutions)),
        Row("— perceptrons 500-300-50 for convolutions", "mnist_halves_best", build_model=best_with(jittered_mlp)),
    ],
}
#: How well a half can be classified without a detour by the other one.
SINGLE_VIEW = (RAW, KERAS_ROW.name, BEST, CLASSIFIER)
