"""CCA layer with a ranking loss on the columns of a CSV file.

A few hundred rows are few for towers: the ridge is large, and running statistics take the place of large batches.
"""
from xmodal import CCALayer, PairwiseRanking, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=16, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=60, patience=60,
                     refinement_steps=0, l2=1e-4, r1=0.1, r2=0.1, alpha="auto", gamma=0.5)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [128], CONFIG.dim_latent), mlp(view2_shape, [128], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
