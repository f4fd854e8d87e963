"""CorrNet between MNIST pictures and their labels: restores either from the other."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp

# Validation has ten queries in one direction, too few to choose an epoch by.
CONFIG = TrainConfig(dim_latent=50, batch_size=100, learning_rate=1e-3, max_epochs=10, keep="last")


def build_model(view1_shape, view2_shape):
    def decoder(shape):
        return nn.Sequential(mlp((CONFIG.dim_latent,), [300], *shape, batch_norm=False, nonlinearity=nn.ReLU),
                             nn.Sigmoid())

    return CorrNet(mlp(view1_shape, [500, 300], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.ReLU),
                   mlp(view2_shape, [], CONFIG.dim_latent), decoder(view1_shape), decoder(view2_shape), nn.Sigmoid())


def build_objective():
    return CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0.005, error="cross_entropy")
