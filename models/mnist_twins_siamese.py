"""Siamese network on MNIST twins: one tower for both pictures, the same digit near, other digits apart."""
from xmodal import ByClass, LearnedProjection, Siamese, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=32, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=8, judge="loss",
                     patience=8, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    tower = mlp(view1_shape, [500, 300], CONFIG.dim_latent)
    return TwoTower(tower, tower, LearnedProjection(CONFIG.dim_latent, shared=True))


def build_objective():
    return ByClass(Siamese(margin=1.0))
