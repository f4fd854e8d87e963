"""Linear CCA on IAPR TC-12 features."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=128, r1=1, r2=1)


def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
