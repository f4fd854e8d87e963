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
    * ``"product"``: ``q(z|x, y) ∝ N(0, I) q(z|x) q(z|y)``, in which precisions add up (MVAE; Wu and Goodman 2018,
      arXiv 1802.05335); either view alone is trained as well, as there.
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
        posteriors = {"view1": self._posterior(self.encoder1, x), "view2": self._posterior(self.encoder2, y)}
        if self.experts in ("joint", "product"):
            posteriors["both"] = self._of_both(x, y, posteriors["view1"], posteriors["view2"])
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

    def _of_both(self, x: Tensor, y: Tensor, one: Posterior, two: Posterior) -> Posterior:
        if self.joint is not None:
            return self._posterior(self.joint, torch.cat([x.flatten(1), y.flatten(1)], dim=1))
        return product_of_experts(one, two)

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
        """(n, k) mean of the posterior given one view or both (of a mixture, of separate ones: the mean of the two
        means); call it in eval mode.

        Raises:
            DataError: neither view is given.
        """
        if x is not None and y is not None:
            one, two = self._posterior(self.encoder1, x), self._posterior(self.encoder2, y)
            both = self.experts in ("joint", "product")
            return self._of_both(x, y, one, two).mean if both else (one.mean + two.mean) / 2
        if x is not None:
            return self.embed_view1(x)
        if y is not None:
            return self.embed_view2(y)
        raise DataError("VariationalAutoencoder.code and .reconstruct need a view: x, y or both")

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoders make of codes (n, k): (n, *shape1) and (n, *shape2)."""
        return decoded(self.decoder1, code), decoded(self.decoder2, code)

    def reconstruct(self, x: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both views from the code of one or both; call it in eval mode."""
        return self.decode(self.code(x, y))

    def restorings(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """As :meth:`CorrNet.restorings`."""
        return restorings(self.reconstruct, x, y)

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """``n`` items of either view from codes drawn from the prior: (n, *shape1) and (n, *shape2); call it in eval
        mode."""
        codes = torch.randn(n, self.dim, generator=torch.Generator().manual_seed(seed))
        return self.decode(codes.to(next(self.decoder1.parameters())))

    def embed_view1(self, x: Tensor) -> Tensor:
        """x (n, *shape1) to posterior means (n, k); needs nothing of view 2."""
        return self._posterior(self.encoder1, x).mean

    def embed_view2(self, y: Tensor) -> Tensor:
        """y (n, *shape2) to posterior means (n, k); needs nothing of view 1."""
        return self._posterior(self.encoder2, y).mean

    def refit(self, batches: Iterable[tuple[Tensor, Tensor]], train_mode: bool = False) -> int:
        """Nothing to do: no statistics are kept. Returns 0, the number of pairs seen."""
        return 0

    def extra_repr(self) -> str:
        return f"{self.dim}, experts={self.experts!r}"


def product_of_experts(one: Posterior, two: Posterior) -> Posterior:
    """The normal distribution proportional to ``N(0, I) · one · two``: precisions add up, means are weighted by
    theirs."""
    precision1, precision2 = (-one.log_variance).exp(), (-two.log_variance).exp()
    precision = 1 + precision1 + precision2
    return Posterior((one.mean * precision1 + two.mean * precision2) / precision, -precision.log())
