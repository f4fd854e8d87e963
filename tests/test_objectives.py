"""Objectives against Python loops."""
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xmodal.errors import ExperimentError
from xmodal.layers import CCALayer, Embedded, LearnedProjection
from xmodal.networks import CorrNet
from xmodal.objectives import (
    CorrNetObjective,
    InfoNCE,
    PairwiseRanking,
    Reconstruction,
    Siamese,
    TraceNorm,
    Triplet,
    WeightedSum,
    loss_of_pairs,
    shared_items,
)
from xmodal.objectives.autoencoding import sparse_codes
from xmodal.objectives.restoring import restoring_error


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


def test_shared_items_without_a_table_and_on_the_device_asked_for():
    assert shared_items(None, 3, torch.device("cpu")) is None
    pairs = torch.tensor([[0, 0], [0, 1]])
    assert shared_items(pairs, 2, torch.device("meta")).device.type == "meta"    # torch's device without values
    assert shared_items(torch.tensor([[0, 0], [1, 1]]), 2, torch.device("meta")) is None


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


def test_classes_of_the_rows_are_those_of_their_view_1_items():
    class Classes(nn.Module):
        """Gives back what it was called with."""

        uses_labels = True

        def forward(self, embedded, pairs=None, labels=None):
            return embedded, pairs, labels

    embedded, pairs = embeddings(4), torch.tensor([[2, 0], [0, 1], [2, 2], [1, 3]])
    classes = torch.tensor([10, 11, 12])
    given, table_, rows = loss_of_pairs(Classes(), embedded, pairs, classes)
    assert given is embedded and table_ is pairs and rows.tolist() == [12, 10, 12, 11]
    assert loss_of_pairs(Classes(), embedded, pairs, None)[2] is None
    plain = PairwiseRanking(symmetric=True)
    assert loss_of_pairs(plain, embedded, pairs, classes) == plain(embedded, pairs) != plain(embedded)


# -- autoencoders ----------------------------------------------------------------------------------------------------

def restored(codes: torch.Tensor) -> Embedded:
    """Views of two and three values, and what was restored of them."""
    g = torch.Generator().manual_seed(0)
    x, y, x2, y2 = (torch.rand(len(codes), d, generator=g, dtype=torch.float64) for d in (2, 3, 2, 3))
    return Embedded(codes, codes, extras={"view1": x, "view2": y, "view1_from_view1": x2, "view2_from_view2": y2})


def test_reconstruction_has_no_penalty_that_is_not_asked_for():
    embedded = restored(torch.rand(6, 4, dtype=torch.float64) + 7)    # codes that a penalty of any kind would count
    extras = embedded.extras
    expected = sum(float((extras[f"view{v}"] - extras[f"view{v}_from_view{v}"]).square().mean()) for v in (1, 2))
    assert float(Reconstruction()(embedded)) == pytest.approx(expected)


@pytest.mark.parametrize("activity", [0.0, 1.0])
def test_units_that_always_or_never_fire_cost_a_finite_penalty_and_can_come_back(activity):
    codes = torch.full((6, 4), activity, dtype=torch.float64, requires_grad=True)
    loss = Reconstruction(sparse=1.0, target=0.2)(restored(codes)) - Reconstruction()(restored(codes))
    loss.backward()
    rho, active = 0.2, abs(activity - 1e-6)
    each = rho * math.log(rho / active) + (1 - rho) * math.log((1 - rho) / (1 - active))
    assert loss.item() == pytest.approx(2 * 4 * each) and torch.isfinite(codes.grad).all()


@pytest.mark.parametrize("wrong", [{"l1": float("inf")}, {"sparse": -1.0}, {"contractive": float("nan")},
                                   {"target": 0.0}, {"target": 1.0}])
def test_reconstruction_refuses_weights_and_shares_that_are_none(wrong):
    with pytest.raises(ExperimentError, match=r"^Reconstruction: weights must not be negative and target between"):
        Reconstruction(**wrong)
    with pytest.raises(ExperimentError, match=r"^Reconstruction: error must be squared or cross_entropy, got 'l1'"):
        Reconstruction("l1")


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


# -- InfoNCE ---------------------------------------------------------------------------------------------------------

