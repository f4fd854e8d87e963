"""CCA layer with a pairwise ranking loss on emoji and their names."""
from torch import nn

from xmodal import CCALayer, PairwiseRanking, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=256, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=30, patience=30,
                     refinement_steps=0, l2=1e-2, decoupled=True, alpha="auto", r1=30.0, r2=30.0, gamma=0.3)


def build_model(view1_shape, view2_shape):
    def tower(shape):  # linear: there are far more features than pairs to learn from
        return nn.Sequential(nn.RMSNorm(shape, elementwise_affine=False), nn.Dropout(0.5),
                             mlp(shape, [], CONFIG.dim_latent))

    return TwoTower(tower(view1_shape), tower(view2_shape),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma, symmetric=True)
