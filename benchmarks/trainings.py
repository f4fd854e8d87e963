"""What the studies share: one training, results that are kept as soon as they are there, means and spreads."""
from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xmodal import PairedData, TrainConfig, fit

RESULTS = Path(__file__).parent / "results"
MODELS = Path(__file__).parent.parent / "models"


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """With ``--seeds`` and ``--threads``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    return parser


def train(data: PairedData, config: TrainConfig, build_model: Callable[..., Any],
          build_objective: Callable[[], nn.Module | None], seed: int) -> tuple[Any, dict[str, Any]]:
    """A trained model and what there is to say about its training. A signal ends the program: half a training is no
    result."""
    torch.manual_seed(seed)
    network = build_model(data.view1_shape, data.view2_shape)
    objective = build_objective()
    started, cpu_started = time.perf_counter(), time.process_time()
    result = fit(network, objective, data, config, seed=seed)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    about = {"config": dataclasses.asdict(config), "seconds": time.perf_counter() - started,
             "cpu_seconds": time.process_time() - cpu_started, "epochs": len(result.log),
             "best_epoch": result.best_epoch, "valid_mrr": result.log[result.best_epoch - 1]["mrr_va"], "seed": seed,
             "machine": machine()}
    return network, about


def machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def finished(file: Path) -> list[dict[str, Any]]:
    """The results in a file of JSON lines, none if there is no such file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(file: Path, *results: Mapping[str, Any]) -> None:
    """Adds a line for each; programs that run side by side may share a file."""
    with file.open("a") as lines:
        lines.write("".join(json.dumps(result) + "\n" for result in results))


def at(result: Mapping[str, Any], path: Iterable[str]) -> Any:
    """The value at a path of keys, None where there is none."""
    value: Any = result
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def spread(values: Iterable[float | None], digits: int) -> str:
    """``mean ± standard deviation`` of the values that are there."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{deviation}"
