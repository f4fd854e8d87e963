"""One network per view and a head over both."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from xmodal.distributed import gather_rows
from xmodal.layers import CCALayer, CCAReadout, Embedded, LearnedProjection
from xmodal.networks.modes import evaluating


class TwoTower(nn.Module):
    """One network per view and a head over both.

    Args:
        tower1, tower2: map (n, *item shape) to (n, d).
        head: maps two tower outputs into the shared space: :class:`CCALayer`, :class:`LearnedProjection` or
            :class:`CCAReadout`.
        norm: applied to the coordinates of both views last, such as :class:`xmodal.layers.LengthNorm`. Metrics and
            ranking objectives compare by cosine with or without it; without it the coordinates of a CCA head keep
            their scale and can be truncated.
        noise: whether training batches bring along what the towers make of noise, for
            :class:`xmodal.objectives.NoiseRegularised`. ``extras`` then hold, of each view, ``items1`` (n, *shape1),
            ``noise1`` (standard normal, of that shape), ``tower1`` (n, d) and ``noise_tower1`` (n, d).
    """

    def __init__(self, tower1: nn.Module, tower2: nn.Module, head: CCALayer | CCAReadout | LearnedProjection,
                 norm: nn.Module | None = None, noise: bool = False) -> None:
        super().__init__()
        self.tower1, self.tower2, self.head, self.noise = tower1, tower2, head, noise
        self.norm = norm if norm is not None else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Embedded:
        """Embeds a batch of pairs: x (n, *shape1), y (n, *shape2).

        In train mode, where several processes train together, x and y are this process's part of a batch and the
        result is that of the whole batch.
        """
        a, b = self.tower1(x), self.tower2(y)
        extras: Mapping[str, Tensor] = {}
        if self.training and self.noise:
            extras = {**_noise_seen(1, self.tower1, x, a), **_noise_seen(2, self.tower2, y, b)}
        if self.training:
            a, b = gather_rows(a, b)
        embedded: Embedded = self.head(a, b)
        return embedded._replace(view1=self.norm(embedded.view1), view2=self.norm(embedded.view2),
                                 extras={**embedded.extras, **extras})

    def embed_view1(self, x: Tensor) -> Tensor:
        """x (n, *shape1) to (n, d), by the stored statistics; call it in eval mode."""
        z: Tensor = self.norm(self.head.embed_view1(self.tower1(x)))
        return z

    def embed_view2(self, y: Tensor) -> Tensor:
        """y (n, *shape2) to (n, d), by the stored statistics; call it in eval mode."""
        z: Tensor = self.norm(self.head.embed_view2(self.tower2(y)))
        return z

    @property
    def blends_statistics(self) -> bool:
        """Whether training batches are blended with stored statistics, so that these should be there from the start."""
        return self.head.alpha != 1.0

    def refit(self, batches: Iterable[tuple[Tensor, Tensor]], train_mode: bool = False) -> int:
        """Replaces the head's running statistics by the exact ones of the given pairs.

        Args:
            batches: pairs of tensors (n, *shape1), (n, *shape2).
            train_mode: run the towers as training does (batch norm by the batch, dropout) instead of in eval mode: for
                statistics that the first training batches are to be blended with.

        Returns:
            How many pairs were seen.
        """
        with evaluating(self):
            self.tower1.train(train_mode)
            self.tower2.train(train_mode)
            return self.head.refit((self.tower1(x), self.tower2(y)) for x, y in batches)


def _noise_seen(view: int, tower: nn.Module, items: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """What a tower makes of noise in place of a batch, and of the batch, of all processes."""
    noise = torch.randn_like(items)
    gathered = gather_rows(items, noise, seen, tower(noise))
    return dict(zip((f"items{view}", f"noise{view}", f"tower{view}", f"noise_tower{view}"), gathered, strict=True))
