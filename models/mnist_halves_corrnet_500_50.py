"""CorrNet with encoders 500-50 on MNIST halves (Chandar et al. 2015)."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=20, patience=20,
                     refinement_steps=0)


def build_model(view1_shape, view2_shape):
    def encoder(shape):
        return mlp(shape, [500], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.Sigmoid)

    def decoder(shape):
        return nn.Sequential(nn.Linear(CONFIG.dim_latent, *shape), nn.Sigmoid())

    return CorrNet(encoder(view1_shape), encoder(view2_shape), decoder(view1_shape), decoder(view2_shape),
                   nonlinearity=nn.Sigmoid())


def build_objective():
    return CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0.02)
