"""Learned projection with a pairwise ranking loss on IAPR TC-12 features (Dorfer et al. 2018)."""
from xmodal import LearnedProjection, PairwiseRanking, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=128, batch_size=1000, learning_rate=1e-3, max_epochs=1000, patience=15,
                     refinement_steps=3, lr_multiplier=0.1, l2=1e-4, r1=1e-3, r2=1e-3, rT=1e-3, gamma=0.5)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [], CONFIG.dim_latent),
                    mlp(view2_shape, [1024, 1024], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
