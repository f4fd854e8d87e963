"""How far what is restored is from what was there."""
from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import mse_loss

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded

ErrorKind = Literal["squared", "cross_entropy"]
#: Below this a cross-entropy's logarithm stays where it is: a normal number in float32.
LEAST_PROBABILITY = 2e-38


def check_error(objective: str, error: str) -> None:
    """Refuses an unknown kind of error on behalf of an objective."""
    if error not in ("squared", "cross_entropy"):
        raise ExperimentError(f"{objective}: error must be squared or cross_entropy, got {error!r}")


def restoring_error(embedded: Embedded, view: int, source: str, error: ErrorKind, objective: str) -> Tensor:
    """Mean over batch and values of the error of ``view`` (1 or 2) as it was restored from ``source``.

    ``squared``, ``(x − x̂)²``, for values of any size and decoders that end in a linear layer, or ``cross_entropy``,
    ``−x log x̂ − (1 − x) log(1 − x̂)``, for values and reconstructions within [0, 1].

    Raises:
        ExperimentError: another shape than the items have, or a cross-entropy of what is no probability; in the name of
            ``objective``.
    """
    target, restored = embedded.extras[f"view{view}"], embedded.extras[f"view{view}_from_{source}"]
    if restored.shape != target.shape:
        shape, got = tuple(target.shape[1:]), tuple(restored.shape[1:])
        end = f"; end it in nn.Unflatten(1, {shape})" if restored.numel() == target.numel() else ""
        raise ExperimentError(f"decoder{view} must restore items of shape {shape}, got {got}{end}")
    restored = restored.to(target.dtype)  # never less than float32
    if error == "squared":
        return mse_loss(restored, target)
    if any(bool(((values < 0) | (values > 1)).any()) for values in (restored, target)):
        raise ExperimentError(f"{objective}(error='cross_entropy') needs items and reconstructions within [0, 1]; let "
                              "the decoders end in a sigmoid, or use error='squared'")
    # torch's own function calls NaN out of range, too, and so would hide that a training diverged
    logs = (target * restored.clamp(min=LEAST_PROBABILITY).log()
            + (1 - target) * (1 - restored).clamp(min=LEAST_PROBABILITY).log())
    return -logs.mean()
