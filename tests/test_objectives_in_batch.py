"""Siamese, triplet, sigmoid, circle, NCA, decorrelation and noise: each against its formula in plain Python."""
from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xmodal.errors import ExperimentError, NumericalError
from xmodal.layers import CCALayer, Embedded, LearnedProjection
from xmodal.networks import TwoTower
from xmodal.objectives import (
    BarlowTwins,
    ByClass,
    Circle,
    CorrNetObjective,
    EckartYoung,
    EvidenceBound,
    InfoNCE,
    MatchOrNot,
    NeighbourhoodComponents,
    NoiseRegularised,
    PairwiseRanking,
    PredictiveSparse,
    Reconstruction,
    Siamese,
    SigmoidPairs,
    SoftDecorrelation,
    TraceNorm,
    Triplet,
    VICReg,
    WeightedSum,
    matching,
)
from xmodal.objectives.noise import total_correlation


def embeddings(n: int, d: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Embedded:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=dtype)
    return Embedded((z * 5).requires_grad_(), (z + torch.randn(n, d, generator=g, dtype=dtype)).requires_grad_())


def table(n: int, images: int, captions: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(images, (n,), generator=g), torch.randint(captions, (n,), generator=g)], dim=1)


def cosines(embedded: Embedded) -> list[list[float]]:
    one, two = (z.detach().numpy() / np.linalg.norm(z.detach().numpy(), axis=1, keepdims=True) for z in embedded[:2])
    return (one @ two.T).tolist()


def negatives_of(n: int, pairs: torch.Tensor | None) -> list[list[int]]:
    """For each row the rows that are not known to match it."""
    rows = [(i, i) for i in range(n)] if pairs is None else [tuple(row) for row in pairs.tolist()]
    return [[j for j in range(n) if i != j and rows[i][0] != rows[j][0] and rows[i][1] != rows[j][1]]
            for i in range(n)]


def distance(cosine: float) -> float:
    return math.sqrt(max(0.0, 2 - 2 * cosine) + 1e-6)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def by_directions(loss, n, s, negatives) -> float:
    """The mean over both directions of a loss of (queries' cosines, their negatives)."""
    back = [[s[j][i] for j in range(n)] for i in range(n)]
    return (loss(s, negatives) + loss(back, negatives)) / 2


def triplet_by_loops(how: str, margin: float):
    def loss(s, negatives):
        hinges, n = [], len(s)
        for i in range(n):
            own, others = distance(s[i][i]), [distance(s[i][j]) for j in negatives[i]]
            if how == "all":
                hinges += [h for d in others if (h := margin + own - d) > 0]
            elif how == "hardest":
                hinges.append(max(0.0, margin + own - min(others, default=math.inf)))
            else:
                beyond = [d for d in others if d > own]
                near = min(beyond) if beyond else max(others, default=math.inf)
                hinges.append(max(0.0, margin + own - near))
        return sum(hinges) / max(len(hinges), 1)
    return loss


def siamese_by_loops(s, negatives, margin, squared) -> float:
    n = len(s)
    together = sum(2 - 2 * s[i][i] for i in range(n)) / n
    hinges = [max(0.0, margin - distance(s[i][j])) for i in range(n) for j in negatives[i]]
    return together + sum(h ** 2 if squared else h for h in hinges) / max(len(hinges), 1)


def sigmoid_by_loops(s, negatives, t=10.0, b=-10.0) -> float:
    n = len(s)
    return sum(softplus(-(t * s[i][i] + b)) + sum(softplus(t * s[i][j] + b) for j in negatives[i])
               for i in range(n)) / n


def circle_by_loops(m: float, gamma: float):
    def loss(s, negatives):
        total = 0.0
        for i in range(len(s)):
            pull = math.exp(-gamma * max(0.0, 1 + m - s[i][i]) * (s[i][i] - (1 - m)))
            push = sum(math.exp(gamma * max(0.0, s[i][j] + m) * (s[i][j] - m)) for j in negatives[i])
            total += math.log(1 + push * pull)
        return total / len(s)
    return loss


@pytest.mark.parametrize("make", [
    InfoNCE, SigmoidPairs, Circle, PairwiseRanking, Siamese, Triplet, BarlowTwins, VICReg, SoftDecorrelation,
    EckartYoung, TraceNorm, MatchOrNot, CorrNetObjective, Reconstruction, PredictiveSparse, EvidenceBound])
