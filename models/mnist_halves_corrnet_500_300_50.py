"""CorrNet with encoders 500-300-50 on MNIST halves (Chandar et al. 2015)."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=20, patience=20,
                     refinement_steps=0)


def build_model(view1_shape, view2_shape):
    def encoder(shape):
        return nn.Sequential(mlp(shape, [500, 300], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.Sigmoid),
                             nn.Sigmoid())

    return CorrNet(encoder(view1_shape), encoder(view2_shape),
                   nn.Linear(CONFIG.dim_latent, *view1_shape), nn.Linear(CONFIG.dim_latent, *view2_shape))


def build_objective():
    return CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0.02)
