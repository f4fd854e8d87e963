"""What fit() costs beyond a bare hand-written loop that trains the same model on the same batches.

  python benchmarks/fit_overhead.py

MNIST halves, encoders 500-300-50, batch 1000, one thread, CPU seconds, the two taking turns. The bare loop shuffles,
steps, and at the end of an epoch refits the CCA layer and computes the validation MRR, as a user would write it. fit()
also computes the training MRR and the validation loss, keeps the best model, and writes log, weights and resume state.
Steps are also compared on their own, from the first step of an epoch to its last.
"""
from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # Adam imports it: two seconds that whichever came first would pay

from xmodal import fit, load_data, load_experiment, retrieval_metrics
from xmodal.checkpoint import RunFolder
from xmodal.networks import evaluating
from xmodal.trainer import Silent, make_optimizer

HERE = Path(__file__).parent
EPOCHS, ROUNDS = 4, 5


def bare_loop(model, objective, data, config) -> tuple[float, float]:
    """Trains for EPOCHS; CPU seconds of the whole and of the steps alone."""
    x, y = data.train.view1, data.train.view2
    optimizer = make_optimizer([model], config)
    started, stepping = time.process_time(), 0.0
    for _ in range(EPOCHS):
        model.train()
        for i, rows in enumerate(torch.randperm(len(x)).split(config.batch_size)):
            optimizer.zero_grad(set_to_none=True)
            loss = objective(model(x[rows], y[rows]), None)
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
        self.first = self.stepping = 0.0

    def batch(self, epoch: int, done: int, total: int, loss: float) -> None:
        if done == 1:
            self.first = time.process_time()
        elif done == total:
            self.stepping += time.process_time() - self.first


def with_fit(model, objective, data, config) -> tuple[float, float]:
    """The same by fit(), run folder included."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        fit(model, objective, data, config, run=RunFolder(folder), display=watch)
        return time.process_time() - started, watch.stepping


def main() -> None:
    torch.set_num_threads(1)
    data = load_data("mnist_halves")
    experiment = load_experiment(HERE.parent / "models" / "mnist_halves_ccal_tno.py", {"max_epochs": EPOCHS})
    seconds: dict[str, list[tuple[float, float]]] = {"bare loop": [], "fit()": []}
    for seed in range(ROUNDS):
        for name, way in (("bare loop", bare_loop), ("fit()", with_fit)):
            torch.manual_seed(seed)
            model = experiment.build_model(data.view1_shape, data.view2_shape)
            seconds[name].append(way(model, experiment.build_objective(), data, experiment.config))
    whole, steps = (statistics.median(f[i] / b[i] for f, b in zip(seconds["fit()"], seconds["bare loop"], strict=True))
                    for i in (0, 1))
    for name, values in seconds.items():
        print(f"{name:10} {statistics.median(v[0] for v in values) / EPOCHS:6.2f} CPU s an epoch, of which steps "
              f"{statistics.median(v[1] for v in values) / EPOCHS:6.2f}")
    print(f"ratio of whole epochs {whole:.3f}, of the steps {steps:.3f} (medians of {ROUNDS} paired rounds)")
    results = {"machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}", "epochs": EPOCHS,
               "seconds": seconds, "ratio_epoch": whole, "ratio_steps": steps}
    (HERE / "results" / "fit_overhead.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