def test_embeddings_given_one_by_one_are_refused_with_what_to_give(make):
    z1, z2 = embeddings(4)[:2]
    for objective in (make(), WeightedSum([(1.0, make())])):
        with pytest.raises(ExperimentError, match=rf"^{make.__name__} takes what a head returns: Embedded\(view1, "
                                                  r"view2\), got Tensor$"):
            objective(z1, z2)
    with pytest.raises(ExperimentError, match=r"^NeighbourhoodComponents takes .*, got tuple$"):
        NeighbourhoodComponents()((z1, z2), None, torch.zeros(4, dtype=torch.int64))


CASES = {
    "triplet all": (lambda: Triplet(0.4, "all"),
                    lambda n, s, neg: by_directions(triplet_by_loops("all", 0.4), n, s, neg)),
    "triplet semi-hard": (lambda: Triplet(0.4, "semi-hard"),
                          lambda n, s, neg: by_directions(triplet_by_loops("semi-hard", 0.4), n, s, neg)),
    "triplet hardest": (lambda: Triplet(0.4, "hardest", warm_up=0),
                        lambda n, s, neg: by_directions(triplet_by_loops("hardest", 0.4), n, s, neg)),
    "siamese": (lambda: Siamese(1.2), lambda n, s, neg: siamese_by_loops(s, neg, 1.2, True)),
    "siamese, not squared": (lambda: Siamese(1.2, False), lambda n, s, neg: siamese_by_loops(s, neg, 1.2, False)),
    "sigmoid": (SigmoidPairs, lambda n, s, neg: sigmoid_by_loops(s, neg)),
    "circle": (lambda: Circle(0.25, 8.0), lambda n, s, neg: by_directions(circle_by_loops(0.25, 8.0), n, s, neg)),
}
IN_BATCH = {**{name: make for name, (make, _) in CASES.items()}, "ranking": PairwiseRanking,
            "ranking, sum": lambda: PairwiseRanking(symmetric=True, negatives="sum"),
            "ranking, hardest": lambda: PairwiseRanking(symmetric=True, negatives="hardest"), "InfoNCE": InfoNCE}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), images=st.one_of(st.none(), st.integers(1, 6)), captions=st.integers(1, 9),
       seed=st.integers(0, 10**6))
def test_it_is_the_loops(name, n, images, captions, seed):
    make, expected = CASES[name]
    embedded = embeddings(n, seed=seed)
    pairs = None if images is None else table(n, images, captions, seed)
    loss = make().double()(embedded, pairs)
    by_loops = expected(n, cosines(embedded), negatives_of(n, pairs))
    assert float(loss.detach()) == pytest.approx(by_loops, rel=1e-6, abs=1e-6)
    loss.backward()
    assert embedded.view1.grad is not None and embedded.view1.grad.isfinite().all()


@pytest.mark.parametrize("name", IN_BATCH)
@pytest.mark.parametrize("pairs", [None, [[0, 0], [0, 1], [1, 2], [2, 3], [2, 4]]], ids=["1:1", "1:n"])
def test_gradients_are_the_differences(name, pairs):
    objective = IN_BATCH[name]().double()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    embedded = embeddings(5, seed=3)
    rows = None if pairs is None else torch.tensor(pairs)
    if name == "circle":  # its weights get no gradient, so differences would see more
        objective(embedded, rows).backward()
        assert embedded.view1.grad.isfinite().all()
        return
    torch.autograd.gradcheck(lambda a, b, *_: objective(Embedded(a, b), rows), (*embedded[:2], *parameters))


@pytest.mark.parametrize("name", IN_BATCH)
@pytest.mark.parametrize("repeated", [False, True])
def test_blocks_of_rows_are_the_whole(name, repeated, monkeypatch):
    pairs = table(40, 12, 30, seed=5) if repeated else None

    def run() -> tuple[torch.Tensor, ...]:
        embedded, objective = embeddings(40, seed=4), IN_BATCH[name]().double()
        loss = objective(embedded, pairs)
        loss.backward()
        return (loss.detach(), embedded.view1.grad, embedded.view2.grad,
                *(p.grad for p in objective.parameters() if p.grad is not None))

    whole = run()
    monkeypatch.setattr(matching, "WHOLE", 16)
    monkeypatch.setattr(matching, "ROWS", 7)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", IN_BATCH)
