"""kill -9 in the middle of trainings and preparations: nothing is ever lost, half written or different afterwards.

  python -m benchmarks.kills                    # 200 kills, some five minutes
  python -m benchmarks.kills --kills 40 --seed 3

*Trainings.* ``run_train.py --resume`` is started again and again, and killed at a random moment of a phase that is
chosen beforehand: loading, a training step, the refit of the statistics, validation, the writing of a checkpoint. When
it has been killed often enough it is left to finish, and must have the weights and the log of a training that nobody
disturbed, bit for bit. *Preparations.* ``prepare_data.py from_folder`` is killed while it prepares a data set anew;
whoever reads the file in between finds the old one, whole. Counts go to benchmarks/results/kills.json.
"""
from __future__ import annotations

import argparse
import collections
import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "kills.json"
MODEL = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")
TRAIN = ["--model", MODEL, "--data", "digits", "--resume", "--set"]
PREPARE = ["from_folder", "--images", "pictures", "--captions", "captions.tsv", "--name", "own",
           "--image_features", "hog"]
PHASES = ("loading", "training step", "refit", "validation", "checkpoint")
PREPARING = ("reading", "writing")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["xmodal.cli.run_train", "xmodal.cli.prepare_data", "sklearn.datasets"])
Phase = Any  # a number that two processes share

# -- in the process that is killed -------------------------------------------------------------------------------------


