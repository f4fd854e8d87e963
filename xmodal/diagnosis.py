"""Why a loss is not finite, in words."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from xmodal.covariance import batch_moments
from xmodal.data import Batch
from xmodal.errors import NumericalError
from xmodal.linalg import describe_spectrum
from xmodal.networks import Autoencoders, CorrNet, TwoTower, VariationalAutoencoder, Verifier, evaluating

#: The fourth power of larger values, as some objectives take it, is infinite in float32.
LARGE = 1e9


def diagnose(model: nn.Module, batch: Batch) -> str:
    """Looks for the cause of a non-finite loss where it can be: input rows, parameters, tower outputs, covariances,
    embeddings or reconstructions. Where all is well there, the objective is left.

    Returns:
        Phrases joined by semicolons; the smallest eigenvalues of the batch's covariances are always among them when
        the model has towers.
    """
    findings = _bad_rows("input view1", batch.view1, batch) + _bad_rows("input view2", batch.view2, batch)
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        findings.append(f"{len(broken)} parameters are not finite (first: {broken[0]}): the step before diverged; "
                        "try a smaller learning_rate or clip_norm")
    towers = getattr(model, "base", model)  # of a Verifier
    tower1, tower2, head = (getattr(towers, name, None) for name in ("tower1", "tower2", "head"))
    spectra = []
    if isinstance(tower1, nn.Module) and isinstance(tower2, nn.Module):
        with evaluating(model):
            a, b = tower1(batch.view1).double(), tower2(batch.view2).double()
        findings += _bad_rows("tower output view1", a, batch) + _bad_rows("tower output view2", b, batch)
        moments = batch_moments(a, b)
        for view, S in ((1, moments.S11), (2, moments.S22)):
            ridge = getattr(head, f"r{view}", None)  # of a head that whitens in training
            spectra.append(f"covariance of view{view}: {describe_spectrum(S, ridge)}")
    outputs = {} if findings else _outputs(model, batch)
    findings += _bad_outputs(outputs, batch)
    if not findings:
        seen = ["inputs", "parameters", *(["tower outputs"] if spectra else []), *outputs]
        findings.append(f"{', '.join(seen[:-1])} and {seen[-1]} are finite: look at "
                        f"{'' if outputs else 'what the model returns and at '}the objective")
    return "; ".join(findings + spectra)


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


def _outputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What the objective gets of models that are known here, by name."""
    with evaluating(model):
        if isinstance(model, TwoTower | Verifier):
            embedded = model(batch.view1, batch.view2)
            return {"embedding of view1": embedded.view1, "embedding of view2": embedded.view2}
        if isinstance(model, CorrNet | Autoencoders | VariationalAutoencoder):
            restored = model.restorings(batch.view1, batch.view2)
            return {"code of view1": model.embed_view1(batch.view1), "code of view2": model.embed_view2(batch.view2),
                    "view1 restored from itself": restored["view1_from_view1"],
                    "view2 restored from itself": restored["view2_from_view2"]}
    return {}


def _bad_outputs(outputs: Mapping[str, Tensor], batch: Batch) -> list[str]:
    """Which outputs are not finite, or else so large that their powers are not, and what helps."""
    found = [finding for name, values in outputs.items() for finding in _bad_rows(name, values, batch)]
    found = found or [f"{name} reaches {largest:.3g}" for name, values in outputs.items()
                      if (largest := float(values.abs().max())) > LARGE]
    if found:
        found += ["weights or features are too large: try a smaller learning_rate or clip_norm", largest_values(batch)]
    return found


def _bad_rows(what: str, values: Tensor, batch: Batch) -> list[str]:
    """Which items have values that are not finite, by their row in the training split."""
    rows = torch.nonzero(~torch.isfinite(values.flatten(1)).all(dim=1)).flatten().tolist()
    if not rows:
        return []
    items = batch.pairs[rows, 0 if "view1" in what else 1].tolist()
    return [f"{what} is not finite in {len(rows)} of {len(values)} rows (first items: {items[:5]})"]
