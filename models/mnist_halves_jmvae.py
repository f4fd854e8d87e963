"""Variational autoencoder of both halves of MNIST, a joint encoder (JMVAE, Suzuki et al. 2016)."""
from torch import nn

from xmodal import EvidenceBound, TrainConfig, VariationalAutoencoder
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=20, batch_size=250, learning_rate=1e-3, schedule="cosine", max_epochs=15, judge="loss",
                     patience=15, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    def encoder(shape):  # means and logarithms of variances
        return mlp(shape, [500, 300], 2 * CONFIG.dim_latent, nonlinearity=nn.ReLU)

    def decoder(shape):
        return nn.Sequential(mlp((CONFIG.dim_latent,), [300, 500], *shape, nonlinearity=nn.ReLU), nn.Sigmoid())

    return VariationalAutoencoder(CONFIG.dim_latent, encoder(view1_shape), encoder(view2_shape),
                                  decoder(view1_shape), decoder(view2_shape), experts="joint",
                                  joint=encoder((view1_shape[0] + view2_shape[0],)))


def build_objective():
    return EvidenceBound(error="cross_entropy")
