"""Is this a pair?"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import repeated_items, require_embedded


class MatchOrNot(nn.Module):
    """Binary cross-entropy of a :class:`xmodal.networks.Verifier`'s logits: the mean over true pairs and the mean over
    others, averaged,

    ``½ [mean_i log(1 + e^(−s_ii)) + mean_ij log(1 + e^(s_ij))]``.

    Others that are known to match, since both rows hold the same item, are left out. The embeddings are trained as far
    as the base isn't frozen; a sum with a ranking objective (:class:`xmodal.objectives.WeightedSum`) looks after what
    their cosines are good for.
    """

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        require_embedded(self, embedded)
        extras = embedded.extras
        if missing := [name for name in ("match", "other", "other_rows") if name not in extras]:
            raise ExperimentError(f"MatchOrNot needs a model that judges pairs, such as Verifier; this model does not "
                                  f"(no {missing[0]!r} in extras)")
        match, other, rows = extras["match"], extras["other"], extras["other_rows"]
        counted = torch.ones_like(other)
        items = None if pairs is None else repeated_items(pairs, len(match), match.device)
        if items is not None:
            counted[(items[:, None] == items[rows]).any(dim=2)] = 0
        apart = (softplus(other) * counted).sum() / counted.sum().clamp(min=1)
        return (softplus(-match).mean() + apart) / 2
