"""CorrNet on emoji and their names, or on their names in two languages (Chandar et al. 2015)."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=256, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=60, patience=60,
                     refinement_steps=0, l2=1e-2, decoupled=True)


def build_model(view1_shape, view2_shape):
    def encoder(shape):
        return nn.Sequential(nn.RMSNorm(shape, elementwise_affine=False), nn.Dropout(0.5),
                             mlp(shape, [], CONFIG.dim_latent))

    return CorrNet(encoder(view1_shape), encoder(view2_shape), nn.Linear(CONFIG.dim_latent, *view1_shape),
                   nn.Linear(CONFIG.dim_latent, *view2_shape))


def build_objective():
    return CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0.02)
