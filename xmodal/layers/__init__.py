"""Heads: what maps the outputs of two towers into the shared space."""
from xmodal.layers.binary import Bits
from xmodal.layers.cca import CCALayer, auto_alpha, effective_sample_size
from xmodal.layers.embedded import Embedded, LengthNorm
from xmodal.layers.projection import LearnedProjection
from xmodal.layers.readout import CCAReadout

__all__ = ["Bits", "CCALayer", "CCAReadout", "Embedded", "LearnedProjection", "LengthNorm", "auto_alpha",
           "effective_sample_size"]
