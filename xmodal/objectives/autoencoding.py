"""What autoencoders are trained by: restoring, with codes that are calm, sparse, or drawn from a distribution."""
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from xmodal.errors import ExperimentError
from xmodal.layers import Embedded
from xmodal.objectives.matching import require_embedded
from xmodal.objectives.restoring import ErrorKind, check_error, restoring_error

#: Mean activities stay so far from 0 and 1 under the logarithm of the sparsity penalty.
_LEAST_ACTIVITY = 1e-6


class Reconstruction(nn.Module):
    """Each view restored from itself, with penalties on its code: of both views, the sum of

    ``E(x, x̂) + contractive · mean_i ‖∂h/∂x‖²_F + l1 · mean_i Σ_j |h_ij| + sparse · Σ_j KL(target ‖ mean_i h_ij)``.

    ``E`` is averaged over the batch and over the values of an item. The first penalty makes codes change little where
    items do (contractive; Rifai et al. 2011, ICML), the second makes most units small, the third makes each unit active
    in a share ``target`` of the items (sparse; Ng 2011, CS294A notes), for which units lie within [0, 1].

    Args:
        error: ``"squared"`` for real values (end the decoder in a linear layer), ``"cross_entropy"`` for values within
            [0, 1] (end it in a sigmoid).
        contractive, l1, sparse: weights, none negative; a term of weight 0 is not computed.
        target: ρ, the activity asked for.

    Raises:
        ExperimentError: a negative weight, or a target that is no share.
    """

    def __init__(self, error: ErrorKind = "squared", contractive: float = 0.0, l1: float = 0.0, sparse: float = 0.0,
                 target: float = 0.05) -> None:
        super().__init__()
        check_error("Reconstruction", error)
        if not all(0 <= weight < float("inf") for weight in (contractive, l1, sparse)) or not 0 < target < 1:
            raise ExperimentError("Reconstruction: weights must not be negative and target between 0 and 1, got "
                                  f"contractive={contractive}, l1={l1}, sparse={sparse} and target={target}")
        self.error, self.contractive, self.l1, self.sparse, self.target = error, contractive, l1, sparse, target

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        require_embedded(self, embedded)
        if "view1_from_view1" not in embedded.extras:
            raise ExperimentError("Reconstruction needs a model that restores its views; this model does not (use "
                                  "Autoencoders)")
        terms = []
        for view, code in ((1, embedded.view1), (2, embedded.view2)):
            terms.append(restoring_error(embedded, view, f"view{view}", self.error, "Reconstruction"))
            if self.contractive:
                if f"jacobian{view}" not in embedded.extras:
                    raise ExperimentError("Reconstruction(contractive=...) needs a model that reports how its codes "
                                          "answer to items (use Autoencoders)")
                terms.append(self.contractive * embedded.extras[f"jacobian{view}"].mean())
            if self.l1:
                terms.append(self.l1 * code.abs().sum(dim=1).mean())
            if self.sparse:
                terms.append(self.sparse * self._inactivity(code))
        return torch.stack(terms).sum()

    def _inactivity(self, code: Tensor) -> Tensor:
        """Sum over units of the Kullback–Leibler divergence of their mean activity from the target."""
        if bool(((code < 0) | (code > 1)).any()):
            raise ExperimentError("Reconstruction(sparse=...) needs codes within [0, 1]: end the towers in "
                                  "nn.Sigmoid(), or use l1")
        active = code.mean(dim=0).clamp(_LEAST_ACTIVITY, 1 - _LEAST_ACTIVITY)
        rho = self.target
        return (rho * (math.log(rho) - active.log()) + (1 - rho) * (math.log(1 - rho) - (1 - active).log())).sum()

    def extra_repr(self) -> str:
        return (f"error={self.error!r}, contractive={self.contractive:g}, l1={self.l1:g}, sparse={self.sparse:g}, "
                f"target={self.target:g}")


class PredictiveSparse(nn.Module):
    """Predictive sparse decomposition (Kavukcuoglu, Ranzato, LeCun 2008, arXiv 1010.3467, equation 5): a dictionary
    with sparse codes, and towers that predict these codes. Of both views, the sum of

    ``mean_i [‖x − D z‖² + l1 · ‖z‖₁ + predict · ‖z − F(x)‖²]``, ``z`` the codes for which the bracket is least,

    found from the towers' prediction ``F(x)`` on by ``steps`` of FISTA (Beck and Teboulle 2009). Codes get no gradient;
    dictionary and towers do. Needs decoders that are a :class:`xmodal.towers.Dictionary`.

    Args:
        l1, predict: weights, none negative.
        steps: of the search for codes.
    """

    def __init__(self, l1: float = 0.5, predict: float = 1.0, steps: int = 20) -> None:
        super().__init__()
        if not (0 <= l1 < float("inf") and 0 <= predict < float("inf") and steps >= 1):
            raise ExperimentError("PredictiveSparse: weights must not be negative and steps at least 1, got "
                                  f"l1={l1}, predict={predict} and steps={steps}")
        self.l1, self.predict, self.steps = l1, predict, steps

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        require_embedded(self, embedded)
        terms = []
        for view, code in ((1, embedded.view1), (2, embedded.view2)):
            if f"atoms{view}" not in embedded.extras:
                raise ExperimentError("PredictiveSparse needs decoders that are a xmodal.towers.Dictionary (use "
                                      "Autoencoders)")
            items, atoms = embedded.extras[f"view{view}"].flatten(1), embedded.extras[f"atoms{view}"]
            z = sparse_codes(items, atoms, code, self.l1, self.predict, self.steps)
            terms.append((items - z @ atoms.mT).square().sum(dim=1).mean() + self.l1 * z.abs().sum(dim=1).mean()
                         + self.predict * (z - code).square().sum(dim=1).mean())
        return torch.stack(terms).sum()

    def extra_repr(self) -> str:
        return f"l1={self.l1:g}, predict={self.predict:g}, steps={self.steps}"


