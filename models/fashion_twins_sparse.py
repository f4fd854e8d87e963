"""Sparse autoencoder (Ng 2011) on Fashion-MNIST: each unit is active for a tenth of the pictures."""
from torch import nn

from xmodal import Autoencoders, Reconstruction, TrainConfig
from xmodal.towers import mlp, tied_decoder

CONFIG = TrainConfig(dim_latent=64, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=5, judge="loss",
                     patience=5, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    perceptron = mlp(view1_shape, [512, 256], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.ReLU)
    tower = nn.Sequential(perceptron, nn.Sigmoid())  # codes within bounds, and tied: a penalty can't be scaled away
    decoder = tied_decoder(perceptron, nn.ReLU)
    return Autoencoders(tower, tower, decoder, decoder)



def build_objective():
    return Reconstruction(sparse=1e-3, target=0.1)
