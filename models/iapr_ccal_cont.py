"""CCA layer with a pairwise ranking loss on IAPR TC-12 features (Dorfer et al. 2018)."""
from xmodal import CCALayer, PairwiseRanking, TraceNorm, TrainConfig, TwoTower, WeightedSum
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=128, batch_size=1000, learning_rate=1e-3, max_epochs=1000, patience=15,
                     refinement_steps=3, lr_multiplier=0.1, l2=1e-4, r1=1e-3, r2=1e-3, rT=1e-3, alpha=1.0, gamma=0.5,
                     weight_tno=0.0)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [], CONFIG.dim_latent),
                    mlp(view2_shape, [1024, 1024], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return WeightedSum([(CONFIG.weight_tno, TraceNorm(rT=CONFIG.rT)),
                        (1 - CONFIG.weight_tno, PairwiseRanking(margin=CONFIG.gamma))])
