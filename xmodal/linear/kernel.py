"""Kernel CCA: linear CCA of kernel features, exact or approximate."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from numbers import Integral, Real
from typing import Any, Literal, cast

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from xmodal.errors import CheckpointError, DataError, did_you_mean
from xmodal.linalg import EXACT, LEAST_RIDGE, cca_solution, fix_signs, leading_svd, noise_floor
from xmodal.linear.cca import check_ridges, components, in_columns, mean_deviation
from xmodal.linear.closed_form import ClosedForm, Pairs
from xmodal.linear.features import KERNELS, FeatureMap, Kernel, fourier, median_gamma, nystroem, precomputed
from xmodal.linear.inputs import Rows
from xmodal.linear.projection import Projection
from xmodal.linear.sums import ViewStatistics

#: The median heuristic looks at so many items.
MEDIAN_SAMPLE = 1000
#: What decides on the features besides the data.
KERNEL_PARAMETERS = ("kernel", "degree", "coef0", "approximation", "n_features")
#: Items whose features exist at a time.
BLOCK = 1024


class KernelCCA(ClosedForm):
    """Kernel CCA (Bach and Jordan 2002; Hardoon et al. 2004) through explicit features.

    Items become features whose inner products are the kernel's values, and linear CCA of the features is kernel CCA.
    Exact (``approximation=None``), every fitted item is a landmark: memory grows with the square and time with the
    cube of their number. ``"nystroem"`` takes ``n_features`` random items as landmarks, ``"fourier"`` draws
    ``n_features`` random Fourier features of an RBF kernel; with both, pairs stream through :class:`xmodal.LinearCCA`'s
    sums, and there may be any number.

    Regularisation, with ``C`` the covariance of a view's features and ``κ = r · trace C``:

    * ``"norm"``: ``C + κ I``, a penalty on the norm of the functions in the kernel's space. In terms of the centred
      kernel matrix of n items this is ``K² + (n − 1) κ K`` (Hardoon et al. 2004; Fukumizu et al. 2007).
    * ``"bach_jordan"``: ``(C + κ/2 I)² C⁻¹``, in terms of the kernel matrix ``(K + n κ/2 I)²`` (Bach and Jordan
      2002).

    ``r1`` and ``r2`` are relative to all variance of a view's features (for :class:`xmodal.LinearCCA`, to the mean
    variance of a column), so that they mean the same for any number of features.

    Args:
        n_components: how many canonical directions to keep; default as many as there can be.
        kernel: "rbf", "linear", "poly" or "precomputed" (``fit(K1, K2)`` with (n, n), ``transform`` with (m, n)); or a
            pair of names, for view 1 and view 2.
        gamma: of the kernel, or a pair. By default the median heuristic for RBF, ``1/d`` for polynomials.
        degree, coef0: of a polynomial.
        approximation: None, "nystroem" or "fourier"; a linear kernel needs none and takes the items themselves.
        n_features: how many landmarks, or random features.
        r1, r2: ridges, relative to the variance of a view's features.
        regularisation: "norm" or "bach_jordan".
        random_state: seed of landmarks and random features; None draws it from torch's global generator.
        unpaired_weight, svd_solver, device: as for :class:`xmodal.LinearCCA`.

    Attributes:
        correlations_: (k,) canonical correlations of the fitted pairs, lowered by the ridges.
        gammas_: of both kernels.
        n_pairs_: how many pairs it was fitted to.
    """

    _maps: tuple[FeatureMap, FeatureMap] | None = None

    def __init__(self, n_components: int | None = None, kernel: str | tuple[str, str] = "rbf", *,
                 gamma: float | tuple[float | None, float | None] | None = None, degree: int = 3, coef0: float = 1.0,
                 approximation: str | None = None, n_features: int = 1000, r1: float = 1e-3, r2: float = 1e-3,
                 regularisation: str = "norm", random_state: Any = None,
                 unpaired_weight: float | Literal["auto"] = "auto", svd_solver: str = "auto",
                 device: str = "cpu") -> None:
        self.n_components, self.kernel, self.gamma, self.degree, self.coef0 = n_components, kernel, gamma, degree, coef0
        self.approximation, self.n_features, self.r1, self.r2 = approximation, n_features, r1, r2
        self.regularisation, self.random_state = regularisation, random_state
        self.unpaired_weight, self.svd_solver, self.device = unpaired_weight, svd_solver, device

    # -- features ---------------------------------------------------------------------------------------------------

    def _prepare(self, rows1: Rows, rows2: Rows) -> None:
        self._check()
        seed = self._seed()
        choose = torch.Generator().manual_seed(seed)
        samples = []
        for rows, kernel in zip((rows1, rows2), _both(self.kernel), strict=True):
            size = len(rows) if kernel == "precomputed" else min(len(rows), self._sample_size())
            chosen = np.sort(torch.randperm(len(rows), generator=choose)[:size].numpy())
            samples.append(rows.take(slice(None) if size == len(rows) else chosen))
        self._make_maps(samples[0], samples[1], seed)

    def _prepare_from(self, batches: Pairs, lone1: Iterable[Tensor], lone2: Iterable[Tensor]
                      ) -> tuple[Pairs, Iterable[Tensor], Iterable[Tensor]]:
        """The first pairs are the sample: they should come in random order. The exact form looks at all items."""
        self._check()
        if "precomputed" in _both(self.kernel):
            raise DataError("a precomputed kernel can't come in batches; use fit(K1, K2)")
        batches, first, count = iter(batches), [], 0
        while count < self._sample_size():
            batch = next(batches, None)
            if batch is None:
                break
            first.append((batch[0].detach().clone(), batch[1].detach().clone()))  # its memory may be used again
            count += len(batch[0])
        if count < 2:
            raise DataError(f"a covariance needs at least two pairs, got {count}")
        sample1, sample2 = (torch.cat(view) for view in zip(*first, strict=True))
        if self._is_exact():
            lone1, lone2 = ([items.detach().clone() for items in lone] for lone in (lone1, lone2))
            # an item of several pairs is one landmark
            sample1, sample2 = (torch.cat([sample, *lone]).unique(dim=0)
                                for sample, lone in ((sample1, lone1), (sample2, lone2)))
        self._make_maps(sample1, sample2, self._seed())
        return chain(first, batches), lone1, lone2

    def _seed(self) -> int:
        if self.random_state is None:
            return int(torch.randint(2**31 - 1, ()))
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _make_maps(self, sample1: Tensor, sample2: Tensor, seed: int) -> None:
        """Features of both views, by samples of their items; what is drawn for them depends on the seed alone, the
        order of the samples on their sizes, too."""
        shuffle, draw = torch.Generator().manual_seed(seed + 1), torch.Generator().manual_seed(seed)
        maps = []
        for name, gamma, sample in zip(_both(self.kernel), _both(self.gamma), (sample1, sample2), strict=True):
            if name != "precomputed":
                sample = sample[torch.randperm(len(sample), generator=shuffle).to(sample.device)].double()
            maps.append(_moved(self._make_map(name, gamma, sample.to(self.device), draw), self.device))
        self._maps = maps[0], maps[1]

    def _make_map(self, name: str, gamma: float | None, sample: Tensor, generator: torch.Generator) -> FeatureMap:
        """The features of a view, given a sample of its items in random order."""
        if name == "linear":
            return FeatureMap(Kernel("linear"))
        if name == "precomputed":
            return precomputed(sample)
        if gamma is None:
            gamma = median_gamma(sample[:MEDIAN_SAMPLE]) if name == "rbf" else 1.0 / sample.shape[1]
        kernel = Kernel(name, float(gamma), self.degree, float(self.coef0))
        if self.approximation == "fourier":
            return fourier(kernel, sample.shape[1], self.n_features, generator)
        return nystroem(kernel, sample if self.approximation is None else sample[:self.n_features])

    def _map_view1(self, x: Tensor) -> Tensor:
        return self._chosen_maps()[0](x)

    def _map_view2(self, y: Tensor) -> Tensor:
        return self._chosen_maps()[1](y)

    def _chosen_maps(self) -> tuple[FeatureMap, FeatureMap]:
        if self._maps is None:
            raise NotFittedError("this KernelCCA is not fitted yet: call fit first")
        return self._maps

    def _start(self) -> None:
        super()._start()
        self._maps = None

    def _add(self, batches: Pairs, lone1: Iterable[Tensor], lone2: Iterable[Tensor]) -> None:
        """In small blocks: features may be many times wider than items."""
        pairs = ((x, y) for batch in batches for x, y in zip(*(view.split(BLOCK) for view in batch), strict=True))
        super()._add(pairs, _split(lone1), _split(lone2))

    # -- fitting ----------------------------------------------------------------------------------------------------

    @available_if(lambda self: not self._is_exact())
    def partial_fit(self, X: Any = None, Y: Any = None, pairs: Any = None) -> KernelCCA:
        """As :meth:`xmodal.LinearCCA.partial_fit`, if approximated: landmarks and bandwidths are chosen by the first
        rows, which should be a fair sample; the exact form needs all pairs at once."""
        if self._maps is None and (X is None or Y is None):
            raise DataError("kernel CCA chooses its features by the first pairs; items without a partner come after")
        return super().partial_fit(X, Y, pairs)

    def merge(self, other: ClosedForm) -> KernelCCA:
        """Adds the pairs that another one with the same features was fitted to.

        Raises:
            DataError: its features are others (another gamma, random_state or landmarks).
        """
        if isinstance(other, KernelCCA) and [self.get_params()[name] for name in KERNEL_PARAMETERS] != [
                other.get_params()[name] for name in KERNEL_PARAMETERS]:
            raise DataError(f"merge needs the same features on both sides: the same {', '.join(KERNEL_PARAMETERS)}")
        mine, theirs = self._map_tensors(), other._map_tensors() if isinstance(other, KernelCCA) else {}
        if mine and theirs and (mine.keys() != theirs.keys()
                                or not all(torch.equal(mine[name], theirs[name]) for name in mine)):
            raise DataError("merge needs the same features on both sides: give both one gamma and one random_state "
                            "(landmarks of other rows are other features)")
        super().merge(other)
        self._maps = self._maps or cast(KernelCCA, other)._maps
        return self

    def _is_exact(self) -> bool:
        return self.approximation is None and set(_both(self.kernel)) != {"linear"}

    def _sample_size(self) -> float:
        return float("inf") if self._is_exact() else max(self.n_features, MEDIAN_SAMPLE)

    def _check(self) -> None:
        check_ridges(self.r1, self.r2)
        unknown = [name for name in _both(self.kernel) if name not in KERNELS]
        if unknown:
            raise DataError(f"kernel {unknown[0]!r}: {did_you_mean(str(unknown[0]), KERNELS)}")
        if self.approximation not in (None, "nystroem", "fourier"):
            raise DataError(f"approximation must be None, 'nystroem' or 'fourier', got {self.approximation!r}")
        if self.regularisation not in ("norm", "bach_jordan"):
            raise DataError(f"regularisation must be 'norm' or 'bach_jordan', got {self.regularisation!r}")
        if self.approximation is not None and "precomputed" in _both(self.kernel):
            raise DataError("a precomputed kernel is exact: leave approximation at None")
        if self.approximation == "fourier" and "poly" in _both(self.kernel):
            raise DataError("random Fourier features are those of an RBF kernel; with 'poly' use 'nystroem'")
        for name in ("n_features", "degree"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise DataError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not isinstance(self.coef0, Real) or not abs(self.coef0) < float("inf"):
            raise DataError(f"coef0 must be a number, got {self.coef0!r}")
        for gamma in _both(self.gamma):
            if gamma is not None and not (isinstance(gamma, Real) and 0 < gamma < float("inf")):
                raise DataError(f"gamma must be a number above 0, got {gamma!r}")

    def _solve(self, view1: ViewStatistics, view2: ViewStatistics, S12: Tensor) -> Projection:
        k = components(self.n_components, S12)
        scale1, scale2 = mean_deviation(view1), mean_deviation(view2)  # in units of which each trace is the width
        S11, S22, S12 = view1.S.div_(scale1**2), view2.S.div_(scale2**2), S12.div_(scale1).div_(scale2)
        kappa1, kappa2 = self.r1 * len(view1.variances), self.r2 * len(view2.variances)
        if self.regularisation == "norm":
            U, V, correlations = cca_solution(S11, S22, S12, kappa1, kappa2, k, svd_solver=self.svd_solver)
        else:
            W1, W2 = bach_jordan_whitening(S11, kappa1), bach_jordan_whitening(S22, kappa2)
            E, correlations, F = leading_svd(W1.mT @ S12 @ W2, k, self.svd_solver)
            U, V, correlations = W1 @ E, W2 @ F, correlations.clamp(max=1.0)
        U, V = fix_signs(in_columns(view1, U) / scale1, in_columns(view2, V) / scale2)
        return Projection(view1.mean, view2.mean, U, V, correlations)

    @property
    def gammas_(self) -> tuple[float, float]:
        """``gamma`` of both views' kernels."""
        maps = self._chosen_maps()
        return maps[0].kernel.gamma, maps[1].kernel.gamma

    # -- as a model of the toolkit ----------------------------------------------------------------------------------

    def _map_tensors(self) -> dict[str, Tensor]:
        return {f"map{i}.{name}": tensor for i, features in enumerate(self._maps or (), start=1)
                for name, tensor in features.tensors().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All that embedding needs, by name; landmarks and random features included."""
        return {**super().state_dict(), **self._map_tensors()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is not that.
        """
        super().load_state_dict(tensors)
        maps = []
        for i, name in enumerate(_both(self.kernel), start=1):
            kernel = Kernel(name, 1.0, self.degree, float(self.coef0))
            maps.append(self._loaded(kernel, {part.partition(".")[2]: tensor for part, tensor in tensors.items()
                                              if part.startswith(f"map{i}.")}, f"map{i}"))
        for features, mean in zip(maps, (tensors["mean1"], tensors["mean2"]), strict=True):
            if features.n_features not in (None, len(mean)):
                raise CheckpointError(f"KernelCCA has {features.n_features} features and a mean of {len(mean)}")
        self._maps = maps[0], maps[1]
        self.n_features_in_ = maps[0].width or self.n_features_in_
        self.n_features2_in_ = maps[1].width or self.n_features2_in_

    def _is_part(self, name: str) -> bool:
        return name.startswith(("map1.", "map2."))

    def _loaded(self, kernel: Kernel, parts: Mapping[str, Tensor], name: str) -> FeatureMap:
        """The features of a view from their tensors.

        Raises:
            CheckpointError: some are missing, left over or don't fit each other.
        """
        if kernel.name == "linear":
            expected: tuple[str, ...] = ("gamma",)
        elif kernel.name == "precomputed":
            expected = ("gamma", "whitening")
        else:
            expected = ("gamma", "frequencies") if self.approximation == "fourier" else \
                ("gamma", "landmarks", "whitening")
        missing = [part for part in expected if part not in parts]
        if missing or len(parts) > len(expected):
            raise CheckpointError(f"KernelCCA has no {name}.{missing[0]}" if missing else
                                  f"{name} of KernelCCA must consist of {', '.join(expected)}; got {', '.join(parts)}")
        if not all(part.dtype in (torch.float32, torch.float64) and bool(torch.isfinite(part).all())
                   for part in parts.values()):
            raise CheckpointError(f"{name} of KernelCCA must hold finite numbers")
        matrices = {part: parts[part].double() for part in expected[1:]}
        if parts["gamma"].ndim != 0 or any(matrix.ndim != 2 for matrix in matrices.values()) or (
                "landmarks" in matrices and len(matrices["landmarks"]) != len(matrices["whitening"])):
            raise CheckpointError(f"the shapes of {name} don't fit each other: "
                                  f"{', '.join(f'{part} {tuple(parts[part].shape)}' for part in expected)}")
        return FeatureMap(kernel._replace(gamma=float(parts["gamma"])), **matrices)

    def to(self, device: torch.device | str) -> KernelCCA:
        """Moves what was fitted."""
        if self._maps is not None:
            self._maps = _moved(self._maps[0], device), _moved(self._maps[1], device)
        return super().to(device)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = _both(self.kernel)[0] == "precomputed"
        return tags


def bach_jordan_whitening(C: Tensor, kappa: float) -> Tensor:
    """(q, q) ``W`` with ``W Wᵀ`` the inverse of ``(C + κ/2 I)² C⁻¹``: by eigenvalues of ``C``, ``√λ / (λ + κ/2)``."""
    values, vectors = torch.linalg.eigh(C)
    values = values.clamp(min=0)
    W: Tensor = vectors * (values.sqrt() / (values + 0.5 * kappa + noise_floor(C, EXACT) + LEAST_RIDGE))
    return W


def _both(value: Any) -> tuple[Any, Any]:
    """A value for both views, or one for each."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise DataError(f"expected one value, or a pair of them for view 1 and view 2; got {value!r}")
        return value[0], value[1]
    return value, value


def _moved(features: FeatureMap, device: torch.device | str) -> FeatureMap:
    return FeatureMap(features.kernel, *(None if tensor is None else tensor.to(device) for tensor in features[1:]))


def _split(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    return (block for batch in batches for block in batch.split(BLOCK))
