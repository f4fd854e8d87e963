"""Learned projection with InfoNCE on MNIST halves, from the towers of denoising autoencoders on: for few pairs."""
from xmodal import InfoNCE, LearnedProjection, Start, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=250, learning_rate=1e-3, schedule="cosine", max_epochs=30, patience=30,
                     refinement_steps=0)
# First: python run_train.py --model models/mnist_halves_dae.py --data mnist_halves
START = Start("runs/mnist_halves_dae")


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                    mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return InfoNCE()
