"""Learned projection with a pairwise ranking loss on emoji and their names."""
from torch import nn

from xmodal import LearnedProjection, PairwiseRanking, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=128, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=30, patience=30,
                     refinement_steps=0, l2=1e-2, decoupled=True, gamma=0.3)


def build_model(view1_shape, view2_shape):
    def tower(shape):  # linear: there are far more features than pairs to learn from
        return nn.Sequential(nn.RMSNorm(shape, elementwise_affine=False), nn.Dropout(0.5),
                             mlp(shape, [], CONFIG.dim_latent))

    return TwoTower(tower(view1_shape), tower(view2_shape),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
