"""The best transfer between MNIST halves: convolutional towers on jittered halves, InfoNCE, CCA readout."""
from torch import nn

from xmodal import CCAReadout, InfoNCE, LengthNorm, TrainConfig, TwoTower
from xmodal.augment import RandomAffine
from xmodal.towers import conv_tower

CONFIG = TrainConfig(dim_latent=50, batch_size=500, learning_rate=2e-3, schedule="cosine", max_epochs=10,
                     patience=10, refinement_steps=0, l2=1e-3, decoupled=True, precision="bf16")
HALF = (1, 28, 14)


def build_model(view1_shape, view2_shape):
    def tower():  # each half is jittered on its own: what the jitter changes is not worth knowing
        return nn.Sequential(RandomAffine(HALF, rotate=20, scale=0.2, shear=0.3, shift=0.1), nn.Unflatten(1, HALF),
                             conv_tower(HALF, [16, 32, 64], CONFIG.dim_latent, nonlinearity=nn.ReLU, hidden=[256]))

    return TwoTower(tower(), tower(), CCAReadout(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, power=2), LengthNorm())


def build_objective():
    return InfoNCE(temperature=0.1)
