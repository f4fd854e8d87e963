"""Emoji and their names from scratch: small convolutional towers read jittered pixels and characters."""
from torch import nn

from xmodal import CCAReadout, InfoNCE, LengthNorm, TrainConfig, TwoTower
from xmodal.augment import RandomAffine
from xmodal.towers import conv_tower, text_tower

CONFIG = TrainConfig(dim_latent=128, batch_size=250, learning_rate=2e-3, schedule="cosine", max_epochs=8, patience=8,
                     refinement_steps=0, l2=1e-2, decoupled=True, precision="bf16")
VIEWS = ("pixels", "codes")


def build_model(view1_shape, view2_shape):
    channels, height, width = view1_shape
    small = (channels, height // 2, width // 2)
    image = nn.Sequential(nn.AvgPool2d(2),
                          RandomAffine(small, rotate=10, scale=0.15, shear=0.1, shift=0.08, outside="edge"),
                          conv_tower(small, [32, 64, 128], CONFIG.dim_latent, nonlinearity=nn.ReLU, hidden=[256],
                                     dropout=0.2))
    return TwoTower(image, text_tower(view2_shape, [128, 256], CONFIG.dim_latent, dropout=0.2),
                    CCAReadout(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2), LengthNorm())


def build_objective():
    return InfoNCE(temperature=0.1)
