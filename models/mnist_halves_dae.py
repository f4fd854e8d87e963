"""Denoising autoencoders of both halves of MNIST (Vincent et al. 2010), which mnist_halves_from_dae.py starts from."""
from xmodal import Autoencoders, Reconstruction, TrainConfig
from xmodal.augment import Masking
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=50, batch_size=500, learning_rate=2e-3, schedule="cosine", max_epochs=8, keep="last",
                     patience=8, refinement_steps=0)
# The last epoch is kept: the validation loss is of whole pictures, and towers have learned from masked ones.


def build_model(view1_shape, view2_shape):
    def tower(shape):
        return mlp(shape, [500, 300], CONFIG.dim_latent)

    def decoder(shape):
        return mlp((CONFIG.dim_latent,), [300, 500], *shape)

    return Autoencoders(tower(view1_shape), tower(view2_shape), decoder(view1_shape), decoder(view2_shape),
                        Masking(0.3), Masking(0.3))


def build_objective():
    return Reconstruction()
