"""CorrNet with one layer and tied weights on MNIST halves (Chandar et al. 2015)."""
from torch import nn

from xmodal import CorrNet, CorrNetObjective, TrainConfig
from xmodal.towers import mlp, tied_decoder

CONFIG = TrainConfig(dim_latent=50, batch_size=100, learning_rate=1e-3, optimizer="rmsprop", max_epochs=50,
                     patience=50, refinement_steps=0)


def build_model(view1_shape, view2_shape):
    encoder1, encoder2 = mlp(view1_shape, [], CONFIG.dim_latent), mlp(view2_shape, [], CONFIG.dim_latent)
    return CorrNet(encoder1, encoder2, tied_decoder(encoder1, output=nn.Sigmoid),
                   tied_decoder(encoder2, output=nn.Sigmoid), nonlinearity=nn.Sigmoid())


def build_objective():
    return CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=2 / 392)  # 2 for errors summed over values
