"""CorrNet 500-300-50 on MNIST halves with the settings of the 2017 reimplementation (Bhatt, DeepLearn)."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=100, learning_rate=1e-3, optimizer="rmsprop", max_epochs=40,
                     keep="last")


def build_model(view1_shape, view2_shape):
    def encoder(shape):
        return nn.Sequential(mlp(shape, [500, 300], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.Sigmoid),
                             nn.Sigmoid())

    return CorrNet(encoder(view1_shape), encoder(view2_shape),
                   nn.Linear(CONFIG.dim_latent, *view1_shape), nn.Linear(CONFIG.dim_latent, *view2_shape))


def build_objective():
    return CorrNetObjective(both=0, from_view1=1, from_view2=1, correlation=0.02)
