"""Who belongs to view-2 items: their partners in view 1, and the partners' classes."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xmodal.data import PairSplit


def partner_labels(split: PairSplit) -> Tensor | None:
    """Labels of view-2 items: those of their partners in view 1 (the last one's, if they differ); a class of its own
    for items without a partner."""
    if split.labels is None or split.pairs is None:
        return split.labels
    partners = torch.from_numpy(partners_of(split))  # torch's own assignment to repeated rows has no last one
    return torch.where(partners >= 0, split.labels[partners.clamp(min=0)], split.labels.min() - 1)


def partners_of(split: PairSplit) -> np.ndarray:
    """View-1 partner of each view-2 item, (n2,) int64: the last one in the table, −1 where there is none."""
    partners = np.full(len(split.view2), -1, dtype=np.int64)
    table = split.pair_table().cpu().numpy()
    partners[table[:, 1]] = table[:, 0]
    return partners
