"""Variational autoencoder (Kingma and Welling 2014) of single pictures of Fashion-MNIST."""
from torch import nn

from xmodal import EvidenceBound, TrainConfig, VariationalAutoencoder
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=32, batch_size=100, learning_rate=1e-3, schedule="cosine", max_epochs=5, judge="loss",
                     patience=5, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    encoder = mlp(view1_shape, [512, 256], 2 * CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.ReLU)
    decoder = mlp((CONFIG.dim_latent,), [256, 512], *view1_shape, batch_norm=False, nonlinearity=nn.ReLU)
    return VariationalAutoencoder(CONFIG.dim_latent, encoder, encoder, decoder, decoder, experts="separate")



def build_objective():
    return EvidenceBound(variance=0.05)
