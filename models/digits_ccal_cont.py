"""CCA layer with a pairwise ranking loss on the halves of handwritten digits."""
from xmodal import CCALayer, PairwiseRanking, Range, TraceNorm, TrainConfig, TwoTower, WeightedSum
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=24, batch_size=100, learning_rate=2e-3, max_epochs=120, patience=15,
                     refinement_steps=1, lr_multiplier=0.3, l2=1e-4, alpha="auto", gamma=0.5, weight_tno=0.0)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [256, 128], CONFIG.dim_latent),
                    mlp(view2_shape, [256, 128], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return WeightedSum([(CONFIG.weight_tno, TraceNorm(rT=CONFIG.rT)),
                        (1 - CONFIG.weight_tno, PairwiseRanking(margin=CONFIG.gamma))])


# What run_tune.py chooses from:
SEARCH = {"learning_rate": Range(3e-4, 1e-2, log=True), "dim_latent": [16, 24, 32], "batch_size": [50, 100, 200, 400],
          "gamma": Range(0.2, 1.0), "r1": Range(1e-4, 1e-1, log=True), "r2": Range(1e-4, 1e-1, log=True),
          "l2": Range(1e-6, 1e-2, log=True)}
