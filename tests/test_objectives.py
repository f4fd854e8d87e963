"""Objectives against Python loops."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import ExperimentError
from xmodal.layers import CCALayer, Embedded, LearnedProjection
from xmodal.objectives import PairwiseRanking, TraceNorm, WeightedSum, shared_items


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def embeddings(n: int, d: int = 3, seed: int = 0) -> Embedded:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    return Embedded(z * 5, z + torch.randn(n, d, generator=g, dtype=torch.float64))


def table(n: int, images: int, captions: int, seed: int) -> torch.Tensor:
    """Rows (picture, caption); pictures and captions may occur several times."""
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(images, (n,), generator=g), torch.randint(captions, (n,), generator=g)], dim=1)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def ranking_by_loops(view1, view2, margin, symmetric, negatives, pairs=None) -> float:
    """For each query i: max(0, margin − s_ii + s_ij) over the j that don't match it."""
    n = len(view1)
    rows = [(i, i) for i in range(n)] if pairs is None else [tuple(row) for row in pairs.tolist()]

    def matches(i: int, j: int) -> bool:
        return i == j or rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1]

    total = 0.0
    for queries, gallery in ((view1, view2), (view2, view1))[:1 + symmetric]:
        hinges = [[max(0.0, margin - cosine(queries[i], gallery[i]) + cosine(queries[i], gallery[j]))
                   for j in range(n) if not matches(i, j)] for i in range(n)]
        flat = [h for row in hinges for h in row]
        if negatives == "sum":
            total += sum(flat)
        elif negatives == "mean":
            total += sum(flat) / len(flat) if flat else 0.0
        else:
            total += sum(max(row, default=0.0) for row in hinges) / n
    return total


# -- ranking ---------------------------------------------------------------------------------------------------------

@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.sampled_from([0.0, 0.2, 0.5, 2.0]), st.booleans(),
       st.sampled_from(["mean", "sum", "hardest"]), st.one_of(st.none(), st.integers(1, 6)), st.integers(1, 9),
       st.integers(0, 10**6))
def test_ranking_is_the_loops(n, margin, symmetric, negatives, images, captions, seed):
    embedded = embeddings(n, seed=seed)
    pairs = None if images is None else table(n, images, captions, seed)
    loss = PairwiseRanking(margin, symmetric, negatives)(embedded, pairs)
    expected = ranking_by_loops(embedded.view1.tolist(), embedded.view2.tolist(), margin, symmetric, negatives, pairs)
    assert float(loss) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("negatives", ["mean", "sum", "hardest"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("pairs", [None, [[0, 0], [0, 1], [1, 2], [2, 3], [2, 4]]], ids=["1:1", "1:n"])
def test_ranking_gradcheck(negatives, symmetric, pairs):
    embedded = embeddings(5)
    objective = PairwiseRanking(0.5, symmetric, negatives)
    pairs = None if pairs is None else torch.tensor(pairs)
    assert torch.autograd.gradcheck(lambda a, b: objective(Embedded(a, b), pairs),
                                    (embedded.view1.requires_grad_(), embedded.view2.requires_grad_()))


@pytest.mark.parametrize("negatives", ["mean", "sum", "hardest"])
@pytest.mark.parametrize(("n", "pairs"), [(1, None), (3, [[0, 0], [0, 1], [0, 2]])],
                         ids=["one pair", "one picture with three captions"])
def test_without_negatives_the_loss_is_zero_and_can_be_differentiated(negatives, n, pairs):
    embedded = embeddings(n)
    embedded.view1.requires_grad_()
    loss = PairwiseRanking(symmetric=True, negatives=negatives)(embedded, None if pairs is None else
                                                                torch.tensor(pairs))
    loss.backward()
    assert float(loss.detach()) == 0 and not embedded.view1.grad.any()


def test_a_second_caption_is_no_negative_even_when_it_scores_higher():
    view1 = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    view2 = torch.tensor([[0.6, 0.8], [1, 0], [0, 1]])
    pairs = torch.tensor([[7, 0], [7, 1], [8, 2]])
    # row 0: caption 2 only: 0.5 − 0.6 + 0; row 1: 0.5 − 1 + 0; row 2: captions 0 and 1: 0.5 − 1 + 0.8 and + 0
    assert float(PairwiseRanking(negatives="sum")(Embedded(view1, view2), pairs)) == pytest.approx(0.3)
    # mean over the four pairs that don't match, of six off the diagonal
    assert float(PairwiseRanking()(Embedded(view1, view2), pairs)) == pytest.approx(0.3 / 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 15), st.integers(0, 10**6))
def test_shared_items_by_loops(n, images, captions, seed):
    pairs = table(n, images, captions, seed)
    rows = pairs.tolist()
    expected = [[i == j or rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1] for j in range(n)] for i in range(n)]
    matches = shared_items(pairs, n, torch.device("cpu"))
    assert (torch.eye(n, dtype=torch.bool) if matches is None else matches).tolist() == expected