def info_nce_by_loops(view1, view2, temperature, rows) -> float:
    """Mean over queries and directions of −log of the softmax of the partner, other known matches left out."""
    n, total = len(view1), 0.0
    for queries, gallery in ((view1, view2), (view2, view1)):
        for i in range(n):
            candidates = [j for j in range(n) if j == i or not (rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1])]
            weights = {j: math.exp(cosine(queries[i], gallery[j]) / temperature) for j in candidates}
            total -= math.log(weights[i] / sum(weights.values()))
    return total / (2 * n)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.sampled_from([0.05, 0.5, 3.0]), st.one_of(st.none(), st.integers(1, 6)),
       st.integers(1, 9), st.integers(0, 10**6))
def test_info_nce_is_the_loops(n, temperature, images, captions, seed):
    embedded = embeddings(n, seed=seed)
    pairs = None if images is None else table(n, images, captions, seed)
    rows = [(i, i) for i in range(n)] if pairs is None else pairs.tolist()
    loss = InfoNCE(temperature)(embedded, pairs).detach()
    expected = info_nce_by_loops(embedded.view1.tolist(), embedded.view2.tolist(), temperature, rows)
    assert float(loss) == pytest.approx(expected, abs=1e-5)     # the temperature is float32


def test_info_nce_learns_its_temperature_within_bounds():
    embedded, objective = embeddings(6), InfoNCE(0.1)
    embedded.view1.requires_grad_()
    objective(embedded).backward()
    assert objective.log_scale.grad.abs() > 0 and embedded.view1.grad.abs().sum() > 0
    with torch.no_grad():
        objective.log_scale.fill_(50.0)
    objective.zero_grad()
    loss = objective(embedded)
    loss.backward()
    assert objective.temperature == pytest.approx(0.01) and torch.isfinite(loss)
    assert objective.log_scale.grad.abs() > 0       # at the bound it can still come back
    fixed = InfoNCE(0.1, learned=False)
    assert not fixed.log_scale.requires_grad and repr(fixed) == "InfoNCE(\n  temperature=0.1, learned=False\n  " \
        "(norm): LengthNorm(eps=1e-06)\n)"
    for wrong in (0.0, 0.001, float("inf"), float("nan")):
        with pytest.raises(ExperimentError, match=r"temperature must be at least 0\.01"):
            InfoNCE(wrong)


def test_info_nce_of_collapsed_embeddings_is_chance():
    z = torch.zeros(8, 3, requires_grad=True)
    loss = InfoNCE()(Embedded(z, z))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(8)) and torch.isfinite(z.grad).all()


# -- CorrNet ---------------------------------------------------------------------------------------------------------

def corrnet() -> CorrNet:
    torch.manual_seed(0)
    return CorrNet(nn.Linear(5, 3), nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 5), nn.Sigmoid()),
                   nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), nn.Sigmoid()).double()


def corrnet_loss_by_numpy(model, x, y, weights, error, restore) -> float:
    """The formula of the docstring, item by item and unit by unit, with the weights of the layers."""
    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    W, V, D1, D2 = ([p.detach().numpy() for p in part.parameters()]
                    for part in (model.encoder1, model.encoder2, model.decoder1, model.decoder2))

    def code(a, b):
        return sigmoid(W[0] @ a + W[1] + V[0] @ b + V[1])

    def distance(target, restored):
        if error == "squared":
            return sum((t - r) ** 2 for t, r in zip(target, restored, strict=True)) / len(target)
        logs = [t * np.log(r) + (1 - t) * np.log(1 - r) for t, r in zip(target, restored, strict=True)]
        return -sum(logs) / len(target)

    no_x, no_y, n = np.zeros(5), np.zeros(4), len(x)
    both = view1 = view2 = 0.0
    codes1, codes2 = [], []
    for a, b in zip(x.numpy(), y.numpy(), strict=True):
        for source, h in (("both", code(a, b)), ("view1", code(a, no_y)), ("view2", code(no_x, b))):
            to_a = distance(a, sigmoid(D1[0] @ h + D1[1])) / n
            to_b = distance(b, sigmoid(D2[0] @ h + D2[1])) / n
            if source == "both":
                both += to_a + to_b
            elif source == "view1":
                view1 += to_b if restore == "absent" else to_a + to_b
                codes1.append(h)
            else:
                view2 += to_a if restore == "absent" else to_a + to_b
                codes2.append(h)
    correlation = sum(np.corrcoef([h[k] for h in codes1], [h[k] for h in codes2])[0, 1] for k in range(3))
    return weights[0] * both + weights[1] * view1 + weights[2] * view2 - weights[3] * correlation


