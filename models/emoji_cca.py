"""Linear CCA on emoji and their names; the ridge is the best of three on the validation pairs."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=512, r1=3.0, r2=3.0)


def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
