"""Kernel CCA, RBF kernels by random Fourier features, on IAPR TC-12 features."""
from xmodal import KernelCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=128, r1=1e-3, r2=1e-3)


def build_model(view1_shape, view2_shape):
    return KernelCCA(CONFIG.dim_latent, kernel="rbf", approximation="fourier", n_features=4000,
                     r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