def _telling(phase: Phase, number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, while which ``phase`` is ``number``."""
    @functools.wraps(function)
    def told(*arguments: Any, **named: Any) -> Any:
        before, phase.value = phase.value, number
        try:
            return function(*arguments, **named)
        finally:
            phase.value = before

    return told


def _enter(folder: str) -> None:
    import torch

    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 (until the process ends)
    torch.set_num_threads(1)


def train(folder: str, phase: Phase, epochs: int) -> None:
    """run_train.py as a user types it."""
    from xmodal.checkpoint import RunFolder
    from xmodal.cli import run_train
    from xmodal.networks import TwoTower
    from xmodal.trainer.loop import _Training

    _enter(folder)
    for owner, name, told in ((_Training, "_step", "training step"), (TwoTower, "refit", "refit"),
                              (_Training, "_validate", "validation"), (RunFolder, "save_resume", "checkpoint"),
                              (RunFolder, "save_weights", "checkpoint"), (RunFolder, "write_log", "checkpoint"),
                              (RunFolder, "write_json", "checkpoint")):
        setattr(owner, name, _telling(phase, PHASES.index(told), getattr(owner, name)))
    sys.exit(run_train.main([*TRAIN, f"max_epochs={epochs}"]))


def prepare(folder: str, phase: Phase) -> None:
    """prepare_data.py as a user types it."""
    from xmodal.cli import prepare_data
    from xmodal.data import image_text

    _enter(folder)
    image_text.write_arrays = _telling(phase, PREPARING.index("writing"), image_text.write_arrays)
    sys.exit(prepare_data.main(PREPARE))


# -- in the process that kills -----------------------------------------------------------------------------------------


def started(body: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Phase]:
    phase = CONTEXT.Value("i", 0, lock=False)
    process = CONTEXT.Process(target=body, args=(arguments[0], phase, *arguments[1:]))
    process.start()
    return process, phase


def finished(body: Callable[..., None], *arguments: Any) -> float:
    """Seconds that an undisturbed process takes."""
    began = time.monotonic()
    process, _ = started(body, *arguments)
    process.join(300)
    if process.exitcode != 0:
        raise SystemExit(f"{body.__name__} ended with {process.exitcode}")
    return time.monotonic() - began


def killed_in(process: BaseProcess, phase: Phase, wanted: int, seconds: float, delay: float) -> int | None:
    """Kills the process some time after it entered the wanted phase; the phase it was in, None if it had ended."""
    time.sleep(seconds)
    until = time.monotonic() + 20
    while process.is_alive() and phase.value != wanted and time.monotonic() < until:
        time.sleep(0.0002)
    time.sleep(delay)
    found = phase.value
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"it ended by itself, with {process.exitcode}")
    return found if process.exitcode else None


def wants_more(hit: collections.Counter[str], kills: int, phases: tuple[str, ...]) -> bool:
    """Whether to kill again: until there were that many, and one in each phase (a short one may end before the blow).

    Raises SystemExit after ten times as many, by which the phase that is missing can't be hit at all.
    """
    missed = [phase for phase in phases if not hit[phase]]
    if missed and hit.total() >= 10 * kills:
        raise SystemExit(f"{hit.total()} kills, none of them in {' or '.join(missed)}")
    return bool(missed) or hit.total() < kills


def least_hit(hit: collections.Counter[str], phases: tuple[str, ...]) -> int:
    """The number of the phase to aim at."""
    return min(range(len(phases)), key=lambda number: hit[phases[number]])


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("seconds")} for line in lines]


def kill_trainings(folder: Path, kills: int, draw: random.Random, epochs: int = 12) -> collections.Counter[str]:
    """As many kills or more, by the phase they hit, each at least once.

    Raises SystemExit when a training is not what it would have been.
    """
    for name in ("warm-up", "whole", "killed"):
        (folder / name).mkdir(parents=True)
    run = Path("runs") / Path(MODEL).stem
    finished(train, str(folder / "warm-up"), 1)
    whole = finished(train, str(folder / "whole"), epochs)
    hit: collections.Counter[str] = collections.Counter()
    ends = 0

    def compare() -> None:
        for file in ("weights.safetensors", "experiment.py"):
            if (folder / "whole" / run / file).read_bytes() != (folder / "killed" / run / file).read_bytes():
                raise SystemExit(f"{file} differs from that of an undisturbed training")
        if log_without_times(folder / "whole" / run) != log_without_times(folder / "killed" / run):
            raise SystemExit("the log differs from that of an undisturbed training")
        if list((folder / "killed").rglob(".*.tmp")):
            raise SystemExit("temporary files are left")

    while wants_more(hit, kills, PHASES):
        process, phase = started(train, str(folder / "killed"), epochs)
        wanted = least_hit(hit, PHASES)
        found = killed_in(process, phase, wanted, draw.uniform(0, 0.5 * whole) if wanted else draw.uniform(0, 0.1),
                          draw.choice([0, draw.uniform(0, 0.002), draw.uniform(0, 0.02)]))
        if found is None:  # it was done before it was killed
            compare()
            ends += 1
            shutil.rmtree(folder / "killed" / "runs")
        else:
            hit[PHASES[found]] += 1
    finished(train, str(folder / "killed"), epochs)
    compare()
    hit["trainings compared"] = ends + 1
    return hit


def kill_preparations(folder: Path, kills: int, draw: random.Random) -> collections.Counter[str]:
    """As many kills or more, by the phase they hit, each at least once.

    Raises SystemExit when a file is not what it was before.
    """
    from xmodal.data import read_h5

    make_pictures(folder, random.Random(1))
    whole = finished(prepare, str(folder))
    prepared = folder / "data" / "own.h5"
    fingerprint = read_h5(prepared).fingerprint
    hit: collections.Counter[str] = collections.Counter()
    while wants_more(hit, kills, PREPARING):
        process, phase = started(prepare, str(folder))
        wanted = least_hit(hit, PREPARING)
        found = killed_in(process, phase, wanted, 0.0 if wanted else draw.uniform(0, whole),
                          draw.choice([0, draw.uniform(0, 0.002), draw.uniform(0, 0.01)]))
        if read_h5(prepared).fingerprint != fingerprint:
            raise SystemExit("a killed preparation has changed the file")
        if found is not None:
            hit[PREPARING[found]] += 1
    for leftover in prepared.parent.glob(".*.tmp"):
        os.utime(leftover, (1, 1))  # as if the kills had been long ago
    finished(prepare, str(folder))
    if read_h5(prepared).fingerprint != fingerprint or list(prepared.parent.glob(".*.tmp")):
        raise SystemExit("a preparation after kills leaves something else")
    return hit


def make_pictures(folder: Path, draw: random.Random, count: int = 150) -> None:
    """Small pictures of coloured noise, with captions."""
    import numpy as np
    from PIL import Image

    (folder / "pictures").mkdir(parents=True)
    lines = ["image\tcaption"]
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        lines.append(f"{number}.png\t{' '.join(draw.sample(['red', 'old', 'cat', 'tree', 'on', 'blue', 'sea'], 3))}")
    (folder / "captions.tsv").write_text("\n".join(lines) + "\n")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    draw = random.Random(options.seed)
    preparations = options.kills // 5
    with tempfile.TemporaryDirectory() as folder:
        counts = {"trainings": kill_trainings(Path(folder, "train"), options.kills - preparations, draw),
                  "preparations": kill_preparations(Path(folder, "prepare"), preparations, draw)}
    for what, hit in counts.items():
        print(f"{what}: " + ", ".join(f"{number} {phase}" for phase, number in hit.items()))
    print("all resumed, every weight and number that of an undisturbed one")
    if options.kills >= 200:
        RESULTS.write_text(json.dumps({"kills": options.kills, "seed": options.seed, **counts}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
