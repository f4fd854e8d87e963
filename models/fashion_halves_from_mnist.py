"""Learned projection with InfoNCE on halves of Fashion-MNIST, fine-tuned from the weights of MNIST halves."""
from xmodal import InfoNCE, LearnedProjection, Start, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=500, learning_rate=2e-3, schedule="cosine", max_epochs=12, patience=12,
                     refinement_steps=0)
# First: python run_train.py --model models/mnist_halves_infonce.py --data mnist_halves
START = Start("runs/mnist_halves_infonce", rate=0.1)


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                    mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                    LearnedProjection(CONFIG.dim_latent))


def build_objective():
    return InfoNCE()
