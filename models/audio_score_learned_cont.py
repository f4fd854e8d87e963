"""Learned projections with a pairwise ranking loss on sheet music and audio.

Published settings (Dorfer et al. 2018) on pairs made by ``python prepare_data.py audio_score``."""
from torch import nn

from xmodal import LearnedProjection, PairwiseRanking, TrainConfig, TwoTower
from xmodal.augment import RandomAffine, RandomSound
from xmodal.towers import conv_tower

CONFIG = TrainConfig(dim_latent=32, batch_size=100, learning_rate=2e-3, max_epochs=1000, patience=30,
                     refinement_steps=3, lr_multiplier=0.5, l2=1e-5, gamma=0.5, precision="bf16")
FILTERS = [24, 48, 96, 96]


def build_model(view1_shape, view2_shape):
    _, height, width = view1_shape
    sheet = nn.Sequential(RandomAffine(view1_shape, scale=0.05, shift=0.03, outside="edge"), nn.AvgPool2d(2),
                          conv_tower((1, height // 2, width // 2), FILTERS, CONFIG.dim_latent))
    audio = nn.Sequential(RandomSound(frames=1, gain=6), conv_tower(view2_shape, FILTERS, CONFIG.dim_latent))
    return TwoTower(sheet, audio, LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
