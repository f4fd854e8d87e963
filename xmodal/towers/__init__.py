"""Towers, each the network of one view, and decoders, which go back from codes to items. A function takes the shape of
one item and returns an ``nn.Module`` that maps (n, *shape) to (n, dim); a decoder maps the other way."""
from xmodal.towers.decoders import Dictionary, Gain, conv_autoencoder, remembering, tied_decoder
from xmodal.towers.encoders import Characters, Coordinates, conv_tower, mlp, text_tower

__all__ = ["Characters", "Coordinates", "Dictionary", "Gain", "conv_autoencoder", "conv_tower", "mlp", "remembering",
           "text_tower", "tied_decoder"]