@pytest.mark.parametrize("restore", ["all", "absent"])
@pytest.mark.parametrize("error", ["squared", "cross_entropy"])
@pytest.mark.parametrize("present", list(itertools.product([0, 1], repeat=4)))
def test_corrnet_objective_is_the_formula_in_all_16_combinations(present, error, restore):
    g, model = torch.Generator().manual_seed(1), corrnet()
    x, y = (torch.rand(7, d, generator=g, dtype=torch.float64) for d in (5, 4))
    weights = [w * there for w, there in zip((0.7, 1.1, 1.3, 0.4), present, strict=True)]
    if not any(present):
        with pytest.raises(ExperimentError, match="not all 0"):
            CorrNetObjective(*weights)
        return
    objective = CorrNetObjective(*weights, error=error, restore=restore)
    embedded = model(x, y)
    loss = objective(embedded)
    assert loss.item() == pytest.approx(corrnet_loss_by_numpy(model, x, y, weights, error, restore), abs=1e-12)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert list(objective.terms(embedded)) == [name for name, there in zip(
        ("both", "from_view1", "from_view2", "correlation"), present, strict=True) if there]


@pytest.mark.parametrize("error", ["squared", "cross_entropy"])
def test_corrnet_objective_gradcheck(error):
    g, model = torch.Generator().manual_seed(1), corrnet()
    x, y = (torch.rand(6, d, generator=g, dtype=torch.float64) for d in (5, 4))
    objective = CorrNetObjective(1, 1, 1, 0.5, error=error)

    def loss(weight, decoder):
        values = {"encoder1.weight": weight, "decoder2.0.weight": decoder}
        return objective(torch.func.functional_call(model, values, (x, y)))

    assert torch.autograd.gradcheck(loss, (model.encoder1.weight, model.decoder2[0].weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.3, 1e6, 1e-12])
def test_the_correlation_of_constant_units_counts_nothing_and_pulls_nowhere(dtype, constant):
    g = torch.Generator().manual_seed(0)
    h1 = torch.rand(50, 3, generator=g).to(dtype)
    h2 = (h1 + 0.1 * torch.rand(50, 3, generator=g).to(dtype))
    h1[:, 1], h2[:, 2] = constant, constant
    expected = float(np.corrcoef(h1[:, 0], h2[:, 0])[0, 1])
    h1.requires_grad_(), h2.requires_grad_()
    items = torch.rand(50, 2).to(dtype)
    loss = CorrNetObjective(0, 0, 0, 1)(Embedded(h1, h2, extras={"view1": items, "view2": items, "code": h1}))
    loss.backward()
    assert loss.item() == pytest.approx(-expected, abs=1e-5)
    for gradient in (h1.grad, h2.grad):
        assert torch.isfinite(gradient).all() and gradient[:, 0].abs().sum() > 0
        assert torch.equal(gradient[:, 1:], torch.zeros(50, 2, dtype=dtype))


def test_corrnet_objective_of_a_single_pair_and_of_saturated_units_is_finite():
    model = corrnet()
    with torch.no_grad():
        model.encoder1.weight.mul_(1e6)
        model.decoder1[0].bias.fill_(1e4)
    for n in (1, 2, 5):
        x, y = torch.rand(n, 5, dtype=torch.float64), torch.rand(n, 4, dtype=torch.float64)
        model.zero_grad()
        loss = CorrNetObjective(error="cross_entropy")(model(x, y))
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("error", ["squared", "cross_entropy"])
def test_reconstructions_that_are_nan_give_a_loss_that_is_nan(error):
    model, (x, y) = corrnet(), (torch.rand(4, 5, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64))
    with torch.no_grad():
        model.decoder1[0].bias[2] = float("nan")
    assert torch.isnan(CorrNetObjective(error=error)(model(x, y)))      # fit() then says when and where


