"""VICReg (Bardes et al. 2022) on MNIST halves."""
from xmodal import LearnedProjection, TrainConfig, TwoTower, VICReg
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=1000, learning_rate=2e-3, schedule="cosine", max_epochs=20, patience=20,
                     refinement_steps=0)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                    mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return VICReg()
