"""Models: two towers and a head, with one view embeddable without the other."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xmodal.layers import CCALayer, Embedded, LearnedProjection


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside the block; every submodule's own mode is restored after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class TwoTower(nn.Module):
    """One network per view and a head over both.

    Args:
        tower1, tower2: map (n, *item shape) to (n, d).
        head: maps two tower outputs into the shared space: :class:`CCALayer` or :class:`LearnedProjection`.
        norm: applied to the coordinates of both views last, such as :class:`xmodal.layers.LengthNorm`. Metrics and
            ranking objectives compare by cosine with or without it; without it the coordinates of a CCA head keep
            their scale and can be truncated.
    """

    def __init__(self, tower1: nn.Module, tower2: nn.Module, head: CCALayer | LearnedProjection,
                 norm: nn.Module | None = None) -> None:
        super().__init__()
        self.tower1, self.tower2, self.head = tower1, tower2, head
        self.norm = norm if norm is not None else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Embedded:
        """Embeds a batch of pairs: x (n, *shape1), y (n, *shape2)."""
        embedded = self.head(self.tower1(x), self.tower2(y))
        return embedded._replace(view1=self.norm(embedded.view1), view2=self.norm(embedded.view2))

    def embed_view1(self, x: Tensor) -> Tensor:
        """x (n, *shape1) to (n, d), by the stored statistics; call it in eval mode."""
        return self.norm(self.head.embed_view1(self.tower1(x)))

    def embed_view2(self, y: Tensor) -> Tensor:
        """y (n, *shape2) to (n, d), by the stored statistics; call it in eval mode."""
        return self.norm(self.head.embed_view2(self.tower2(y)))

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


#: What trainer and evaluator take. A model of a user's own needs ``forward``, ``embed_view1``, ``embed_view2`` and
#: ``refit`` as above; it need not inherit anything but ``nn.Module``.
Model = TwoTower
