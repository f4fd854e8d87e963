"""Denoising autoencoder (Vincent et al. 2010) on Fashion-MNIST: Gaussian noise is to be taken away."""
from torch import nn

from xmodal import Autoencoders, Reconstruction, TrainConfig
from xmodal.augment import GaussianNoise
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=64, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=5, keep="last",
                     patience=5, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    tower = mlp(view1_shape, [512, 256], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.ReLU)
    decoder = mlp((CONFIG.dim_latent,), [256, 512], *view1_shape, batch_norm=False, nonlinearity=nn.ReLU)
    return Autoencoders(tower, tower, decoder, decoder, GaussianNoise(0.3), GaussianNoise(0.3))



def build_objective():
    return Reconstruction()
