"""Linear CCA on data of one's own (Hotelling 1936): the first thing to try, and what others have to beat."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=24, r1=1e-2, r2=1e-2)  # no more dimensions than the narrower view has


def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
