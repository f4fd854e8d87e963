"""bfloat16 towers and compiled towers: time and results of whole trainings by fit(), three seeds of each.

CPU seconds of an epoch are medians over all but the first (which compiles) and include refit and validation. On an
accelerator (``--device cuda``) they are wall seconds.
"""
from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch._dynamo

from benchmarks.speed.common import Row, claim, median_ratio, say
from benchmarks.trainings import MODELS
from xmodal import PairedData, fit, load_data, load_experiment
from xmodal.data import PairSplit
from xmodal.errors import XmodalError
from xmodal.evaluator import evaluate
from xmodal.trainer import Silent

VARIANTS: dict[str, Row] = {"float32": {"precision": "float32"}, "bfloat16": {"precision": "bf16"},
                            "compiled": {"precision": "float32", "compile": True},
                            "bfloat16, compiled": {"precision": "bf16", "compile": True}}
# experiment, data, training pairs, validation and test pairs, variants, further overrides
CASES: tuple[tuple[str, str, int, int, list[str], Row], ...] = (
    ("mnist_halves_ccal_tno", "mnist_halves", 50_000, 2000, list(VARIANTS), {"max_epochs": 6}),
    # for time more than quality; compiling these towers takes a minute and gains nothing
    ("audio_score_ccal_cont", "audio_score", 500, 300, ["float32", "bfloat16"], {"max_epochs": 3, "alpha": 0.1}))


class EpochClock(Silent):
    """Seconds of each epoch, validation included, and of the first one's beginning."""

    def __init__(self, device: str) -> None:
        self.device, self.epochs = device, []
        self.last = self.now()

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def epoch(self, line: dict[str, Any]) -> None:
        now = self.now()
        self.epochs.append(now - self.last)
        self.last = now


def first_pairs(data: PairedData, pairs: int, others: int) -> PairedData:
    """With the first so many pairs of each split."""
    def cut(split: PairSplit, count: int) -> PairSplit:
        return PairSplit(split.name, split.view1[:count].clone(), split.view2[:count].clone())

    return PairedData(data.name, cut(data.train, pairs), cut(data.valid, others), cut(data.test, others))


def one_training(path: str, data: PairedData, overrides: Row, seed: int, device: str) -> Row:
    experiment = load_experiment(MODELS / f"{path}.py", {"keep": "last", "patience": 1000, **overrides})
    torch.manual_seed(seed)
    torch._dynamo.reset()
    model = experiment.build_model(data.view1_shape, data.view2_shape)
    clock = EpochClock(device)
    result = fit(model, experiment.build_objective(), data, experiment.config, seed=seed, device=device, display=clock)
    found = evaluate(model, data, "test", device=device, precision=experiment.config.precision)
    return {"seconds_epoch": statistics.median(clock.epochs[1:]), "seconds_first_epoch": clock.epochs[0],
            "valid_mrr": result.log[-1]["mrr_va"], "test_mrr": found["V1_to_V2"]["mrr"],
            "canonical_correlation": found["canonical_correlation"]}


def run(quick: bool, device: str = "cpu", full: bool = False) -> Row:
    made: Row = {"cases": {}, "claims": []}
    for path, name, pairs, others, variants, overrides in CASES[:1] if quick else CASES:
        try:
            data = first_pairs(load_data(name), 2000 if quick else pairs, others)
        except XmodalError as error:
            say(f"{path} is left out: {error}")
            continue
        if quick:
            overrides = {**overrides, "max_epochs": 2}
        results: dict[str, list[Row]] = {variant: [] for variant in variants}
        for seed in range(1 if quick else 3):
            for variant in variants:
                row = one_training(path, data, {**overrides, **VARIANTS[variant]}, seed, device)
                results[variant].append(row)
                say(f"  precision, {path}, seed {seed}, {variant}: {row}")
        made["cases"][path] = {"pairs": len(data.train), **overrides, "results": results}
        made["claims"] += claims(path, results)
    return made


def claims(path: str, results: dict[str, list[Row]]) -> list[Row]:
    """Time against float32, and how far the mean result is from float32's, as a part of the range of its seeds."""
    made = []
    plain = results["float32"]
    for variant, rows in results.items():
        if variant == "float32":
            continue
        made.append(claim(f"precision: {path}, {variant} to float32, time of an epoch",
                          median_ratio([row["seconds_epoch"] for row in rows], [r["seconds_epoch"] for r in plain])))
        for key in ("valid_mrr", "canonical_correlation"):
            if len(plain) > 1:
                these, those = ([row[key] for row in chosen] for chosen in (rows, plain))
                away = abs(statistics.mean(these) - statistics.mean(those)) / (max(those) - min(those))
                made.append(claim(f"precision: {path}, {variant}, {key} off float32's, in ranges of its seeds", away,
                                  at_most=1.0))
    return made
