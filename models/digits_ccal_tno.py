"""Deep CCA (trace norm objective) on the halves of handwritten digits."""
from xmodal import CCALayer, TraceNorm, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=24, batch_size=600, learning_rate=2e-3, max_epochs=120, patience=15,
                     refinement_steps=1, lr_multiplier=0.3, alpha=1.0)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [256, 128], CONFIG.dim_latent),
                    mlp(view2_shape, [256, 128], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return TraceNorm(rT=CONFIG.rT)
