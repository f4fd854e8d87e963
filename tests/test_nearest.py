"""The k nearest against a plain product and a sort, with ties, masks, several parts, and both ways of the product."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from xmodal import nearest as module
from xmodal.nearest import first_largest, nearest, spread_rows


def slowly(queries: Tensor, gallery: Tensor, k: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All scores, sorted."""
    scores = queries @ gallery.T
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    top, rows = scores.sort(dim=1, descending=True, stable=True)
    top, rows = top[:, :k], rows[:, :k]
    return top, rows.masked_fill(top == -torch.inf, -1)


@pytest.fixture(params=["float32", "sketched"])
def either_way(request, monkeypatch):
    """Small tiles, with and without the rough product first."""
    monkeypatch.setattr(module, "TILE_VALUES", 1 << 12)
    monkeypatch.setattr(module, "LEAST_ROWS", 16)
    monkeypatch.setattr(module, "SKETCHED_QUERIES", 1)
    monkeypatch.setattr(module, "has_bfloat16_units", lambda: request.param == "sketched")


@pytest.mark.parametrize("queries", [1, 3, 100])
@pytest.mark.parametrize("k", [1, 10, 500])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_it_is_the_sorted_product(either_way, queries, k, spread):
    draw = torch.Generator().manual_seed(queries * k)
    centre = torch.randn(24, generator=draw)
    # whole multiples of a power of 2: the same products however they are added up
    gallery = (64 * (centre + spread * torch.randn(500, 24, generator=draw))).round() / 64
    asked = (64 * (centre + spread * torch.randn(queries, 24, generator=draw))).round() / 64
    scores, rows = slowly(asked, gallery, k)
    found = nearest(asked, gallery, k)
    assert torch.equal(found.rows, rows) and torch.equal(found.scores, scores)


def test_tiles_that_are_ruled_out_hold_nothing(either_way):
    draw = torch.Generator().manual_seed(0)
    asked, gallery = (normalize(torch.randn(n, 32, generator=draw)) for n in (70, 20_000))
    scores, rows = slowly(asked, gallery, 10)
    found = nearest(asked, gallery, 10)
    assert torch.equal(found.rows, rows)
    torch.testing.assert_close(found.scores, scores)


def test_a_rough_product_is_off_by_no_more_than_is_allowed_for():
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 64, generator=draw), torch.randn(300, 64, generator=draw)
    b[:100] = a[:100]  # the largest products
    a[100:200] *= 1e-3
    off = ((a.bfloat16() @ b.bfloat16().T).double() - a.double() @ b.double().T).abs()
    assert (off <= module.SKETCH_ERROR * a.norm(dim=1)[:, None] * b.norm(dim=1)).all()


def test_equal_vectors_come_in_their_order(either_way):
    gallery = torch.ones(100, 4).repeat(3, 1)
    found = nearest(torch.ones(5, 4), gallery, 7)
    assert found.rows.tolist() == [[*range(7)]] * 5


@given(st.data())
def test_ties_masks_and_parts(data):
    n, q, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    pair = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    gallery, asked = (torch.tensor(data.draw(st.lists(pair, min_size=m, max_size=m))).float() for m in (n, q))
    allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    cut = data.draw(st.integers(0, n))
    scores, rows = slowly(asked, gallery, k, allowed)
    found = nearest(asked, [gallery[:cut], gallery[cut:]], k, allowed=allowed)
    wide = min(k, n)
    assert torch.equal(found.rows[:, :wide], rows) and torch.equal(found.scores[:, :wide], scores)
    assert (found.rows[:, wide:] == -1).all()


def test_the_first_of_equal_scores():
    scores = torch.tensor([[1.0, 2, 2, 2, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]])
    found = first_largest(scores, 2)
    assert found.rows.tolist() == [[1, 2], [0, 1], [0, 1]]
    assert found.scores.tolist() == [[2, 2], [0, 0], [5, 4]]


@pytest.mark.parametrize(("n", "most", "rows"), [
    (0, 5, []), (1, 5, [0]), (5, 0, []), (5, 1, [0]), (5, 9, [0, 1, 2, 3, 4]), (10, 4, [0, 3, 6, 9]),
    (12, 4, [0, 3, 7, 11]),
])
def test_rows_are_spread_evenly(n, most, rows):
    assert spread_rows(n, most).tolist() == rows


@pytest.mark.parametrize("n", [2**24 + 4, 3 * 10**9, 10**12])
def test_spread_rows_are_rows_of_the_largest_arrays(n):
    rows = spread_rows(n, 1001)
    assert rows.tolist() == [i * (n - 1) // 1000 for i in range(1001)]
