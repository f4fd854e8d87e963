"""Deep autoencoder on Fashion-MNIST: codes that find similar pictures (run_eval.py --within 1)."""
from torch import nn

from xmodal import Autoencoders, Reconstruction, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=64, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=5, judge="loss",
                     patience=5, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    tower = mlp(view1_shape, [512, 256], CONFIG.dim_latent, batch_norm=False, nonlinearity=nn.ReLU)
    decoder = mlp((CONFIG.dim_latent,), [256, 512], *view1_shape, batch_norm=False, nonlinearity=nn.ReLU)
    return Autoencoders(tower, tower, decoder, decoder)  # twins are of one kind: one autoencoder for both views


def build_objective():
    return Reconstruction()