def test_zero_embeddings_have_a_loss_of_the_margin_and_a_finite_gradient():
    z = torch.zeros(4, 3, requires_grad=True)
    loss = PairwiseRanking(0.5)(Embedded(z, torch.ones(4, 3)))
    loss.backward()
    assert float(loss.detach()) == 0.5 and torch.isfinite(z.grad).all()


def test_nan_is_not_hidden():
    embedded = embeddings(4)
    embedded.view1[2, 0] = float("nan")
    for negatives in ("mean", "sum", "hardest"):
        assert math.isnan(PairwiseRanking(negatives=negatives)(embedded))


# -- trace norm and sums ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rT", [0.0, 1e-3, 0.5])
def test_trace_norm_by_the_formula_and_within_its_bound(rT):
    sigma = [0.9, 0.5, 0.1, 0.0]
    loss = float(TraceNorm(rT)(Embedded(torch.zeros(1), torch.zeros(1), torch.tensor(sigma, dtype=torch.float64))))
    assert loss == pytest.approx(-sum(math.sqrt(s * s + rT) - math.sqrt(rT) for s in sigma))
    assert -sum(sigma) <= loss <= 0


@pytest.mark.parametrize("rT", [0.0, 1e-3])
def test_trace_norm_gradient_at_zero_is_finite(rT):
    sigma = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)
    TraceNorm(rT)(Embedded(sigma, sigma, sigma)).backward()
    expected = [-1.0, -1.0] if rT == 0 else [-0.5 / math.sqrt(0.25 + rT), 0.0]
    torch.testing.assert_close(sigma.grad, torch.tensor(expected, dtype=torch.float64))


def test_trace_norm_of_a_cca_layer_is_the_sum_of_singular_values():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, 4, generator=g, dtype=torch.float64) for _ in range(2))
    layer = CCALayer(4, 0, 0)
    assert float(TraceNorm()(layer(x, y))) == pytest.approx(-float(layer.correlations.sum()), abs=1e-9)


def test_trace_norm_needs_correlations():
    embedded = LearnedProjection(3)(torch.randn(5, 3), torch.randn(5, 3))
    with pytest.raises(ExperimentError, match=r"TraceNorm needs a head that reports canonical correlations.*CCALayer"):
        TraceNorm()(embedded)


def test_weighted_sum():
    embedded = embeddings(6)._replace(correlations=torch.tensor([0.8, 0.2], dtype=torch.float64))
    parts = TraceNorm(), PairwiseRanking()
    loss = WeightedSum([(0.25, parts[0]), (2, parts[1])])(embedded)
    assert float(loss) == pytest.approx(0.25 * float(parts[0](embedded)) + 2 * float(parts[1](embedded)))


def test_weighted_sum_hands_on_the_pairs_and_skips_weights_of_zero():
    embedded, pairs = embeddings(4), torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3]])
    loss = WeightedSum([(0.0, TraceNorm()), (1.0, PairwiseRanking())])(embedded, pairs)   # no correlations, no error
    assert float(loss) == float(PairwiseRanking()(embedded, pairs)) != float(PairwiseRanking()(embedded))


def test_arguments():
    with pytest.raises(ExperimentError, match="rT must not be negative"):
        TraceNorm(-1e-3)
    with pytest.raises(ExperimentError, match="rT must not be negative, got nan"):
        TraceNorm(float("nan"))
    with pytest.raises(ExperimentError, match="mean, sum or hardest, got 'max'"):
        PairwiseRanking(negatives="max")
    for nothing in ([], [(0, TraceNorm())]):
        with pytest.raises(ExperimentError, match="at least one part"):
            WeightedSum(nothing)
    assert repr(TraceNorm(0.1)) == "TraceNorm(rT=0.1)"
