"""Binary codes of embeddings (semantic hashing): a bit per coordinate, packed, for galleries of any size in memory."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, pad, softmax

from xmodal.errors import DataError, did_you_mean
from xmodal.features.packages import required
from xmodal.layers.binary import imbalance, sign_through
from xmodal.nearest import Nearest, nearest, spread_rows

CODES = ("sign", "rotated", "learned")
#: Or whichever of them finds most on a sample of so many items, among the best HUNDREDTH of them, for so many queries.
BEST, _TRIED, _TRIED_QUERIES, _HUNDREDTH = "best", 20_000, 500, 100
_ROTATIONS = 50         # of ITQ, as the paper has it
_STEPS, _BATCH = 600, 512
_TEMPERATURE = 0.05     # of similarities that codes learn to keep
_BALANCE = 0.1


@dataclass(frozen=True)
class BinaryCodes:
    """Bit j of an item is set where coordinate j of ``z @ projection`` is above a threshold.

    Queries have thresholds of their own, since two views rarely share their means.

    Attributes:
        projection: (d, bits) float32.
        thresholds: (bits,) float32, of gallery items.
        query_thresholds: (bits,) float32.
    """

    projection: Tensor
    thresholds: Tensor
    query_thresholds: Tensor

    @property
    def bits(self) -> int:
        """How many. They are packed to whole bytes; what fills the last one up is 0 in all items."""
        return self.projection.shape[1]

    def of_items(self, z: Tensor) -> Tensor:
        """Unit embeddings (n, d) as packed bits (n, bytes) uint8."""
        return pack(z @ self.projection > self.thresholds)

    def of_queries(self, z: Tensor) -> Tensor:
        """Likewise, of queries."""
        return pack(z @ self.projection > self.query_thresholds)

    def state(self) -> dict[str, Tensor]:
        """For :meth:`of_state`."""
        return {"projection": self.projection.contiguous(), "thresholds": self.thresholds.contiguous(),
                "query_thresholds": self.query_thresholds.contiguous()}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> BinaryCodes:
        """From what :meth:`state` gave."""
        return cls(state["projection"], state["thresholds"], state["query_thresholds"])


def make_codes(items: Tensor, bits: int, how: str = BEST, queries: Tensor | None = None, seed: int = 0) -> BinaryCodes:
    """Codes fitted to unit embeddings.

    * ``sign``: the signs of the first ``bits`` coordinates, about their medians: with a CCA head those of the most
      correlated directions.
    * ``rotated``: a rotation first, such that signs lie near their coordinates: ITQ (Gong and Lazebnik 2011, CVPR,
      algorithm 1). With more bits than dimensions a random frame of orthonormal rows comes first.
    * ``learned``: a linear map from the rotation on, trained by straight-through gradients so that the softmax over
      code similarities of each query keeps that over cosines (Kullback–Leibler), with a penalty on unbalanced bits.
    * ``best``: of these, the one that has most of the true ten nearest among its nearest hundredth. Which that is
      depends on how embeddings are spread: more often than one might think it is the signs.

    Args:
        items: (n, d) float32 of length one, a sample of the gallery.
        bits: at least 1; for ``sign`` at most d. Memory is that of whole bytes.
        how: one of ``CODES``, or ``best``.
        queries: (m, d) embeddings like the queries to come; by default the items.
        seed: of random frames and batches.

    Raises:
        DataError: no such codes, or a number of bits that isn't possible.
    """
    if how not in (*CODES, BEST):
        raise DataError(f"codes {how!r}: {did_you_mean(how, (*CODES, BEST))}")
    if bits < 1:
        raise DataError(f"codes need at least 1 bit, got {bits}")
    if how == "sign" and bits > items.shape[1]:
        raise DataError(f"the signs of {items.shape[1]} coordinates give at most {items.shape[1]} bits, got {bits}; "
                        "rotated and learned codes can have more")
    asked = items if queries is None else queries
    if how == BEST:
        tried = [make_codes(items, bits, one, queries, seed) for one in CODES
                 if one != "sign" or bits <= items.shape[1]]
        return max(tried, key=lambda codes: _kept(codes, items[spread_rows(len(items), _TRIED)],
                                                asked[spread_rows(len(asked), _TRIED_QUERIES)]))
    draw = torch.Generator().manual_seed(seed)
    projection = torch.eye(items.shape[1], bits) if how == "sign" else \
        rotation(items - items.mean(dim=0), bits, draw)
    if how == "learned":
        projection = _learned(items, asked, projection, draw)
    thresholds, query_thresholds = (_middles(z @ projection) for z in (items, asked))
    return BinaryCodes(projection, thresholds, query_thresholds)


def _middles(z: Tensor) -> Tensor:
    """(bits,) medians of columns (n, bits), or what is halfway between the two values of a column that has no others:
    bits that are there already, such as those of :class:`xmodal.layers.Bits`, stay as they are."""
    low, high = z.amin(dim=0), z.amax(dim=0)
    half = (high - low) * 1e-3  # embeddings of length one are equal but for rounding
    two = ((z < low + half) | (z > high - half)).all(dim=0)
    return torch.where(two, (low + high) / 2, z.median(dim=0).values)


def _kept(codes: BinaryCodes, items: Tensor, queries: Tensor) -> float:
    """The share of each query's ten nearest items that are among the hundredth whose codes are nearest."""
    near = nearest(queries, items, min(10, len(items))).rows
    found = nearest_codes(codes.of_queries(queries), codes.of_items(items), max(10, len(items) // _HUNDREDTH)).rows
    return float((near[:, :, None] == found[:, None, :]).any(dim=2).double().mean())


def rotation(centred: Tensor, bits: int, draw: torch.Generator) -> Tensor:
    """(d, bits): for which signs lie near their coordinates, ‖sign(Z R) − Z R‖ over orthonormal R, by turns.

    ``Z`` is the data's principal coordinates where ``bits`` ≤ d, else a random tight frame of them.
    """
    d = centred.shape[1]
    if bits <= d:
        basis = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :bits]
    else:
        basis = torch.linalg.qr(torch.randn(bits, bits, generator=draw)).Q[:d]
    z = centred @ basis
    turn = torch.linalg.qr(torch.randn(bits, bits, generator=draw)).Q
    for _ in range(_ROTATIONS):
        codes = torch.where(z @ turn > 0, 1.0, -1.0)
        left, _, right = torch.linalg.svd(z.T @ codes)
        turn = left @ right
    rotated: Tensor = basis @ turn
    return rotated


def _learned(items: Tensor, queries: Tensor, start: Tensor, draw: torch.Generator) -> Tensor:
    """The projection after training on what is nearest to queries."""
    scale = (items @ start).std(dim=0).mean().clamp_min(1e-6)
    weights = (start / scale).requires_grad_()
    means = [(z @ start / scale).median(dim=0).values.detach().requires_grad_() for z in (items, queries)]
    optimizer = torch.optim.Adam([weights, *means], lr=3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    bits = weights.shape[1]
    with torch.enable_grad():
        for _ in range(_STEPS):
            some, asked = (z[torch.randint(len(z), (_BATCH,), generator=draw)] for z in (items, queries))
            codes, query_codes = (sign_through(z @ weights - mean) for z, mean in ((some, means[0]), (asked, means[1])))
            wanted = softmax(asked @ some.T / _TEMPERATURE, dim=1)
            # a code's similarity is the arcsine of the cosine, whose slope is 2 / π
            got = log_softmax(query_codes @ codes.T / bits * (torch.pi / 2) / _TEMPERATURE, dim=1)
            loss = kl_div(got, wanted, reduction="batchmean") \
                + _BALANCE * (imbalance(codes) + imbalance(query_codes))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return normalize(weights.detach(), dim=0)


def pack(bits: Tensor) -> Tensor:
    """(n, bits) bool to (n, bytes) uint8, the first bit the highest, zeros behind the last."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy(), axis=1))


def unpack(packed: Tensor) -> Tensor:
    """Packed bits (n, bytes) as ±1, (n, 8 · bytes) float32."""
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1))
    return bits.float().mul_(2).sub_(1)


def nearest_codes(queries: Tensor, codes: Tensor, k: int, allowed: Tensor | None = None) -> Nearest:
    """The ``k`` codes of least Hamming distance to each query, both packed.

    Scores are 8 · bytes − 2 · distance, as of an inner product of ±1. FAISS counts bits where it is installed, in a
    tenth of the time; without it codes are unpacked tile by tile and multiplied, and of equal ones the lower rows are
    taken.
    """
    try:
        faiss = required("faiss")
    except DataError:
        return nearest(unpack(queries), codes, k, allowed=allowed, read=unpack)
    rows = None if allowed is None else allowed.nonzero().flatten()
    searched = codes if rows is None else codes[rows]
    if not len(searched):
        return Nearest(torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1))
    count = min(k, len(searched))
    distances, found = (torch.from_numpy(values) for values in
                        faiss.knn_hamming(queries.numpy(), np.ascontiguousarray(searched.numpy()), count))
    found = found.long() if rows is None else rows[found.long()]
    missing = (0, k - count)
    return Nearest(pad(8.0 * codes.shape[1] - 2 * distances.float(), missing, value=-torch.inf),
                   pad(found, missing, value=-1))


