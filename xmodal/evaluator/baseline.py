"""What a deep model has to beat."""
from __future__ import annotations

import warnings

import torch

from xmodal.data import PairedData
from xmodal.linear import LinearCCA


def linear_cca_baseline(data: PairedData, dim: int) -> LinearCCA:
    """Linear CCA of the raw views, fitted on the training pairs: what a deep model has to beat."""
    width = min(dim, *(torch.Size(shape).numel() for shape in (data.view1_shape, data.view2_shape)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of columns that a ridge is there for; who trains it is told
        return LinearCCA(width).fit_split(data.train)
