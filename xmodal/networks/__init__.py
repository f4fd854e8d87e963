"""Models: two towers and a head, or a two-view autoencoder, with one view embeddable without the other."""
from xmodal.networks.corrnet import CorrNet
from xmodal.networks.modes import compiled_towers, evaluating
from xmodal.networks.two_tower import TwoTower

#: What trainer and evaluator take. A model of a user's own needs ``forward``, ``embed_view1``, ``embed_view2`` and
#: ``refit`` as these have them; it need not inherit anything but ``nn.Module``.
Model = TwoTower | CorrNet

__all__ = ["CorrNet", "Model", "TwoTower", "compiled_towers", "evaluating"]
