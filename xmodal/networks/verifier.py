"""A network that judges whether two items match, on top of two towers."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from xmodal.distributed import from_first, gather_rows
from xmodal.errors import ExperimentError
from xmodal.layers import CCAReadout, Embedded, LengthNorm
from xmodal.layers.embedded import result_dtype
from xmodal.networks.two_tower import TwoTower
from xmodal.towers import mlp


class Verifier(nn.Module):
    """Judges pairs of embeddings of length one by a perceptron of ``[z1, z2, |z1 − z2|, z1 ∘ z2]`` with one logit,
    whose sigmoid is the chance that a pair matches among as many others.

    Embeddings, and what is kept of them, are the base's. To train the judge alone, freeze the base (``START =
    Start(run, last=0, into="base")``, or ``requires_grad_(False)``); left as it is, both are trained, end to end. The
    embeddings of a frozen base don't change, nor does the validation MRR: train it with ``keep="last"``.

    :class:`xmodal.objectives.MatchOrNot` trains it. ``extras`` of the result have, beside the base's, ``match`` (n,),
    logits of the true pairs, and ``other`` (n, k), logits of view-1 row i with view-2 row ``other_rows[i, j]``, k =
    min(others, n − 1). *Train mode* draws ``other_rows`` without replacement and never i itself, so that every row of
    view 2 comes up k times. *Eval mode* takes rows at fixed distances, spread over the batch.

    Args:
        base: two towers and a head, whose embeddings are judged.
        hidden: widths of the perceptron's hidden layers.
        others: how many other rows each row is judged with.
    """

    def __init__(self, base: TwoTower, hidden: Sequence[int] = (64,), others: int = 64) -> None:
        super().__init__()
        if not isinstance(base, TwoTower):
            raise ExperimentError(f"Verifier expects a TwoTower as its base, got {type(base).__name__}")
        if not isinstance(others, int) or others < 1:
            raise ExperimentError(f"Verifier: others must be a whole number of at least 1, got {others!r}")
        self.base, self.others = base, others
        self.norm = LengthNorm()
        dim = base.head.cca.dim if isinstance(base.head, CCAReadout) else base.head.dim
        self.judging = mlp((4 * dim,), hidden, 1, batch_norm=False, nonlinearity=nn.ReLU)

    def forward(self, x: Tensor, y: Tensor) -> Embedded:
        """The base's embeddings of x (n, *shape1) and y (n, *shape2), and the extras above; in train mode of the whole
        batch, as :meth:`TwoTower.forward`."""
        embedded: Embedded = self.base(x, y)
        if self.training and not self.base.training:  # a frozen base gathers nothing
            z1, z2 = gather_rows(embedded.view1, embedded.view2)
            embedded = embedded._replace(view1=z1, view2=z2)
        z1, z2 = embedded.view1, embedded.view2
        rows = other_rows(len(z1), self.others, self.training).to(z1.device)
        other = self.judge(z1.repeat_interleave(rows.shape[1], dim=0), z2[rows.flatten()]).view(rows.shape)
        return embedded._replace(extras={**embedded.extras, "match": self.judge(z1, z2), "other": other,
                                         "other_rows": rows})

    def judge(self, z1: Tensor, z2: Tensor) -> Tensor:
        """(n,) logits of pairs of rows of embeddings (n, d) and (n, d) of any length: above 0 for "they match"."""
        with torch.autocast(z1.device.type, enabled=False):
            wide = result_dtype(z1, z2)
            z1, z2 = self.norm(z1.to(wide)), self.norm(z2.to(wide))
            logits: Tensor = self.judging(torch.cat([z1, z2, (z1 - z2).abs(), z1 * z2], dim=1))
            return logits.squeeze(1)

    def embed_view1(self, x: Tensor) -> Tensor:
        """The base's."""
        return self.base.embed_view1(x)

    def embed_view2(self, y: Tensor) -> Tensor:
        """The base's."""
        return self.base.embed_view2(y)

    @property
    def blends_statistics(self) -> bool:
        """The base's."""
        return self.base.blends_statistics

    def refit(self, batches: Iterable[tuple[Tensor, Tensor]], train_mode: bool = False) -> int:
        """The base's."""
        return self.base.refit(batches, train_mode)

    def extra_repr(self) -> str:
        return f"others={self.others}"


def other_rows(n: int, others: int, drawn: bool) -> Tensor:
    """(n, k) int64 rows of a batch other than row i, no two in line i the same, k = min(others, n − 1).

    Drawn: shifts of a shuffled order, so that each line is a random choice and each row is chosen k times. Several
    processes draw the same. Not drawn: shifts spread over the batch.
    """
    k = min(others, n - 1)
    order = torch.arange(n)
    if not drawn:
        shifts = 1 + torch.arange(k) * (n - 1) // max(k, 1)
        return (order[:, None] + shifts) % n
    seed = from_first(int(torch.randint(2**62, ())).to_bytes(8, "big")) or b""
    draw = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
    shuffled, shifts = torch.randperm(n, generator=draw), 1 + torch.randperm(n - 1, generator=draw)[:k]
    rows = torch.empty(n, k, dtype=torch.int64)
    rows[shuffled] = shuffled[(order[:, None] + shifts) % n]
    return rows
