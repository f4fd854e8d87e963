"""How time and peak memory grow with the number of pairs, 10³ to 10⁶: fitting, training, embedding, evaluating,
searching.

Views of 64 + 64 Gaussian values, d = 32, one thread, each point in a process of its own. Time is CPU seconds of one
call, the mean of as many as half a second takes. Memory is the peak during the call beyond what was resident after the
imports and a tiny call, views or embeddings included. Evaluating compares all with all in both directions and ends at
10^5.5 pairs unless ``--full``. Searching finds the ten nearest of so many items for each of 1,000 queries.

The slopes are those of least squares through the upper half of the points, in decades of time or memory a decade of
pairs: 1 is what linear growth has, 2 what comparing all with all has. The plot is docs/growth.png.
"""
from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.linear_cca.fits import memory
from benchmarks.speed.common import ROOT, Row, claim, cpu_name, cpu_seconds, in_own_process, say
from xmodal import CCALayer, LinearCCA, PairedData, TraceNorm, TrainConfig, TwoTower, fit, retrieval_metrics
from xmodal.data import PairSplit
from xmodal.evaluator import embed
from xmodal.search import Gallery
from xmodal.towers import mlp
from xmodal.trainer import Silent

PLOT = ROOT / "docs" / "growth.png"
WIDTH, DIM = 64, 32
EXPECTED = {"linear CCA": 1, "training epoch": 1, "embedding": 1, "evaluating": 2, "searching": 1}
QUERIES = 1000
DECADES = [3, 3.5, 4, 4.5, 5, 5.5, 6]
EVALUATING_ENDS = 5.5
LEAST = {"seconds": 1e-3, "mb": 1.0}  # less is not drawn: what start-up left free is enough for it


def views(n: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """(n, width) float32 twice: the same standard normal items with noise of their own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator)
    return x, torch.randn(n, width, generator=generator).add_(x)


def paired(n: int) -> PairedData:
    valid = PairSplit("valid", *views(500))
    return PairedData("growth", PairSplit("train", *views(n)), valid, valid)


def network() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(mlp((WIDTH,), [128], DIM), mlp((WIDTH,), [128], DIM), CCALayer(DIM))


class Epochs(Silent):
    """CPU seconds of each epoch, validation included, from the end of the one before."""

    def __init__(self) -> None:
        self.last, self.seconds = time.process_time(), []

    def epoch(self, line: dict[str, Any]) -> None:
        now = time.process_time()
        self.seconds.append(now - self.last)
        self.last = now


def linear_cca(n: int) -> Callable[[], float]:
    x, y = views(n)
    return lambda: cpu_seconds(lambda: LinearCCA(DIM).fit(x, y), least=0.5)


def training_epoch(n: int) -> Callable[[], float]:
    data = paired(n)
    config = TrainConfig(dim_latent=DIM, batch_size=500, max_epochs=max(3, min(12, 100_000 // n)), keep="last")

    def train() -> float:
        watch = Epochs()
        fit(network(), TraceNorm(1e-3), data, config, display=watch)
        return sum(watch.seconds[1:]) / len(watch.seconds[1:])

    return train


def embedding(n: int) -> Callable[[], float]:
    model, split = network(), PairSplit("train", *views(n))
    first = views(500)
    model.refit([first])
    return lambda: cpu_seconds(lambda: embed(model, split), least=0.5)


def evaluating(n: int) -> Callable[[], float]:
    z1, z2 = views(n, DIM)
    return lambda: cpu_seconds(lambda: retrieval_metrics(z1, z2), least=0.5)


def searching(n: int) -> Callable[[], float]:
    z1, z2 = views(max(n, QUERIES), DIM)
    queries, gallery = z1[:QUERIES].clone(), Gallery.build(z2[:n])
    del z1, z2
    return lambda: cpu_seconds(lambda: gallery.query(queries, 10), least=0.5)


WHAT: dict[str, Callable[[int], Callable[[], float]]] = {
    "linear CCA": linear_cca, "training epoch": training_epoch, "embedding": embedding, "evaluating": evaluating,
    "searching": searching}


def child(spec: Row) -> Row:
    """Seconds of one point in this process, and MB of its peak."""
    make = WHAT[spec["what"]]
    make(600)()  # start-up
    before = memory("VmRSS")
    run = make(spec["n"])
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    seconds = run()
    return {"n": spec["n"], "seconds": seconds, "mb": memory("VmHWM") - before}


def slope(points: list[Row], key: str) -> float:
    """Of log ``key`` over log n, by least squares through the upper half of the points."""
    upper = points[len(points) // 2:]
    x, y = ([math.log10(max(point[name], 1e-9)) for point in upper] for name in ("n", key))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x)**2 for a in x)


def series(what: str, decades: list[float], full: bool) -> list[Row]:
    """The points of one line of the plot."""
    points = []
    for decade in decades:
        if what == "evaluating" and decade > EVALUATING_ENDS and not full:
            say(f"  growth, {what}: 10^{decade:g} pairs only with --full")
            continue
        points.append(in_own_process(__name__, {"what": what, "n": round(10**decade)}))
        say(f"  growth, {what}: {points[-1]}")
    return points


def claims(what: str, points: list[Row]) -> list[Row]:
    return [claim(f"growth: {what}, slope of time (expected {EXPECTED[what]})", slope(points, "seconds")),
            claim(f"growth: {what}, slope of peak memory (expected 1)", slope(points, "mb"))]


def run(quick: bool, device: str = "cpu", full: bool = False) -> Row:
    made: Row = {"views": [WIDTH, WIDTH], "d": DIM, "points": {}, "claims": []}
    for what in WHAT:
        points = made["points"][what] = series(what, DECADES[:3] if quick else DECADES, full)
        made["claims"] += claims(what, points)
    if not quick:
        draw(made["points"])
    return made


def draw(points: dict[str, list[Row]]) -> None:
    """Time and memory against pairs, log–log, with thin lines of the expected slopes through the last points."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6))
    for axis, key, title in ((axes[0], "seconds", "CPU seconds"), (axes[1], "mb", "peak memory above start-up, MB")):
        for what, measured in points.items():
            each = [point for point in measured if point[key] >= LEAST[key]]
            n, values = [point["n"] for point in each], [point[key] for point in each]
            expected = EXPECTED[what] if key == "seconds" else 1
            line, = axis.loglog(n, values, marker="o", markersize=4, label=f"{what}, slope {slope(measured, key):.2f}")
            guide = [values[-1] * (count / n[-1])**expected for count in n]
            axis.loglog(n, guide, linewidth=0.8, linestyle=":", color=line.get_color())
        axis.set_ylim(bottom=LEAST[key])
        axis.set_xlabel("pairs")
        axis.set_title(title)
        axis.grid(True, which="major", linewidth=0.4)
        axis.legend(frameon=False)
    figure.suptitle(f"{cpu_name()}, one thread, torch {torch.__version__}; dotted: slope "
                    "1 (evaluating time: 2)", fontsize=10)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(child(json.loads(sys.argv[1]))))