def sparse_codes(items: Tensor, atoms: Tensor, predicted: Tensor, l1: float, predict: float, steps: int) -> Tensor:
    """(n, k) minimisers of ``‖x − D z‖² + l1 ‖z‖₁ + predict ‖z − F‖²`` for items (n, values), atoms ``D`` (values, k)
    and predictions ``F`` (n, k), by FISTA from the predictions on; without gradients."""
    with torch.no_grad():
        gram, projected = atoms.mT @ atoms, items @ atoms
        step = 0.5 / (torch.linalg.matrix_norm(gram, "fro") + predict)  # its norm is at least the largest eigenvalue
        z = ahead = predicted
        t = 1.0
        for _ in range(steps):
            slope = 2 * (ahead @ gram - projected + predict * (ahead - predicted))
            before, moved = z, ahead - step * slope
            z = moved.sign() * (moved.abs() - step * l1).relu()
            t, t_before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            ahead = z + (t_before - 1) / t * (z - before)
    return z


class EvidenceBound(nn.Module):
    """The negative evidence lower bound of a :class:`xmodal.networks.VariationalAutoencoder`, a mean over items and
    over the sources ``s`` that views are restored from,

    ``mean_s [Σ_v E(v, v̂_s) + beta · KL(q(z|s) ‖ N(0, I))] (+ pull · Σ_v KL(q(z|x, y) ‖ q(z|v)), joint only)``

    where ``E`` is summed over the values of an item: the squared error over 2 ``variance``, which is the negative
    log-likelihood of a normal distribution but for a constant, or the cross-entropy. In training one code is drawn
    per item and source; in eval mode it is the posterior's mean, so that a validation loss leaves out what draws cost.
    Of a mixture each part has its own divergence from the prior; their mean is never less than the mixture's.

    Args:
        error: as of :class:`Reconstruction`.
        beta: 1 for the bound itself; less for sharper restorings, more for a smoother space (Higgins et al. 2017).
        variance: of the values about their restorings, with the squared error.
        pull: the weight α of JMVAE-kl.
    """

    def __init__(self, error: ErrorKind = "squared", beta: float = 1.0, variance: float = 0.1, pull: float = 0.1
                 ) -> None:
        super().__init__()
        check_error("EvidenceBound", error)
        if not (0 <= beta < float("inf") and 0 < variance < float("inf") and 0 <= pull < float("inf")):
            raise ExperimentError("EvidenceBound: beta and pull must not be negative and variance above 0, got "
                                  f"beta={beta}, pull={pull} and variance={variance}")
        self.error, self.beta, self.variance, self.pull = error, beta, variance, pull

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        require_embedded(self, embedded)
        extras = embedded.extras
        if "mean_view1" not in extras:
            raise ExperimentError("EvidenceBound needs a model that reports distributions of codes; this model does "
                                  "not (use VariationalAutoencoder)")
        bounds = []
        for source in ("both", "view1", "view2"):
            views = [view for view in (1, 2) if f"view{view}_from_{source}" in extras]
            if views:
                errors = [self._log_likelihood(embedded, view, source) for view in views]
                bounds.append(torch.stack(errors).sum() + self.beta * _divergence(extras, source))
        loss = torch.stack(bounds).mean()
        if "mean_both" in extras and len(bounds) == 1:  # single views are trained by nothing else
            loss = loss + self.pull * (_divergence(extras, "both", "view1") + _divergence(extras, "both", "view2"))
        return loss

    def _log_likelihood(self, embedded: Embedded, view: int, source: str) -> Tensor:
        values = math.prod(embedded.extras[f"view{view}"].shape[1:])
        error = values * restoring_error(embedded, view, source, self.error, "EvidenceBound")
        return error / (2 * self.variance) if self.error == "squared" else error

    def extra_repr(self) -> str:
        return f"error={self.error!r}, beta={self.beta:g}, variance={self.variance:g}, pull={self.pull:g}"


def _divergence(extras: Mapping[str, Tensor], one: str, other: str | None = None) -> Tensor:
    """Mean over items of ``KL(q(z|one) ‖ q(z|other))``, normal distributions both; the prior is N(0, I)."""
    mean, log_variance = extras[f"mean_{one}"], extras[f"log_variance_{one}"]
    if other is None:
        other_mean, other_log_variance = torch.zeros_like(mean), torch.zeros_like(mean)
    else:
        other_mean, other_log_variance = extras[f"mean_{other}"], extras[f"log_variance_{other}"]
    ratio, apart = log_variance - other_log_variance, (mean - other_mean).square() * (-other_log_variance).exp()
    return (ratio.exp() + apart - 1 - ratio).sum(dim=1).mean() / 2
