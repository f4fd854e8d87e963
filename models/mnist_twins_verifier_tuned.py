"""A network that judges pairs of MNIST twins, and the siamese network below it, trained end to end.

Needs runs/mnist_twins_siamese, which run_train.py makes of models/mnist_twins_siamese.py.
"""
from xmodal import ByClass, LearnedProjection, MatchOrNot, Start, TrainConfig, TwoTower, Verifier
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=32, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=6, judge="loss",
                     patience=6, refinement_steps=0)
START = Start("runs/mnist_twins_siamese", rate=0.1, into="base")


def build_model(view1_shape, view2_shape):
    tower = mlp(view1_shape, [500, 300], CONFIG.dim_latent)
    return Verifier(TwoTower(tower, tower, LearnedProjection(CONFIG.dim_latent, shared=True)))


def build_objective():
    return ByClass(MatchOrNot())
