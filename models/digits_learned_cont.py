"""Learned projection with a pairwise ranking loss on the halves of handwritten digits."""
from xmodal import LearnedProjection, PairwiseRanking, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=24, batch_size=100, learning_rate=2e-3, max_epochs=120, patience=15,
                     refinement_steps=1, lr_multiplier=0.3, l2=1e-4, gamma=0.5)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [256, 128], CONFIG.dim_latent),
                    mlp(view2_shape, [256, 128], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
