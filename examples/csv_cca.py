"""Linear CCA of the columns of a CSV file."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=10, r1=1e-3, r2=1e-3)


def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
