"""Class-wise retrieval: every gallery item of the query's class is relevant."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics.views import View

GRID = 2.0**34          # rankings compare cosines rounded to 2⁻³⁴, so that ties don't hang on float64 rounding
STRIDE = 2.0**36        # more than any distance on that grid: sets the rows of a block apart
BLOCK_VALUES = 1 << 22  # values sorted at a time
BLOCK_ROWS = 1 << 16    # BLOCK_ROWS · STRIDE stays an exact float64


def class_metrics(queries: View, gallery: View, query_labels: np.ndarray, gallery_labels: np.ndarray,
                  ks: Sequence[int]) -> dict[str, float]:
    """mAP over the whole gallery and nDCG@k with binary gains, of one direction, labels as integer codes.

    Ties as scikit-learn treats them. In ``average_precision_score`` a tied group enters at once, each of its
    relevant items with the precision at the group's end. In ``ndcg_score`` every order of a tied group counts
    equally: each item of the group has the group's mean discount 1/log2(1 + position). Queries whose class is not in
    the gallery are left out; when that leaves none, the values are NaN. Scores are float64 cosines on a grid of
    2⁻³⁴, sorted in blocks of rows together with one bit for relevance, so that no indices need sorting.
    """
    device, width = gallery.raw.device, len(gallery.raw)
    codes = torch.from_numpy(gallery_labels).to(device, torch.float64)
    asked = torch.from_numpy(query_labels).to(device, torch.float64).unsqueeze(1)
    exact = gallery.exact(slice(None)).T
    discounts = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, width + 2)))))
    step = min(len(asked), BLOCK_ROWS, max(1, BLOCK_VALUES // width))
    buffers = [torch.empty(step * width, dtype=torch.float64, device=device) for _ in range(2)]
    sums, n = np.zeros(1 + len(ks)), 0
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(asked), step):
            rows = slice(start, min(start + step, len(asked)))
            keys, relevant = (buffer[: (rows.stop - start) * width].view(-1, width) for buffer in buffers)
            torch.mm(queries.exact(rows), exact, out=keys)
            torch.eq(asked[rows], codes, out=relevant)
            keys.neg_().add_(1.0).mul_(GRID).round_().mul_(2.0).add_(relevant)
            keys = _sort_rows(keys)
            distances = torch.mul(keys, 0.5, out=relevant[: len(keys)] if keys.device == device else None).floor_()
            bits = keys.sub_(distances, alpha=2.0)
            block, found = _block_sums(distances.numpy(), bits.numpy(), ks, discounts)
            sums, n = sums + block, n + found
    means = sums / n if n else np.full_like(sums, np.nan)
    return {"map": float(means[0]), **{f"ndcg{k}": float(value) for k, value in zip(ks, means[1:], strict=True)}}


def _sort_rows(keys: Tensor) -> Tensor:
    """Each row ascending, on the CPU; NumPy's vectorised sort is several times faster than torch's there."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values.cpu()
    keys.numpy().sort(axis=1)
    return keys


def _block_sums(distances: np.ndarray, bits: np.ndarray, ks: Sequence[int], discounts: np.ndarray,
                ) -> tuple[np.ndarray, int]:
    """Sums over queries of average precision and of nDCG at each k, and the number of queries with an answer.

    ``distances``: (b, n) float64 whole numbers, each row ascending · ``bits``: (b, n), 1 where relevant ·
    ``discounts``: (n + 1,), entry i is the sum of the first i discounts. Works on the relevant entries alone.
    """
    n_rows, n = distances.shape
    at = np.flatnonzero(bits)
    row, position = np.divmod(at, n)
    total = np.bincount(row, minlength=n_rows)
    first = np.concatenate(([0], np.cumsum(total)[:-1]))
    start, end, found = position, position + 1, np.arange(1, len(at) + 1) - first[row]
    tied = _tied(distances, at, position)
    if len(tied):
        lines = (distances + np.arange(n_rows)[:, None] * STRIDE).ravel()
        value, begin = lines[at[tied]], row[tied] * n
        start[tied] = np.searchsorted(lines, value, side="left") - begin
        end[tied] = np.searchsorted(lines, value, side="right") - begin
        found[tied] = np.searchsorted(at, begin + end[tied], side="left") - first[row[tied]]
    answered = total > 0
    weight = 1.0 / np.where(answered, total, 1)
    sums = [float((found / end * weight[row]).sum())]
    for k in ks:
        cut = discounts[np.minimum(np.arange(n + 1), k)]
        top = np.flatnonzero(start < k)
        gain = (cut[end[top]] - cut[start[top]]) / (end[top] - start[top])
        sums.append(float((gain / cut[total[row[top]]]).sum()))
    return np.array(sums), int(answered.sum())


def _tied(distances: np.ndarray, at: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Which of the relevant entries (flat indices ``at``) score the same as a neighbour in their row."""
    flat, n = distances.ravel(), distances.shape[1]
    here = flat[at]
    after = (position < n - 1) & (flat[np.minimum(at + 1, flat.size - 1)] == here)
    before = (position > 0) & (flat[np.maximum(at - 1, 0)] == here)
    return np.flatnonzero(after | before)
