"""Contrastive losses: each row's partner is to be told from the rest of the batch."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import Compared, InBatch, Part


class InfoNCE(InBatch):
    """Softmax cross-entropy of finding each row's partner among the batch, by cosines (van den Oord et al. 2018; in
    both directions and with a learned temperature as in CLIP, Radford et al. 2021).

    ``−1/2n Σ_i [log softmax_j(s_ij/τ)_i + log softmax_j(s_ji/τ)_i]``; rows known to match a query besides its own
    partner are left out of its softmax.

    Args:
        temperature: ``τ``, or where it starts.
        learned: whether ``1/τ`` is a parameter, trained with the model and at most 100.
    """

    MOST = 100.0  # of 1/τ, as in CLIP

    def __init__(self, temperature: float = 0.07, learned: bool = True) -> None:
        super().__init__()
        if not 1 / self.MOST <= temperature < float("inf"):
            raise ExperimentError(f"InfoNCE: temperature must be at least {1 / self.MOST}, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learned)

    @property
    def temperature(self) -> float:
        """``τ`` as it is now."""
        return math.exp(-float(self.log_scale.detach()))

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        with torch.no_grad():  # the parameter itself, as in CLIP: beyond a clamp it would get no gradient to come back
            self.log_scale.clamp_(max=math.log(self.MOST))
        return super().forward(embedded, pairs)

    def contribution(self, compared: Compared) -> Part:
        scale = self.log_scale.exp()
        scores = compared.scores * scale
        if compared.others is not None:
            scores = scores.masked_fill(compared.others, -torch.inf)
        losses = scores.logsumexp(dim=1) - compared.positives.squeeze(1) * scale
        return Part(losses.sum(), torch.as_tensor(len(losses), device=losses.device))

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:.3g}, learned={self.log_scale.requires_grad}"


class SigmoidPairs(InBatch):
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023, arXiv 2303.15343): every pair of rows is judged on its own,

    ``−1/n Σ_ij log σ(y_ij (t · s_ij + b))``, y = 1 for true pairs and −1 for others, t and b learned. No softmax over
    the batch, so that its size matters less.

    Args:
        scale: where t starts; it is learned as its logarithm.
        bias: where b starts: so low that at first nearly nothing is said to match, as in nearly all pairs it doesn't.
    """

    def __init__(self, scale: float = 10.0, bias: float = -10.0) -> None:
        super().__init__(symmetric=False)  # the other direction is the same sum
        if not scale > 0:
            raise ExperimentError(f"SigmoidPairs: scale must be above 0, got {scale}")
        self.log_scale, self.bias = nn.Parameter(torch.tensor(math.log(scale))), nn.Parameter(torch.tensor(float(bias)))

    def contribution(self, compared: Compared) -> Part:
        scale = self.log_scale.exp()
        logits = (compared.scores * scale + self.bias).scatter(1, compared.own[:, None], -torch.inf)
        if compared.others is not None:
            logits = logits.masked_fill(compared.others, -torch.inf)
        losses = softplus(logits).sum() + softplus(-(compared.positives * scale + self.bias)).sum()
        return Part(losses, torch.as_tensor(len(compared.own), device=losses.device))

    def extra_repr(self) -> str:
        return f"scale={math.exp(float(self.log_scale.detach())):.3g}, bias={float(self.bias.detach()):.3g}"


class Circle(InBatch):
    """Circle loss (Sun et al. 2020, arXiv 2002.10857, equations 6 to 8): each cosine is pulled the harder the farther
    it is from where it should be,

    ``log(1 + Σ_j exp(γ [s_ij + m]₊ (s_ij − m)) · exp(−γ [1 + m − s_ii]₊ (s_ii − 1 + m)))``, averaged over queries and
    directions; the weights in brackets get no gradient.

    Args:
        margin: m.
        scale: γ.
    """

    def __init__(self, margin: float = 0.25, scale: float = 64.0) -> None:
        super().__init__()
        if not 0 <= margin < 1 or not scale > 0:
            raise ExperimentError(f"Circle: margin must be from 0 to below 1 and scale above 0, got {margin} and "
                                  f"{scale}")
        self.margin, self.scale = margin, scale

    def contribution(self, compared: Compared) -> Part:
        m, own = self.margin, compared.positives.squeeze(1)
        pull = (1 + m - own.detach()).relu() * (own - (1 - m))
        scores = compared.scores
        push = ((scores.detach() + m).relu() * (scores - m)).mul(self.scale)
        push = push.scatter(1, compared.own[:, None], -torch.inf)
        if compared.others is not None:
            push = push.masked_fill(compared.others, -torch.inf)
        logits = torch.cat([torch.zeros_like(own)[:, None], push - (self.scale * pull)[:, None]], dim=1)
        losses = logits.logsumexp(dim=1)
        return Part(losses.sum(), torch.as_tensor(len(losses), device=losses.device))

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}, scale={self.scale:g}"
