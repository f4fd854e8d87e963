"""Learned projection with a pairwise ranking loss on MNIST halves."""
from xmodal import LearnedProjection, PairwiseRanking, Range, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=1000, learning_rate=2e-3, max_epochs=50, patience=3,
                     refinement_steps=2, lr_multiplier=0.2, gamma=0.5)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                    mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)


# What run_tune.py chooses from:
SEARCH = {"learning_rate": Range(3e-4, 1e-2, log=True), "batch_size": [250, 500, 1000, 2000],
          "gamma": Range(0.1, 1.0), "l2": Range(1e-7, 1e-3, log=True)}