@pytest.mark.parametrize("kind", ["one row", "equal rows", "zeros", "opposite", "huge", "all captions of one picture"])
def test_odd_batches_stay_finite(name, kind):
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(1 if kind == "one row" else 6, 4, generator=draw)
    one, two = {"equal rows": (torch.ones(6, 4), torch.ones(6, 4)), "zeros": (torch.zeros(6, 4), torch.zeros(6, 4)),
                "opposite": (z, -z), "huge": (z * 1e30, z * 1e-30)}.get(kind, (z, z.clone()))
    embedded = Embedded(one.clone().requires_grad_(), two.clone().requires_grad_())
    pairs = torch.stack([torch.zeros(6, dtype=torch.int64), torch.arange(6)], 1) if "captions" in kind else None
    loss = IN_BATCH[name]()(embedded, pairs)
    loss.backward()
    assert loss.isfinite() and embedded.view1.grad.isfinite().all() and embedded.view2.grad.isfinite().all()


# -- classes in the place of items -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 9), kinds=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_rows_of_one_class_are_no_negatives_of_each_other(name, n, kinds, seed):
    make, expected = CASES[name]
    embedded = embeddings(n, seed=seed)
    labels = torch.randint(kinds, (n,), generator=torch.Generator().manual_seed(seed))
    apart = [[j for j in range(n) if labels[i] != labels[j]] for i in range(n)]
    loss = ByClass(make().double())(embedded, table(n, 5, 5, seed), labels)  # whatever the items are
    assert float(loss.detach()) == pytest.approx(expected(n, cosines(embedded), apart), rel=1e-6, abs=1e-6)


def test_by_class_of_an_objective_that_asks_for_labels_and_in_a_sum():
    embedded, labels = embeddings(8), torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
    alone = NeighbourhoodComponents()(embedded, None, labels)
    assert torch.equal(ByClass(NeighbourhoodComponents())(embedded, None, labels), alone)
    summed = WeightedSum([(0.5, ByClass(Siamese())), (2.0, Triplet(0.2, "all"))])
    assert summed.uses_labels
    expected = 0.5 * ByClass(Siamese())(embedded, None, labels) + 2 * Triplet(0.2, "all")(embedded)
    torch.testing.assert_close(summed(embedded, None, labels), expected)


# -- the triplet loss and its collapse -------------------------------------------------------------------------------

def test_the_hardest_negatives_come_in_by_and_by():
    embedded = embeddings(20, seed=1)
    objective = Triplet(0.3, "hardest", warm_up=4)
    losses = [float(objective(embedded).detach()) for _ in range(6)]
    hardest = float(Triplet(0.3, "hardest", warm_up=0)(embedded).detach())
    rises = np.diff(losses)
    assert rises[:4] == pytest.approx([(hardest - losses[0]) / 4] * 4) and rises[4] == 0
    assert losses[-1] == pytest.approx(hardest) and int(objective.steps) == 6
    objective.eval()
    assert float(objective(embedded).detach()) == pytest.approx(hardest) and int(objective.steps) == 6


def test_blocks_that_are_computed_anew_belong_to_the_step_that_they_are_of(monkeypatch):
    """The last step of the warm-up has the mean in it; when its gradients are asked for, that step is over."""
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        embedded, objective = embeddings(40, seed=4), Triplet(0.3, "hardest", warm_up=2)
        objective.steps += 1
        loss = objective(embedded)
        loss.backward()
        return loss.detach(), embedded.view1.grad

    whole = run()
    monkeypatch.setattr(matching, "WHOLE", 16)
    monkeypatch.setattr(matching, "ROWS", 7)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_first_step_of_the_warm_up_is_the_mean_over_all_negatives():
    embedded, pairs = embeddings(9, seed=1), table(9, 4, 6, 1)
    s, negatives = cosines(embedded), negatives_of(9, pairs)

    def mean(s, negatives) -> float:
        hinges = [max(0.0, 0.3 + distance(s[i][i]) - distance(s[i][j])) for i in range(9) for j in negatives[i]]
        return sum(hinges) / len(hinges)

    objective = Triplet(0.3, "hardest", warm_up=4)
    assert objective(embedded, pairs).item() == pytest.approx(by_directions(mean, 9, s, negatives), rel=1e-6)
    hardest = by_directions(triplet_by_loops("hardest", 0.3), 9, s, negatives)
    assert hardest > 1.1 * by_directions(mean, 9, s, negatives)
    assert objective.steps.dtype == torch.int64 and int(objective.steps) == 1


