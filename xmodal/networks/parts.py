"""What autoencoders have in common: extras made when asked for, codes of enough precision, decoders that run in it."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from xmodal.distributed import gather_rows
from xmodal.layers.embedded import result_dtype


class Lazily(Mapping[str, Tensor]):
    """Tensors by name, some of which are made when first asked for."""

    def __init__(self, made: Mapping[str, Tensor], makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._made, self._makers = dict(made), makers

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made or name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter({**self._made, **self._makers})

    def __len__(self) -> int:
        return len({**self._made, **self._makers})


def gathered(make: Callable[[], Tensor]) -> Tensor:
    """A tensor of all processes' rows, made here of this one's."""
    return gather_rows(make())[0]


def wide(z: Tensor) -> Tensor:
    """Float32 at the least."""
    return z.to(result_dtype(z))


def decoded(decoder: nn.Module, code: Tensor) -> Tensor:
    """Decoders don't run in bfloat16: what a sigmoid rounds to 1 there has no gradient left."""
    with torch.autocast(code.device.type, enabled=False):
        restored: Tensor = decoder(code)
    return restored


def restorings(reconstruct: Callable[..., tuple[Tensor, Tensor]], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Both views (n, *shape) restored from either and from both, by a function of the views that are given, such as
    ``CorrNet.reconstruct``: ``view1_from_view1``, ``view1_from_view2``, ``view1_from_both``, and the same of view 2."""
    made = {"view1": reconstruct(x=x), "view2": reconstruct(y=y), "both": reconstruct(x=x, y=y)}
    return {f"view{view}_from_{source}": views[view - 1].float() for view in (1, 2) for source, views in made.items()}
