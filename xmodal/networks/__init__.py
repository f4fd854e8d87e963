"""Models: two towers and a head, or autoencoders, with one view embeddable without the other."""
from xmodal.networks.autoencoders import Autoencoders
from xmodal.networks.corrnet import CorrNet
from xmodal.networks.modes import compiled_towers, evaluating
from xmodal.networks.two_tower import TwoTower
from xmodal.networks.variational import VariationalAutoencoder
from xmodal.networks.verifier import Verifier

#: What trainer and evaluator take. A model of a user's own needs ``forward``, ``embed_view1``, ``embed_view2`` and
#: ``refit`` as these have them; it need not inherit anything but ``nn.Module``.
Model = TwoTower | CorrNet | Autoencoders | VariationalAutoencoder | Verifier

__all__ = ["Autoencoders", "CorrNet", "Model", "TwoTower", "VariationalAutoencoder", "Verifier", "compiled_towers",
           "evaluating"]
