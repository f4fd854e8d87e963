"""Training steps of the audio–score towers: bfloat16 and channels-last against plain float32.

  python -m benchmarks.towers                   # one thread, CPU seconds; writes results/towers_cpu.json
  python -m benchmarks.towers --device cuda     # samples a second

Forward, ranking loss, backward and Adam step on batches of 100 pairs, the variants in turn, round after round; the
ratio is the median over rounds.
"""
from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.trainings import MODELS, RESULTS, machine
from xmodal import load_experiment
from xmodal.evaluator import tower_precision

BATCH = 100
SHAPES = (1, 80, 100), (1, 92, 42)
# precision, memory format
VARIANTS = {"float32": ("float32", torch.contiguous_format), "float32, channels-last": ("float32", torch.channels_last),
            "bfloat16": ("bf16", torch.contiguous_format), "bfloat16, channels-last": ("bf16", torch.channels_last)}


def step(precision: str, layout: torch.memory_format, device: str) -> Callable[[], None]:
    """A function that takes one training step on pairs of noise."""
    torch.manual_seed(0)
    experiment = load_experiment(MODELS / "audio_score_ccal_cont.py", {"alpha": 0.1})
    model, objective = experiment.build_model(*SHAPES).to(device), experiment.build_objective()
    for tower in (model.tower1, model.tower2):
        tower.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, y = (torch.rand(BATCH, *shape, device=device) for shape in SHAPES)

    def run() -> None:
        optimizer.zero_grad()
        with tower_precision(precision, device):
            embedded = model(x, y)
        objective(embedded).backward()
        optimizer.step()

    return run


def seconds(run: Callable[[], None], device: str, steps: int) -> float:
    """Of CPU time for one step, or of wall time on an accelerator."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    for _ in range(steps):
        run()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - started) / steps


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    runs = {name: step(precision, layout, args.device) for name, (precision, layout) in VARIANTS.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(args.rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run, args.device, args.steps))
    plain = taken["float32"]
    unit = "CPU s" if args.device == "cpu" else "s"
    print(f"| | {unit} a step of {BATCH} | samples a second | time against float32 |\n|---|---|---|---|")
    for name, values in taken.items():
        ratio = statistics.median(value / base for value, base in zip(values, plain, strict=True))
        print(f"| {name} | {statistics.median(values):.3f} | {BATCH / statistics.median(values):.0f} | {ratio:.2f} |")
    name = machine() if args.device == "cpu" else torch.cuda.get_device_name()
    file = RESULTS / f"towers_{args.device}.json"
    file.write_text(json.dumps({"machine": name, "seconds": taken}, indent=1) + "\n")


if __name__ == "__main__":
    main()
