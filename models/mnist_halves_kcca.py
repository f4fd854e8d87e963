"""Kernel CCA, RBF kernels by random Fourier features, on MNIST halves (Lopez-Paz et al. 2014)."""
from xmodal import KernelCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=50, r1=1e-5, r2=1e-5)


def build_model(view1_shape, view2_shape):
    return KernelCCA(CONFIG.dim_latent, kernel="rbf", approximation="fourier", n_features=4000,
                     r1=CONFIG.r1, r2=CONFIG.r2)


build_objective = None  # fitted in closed form
