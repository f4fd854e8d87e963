"""Predictive sparse decomposition (Kavukcuoglu et al. 2008) on Fashion-MNIST."""
from torch import nn

from xmodal import Autoencoders, PredictiveSparse, TrainConfig
from xmodal.towers import Dictionary, Gain, mlp

CONFIG = TrainConfig(dim_latent=64, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=5, judge="loss",
                     patience=5, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    tower = nn.Sequential(mlp(view1_shape, [], CONFIG.dim_latent), nn.Tanh(), Gain(CONFIG.dim_latent))
    decoder = Dictionary(CONFIG.dim_latent, view1_shape)
    return Autoencoders(tower, tower, decoder, decoder)



def build_objective():
    return PredictiveSparse(l1=0.2)
