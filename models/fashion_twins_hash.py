"""Semantic hashing on Fashion-MNIST (Salakhutdinov and Hinton 2009): an autoencoder whose code is 64 bits."""
from torch import nn

from xmodal import Autoencoders, Bits, Reconstruction, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=64, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=5, judge="loss",
                     patience=5, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    tower = nn.Sequential(mlp(view1_shape, [512, 256], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.ReLU),
                          nn.BatchNorm1d(CONFIG.dim_latent, affine=False),  # a bit is set for half of the pictures
                          Bits(noise=0.5))
    decoder = mlp((CONFIG.dim_latent,), [256, 512], *view1_shape, batch_norm=False, nonlinearity=nn.ReLU)
    return Autoencoders(tower, tower, decoder, decoder)


def build_objective():
    return Reconstruction()
