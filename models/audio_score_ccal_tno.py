"""Deep CCA with the trace norm objective on sheet music and audio.

Published settings (Dorfer et al. 2018) on pairs made by ``python prepare_data.py audio_score``."""
from torch import nn

from xmodal import CCALayer, TraceNorm, TrainConfig, TwoTower
from xmodal.augment import RandomAffine, RandomSound
from xmodal.towers import conv_tower

CONFIG = TrainConfig(dim_latent=32, batch_size=100, learning_rate=2e-3, max_epochs=1000, patience=30,
                     refinement_steps=3, lr_multiplier=0.5, l2=1e-5, alpha=1.0, precision="bf16")
FILTERS = [24, 48, 96, 96]


def build_model(view1_shape, view2_shape):
    _, height, width = view1_shape
    sheet = nn.Sequential(RandomAffine(view1_shape, scale=0.05, shift=0.03, outside="edge"), nn.AvgPool2d(2),
                          conv_tower((1, height // 2, width // 2), FILTERS, CONFIG.dim_latent))
    audio = nn.Sequential(RandomSound(frames=1, gain=6), conv_tower(view2_shape, FILTERS, CONFIG.dim_latent))
    return TwoTower(sheet, audio, CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return TraceNorm(rT=CONFIG.rT)
