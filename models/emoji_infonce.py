"""Learned projection with InfoNCE on emoji and their names."""
from torch import nn

from xmodal import InfoNCE, LearnedProjection, Range, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=256, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=30, patience=30,
                     refinement_steps=0, l2=1e-2, decoupled=True)


def build_model(view1_shape, view2_shape):
    def tower(shape):  # linear: there are far more features than pairs to learn from
        return nn.Sequential(nn.RMSNorm(shape, elementwise_affine=False), nn.Dropout(0.5),
                             mlp(shape, [], CONFIG.dim_latent))

    return TwoTower(tower(view1_shape), tower(view2_shape),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return InfoNCE(temperature=0.05)


# What run_tune.py chooses from:
SEARCH = {"learning_rate": Range(1e-4, 1e-2, log=True), "dim_latent": [128, 256, 512], "batch_size": [250, 500, 1000],
          "l2": Range(1e-4, 1e-1, log=True)}
