"""A network that judges whether two MNIST halves are of one picture, on top of frozen towers.

Needs runs/mnist_halves_infonce, which run_train.py makes of models/mnist_halves_infonce.py.
"""
from xmodal import LearnedProjection, MatchOrNot, Start, TrainConfig, TwoTower, Verifier
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=6, judge="loss",
                     patience=6, refinement_steps=0)
START = Start("runs/mnist_halves_infonce", last=0, into="base")


def build_model(view1_shape, view2_shape):
    return Verifier(TwoTower(mlp(view1_shape, [500, 300], CONFIG.dim_latent),
                             mlp(view2_shape, [500, 300], CONFIG.dim_latent),
                             LearnedProjection(CONFIG.dim_latent)))


def build_objective():
    return MatchOrNot()
