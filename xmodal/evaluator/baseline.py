"""What a deep model has to beat."""
from __future__ import annotations

import warnings

from xmodal.data import PairedData
from xmodal.linear import LinearCCA
from xmodal.linear.cca import sides


def linear_cca_baseline(data: PairedData, dim: int) -> LinearCCA:
    """Linear CCA of the raw views, fitted on the training pairs: what a deep model has to beat."""
    cca = LinearCCA()
    cca.set_params(n_components=min(dim, *sides(data.train, cca.unpaired_weight)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of columns that a ridge is there for; who trains it is told
        return cca.fit_split(data.train)
