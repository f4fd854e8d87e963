"""Exact kernel CCA, RBF kernels, on digit halves (Bach and Jordan 2002; Hardoon et al. 2004)."""
from xmodal import KernelCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=24, r1=3e-4, r2=3e-4)


def build_model(view1_shape, view2_shape):
    return KernelCCA(CONFIG.dim_latent, kernel="rbf", r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
