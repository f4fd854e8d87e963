"""Two small networks and InfoNCE (van den Oord et al. 2018) on data of one's own."""
from xmodal import InfoNCE, LearnedProjection, Range, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=64, batch_size=250, learning_rate=1e-3, max_epochs=100, patience=15,
                     refinement_steps=1, lr_multiplier=0.3, l2=1e-4)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [256], CONFIG.dim_latent),
                    mlp(view2_shape, [256], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return InfoNCE(temperature=0.1)


# What run_tune.py chooses from:
SEARCH = {"learning_rate": Range(1e-4, 1e-2, log=True), "dim_latent": [32, 64, 128], "batch_size": [100, 250, 500],
          "l2": Range(1e-6, 1e-1, log=True)}
