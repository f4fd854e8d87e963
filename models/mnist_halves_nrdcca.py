"""Noise-regularised deep CCA (He et al. 2024) on MNIST halves."""
from xmodal import CCALayer, NoiseRegularised, TraceNorm, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=1000, learning_rate=2e-3, schedule="cosine", max_epochs=20, patience=20,
                     refinement_steps=0, alpha="auto")


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                    mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha), noise=True)


def build_objective():
    return NoiseRegularised(TraceNorm(), weight=1.0)
