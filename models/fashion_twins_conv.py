"""Convolutional autoencoder with unpooling by remembered switches (Zeiler et al. 2011) on Fashion-MNIST."""
from torch import nn

from xmodal import Autoencoders, Reconstruction, TrainConfig
from xmodal.towers import conv_autoencoder

CONFIG = TrainConfig(dim_latent=64, batch_size=100, learning_rate=1e-3, schedule="cosine", max_epochs=5, judge="loss",
                     patience=5, refinement_steps=0)
PICTURE = (1, 28, 28)


def build_model(view1_shape, view2_shape):
    encoder, decoder = conv_autoencoder(PICTURE, [16, 32], CONFIG.dim_latent)
    tower, back = nn.Sequential(nn.Unflatten(1, PICTURE), encoder), nn.Sequential(decoder, nn.Flatten())
    return Autoencoders(tower, tower, back, back)


def build_objective():
    return Reconstruction()
