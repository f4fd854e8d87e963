"""Why a loss is not finite, in words."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from xmodal.covariance import batch_moments
from xmodal.data import Batch
from xmodal.errors import NumericalError
from xmodal.linalg import describe_spectrum
from xmodal.networks import Autoencoders, CorrNet, VariationalAutoencoder, evaluating


def diagnose(model: nn.Module, batch: Batch) -> str:
    """Looks for the cause of a non-finite loss where it can be: input rows, parameters, tower outputs, covariances.

    Returns:
        Phrases joined by semicolons; the smallest eigenvalues of the batch's covariances are always among them when
        the model has towers.
    """
    findings = []
    for name, view in (("view1", batch.view1), ("view2", batch.view2)):
        findings += _bad_rows(f"input {name}", view, batch)
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        findings.append(f"{len(broken)} parameters are not finite (first: {broken[0]}): the step before diverged; "
                        "try a smaller learning_rate or clip_norm")
    towers = getattr(model, "base", model)  # of a Verifier
    tower1, tower2 = getattr(towers, "tower1", None), getattr(towers, "tower2", None)
    if isinstance(tower1, nn.Module) and isinstance(tower2, nn.Module):
        with evaluating(model):
            a, b = tower1(batch.view1).double(), tower2(batch.view2).double()
        findings += _bad_rows("tower output view1", a, batch) + _bad_rows("tower output view2", b, batch)
        moments = batch_moments(a, b)
        findings.append(f"covariance of view1: {describe_spectrum(moments.S11)}")
        findings.append(f"covariance of view2: {describe_spectrum(moments.S22)}")
    if isinstance(model, CorrNet | Autoencoders | VariationalAutoencoder):
        bad = _bad_outputs(model, batch)
        advice = ["the weights have grown too large: try a smaller learning_rate or clip_norm"]
        findings += bad + (advice if bad and not broken else [])
    return "; ".join(findings) or "inputs and parameters are finite"


def largest_values(batch: Batch) -> str:
    """How large the items are, for towers whose first outputs are too large already."""
    reached = [f"{float(view.abs().max()) if view.numel() else 0:.3g} in view{number}"
               for number, view in ((1, batch.view1), (2, batch.view2))]
    return f"values reach {' and '.join(reached)}: scale the features to about 1 if that is far off"


def require_finite_state(model: nn.Module) -> None:
    """Weights and running statistics, of batch norm too, have to be finite even where the loss still is.

    Raises:
        NumericalError: names the first that isn't.
    """
    broken = [name for name, value in model.state_dict().items()
              if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if broken:
        raise NumericalError(f"{len(broken)} of the model's weights and statistics are not finite (first: {broken[0]})")


def _bad_outputs(model: CorrNet | Autoencoders | VariationalAutoencoder, batch: Batch) -> list[str]:
    """Which codes and reconstructions are not finite."""
    with evaluating(model):
        restored = model.restorings(batch.view1, batch.view2)
        outputs = {"code of view1": model.embed_view1(batch.view1), "code of view2": model.embed_view2(batch.view2),
                   "view1 restored from itself": restored["view1_from_view1"],
                   "view2 restored from itself": restored["view2_from_view2"]}
    return [finding for name, values in outputs.items() for finding in _bad_rows(name, values, batch)]


def _bad_rows(what: str, values: Tensor, batch: Batch) -> list[str]:
    """Which items have values that are not finite, by their row in the training split."""
    rows = torch.nonzero(~torch.isfinite(values.flatten(1)).all(dim=1)).flatten().tolist()
    if not rows:
        return []
    items = batch.pairs[rows, 0 if "view1" in what else 1].tolist()
    return [f"{what} is not finite in {len(rows)} of {len(values)} rows (first items: {items[:5]})"]
