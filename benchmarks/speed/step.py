"""Training steps of deep CCA with the trace norm: a bare loop, fit(), and cca-zoo's DCCA on Lightning.

Encoders 500-300-50 with batch norm, 60,000 × (392, 392), batch 1000, Adam, one thread. Every candidate trains the same
towers from the same weights; a round is one seed and the candidates take turns in it. The bare loop is what one writes
by hand for this one network: indexing by a permutation, a float32 loss of its own (Cholesky factors and singular
values), fused Adam, nothing else. cca-zoo's loss is the sum of squared correlations, so xmodal also trains with that
one. A step's time is that from the end of an epoch's first step to the end of its last, batches included. Then all
towers are judged alike: canonical correlation of the 10,000 test pairs, projection fitted on the training pairs.
"""
from __future__ import annotations

import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch._dynamo  # Adam imports it: two seconds that whichever came first would pay
from torch import Tensor, nn

from benchmarks.fit_overhead import Stopwatch, compare
from benchmarks.speed.common import Row, claim, median_ratio, say
from benchmarks.trainings import MODELS
from xmodal import Embedded, PairedData, TwoTower, fit, load_data, load_experiment
from xmodal.data import PairSplit
from xmodal.errors import XmodalError
from xmodal.evaluator import tower_precision
from xmodal.metrics import canonical_correlation
from xmodal.networks import evaluating

BATCH, RATE, RIDGE, SMOOTHING = 1000, 2e-3, 1e-3, 1e-3  # those of models/mnist_halves_ccal_tno.py
PEERS = "cca-zoo is not installed, its rows are left out: pip install -r benchmarks/requirements.txt"
SQUARED = "xmodal, bfloat16, cca-zoo's loss"
XMODAL = {"xmodal": {}, "xmodal, compiled": {"compile": True}, "xmodal, bfloat16": {"precision": "bf16"},
          "xmodal, bfloat16, compiled": {"precision": "bf16", "compile": True}, SQUARED: {"precision": "bf16"}}
Train = Callable[[TwoTower, PairedData, int, int], list[float]]  # model, data, seed, epochs: CPU s of steps an epoch


def sixty_thousand(pairs: int) -> PairedData:
    """MNIST halves with the validation pairs added to the training pairs, or Gaussian data of that shape."""
    try:
        data = load_data("mnist_halves")
        train = [torch.cat([getattr(data.train, view), getattr(data.valid, view)])[:pairs] for view in
                 ("view1", "view2")]
        test, name = data.test, "MNIST halves"
    except XmodalError:
        generator = torch.Generator().manual_seed(0)
        shared = torch.randn(pairs + 10_000, 392, generator=generator)
        views = [shared + torch.randn(shared.shape, generator=generator) for _ in range(2)]
        train = [view[:pairs] for view in views]
        test, name = PairSplit("test", *(view[pairs:].clone() for view in views)), "Gaussian data"
    valid = PairSplit("valid", test.view1[:1000], test.view2[:1000])
    return PairedData(name, PairSplit("train", *train), valid, test)


def hand_written_loss(a: Tensor, b: Tensor) -> Tensor:
    """The negative smoothed trace norm of two tower outputs (n, d), in the outputs' own precision."""
    ridge = RIDGE * torch.eye(a.shape[1])
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    scale = 1 / (len(a) - 1)
    L1 = torch.linalg.cholesky(a.T @ a * scale + ridge)
    L2 = torch.linalg.cholesky(b.T @ b * scale + ridge)
    left = torch.linalg.solve_triangular(L1, a.T @ b * scale, upper=False)
    sigma = torch.linalg.svdvals(torch.linalg.solve_triangular(L2, left.T, upper=False))
    return -((sigma.square() + SMOOTHING).sqrt() - SMOOTHING**0.5).sum()


def bare_loop(model: TwoTower, data: PairedData, seed: int, epochs: int) -> list[float]:
    x, y = data.train.view1, data.train.view2
    tower1, tower2 = model.tower1.train(), model.tower2.train()
    optimizer = torch.optim.Adam([*tower1.parameters(), *tower2.parameters()], lr=RATE, fused=True)
    torch.manual_seed(seed)
    seconds = []
    for _ in range(epochs):
        for i, rows in enumerate(torch.randperm(len(x)).split(BATCH)):
            optimizer.zero_grad(set_to_none=True)
            hand_written_loss(tower1(x[rows]), tower2(y[rows])).backward()
            optimizer.step()
            if i == 0:
                first = time.process_time()
        seconds.append(time.process_time() - first)
    return seconds


class SquaredCorrelations(nn.Module):
    """The loss of cca-zoo's DCCA, from what a CCA layer reports."""

    def forward(self, embedded: Embedded, pairs: Tensor | None = None) -> Tensor:
        return -embedded.correlations.square().sum()


