"""How well items are restored."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


def mean_squared_errors(batches: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> dict[str, float]:
    """Means of ``(x̂ − x)²`` over all values of all items, in float64.

    Args:
        batches: what was restored and what it should have been, (n, *shape) each, both by the same names.
    """
    sums: dict[str, float] = {}
    count = 0
    for restored, items in batches:
        count += len(next(iter(restored.values())))
        for name, values in restored.items():
            error = (values.double() - items[name].double()).square().flatten(1).mean(dim=1).sum()
            sums[name] = sums.get(name, 0.0) + float(error)
    return {name: total / count for name, total in sums.items()}
