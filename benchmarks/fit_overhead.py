"""What fit() costs beyond a bare hand-written loop that trains the same network.

  python benchmarks/fit_overhead.py                                    # deep CCA, batch 1000
  python benchmarks/fit_overhead.py mnist_halves_corrnet_2017          # CorrNet, batch 100

MNIST halves, encoders 500-300-50, one thread, CPU seconds, the two taking turns. The bare loop shuffles, steps, and at
the end of an epoch refits the head and computes the validation MRR, as a user would write it; the loss of a CorrNet it
writes out by hand. fit() also computes the training MRR and the validation loss, keeps the best model, and writes log,
weights and resume state. Steps are also compared on their own, from the first step of an epoch to its last.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # Adam imports it: two seconds that whichever came first would pay
from torch import nn
from torch.nn.functional import mse_loss

from xmodal import CorrNet, fit, load_data, load_experiment, retrieval_metrics
from xmodal.checkpoint import RunFolder
from xmodal.networks import evaluating
from xmodal.trainer import Silent, make_optimizer

HERE = Path(__file__).parent
EPOCHS, ROUNDS = 4, 5
Seconds = dict[str, list[tuple[float, float]]]  # of the whole and of the steps alone, by what took them


class CorrNetByHand(nn.Module):
    """The single-view terms and the correlation, as one writes them for one network: a single pass of each encoder."""

    def __init__(self, model: CorrNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x, y):
        net = self.model
        a, b = net.encoder1(x), net.encoder2(y)
        h1, h2 = a + net.encoder2(torch.zeros_like(y[:1])), net.encoder1(torch.zeros_like(x[:1])) + b
        c1, c2 = h1 - h1.mean(dim=0), h2 - h2.mean(dim=0)
        norms = ((c1 * c1).sum(dim=0) + 1e-8).sqrt() * ((c2 * c2).sum(dim=0) + 1e-8).sqrt()
        restored = sum(mse_loss(net.decoder1(h), x) + mse_loss(net.decoder2(h), y) for h in (h1, h2))
        return restored - 0.02 * ((c1 * c2).sum(dim=0) / norms).sum()


def bare_loop(model, objective, data, config) -> tuple[float, float]:
    """Trains for EPOCHS; CPU seconds of the whole and of the steps alone."""
    x, y = data.train.view1, data.train.view2
    optimizer = make_optimizer([model], config)
    by_hand = CorrNetByHand(model) if isinstance(model, CorrNet) else None
    started, stepping = time.process_time(), 0.0
    for _ in range(EPOCHS):
        model.train()
        for i, rows in enumerate(torch.randperm(len(x)).split(config.batch_size)):
            optimizer.zero_grad(set_to_none=True)
            loss = by_hand(x[rows], y[rows]) if by_hand is not None else objective(model(x[rows], y[rows]), None)
            loss.backward()
            optimizer.step()
            if i == 0:
                first = time.process_time()
        stepping += time.process_time() - first
        model.refit(zip(x.split(1000), y.split(1000), strict=True))
        with evaluating(model):
            retrieval_metrics(model.embed_view1(data.valid.view1), model.embed_view2(data.valid.view2))
    return time.process_time() - started, stepping


class Stopwatch(Silent):
    """CPU seconds from the first step of each epoch to its last."""

    def __init__(self) -> None:
        self.first = 0.0
        self.epochs: list[float] = []

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        if done == 1:
            self.first = time.process_time()
        elif done == total:
            self.epochs.append(time.process_time() - self.first)


def with_fit(model, objective, data, config) -> tuple[float, float]:
    """The same by fit(), run folder included."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        fit(model, objective, data, config, run=RunFolder(folder), display=watch)
        return time.process_time() - started, sum(watch.epochs)


def compare(name: str, rounds: int = ROUNDS, pairs: int | None = None) -> dict[str, Any]:
    """Seconds and ratios of ``models/<name>.py`` on MNIST halves, or on its first so many training pairs."""
    data = load_data("mnist_halves")
    if pairs is not None:
        data = dataclasses.replace(data, train=dataclasses.replace(
            data.train, view1=data.train.view1[:pairs], view2=data.train.view2[:pairs], labels=None))
    experiment = load_experiment(HERE.parent / "models" / f"{name}.py", {"max_epochs": EPOCHS})
    seconds: Seconds = {"bare loop": [], "fit()": []}
    for seed in range(rounds):
        for kind, way in (("bare loop", bare_loop), ("fit()", with_fit)):
            torch.manual_seed(seed)
            model = experiment.build_model(data.view1_shape, data.view2_shape)
            seconds[kind].append(way(model, experiment.build_objective(), data, experiment.config))
    whole, steps = (statistics.median(f[i] / b[i] for f, b in zip(seconds["fit()"], seconds["bare loop"], strict=True))
                    for i in (0, 1))
    return {"epochs": EPOCHS, "seconds": seconds, "ratio_epoch": whole, "ratio_steps": steps}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mnist_halves_ccal_tno",
                        choices=("mnist_halves_ccal_tno", "mnist_halves_corrnet_2017"))
    return parser.parse_args(argv)


def main() -> None:
    name = arguments().model
    torch.set_num_threads(1)
    found = compare(name)
    for kind, values in found["seconds"].items():
        print(f"{kind:10} {statistics.median(v[0] for v in values) / EPOCHS:6.2f} CPU s an epoch, of which steps "
              f"{statistics.median(v[1] for v in values) / EPOCHS:6.2f}")
    print(f"ratio of whole epochs {found['ratio_epoch']:.3f}, of the steps {found['ratio_steps']:.3f} "
          f"(medians of {ROUNDS} paired rounds)")
    results = {"machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}", **found}
    suffix = "" if name.endswith("ccal_tno") else f"_{name}"
    (HERE / "results" / f"fit_overhead{suffix}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