def with_fit(overrides: Row, objective: nn.Module | None = None) -> Train:
    def train(model: TwoTower, data: PairedData, seed: int, epochs: int) -> list[float]:
        experiment = load_experiment(MODELS / "mnist_halves_ccal_tno.py",
                                     {"max_epochs": epochs, "keep": "last", "patience": epochs, **overrides})
        watch = Stopwatch()
        fit(model, objective or experiment.build_objective(), data, experiment.config, seed=seed, display=watch)
        return watch.epochs

    return train


def cca_zoo(model: TwoTower, data: PairedData, seed: int, epochs: int) -> list[float]:
    """As its documentation trains it; nothing is logged or saved."""
    import lightning.pytorch as lightning
    from cca_zoo.deep import DCCA, MultiviewDataset
    from torch.utils.data import DataLoader

    class Watch(lightning.Callback):
        def __init__(self) -> None:
            self.first, self.epochs = 0.0, []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            if batch_idx == 0:
                self.first = time.process_time()

        def on_train_epoch_end(self, trainer, module) -> None:
            self.epochs.append(time.process_time() - self.first)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(seed)
    watch = Watch()
    loader = DataLoader(MultiviewDataset([data.train.view1, data.train.view2]), batch_size=BATCH, shuffle=True)
    peer = DCCA(model.head.dim, [model.tower1, model.tower2], learning_rate=RATE, reg_covar=RIDGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
                                    enable_checkpointing=False, enable_model_summary=False, callbacks=[watch])
        trainer.fit(peer, loader)
    return watch.epochs


def quality(model: TwoTower, data: PairedData, precision: str) -> float:
    """Canonical correlation of the test pairs' tower outputs, of 50."""
    def outputs(split: PairSplit) -> list[Tensor]:
        return [torch.cat([tower(items).float() for items in view.split(BATCH)])
                for tower, view in ((model.tower1, split.view1), (model.tower2, split.view2))]

    with evaluating(model), tower_precision(precision, "cpu"):
        fitted, judged = outputs(data.train), outputs(data.test)
    return canonical_correlation(*judged, fit=tuple(fitted))


def run(quick: bool, device: str = "cpu", full: bool = False) -> Row:
    rounds, epochs, pairs = (1, 2, 6000) if quick else (5, 4, 60_000)
    data = sixty_thousand(pairs)
    candidates: dict[str, tuple[Train, str]] = {"bare loop": (bare_loop, "float32")}
    if importlib.util.find_spec("cca_zoo") and importlib.util.find_spec("lightning"):
        candidates["cca-zoo"] = cca_zoo, "float32"
    else:
        say(PEERS)
    for name, overrides in XMODAL.items():
        objective = SquaredCorrelations() if name == SQUARED else None
        candidates[name] = with_fit(overrides, objective), overrides.get("precision", "float32")
    experiment = load_experiment(MODELS / "mnist_halves_ccal_tno.py")
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    correlation: dict[str, list[float]] = {name: [] for name in candidates}
    for seed in range(rounds):
        for name, (train, precision) in candidates.items():
            torch.manual_seed(seed)
            model = experiment.build_model(data.view1_shape, data.view2_shape)
            torch._dynamo.reset()  # each compiled training compiles its own
            taken = train(model, data, seed, epochs)
            seconds[name].append(statistics.median(taken) / (-(-pairs // BATCH) - 1))
            correlation[name].append(quality(model, data, precision))
            say(f"  step, seed {seed}, {name}: {seconds[name][-1] * 1e3:.1f} ms, {correlation[name][-1]:.2f}")
    overhead = None
    if data.name == "MNIST halves":
        overhead = compare("mnist_halves_ccal_tno", rounds=1 if quick else 3, pairs=pairs)
    return {"data": f"{data.name}, {pairs:,} × (392, 392)", "epochs": epochs, "rounds": rounds,
            "step_cpu_seconds": seconds, "canonical_correlation": correlation,
            "fit_overhead": overhead, "claims": claims(seconds, correlation, overhead)}


def claims(seconds: dict[str, list[float]], correlation: dict[str, list[float]], overhead: Row | None
           ) -> list[Row]:
    bare, zoo = seconds["bare loop"], seconds.get("cca-zoo")
    made = [claim("step: xmodal to a bare loop, time", median_ratio(seconds["xmodal"], bare), at_most=1.05)]
    for name in list(XMODAL)[1:]:
        made.append(claim(f"step: {name} to a bare loop, time", median_ratio(seconds[name], bare)))
    if zoo is not None:
        made.append(claim("step: cca-zoo to a bare loop, time", median_ratio(zoo, bare)))
        for name in XMODAL:
            bound = {"at_least": 2.0} if name in ("xmodal, bfloat16", SQUARED) else {}
            made.append(claim(f"step: cca-zoo to {name}, time", median_ratio(zoo, seconds[name]), **bound))
    for name, values in correlation.items():
        made.append(claim(f"step: canonical correlation of {name}, of 50", statistics.mean(values)))
    if overhead is not None:
        made.append(claim("step: fit() with refit, validation and run folder to a loop that refits and validates, time",
                          overhead["ratio_epoch"]))
    return made
