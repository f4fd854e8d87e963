"""Tensors that are made when first asked for."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


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
