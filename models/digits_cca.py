"""Linear CCA on digit halves (Hotelling 1936)."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=24, r1=1e-3, r2=1e-3)


def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
