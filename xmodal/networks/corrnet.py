"""An autoencoder of two views with one code."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from xmodal.distributed import add_up, gather_rows, rank, size
from xmodal.errors import DataError, ExperimentError
from xmodal.layers import Embedded
from xmodal.layers.embedded import result_dtype
from xmodal.networks.parts import Lazily, decoded, gathered, restorings, wide


class CorrNet(nn.Module):
    """Correlational neural network (Chandar et al. 2015, arXiv 1504.07225): an autoencoder of two views with one code.

    The views' contributions to the code are added, so that either is enough:
    ``h(x, y) = f(encoder1(x) + encoder2(y))``, ``h(x) = h(x, 0)`` and ``h(y) = h(0, y)`` with an item of zeros for the
    absent view. With one linear layer per encoder this is the paper's ``f(Wx + Vy + b)``. ``decoder1`` and
    ``decoder2`` restore the views from a code.

    The shared space is that of the codes: ``embed_view1(x)`` is ``h(x)``, ``embed_view2(y)`` is ``h(y)``. Nothing is
    estimated on the side, so there is nothing to refit; train and eval mode differ as the parts do. In train mode an
    item of zeros takes part in each encoder's batch, so that batch norm knows it. Under autocast the encoders run in
    low precision, codes and decoders in float32.

    :class:`xmodal.objectives.CorrNetObjective` trains it. ``extras`` of the result hold the items as ``view1`` and
    ``view2``, the code of both views as ``code``, and the reconstructions ``view1_from_both``, ``view1_from_view1``,
    ``view1_from_view2`` (of ``h(x, y)``, ``h(x)``, ``h(y)``) and the same three of ``view2``. A reconstruction is
    computed when it is asked for: an objective without a term does not pay for it.

    Args:
        encoder1, encoder2: map (n, *item shape) to (n, k).
        decoder1, decoder2: map (n, k) to (n, *item shape); :func:`xmodal.towers.tied_decoder` makes one of its
            encoder's own weights.
        nonlinearity: ``f``; none by default, for encoders that end in one.
    """

    def __init__(self, encoder1: nn.Module, encoder2: nn.Module, decoder1: nn.Module, decoder2: nn.Module,
                 nonlinearity: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder1, self.encoder2, self.decoder1, self.decoder2 = encoder1, encoder2, decoder1, decoder2
        self.nonlinearity = nonlinearity if nonlinearity is not None else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Embedded:
        """The codes of x (n, *shape1) and of y (n, *shape2), each without the other view, and the extras above; in
        train mode of the whole batch, as :meth:`TwoTower.forward`."""
        _check_rows(x, y)
        (part1, absent1), (part2, absent2) = _with_absent(self.encoder1, x), _with_absent(self.encoder2, y)
        codes = {"both": self._f(part1, part2), "view1": self._f(part1, absent2), "view2": self._f(absent1, part2)}
        makers = {f"{view}_from_{source}": partial(decoded, decoder, code)
                  for view, decoder in (("view1", self.decoder1), ("view2", self.decoder2))
                  for source, code in codes.items()}
        if not (self.training and size() > 1):
            return Embedded(codes["view1"], codes["view2"],
                            extras=Lazily({"view1": x, "view2": y, "code": codes["both"]}, makers))
        whole: dict[str, Callable[[], Tensor]] = {"view1": lambda: x, "view2": lambda: y,
                                                  "code": lambda: codes["both"], **makers}
        code1, code2 = gather_rows(codes["view1"], codes["view2"])
        return Embedded(code1, code2,
                        extras=Lazily({}, {name: partial(gathered, make) for name, make in whole.items()}))

    def code(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """(n, k) codes of pairs, or of items of one view alone; call it in eval mode.

        Raises:
            DataError: neither view is given, or they have different numbers of rows.
        """
        if x is not None and y is not None:
            _check_rows(x, y)
            return self._f(self.encoder1(x), self.encoder2(y))
        if x is not None:
            return self._code_of_one(x, self.encoder1, self.encoder2, self.decoder2)
        if y is not None:
            return self._code_of_one(y, self.encoder2, self.encoder1, self.decoder1)
        raise DataError("CorrNet.code and .reconstruct need a view: x, y or both")

    def _code_of_one(self, items: Tensor, encoder: nn.Module, other: nn.Module, other_decoder: nn.Module) -> Tensor:
        part = encoder(items)
        absent = torch.zeros_like(decoded(other_decoder, wide(part[:1])))  # a decoder knows the shape of its items
        return self._f(part, other(absent))

    def _f(self, part: Tensor, other: Tensor) -> Tensor:
        """Codes are float32 at the least, whatever precision the encoders run in."""
        if part.shape[1:] != other.shape[1:]:
            raise ExperimentError(f"CorrNet's encoders must have outputs of one shape; items become "
                                  f"{tuple(part.shape[1:])} and {tuple(other.shape[1:])}")
        dtype = result_dtype(part, other)
        code: Tensor = self.nonlinearity(part.to(dtype) + other.to(dtype))
        return code

    def reconstruct(self, x: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both views, (n, *shape1) and (n, *shape2), restored from pairs or from one view alone; call it in eval mode.

        Raises:
            DataError: as :meth:`code`.
        """
        return self.decode(self.code(x, y))

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoders make of codes (n, k): (n, *shape1) and (n, *shape2)."""
        return decoded(self.decoder1, code), decoded(self.decoder2, code)

    def restorings(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is restored of a batch of pairs: ``view1_from_view1``, ``view1_from_view2``, ``view1_from_both``, and
        the same of view 2; call it in eval mode."""
        return restorings(self.reconstruct, x, y)

    def embed_view1(self, x: Tensor) -> Tensor:
        """x (n, *shape1) to its code (n, k) without view 2; call it in eval mode."""
        return self.code(x=x)

    def embed_view2(self, y: Tensor) -> Tensor:
        """y (n, *shape2) to its code (n, k) without view 1; call it in eval mode."""
        return self.code(y=y)

    def refit(self, batches: Iterable[tuple[Tensor, Tensor]], train_mode: bool = False) -> int:
        """Nothing to do: a CorrNet keeps no statistics. Returns 0, the number of pairs seen."""
        return 0


def _check_rows(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise DataError(f"CorrNet expects as many rows of view1 as of view2; got {len(x)} and {len(y)}")


def _with_absent(encoder: nn.Module, items: Tensor) -> tuple[Tensor, Tensor]:
    """An encoder's output for the items, and (1, k) for an absent one, an item of zeros.

    Where several processes train together only the first has it in its batch, so that batch norm counts it once.
    """
    shared = encoder.training and size() > 1
    if shared and rank() > 0:
        part = encoder(items)
        nothing = wide(part.new_zeros(1, *part.shape[1:])).requires_grad_()  # the sum is to be in every backward pass
        return part, add_up(nothing).to(part.dtype)
    part = encoder(torch.cat([items, torch.zeros_like(items[:1])]))
    absent = part[-1:]
    return part[:-1], add_up(wide(absent)).to(part.dtype) if shared else absent