def test_triplets_are_semi_hard_unless_asked_otherwise():
    embedded = embeddings(12, seed=2)
    assert Triplet()(embedded) == Triplet(0.2, "semi-hard")(embedded) != Triplet(0.2, "all")(embedded)


def test_the_plateau_is_not_told_too_soon():
    objective = Triplet(0.3, "hardest", warm_up=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99):
            objective(Embedded(torch.ones(8, 4), torch.ones(8, 4)))
        for _ in range(150):
            objective._watch(torch.tensor(0.3 * 1.002))     # near the margin, but not within a thousandth of it
        with pytest.warns(UserWarning, match="one point"):
            for _ in range(100):
                objective._watch(torch.tensor(0.3 * 1.0005))


def test_the_plateau_of_one_point_is_told_once():
    objective = Triplet(0.3, "hardest", warm_up=0)
    point = Embedded(torch.ones(8, 4).requires_grad_(), torch.ones(8, 4))
    with pytest.warns(UserWarning, match=r"stood at its margin of 0\.3 for 100 steps: all embeddings are one point"):
        for _ in range(100):
            objective(point)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(50):
            objective(point)
        for _ in range(150):
            Triplet(0.3, "semi-hard")(embeddings(8))


def test_warm_up_keeps_a_training_from_collapsing():
    """Hermans et al. saw it: from scratch the hardest negatives pull all into one point."""
    draw = torch.Generator().manual_seed(0)
    x, mix = torch.randn(400, 20, generator=draw), torch.randn(20, 20, generator=draw)
    y = x @ mix + 2.0 * torch.randn(400, 20, generator=draw)

    def trained(warm_up: int) -> float:
        torch.manual_seed(0)
        towers = [nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8)) for _ in range(2)]
        objective = Triplet(0.5, "hardest", warm_up=warm_up)
        optimizer = torch.optim.Adam([p for tower in towers for p in tower.parameters()], lr=1e-2)
        for step in range(150):
            rows = torch.arange(200) + 200 * (step % 2)
            loss = objective(Embedded(towers[0](x[rows]), towers[1](y[rows])))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert trained(50) < 0.15 < 0.4 < trained(0)  # the margin is 0.5


# -- decorrelation ---------------------------------------------------------------------------------------------------

def moments(embedded: Embedded) -> tuple[np.ndarray, np.ndarray]:
    return embedded.view1.detach().numpy(), embedded.view2.detach().numpy()


def test_barlow_twins_by_loops():
    one, two = moments(embedded := embeddings(50, 4))
    C = np.corrcoef(one.T, two.T)[:4, 4:]
    expected = sum((1 - C[i, i]) ** 2 for i in range(4)) + 0.1 * sum(C[i, j] ** 2 for i, j in
                                                                   itertools.permutations(range(4), 2))
    assert BarlowTwins(0.1)(embedded).item() == pytest.approx(expected)


def test_vicreg_by_loops():
    views = moments(embedded := embeddings(50, 4))
    expected = 25 * ((views[0] - views[1]) ** 2).mean()
    for z in views:
        S = np.cov(z.T)
        expected += 25 * np.maximum(0, 1 - np.sqrt(np.diag(S) + 1e-4)).mean()
        expected += ((S ** 2).sum() - (np.diag(S) ** 2).sum()) / 4
    assert VICReg()(embedded).item() == pytest.approx(expected)


def test_soft_decorrelation_remembers_the_past():
    objective = SoftDecorrelation(0.3, momentum=0.8).double()
    totals, seen = [np.zeros((4, 4))] * 2, 0.0
    for seed in range(3):
        embedded = embeddings(30, 4, seed=seed)
        views = [(z - z.mean(0)) / z.std(0) for z in moments(embedded)]
        seen = 0.8 * seen + 1
        totals = [0.8 * total + np.cov(z.T) for total, z in zip(totals, views, strict=True)]
        expected = 0.5 * ((views[0] - views[1]) ** 2).sum(1).mean() + 0.3 * sum(
            np.abs(total / seen).sum() - np.abs(np.diag(total / seen)).sum() for total in totals)
        assert objective(embedded).item() == pytest.approx(expected)
    objective.eval()
    before = objective.covariance1.clone()
    objective(embeddings(30, 4, seed=9))
    assert torch.equal(before, objective.covariance1)
    again = SoftDecorrelation(0.3, momentum=0.8)
    again.load_state_dict(objective.state_dict())
    torch.testing.assert_close(again.double().eval()(embeddings(30, 4)), objective(embeddings(30, 4)))


