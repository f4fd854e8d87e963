"""Multimodal autoencoder on MNIST halves: a CorrNet, its weights tied, without the correlation (Ngiam et al. 2011)."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp, tied_decoder

CONFIG = TrainConfig(dim_latent=50, batch_size=100, learning_rate=3e-2, schedule="cosine", max_epochs=15, patience=15,
                     refinement_steps=0)


def build_model(view1_shape, view2_shape):
    encoder1, encoder2 = mlp(view1_shape, [], CONFIG.dim_latent), mlp(view2_shape, [], CONFIG.dim_latent)
    return CorrNet(encoder1, encoder2, tied_decoder(encoder1, output=nn.Sigmoid),
                   tied_decoder(encoder2, output=nn.Sigmoid), nonlinearity=nn.Sigmoid())


def build_objective():
    return CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0)
