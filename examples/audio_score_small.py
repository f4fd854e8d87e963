"""Small convolutional towers with a CCA layer, for some hundred pairs of sheet music and sound.

Nothing of ``models/audio_score_best.py`` is given up but size: rows and columns told apart, training pairs displaced
anew in each epoch, running statistics, a ranking loss in both directions. The towers end in a dense layer over all
positions in place of their average, which learns where something is from far fewer pairs; and the ridge is large.
"""
from torch import nn

from xmodal import CCALayer, PairwiseRanking, TrainConfig, TwoTower
from xmodal.augment import RandomAffine, RandomSound
from xmodal.towers import Coordinates, conv_tower

CONFIG = TrainConfig(dim_latent=16, batch_size=50, learning_rate=3e-3, schedule="cosine", max_epochs=16, patience=16,
                     refinement_steps=0, l2=1e-5, alpha=0.05, r1=0.1, r2=0.1, gamma=0.5)


def build_model(view1_shape, view2_shape):
    def tower(channels, height, width):
        return nn.Sequential(Coordinates(), conv_tower((channels + 2, height, width), [8, 16], CONFIG.dim_latent,
                                                       convolutions=1, hidden=[]))

    (channels1, height1, width1), (channels2, height2, width2) = view1_shape, view2_shape
    sheet = nn.Sequential(RandomAffine(view1_shape, scale=0.05, shift=0.03, outside="edge"), nn.AvgPool2d(2),
                          tower(channels1, height1 // 2, width1 // 2))
    audio = nn.Sequential(RandomSound(frames=1, gain=6), nn.AvgPool2d((1, 2)),
                          tower(channels2, height2, width2 // 2))
    return TwoTower(sheet, audio, CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
