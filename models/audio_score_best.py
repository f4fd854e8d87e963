"""The best retrieval between sheet music and audio: coordinates, running statistics, a symmetric ranking loss."""
from torch import nn

from xmodal import CCALayer, PairwiseRanking, TrainConfig, TwoTower
from xmodal.augment import RandomAffine, RandomSound
from xmodal.towers import Coordinates, conv_tower

CONFIG = TrainConfig(dim_latent=32, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=24, patience=24,
                     refinement_steps=0, l2=1e-5, alpha=0.1, r1=1e-5, r2=1e-5, gamma=0.5, precision="bf16")


def build_model(view1_shape, view2_shape):
    def tower(channels, height, width):  # on rows and columns that are told apart
        return nn.Sequential(Coordinates(), conv_tower((channels + 2, height, width), [24, 48, 96, 96],
                                                       CONFIG.dim_latent, convolutions=[1, 2, 2, 2]))

    (channels1, height1, width1), shape2 = view1_shape, view2_shape
    sheet = nn.Sequential(RandomAffine(view1_shape, scale=0.05, shift=0.03, outside="edge"), nn.AvgPool2d(2),
                          tower(channels1, height1 // 2, width1 // 2))
    return TwoTower(sheet, nn.Sequential(RandomSound(frames=1, gain=6), tower(*shape2)),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
