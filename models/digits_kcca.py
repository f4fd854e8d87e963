"""Exact kernel CCA, RBF kernels, on digit halves (Bach and Jordan 2002; Hardoon et al. 2004)."""
from xmodal import KernelCCA, Range, TrainConfig

CONFIG = TrainConfig(dim_latent=24, r1=3e-4, r2=3e-4)


def build_model(view1_shape, view2_shape):
    return KernelCCA(CONFIG.dim_latent, kernel="rbf", r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form

# What run_tune.py chooses from:
SEARCH = {"dim_latent": Range(8, 64), "r1": Range(1e-6, 1e-2, log=True),
          "r2": Range(1e-6, 1e-2, log=True)}
