"""CCA layer with a pairwise ranking loss on MNIST halves."""
from xmodal import CCALayer, PairwiseRanking, TraceNorm, TrainConfig, TwoTower, WeightedSum
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=1000, learning_rate=2e-3, max_epochs=50, patience=3,
                     refinement_steps=2, lr_multiplier=0.2, alpha=1.0, gamma=0.5, weight_tno=0.0)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                    mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return WeightedSum([(CONFIG.weight_tno, TraceNorm(rT=CONFIG.rT)),
                        (1 - CONFIG.weight_tno, PairwiseRanking(margin=CONFIG.gamma))])