def test_cross_entropy_is_torchs():
    target, restored = torch.rand(50, 3), torch.rand(50, 3).requires_grad_()
    items = Embedded(target, target, extras={"view1": target, "view1_from_both": restored})
    ours = restoring_error(items, 1, "both", "cross_entropy", "Reconstruction")
    theirs = torch.nn.functional.binary_cross_entropy(restored, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, restored), torch.autograd.grad(theirs, restored))


def test_corrnet_objective_says_what_it_needs():
    x, y = torch.rand(4, 5), torch.rand(4, 4)
    with pytest.raises(ExperimentError, match=r"needs a model that restores its views.*\(use CorrNet\)"):
        CorrNetObjective()(Embedded(x, x))
    narrow = CorrNet(nn.Linear(5, 3), nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(3, 4))
    with pytest.raises(ExperimentError, match=r"decoder1 must restore items of shape \(5,\), got \(4,\)"):
        CorrNetObjective()(narrow(x, y))
    unbounded = CorrNet(nn.Linear(5, 3), nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(3, 4))
    with pytest.raises(ExperimentError, match=r"within \[0, 1\]; let the decoders end in a sigmoid"):
        CorrNetObjective(error="cross_entropy")(unbounded(x, y))
    for wrong in ({"both": -1}, {"correlation": float("nan")}, {"from_view1": float("inf")}, {"from_view2": "a"}):
        with pytest.raises(ExperimentError, match="weights must be numbers, none negative"):
            CorrNetObjective(**wrong)
    with pytest.raises(ExperimentError, match="squared or cross_entropy, got 'l1'"):
        CorrNetObjective(error="l1")
    with pytest.raises(ExperimentError, match="all or absent, got 'cross'"):
        CorrNetObjective(restore="cross")
    assert repr(CorrNetObjective()) == "CorrNetObjective(both=1, from_view1=1, from_view2=1, correlation=0.02, " \
                                       "error='squared', restore='all')"


@pytest.mark.parametrize("objective", [CorrNetObjective, Reconstruction])
def test_a_cross_entropy_of_no_probabilities_names_the_objective(objective):
    name = objective.__name__
    embedded = restored(torch.rand(4, 3, dtype=torch.float64))
    extras = {**embedded.extras, "code": embedded.view1}
    extras |= {f"view{v}_from_{source}": extras[f"view{v}"] + 2
               for v in (1, 2) for source in ("both", "view1", "view2")}
    with pytest.raises(ExperimentError, match=rf"^{name}\(error='cross_entropy'\) needs items and reconstructions"):
        objective(error="cross_entropy")(embedded._replace(extras=extras))
    with pytest.raises(ExperimentError, match=f"^{name}: error must be squared or cross_entropy, got 'l1'"):
        objective(error="l1")


def test_sparse_codes_are_found_as_fast_as_fista_promises():
    """F(z_k) − F* ≤ 2 L ‖z_0 − z*‖² / (k + 1)² (Beck and Teboulle 2009, theorem 4.4), L twice the norm of DᵀD; without
    momentum, or with too much of it, the bound breaks on this problem."""
    x, atoms = (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
                for seed, shape in enumerate(((1, 10), (10, 15))))
    start = torch.zeros(1, 15, dtype=torch.float64)

    def cost(z: torch.Tensor) -> float:
        return float((x - z @ atoms.mT).square().sum() + 0.4 * z.abs().sum())

    best = sparse_codes(x, atoms, start, 0.4, 0.0, 10_000)
    bound = 4 * float(torch.linalg.matrix_norm(atoms.mT @ atoms)) * float(best.square().sum())
    for steps in (1, 3, 10, 30, 100, 200):
        assert 0 <= cost(sparse_codes(x, atoms, start, 0.4, 0.0, steps)) - cost(best) <= bound / (steps + 1) ** 2


@pytest.mark.parametrize("make", [lambda: InfoNCE(0.01), lambda: Siamese(2.0)])
def test_the_last_setting_allowed(make):
    assert make()(embeddings(3)).isfinite()


def test_a_negative_as_near_as_the_partner_is_not_beyond_it():
    """Query 0 has cosines 0.6 with its partner, the same with row 1 and 0 with row 2, which semi-hard picks."""
    view1 = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    view2 = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    loss = Triplet(0.6, "semi-hard", symmetric=False)(Embedded(view1, view2))
    assert float(loss) == pytest.approx((0.6 + math.sqrt(0.8) - math.sqrt(2)) / 3, abs=1e-3)
