"""Variational autoencoders of one view or of two, which generate either view from the other."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from xmodal.distributed import gather_rows, size
from xmodal.errors import DataError, ExperimentError
from xmodal.layers import Embedded
from xmodal.networks.parts import decoded, restorings, wide

EXPERTS = ("separate", "joint", "product", "mixture")
#: Logarithms of variances stay within plus or minus this: e^±15 are numbers that float32 can square.
_MOST = 15.0


class Posterior(NamedTuple):
    """A normal distribution of codes for each of n items, without covariances: (n, k) each."""

    mean: Tensor
    log_variance: Tensor


class VariationalAutoencoder(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114) of two views: encoders give distributions of
    codes, ``q(z|x) = N(μ, σ²)``, decoders restore items from a code drawn from them; the prior is ``N(0, I)``.

    ``experts`` says how the views share a code:

    * ``"separate"``: not at all. Each view has an autoencoder of its own, for which items need no partners.
    * ``"joint"``: a third encoder sees both, and those of single views are drawn to it (JMVAE; Suzuki et al. 2016,
      arXiv 1611.01891).
    * ``"product"``: encoders are experts ``e``, and ``q(z|x, y) ∝ N(0, I) e(z|x) e(z|y)``, in which precisions add up;
      ``q(z|x) ∝ N(0, I) e(z|x)`` likewise (MVAE; Wu and Goodman 2018, arXiv 1802.05335). Either view alone is trained
      as well, as there.
    * ``"mixture"``: ``q(z|x, y) = ½ q(z|x) + ½ q(z|y)``, each half restores both views (MMVAE; Shi et al. 2019,
      arXiv 1911.03393).

    :class:`xmodal.objectives.EvidenceBound` trains it. Embeddings are the means of single views. *Train mode* draws
    codes, *eval mode* takes their means.

    ``extras`` of the result: the items as ``view1``, ``view2``; for each source that posteriors are made of (``view1``,
    ``view2``, and, but for separate ones and mixtures, ``both``) its ``mean_…`` and ``log_variance_…`` (n, k); and of
    each view what is trained to be restored from which source, ``view1_from_view2`` and so on.

    Args:
        dim: k, the width of codes.
        encoder1, encoder2: map (n, *shape) to (n, 2k): means and logarithms of variances, side by side.
        decoder1, decoder2: map (n, k) to (n, *shape).
        experts: see above.
        joint: maps both items, flattened and side by side, (n, values1 + values2) to (n, 2k); for ``"joint"`` only.
    """

    def __init__(self, dim: int, encoder1: nn.Module, encoder2: nn.Module, decoder1: nn.Module, decoder2: nn.Module,
                 experts: Literal["separate", "joint", "product", "mixture"] = "product",
                 joint: nn.Module | None = None) -> None:
        super().__init__()
        if experts not in EXPERTS:
            raise ExperimentError(f"VariationalAutoencoder: experts must be one of {', '.join(EXPERTS)}; got "
                                  f"{experts!r}")
        if (experts == "joint") != (joint is not None):
            raise ExperimentError("VariationalAutoencoder: experts='joint' needs an encoder joint, others have none; "
                                  f"got experts={experts!r} and {'no' if joint is None else 'an'} encoder")
        self.encoder1, self.encoder2, self.decoder1, self.decoder2 = encoder1, encoder2, decoder1, decoder2
        self.dim, self.experts, self.joint = dim, experts, joint

    @property
    def needs_no_pairs(self) -> bool:
        """Whether items are restored from themselves alone."""
        return self.experts == "separate"

    def forward(self, x: Tensor, y: Tensor) -> Embedded:
        """The posterior means of x (n, *shape1) and of y (n, *shape2), each without the other view, and the extras
        above; in train mode of the whole batch, as :meth:`TwoTower.forward`."""
        posteriors = self._posteriors(x, y)
        made = {"view1": x, "view2": y}
        for source, posterior in posteriors.items():
            made |= {f"mean_{source}": posterior.mean, f"log_variance_{source}": posterior.log_variance}
        for source in self._restored_from():
            code = self._drawn(posteriors[source])
            for view, decoder in (("view1", self.decoder1), ("view2", self.decoder2)):
                if source in ("both", view) or self.experts == "mixture":
                    made[f"{view}_from_{source}"] = decoded(decoder, code)
        if self.training and size() > 1:
            made = dict(zip(made, gather_rows(*made.values()), strict=True))
        return Embedded(made["mean_view1"], made["mean_view2"], extras=made)

    def _restored_from(self) -> tuple[str, ...]:
        """The sources whose draws are decoded in training."""
        return {"joint": ("both",), "product": ("both", "view1", "view2")}.get(self.experts, ("view1", "view2"))

    def _posteriors(self, x: Tensor | None, y: Tensor | None) -> dict[str, Posterior]:
        """By source, of the views that are given; ``both`` where it is a distribution of its own."""
        found = {view: self._posterior(encoder, items) for view, encoder, items in
                 (("view1", self.encoder1, x), ("view2", self.encoder2, y)) if items is not None}
        whole = {}
        if x is not None and y is not None and self.joint is not None:
            whole["both"] = self._posterior(self.joint, torch.cat([x.flatten(1), y.flatten(1)], dim=1))
        if self.experts == "product":
            if len(found) == 2:
                whole["both"] = product_of_experts(*found.values())
            found = {view: product_of_experts(expert) for view, expert in found.items()}
        return found | whole

    def _posterior(self, encoder: nn.Module, items: Tensor) -> Posterior:
        out = wide(encoder(items))
        if out.shape[1:] != (2 * self.dim,):
            raise ExperimentError("VariationalAutoencoder: encoders give means and log variances side by side, "
                                  f"here (n, {2 * self.dim}); got (n, {', '.join(map(str, out.shape[1:]))})")
        mean, log_variance = out.chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-_MOST, _MOST))

    def _drawn(self, posterior: Posterior) -> Tensor:
        mean, log_variance = posterior
        return mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean

    def code(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """(n, k) mean of the posterior given one view or both (of a mixture: the mean of the two means); call it in
        eval mode. Of separate autoencoders it is both views' codes side by side, (n, 2k), and needs both.

        Raises:
            DataError: neither view is given, or one of separate autoencoders.
        """
        means = [posterior.mean for posterior in self._posteriors(x, y).values()]
        if not means or (self.experts == "separate" and len(means) < 2):
            raise DataError("VariationalAutoencoder.code and .reconstruct need "
                            + ("both views, x and y: each has a code of its own" if means else "a view: x, y or both"))
        if self.experts == "separate":
            return torch.cat(means, dim=1)
        return (means[0] + means[1]) / 2 if len(means) == 2 else means[-1]

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoders make of codes as :meth:`code` gives them: (n, *shape1) and (n, *shape2)."""
        one, two = code.chunk(2, dim=1) if self.experts == "separate" else (code, code)
        return decoded(self.decoder1, one), decoded(self.decoder2, two)

    def reconstruct(self, x: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both views from the code of one or both; call it in eval mode."""
        return self.decode(self.code(x, y))

    def restorings(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """As :meth:`CorrNet.restorings`; of separate autoencoders each view from itself alone."""
        if self.experts == "separate":
            own = self.reconstruct(x, y)
            return {"view1_from_view1": own[0].float(), "view2_from_view2": own[1].float()}
        return restorings(self.reconstruct, x, y)

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """``n`` items of either view from codes drawn from the prior: (n, *shape1) and (n, *shape2); call it in eval
        mode."""
        width = 2 * self.dim if self.experts == "separate" else self.dim
        codes = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
        return self.decode(codes.to(next(self.decoder1.parameters())))

    def embed_view1(self, x: Tensor) -> Tensor:
        """x (n, *shape1) to posterior means (n, k); needs nothing of view 2."""
        return self._posteriors(x, None)["view1"].mean

    def embed_view2(self, y: Tensor) -> Tensor:
        """y (n, *shape2) to posterior means (n, k); needs nothing of view 1."""
        return self._posteriors(None, y)["view2"].mean

    def refit(self, batches: Iterable[tuple[Tensor, Tensor]], train_mode: bool = False) -> int:
        """Nothing to do: no statistics are kept. Returns 0, the number of pairs seen."""
        return 0

    def extra_repr(self) -> str:
        return f"{self.dim}, experts={self.experts!r}"


def product_of_experts(*experts: Posterior) -> Posterior:
    """The normal distribution proportional to ``N(0, I)`` times all experts: precisions add up, means are weighted by
    theirs."""
    precisions = [(-expert.log_variance).exp() for expert in experts]
    total = 1 + torch.stack(precisions).sum(dim=0)
    weighted = torch.stack([expert.mean * precision for expert, precision in zip(experts, precisions, strict=True)])
    return Posterior(weighted.sum(dim=0) / total, -total.log())