@pytest.mark.parametrize("n", [2, 3, 4, 9])
@pytest.mark.parametrize("halves", [False, True])
def test_eckart_young_by_the_formula(n, halves):
    """−2 tr(C) + ‖V‖²; with halves the product of V's of rows 0 to n//2 and of the others, from four rows on."""
    one, two = moments(embedded := embeddings(n, 4, seed=n))
    S = np.cov(one.T, two.T)
    reward = 2 * np.trace(S[:4, 4:])

    def variance(rows: slice) -> np.ndarray:
        return np.cov(one[rows].T) + np.cov(two[rows].T)

    square = variance(slice(None)) ** 2
    if halves and n >= 4:
        square = variance(slice(0, n // 2)) * variance(slice(n // 2, n))
    assert EckartYoung(halves)(embedded).item() == pytest.approx(-2 * reward + square.sum())


def two_views(n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    mix = [torch.randn(5, 5, generator=draw, dtype=torch.float64) for _ in range(2)]
    views = [torch.cat([z + noise * torch.randn(n, 3, generator=draw, dtype=torch.float64),
                        torch.randn(n, 2, generator=draw, dtype=torch.float64)], 1) for noise in (0.5, 0.8)]
    return views[0] @ mix[0], views[1] @ mix[1]


@pytest.mark.parametrize("halves", [False, True])
def test_the_least_eckart_young_loss_is_that_of_cca(halves):
    from xmodal.linear import LinearCCA

    x, y = two_views()
    rho = torch.as_tensor(LinearCCA(2, r1=0.0, r2=0.0).fit(x, y).correlations_)
    torch.manual_seed(0)
    weights = [(0.1 * torch.randn(5, 2, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    objective, optimizer = EckartYoung(halves), torch.optim.LBFGS(weights, max_iter=300, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective(Embedded(x @ weights[0], y @ weights[1]))
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(step)
    assert step().item() == pytest.approx(-float(rho.square().sum()), rel=0.02 if halves else 1e-6)
    z = [(v @ w).detach() for v, w in zip((x, y), weights, strict=True)]
    found = total_correlation(*z, 0.0)
    assert float(found) == pytest.approx(float(rho.sum()), rel=0.02 if halves else 1e-6)


@pytest.mark.parametrize("objective", [BarlowTwins(), VICReg(), SoftDecorrelation(), EckartYoung(), EckartYoung(False)],
                         ids=repr)
@pytest.mark.parametrize("kind", ["one row", "two rows", "constant"])
def test_decorrelation_stays_finite(objective, kind):
    z = {"one row": torch.randn(1, 3), "two rows": torch.randn(2, 3), "constant": torch.ones(6, 3)}[kind]
    objective = type(objective)() if not isinstance(objective, EckartYoung) else objective
    embedded = Embedded(z.clone().requires_grad_(), z.clone().requires_grad_())
    loss = objective(embedded)
    loss.backward()
    assert loss.isfinite() and embedded.view1.grad.isfinite().all()


# -- classes ---------------------------------------------------------------------------------------------------------

def test_neighbourhood_components_by_loops():
    embedded, labels = embeddings(7, seed=2), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    s = cosines(embedded)

    def direction(s) -> float:
        losses = []
        for i in range(7):
            weights = {j: math.exp(-(2 - 2 * s[i][j]) / 0.5) for j in range(7) if j != i}
            right = sum(w for j, w in weights.items() if labels[j] == labels[i])
            if right:
                losses.append(-math.log(right / sum(weights.values())))
        return sum(losses) / len(losses)

    expected = (direction(s) + direction([[s[j][i] for j in range(7)] for i in range(7)])) / 2
    objective = NeighbourhoodComponents(0.5)
    assert objective(embedded, None, labels).item() == pytest.approx(expected, rel=1e-6)
    torch.autograd.gradcheck(lambda a, b: objective(Embedded(a, b), None, labels), embedded[:2])
    mixed = WeightedSum([(0.5, objective), (0.5, InfoNCE())])
    assert mixed.uses_labels and not WeightedSum([(1.0, InfoNCE()), (0.0, objective)]).uses_labels
    assert mixed(embedded, None, labels).item() == pytest.approx(0.5 * expected + 0.5 * InfoNCE()(embedded).item())


def test_neighbours_by_blocks_of_rows_and_far_apart(monkeypatch):
    def run() -> tuple[torch.Tensor, ...]:
        embedded = embeddings(40, seed=4)
        loss = NeighbourhoodComponents()(embedded, None, torch.arange(40) % 7)
        loss.backward()
        return loss.detach(), embedded.view1.grad, embedded.view2.grad

    whole = run()
    monkeypatch.setattr(matching, "WHOLE", 16)
    monkeypatch.setattr(matching, "ROWS", 7)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]).requires_grad_()  # all others as far as can be
    loss = NeighbourhoodComponents(0.05)(Embedded(z, z), None, torch.tensor([0, 0, 0]))
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


def test_classes_of_one_and_no_classes():
    embedded = embeddings(4)
    loss = NeighbourhoodComponents()(embedded, None, torch.arange(4))
    loss.backward()
    assert loss.item() == 0 and embedded.view1.grad.eq(0).all()
    with pytest.raises(ExperimentError, match="needs labels, and these data have none"):
        NeighbourhoodComponents()(embedded)


# -- noise -----------------------------------------------------------------------------------------------------------

def test_the_sum_of_canonical_correlations():
    from xmodal.linear import LinearCCA

    x, y = two_views(500)
    assert float(total_correlation(x, y, 1e-12)) == pytest.approx(
        float(np.sum(LinearCCA(5, r1=0.0, r2=0.0).fit(x, y).correlations_)), rel=1e-6)


def test_more_values_than_rows_are_compared_in_the_space_of_the_rows():
    draw = torch.Generator().manual_seed(0)
    wide, narrow = torch.randn(20, 70, generator=draw), torch.randn(20, 6, generator=draw)
    as_it_is = total_correlation(wide.clone().requires_grad_(), narrow, 0.1)
    assert float(total_correlation(wide, narrow, 0.1)) == pytest.approx(float(as_it_is.detach()), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("d1", "d2"), [(5, 3), (40, 6), (6, 40), (50, 40)])
def test_the_sum_with_ridges_by_numpy(d1, d2, scale):
    """Singular values of the cross-covariance whitened with ridges of r times each mean variance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, d1)) + 3
    y = x[:, :1] + rng.normal(size=(20, d2))
    S = np.cov(x.T, y.T)
    blocks = [S[:d1, :d1], S[d1:, d1:]]
    roots = []
    for block in blocks:
        values, vectors = np.linalg.eigh(block + 0.1 * np.trace(block) / len(block) * np.eye(len(block)))
        roots.append(vectors @ np.diag(values ** -0.5) @ vectors.T)
    expected = np.linalg.svd(roots[0] @ S[:d1, d1:] @ roots[1], compute_uv=False).sum()
    rows = torch.from_numpy(x * scale), torch.from_numpy(y)
    assert float(total_correlation(*rows, 0.1)) == pytest.approx(expected, rel=1e-5)
    wants = tuple(z.clone().requires_grad_() for z in rows)
    assert float(total_correlation(*wants, 0.1).detach()) == pytest.approx(expected, rel=1e-5)


def test_outputs_that_are_not_finite_are_told_from_those_for_noise():
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    bad = z.index_fill(0, torch.tensor([2]), torch.nan)
    for outputs, name in (((bad, z), "a tower's output"), ((z, bad), "a tower's output for noise")):
        with pytest.raises(NumericalError, match=f"^the covariance of {name} is not positive definite"):
            total_correlation(*outputs, 0.1)


def test_noise_leaves_the_base_its_pairs():
    x, y = (v.float() for v in two_views(12))
    model = TwoTower(nn.Linear(5, 3), nn.Linear(5, 3), LearnedProjection(3), noise=True)
    base, pairs = PairwiseRanking(), table(12, 4, 5, 0)
    embedded = model(x, y)
    assert base(embedded, pairs) != base(embedded)
    assert NoiseRegularised(base, weight=0.0)(embedded, pairs).item() == pytest.approx(base(embedded, pairs).item())


def test_noise_costs_nothing_where_towers_are_invertible_maps():
    """A full-rank linear tower keeps all correlations, with noise as well (the paper's theorem); a tower of rank 1 does
    not."""
    x, y = (v.float() for v in two_views(300))

    def cost(rank: int) -> float:
        torch.manual_seed(0)
        towers = [nn.Linear(5, 5, bias=False) for _ in range(2)]
        with torch.no_grad():
            for tower in towers:
                u, s, v = torch.linalg.svd(tower.weight)
                s[rank:] = 0
                tower.weight.copy_(u @ torch.diag(s + (s == 0) * 1e-4) @ v)
        model = TwoTower(*towers, CCALayer(5), noise=True).train()
        with torch.enable_grad():
            embedded = model(x, y)
            base = TraceNorm()
            objective = NoiseRegularised(base, weight=1.0, r=1e-6)
            return (objective(embedded) - base(embedded)).item()

    assert cost(5) < 0.01 < 0.2 < cost(1)


def test_noise_needs_a_model_that_passes_it_on():
    x, y = (v.float() for v in two_views(50))
    plain = TwoTower(nn.Linear(5, 3), nn.Linear(5, 3), LearnedProjection(3))
    objective = NoiseRegularised(InfoNCE())
    with pytest.raises(ExperimentError, match=r"TwoTower\(\.\.\., noise=True\)"):
        objective(plain(x, y))
    objective.eval()
    assert objective(plain(x, y)).isfinite()  # validation has no noise


def test_noise_passes_labels_on():
    labels, embedded, base = torch.arange(8) % 3, embeddings(8), NeighbourhoodComponents()
    for objective in (NoiseRegularised(base).eval(), WeightedSum([(1.0, NoiseRegularised(base))]).eval()):
        assert objective.uses_labels
        assert torch.equal(objective(embedded, None, labels), base(embedded, None, labels))
    assert not NoiseRegularised(TraceNorm()).uses_labels


@pytest.mark.parametrize("make", [
    lambda: Triplet(0.0), lambda: Triplet(0.1, "soft"), lambda: Triplet(warm_up=-1), lambda: Siamese(3.0),
    lambda: SigmoidPairs(0.0), lambda: Circle(1.0), lambda: BarlowTwins(-1.0), lambda: VICReg(variance=-1.0),
    lambda: SoftDecorrelation(momentum=1.0), lambda: NeighbourhoodComponents(0.0),
    lambda: NoiseRegularised(InfoNCE(), -1.0), lambda: NoiseRegularised(InfoNCE(), r=0.0)])
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(ExperimentError) as refused:
        make()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: BarlowTwins(-1.0), "BarlowTwins: weight"), (lambda: SoftDecorrelation(-1.0), "SoftDecorrelation: weight"),
    *((lambda name=name: VICReg(**{name: float("inf")}), f"VICReg: {name}")
      for name in ("invariance", "variance", "covariance"))])
def test_the_weight_that_means_nothing_is_named(make, message):
    with pytest.raises(ExperimentError, match=f"^{message} must not be negative, got "):
        make()


def test_weights_of_nought_leave_the_other_terms():
    one, two = moments(embedded := embeddings(50, 4))
    C = np.corrcoef(one.T, two.T)[:4, 4:]
    assert BarlowTwins(0.0)(embedded).item() == pytest.approx(((1 - np.diag(C)) ** 2).sum())
    assert VICReg(1.0, 0.0, 0.0)(embedded).item() == pytest.approx(((one - two) ** 2).mean())
    assert SoftDecorrelation(0.0)(embedded).item() == pytest.approx(4 * (1 - np.diag(C)).mean(), rel=1e-6)


@pytest.mark.parametrize(("scale", "bias"), [(0.5, 0.0), (3.0, -2.0)])
def test_sigmoid_pairs_of_any_scale_and_bias(scale, bias):
    embedded = embeddings(6, seed=1)
    expected = sigmoid_by_loops(cosines(embedded), negatives_of(6, None), scale, bias)
    assert SigmoidPairs(scale, bias)(embedded).item() == pytest.approx(expected, rel=1e-5)
