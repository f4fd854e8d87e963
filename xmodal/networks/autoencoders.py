"""An autoencoder of each view: towers that learn from items without partners."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from xmodal.distributed import gather_rows, size
from xmodal.layers import Embedded
from xmodal.networks.jacobian import squared_jacobian
from xmodal.networks.parts import Lazily, decoded, gathered, wide
from xmodal.towers import Dictionary, remembering


class Autoencoders(nn.Module):
    """An autoencoder of each view on its own, trained side by side: ``h = tower(x)``, ``x̂ = decoder(h)``.

    Nothing ties the views' codes to each other; what is learned are the towers, which an experiment with pairs starts
    from (:class:`xmodal.Start`: ``tower1`` and ``tower2`` have the names they have in :class:`TwoTower`), or codes for
    retrieval within a view. All items train, with or without a partner (``needs_no_pairs``).

    * *Plain*, shallow or deep: any tower, any decoder; with weights tied by :func:`xmodal.towers.tied_decoder`.
    * *Denoising* (Vincent et al. 2010): ``corruption1`` and ``corruption2``, such as :class:`xmodal.augment.Masking`,
      change what towers see in train mode, not what is to be restored.
    * *Convolutional* with unpooling that remembers its switches: :func:`xmodal.towers.conv_autoencoder`.
    * *Contractive*, *sparse*: weights of :class:`xmodal.objectives.Reconstruction`.
    * *Predictive sparse decomposition*: a decoder that is a :class:`xmodal.towers.Dictionary`, and
      :class:`xmodal.objectives.PredictiveSparse`.

    ``extras`` of the result hold the items as ``view1`` and ``view2``, what is restored of them as
    ``view1_from_view1`` and ``view2_from_view2``, and, computed when asked for, ``jacobian1`` and ``jacobian2``
    (:func:`squared_jacobian`, (n,)); of a dictionary also ``atoms1``, ``atoms2`` (values, k).

    Args:
        tower1, tower2: map (n, *shape) to (n, k). One module may be both, for views of one kind.
        decoder1, decoder2: map (n, k) to (n, *shape).
        corruption1, corruption2: map items to items in train mode.
    """

    needs_no_pairs = True

    def __init__(self, tower1: nn.Module, tower2: nn.Module, decoder1: nn.Module, decoder2: nn.Module,
                 corruption1: nn.Module | None = None, corruption2: nn.Module | None = None) -> None:
        super().__init__()
        self.tower1, self.tower2, self.decoder1, self.decoder2 = tower1, tower2, decoder1, decoder2
        self.corruption1 = corruption1 if corruption1 is not None else nn.Identity()
        self.corruption2 = corruption2 if corruption2 is not None else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Embedded:
        """The codes of x (n, *shape1) and y (n, *shape2) and the extras above; in train mode of the whole batch, as
        :meth:`TwoTower.forward`."""
        code1, restored1 = self._through(self.corruption1(x), self.tower1, self.decoder1)
        code2, restored2 = self._through(self.corruption2(y), self.tower2, self.decoder2)
        made = {"view1": x, "view2": y, "view1_from_view1": restored1, "view2_from_view2": restored2}
        makers: dict[str, Callable[[], Tensor]] = {"jacobian1": partial(squared_jacobian, self.tower1, x),
                                                   "jacobian2": partial(squared_jacobian, self.tower2, y)}
        if self.training and size() > 1:
            made = dict(zip(made, gather_rows(*made.values()), strict=True))
            makers = {name: partial(gathered, make) for name, make in makers.items()}
            code1, code2 = gather_rows(code1, code2)
        for name, decoder in (("atoms1", self.decoder1), ("atoms2", self.decoder2)):
            if isinstance(decoder, Dictionary):
                made[name] = decoder.atoms
        return Embedded(code1, code2, extras=Lazily(made, makers))

    def _through(self, items: Tensor, tower: nn.Module, decoder: nn.Module) -> tuple[Tensor, Tensor]:
        with remembering(self):
            code = wide(tower(items))
            return code, decoded(decoder, code)

    def embed_view1(self, x: Tensor) -> Tensor:
        """x (n, *shape1) to codes (n, k); call it in eval mode."""
        return wide(self.tower1(x))

    def embed_view2(self, y: Tensor) -> Tensor:
        """y (n, *shape2) to codes (n, k); call it in eval mode."""
        return wide(self.tower2(y))

    def code(self, x: Tensor, y: Tensor) -> Tensor:
        """(n, 2k): the codes of x (n, *shape1) and of y (n, *shape2) side by side; call it in eval mode."""
        return torch.cat([self.embed_view1(x), self.embed_view2(y)], dim=1)

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoders make of codes (n, 2k) as :meth:`code` gives them: (n, *shape1) and (n, *shape2)."""
        one, two = code.chunk(2, dim=1)
        return decoded(self.decoder1, one), decoded(self.decoder2, two)

    def restorings(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is restored of items, each from itself: ``view1_from_view1``, ``view2_from_view2``; in eval mode."""
        return {"view1_from_view1": self._through(x, self.tower1, self.decoder1)[1].float(),
                "view2_from_view2": self._through(y, self.tower2, self.decoder2)[1].float()}

    def refit(self, batches: Iterable[tuple[Tensor, Tensor]], train_mode: bool = False) -> int:
        """Nothing to do: no statistics are kept. Returns 0, the number of pairs seen."""
        return 0
