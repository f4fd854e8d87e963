"""A data set of 20 GB is trained on, refitted and evaluated by processes that may have 4 GB of memory.

  python -m benchmarks.larger_than_memory                    # 20 GB, half an hour; needs 25 GB of disk
  python -m benchmarks.larger_than_memory --gigabytes 1 --keep DIR

The data are MNIST halves, repeated with noise of their own until they fill the file (6.4 million pairs); deep CCA with
encoders 500-300-50 is trained on them for an epoch by ``run_train.py``, refitted by ``refine_cca.py``, evaluated by
``run_eval.py``, and all training items are embedded into an HDF5 file. Each is a process of its own, of which the
system refuses every allocation beyond the limit (RLIMIT_DATA). ``--group`` names a control group made for the occasion,
which also limits how much of the file the system may keep in memory for it:

  mkdir /sys/fs/cgroup/memory/small && echo 4000000000 > /sys/fs/cgroup/memory/small/memory.limit_in_bytes

How fast streaming is compared with memory is measured on as many pairs of the file as fit into it: the same training,
both ways taking turns, wall clock, the file in the page cache. Results: benchmarks/results/larger_than_memory.json.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from xmodal.checkpoint import RunFolder
from xmodal.cli import refine_cca, run_eval, run_train
from xmodal.config import load_experiment
from xmodal.data import PairedData, load_data, read_h5
from xmodal.data.streamed import StreamedView
from xmodal.evaluator import write_embeddings
from xmodal.runs import load_model
from xmodal.trainer import fit

RESULTS = Path(__file__).parent / "results" / "larger_than_memory.json"
MODEL = Path(__file__).parent.parent / "models" / "mnist_halves_ccal_tno.py"
PAIR_BYTES = 2 * 392 * 4
BLOCK = 20_000
NOISE = 0.1
COMPARED_PAIRS = 300_000
ROUNDS = 3


def make(path: Path, gigabytes: float) -> int:
    """Writes the data set block by block; returns how many training pairs it has."""
    source = load_data("mnist_halves")
    n = int(gigabytes * 1e9 / PAIR_BYTES)
    with h5py.File(path, "w") as file:
        for name, split in (("valid", source.valid), ("test", source.test)):
            file[f"{name}/view1"], file[f"{name}/view2"] = split.view1.numpy(), split.view2.numpy()
        targets = [file.create_dataset(f"train/view{view}", (n, 392), np.float32) for view in (1, 2)]
        for low in range(0, n, BLOCK):
            rows = np.arange(low, min(low + BLOCK, n)) % len(source.train)
            draw = np.random.default_rng(low)
            for target, view in zip(targets, (source.train.view1, source.train.view2), strict=True):
                noise = draw.standard_normal((len(rows), 392), dtype=np.float32)
                target[low:low + len(rows)] = view.numpy()[rows] + np.float32(NOISE) * noise
        file.attrs["name"] = "mnist_halves_repeated"
    fingerprint = read_h5(path, stream=True).fingerprint
    with h5py.File(path, "a") as file:
        file.attrs["fingerprint"] = fingerprint
    return n


# -- stages, each in a process with a limit ----------------------------------------------------------------------------


def stage_train(path: Path) -> dict[str, Any]:
    code = run_train.main(["--model", str(MODEL), "--data", str(path), "--stream", "--set", "max_epochs=1"])
    line = json.loads((Path("runs") / MODEL.stem / "log.jsonl").read_text().splitlines()[0])
    return {"code": code, "pairs_per_second": line["refit_pairs"] / line["seconds_train"], **line}


def stage_refit(path: Path) -> dict[str, Any]:
    return {"code": refine_cca.main(["--model", str(MODEL), "--data", str(path)])}


def stage_evaluate(path: Path) -> dict[str, Any]:
    code = run_eval.main(["--model", str(MODEL), "--data", str(path)])
    metrics = json.loads((Path("runs") / MODEL.stem / "metrics.json").read_text())
    return {"code": code, "mrr": metrics["V1_to_V2"]["mrr"], "canonical_correlation": metrics["canonical_correlation"]}


def stage_embed(path: Path) -> dict[str, Any]:
    data = read_h5(path)
    model, _, _ = load_model(RunFolder(Path("runs") / MODEL.stem), data, RunFolder.WEIGHTS, torch.device("cpu"))
    out = path.with_name("embeddings.h5")
    write_embeddings(model, data, "train", out)
    return {"code": 0, "gigabytes": out.stat().st_size / 1e9, "items": 2 * len(data.train)}


STAGES = {"train": stage_train, "refit": stage_refit, "evaluate": stage_evaluate, "embed": stage_embed}


def child(stage: str, path: Path, limit: float, group: Path | None) -> int:
    """One stage in this process; its last line is JSON."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9),) * 2)
    os.chdir(path.parent)
    if group is not None:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    started = time.perf_counter()
    found = STAGES[stage](path)
    status = Path("/proc/self/status").read_text().splitlines()  # getrusage's peak begins with that of the parent
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    found |= {"seconds": time.perf_counter() - started, "peak_gb": peak * 1024 / 1e9}
    print(json.dumps(found))
    return int(found["code"])


def run_stage(stage: str, path: Path, limit: float, group: Path | None) -> dict[str, Any]:
    inside = [] if group is None else ["--group", str(group)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.larger_than_memory", "--child", stage, "--keep",
                           str(path.parent), "--limit", str(limit), *inside], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{stage} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{stage:10} {found['seconds']:7.0f} s, peak {found['peak_gb']:.2f} GB resident", flush=True)
    return found


# -- streaming against memory ------------------------------------------------------------------------------------------


def compare(path: Path) -> dict[str, Any]:
    """Pairs per second of the same training, from memory and from the file."""
    whole = read_h5(path, stream=True)
    pairs = min(COMPARED_PAIRS, len(whole.train))
    streamed = PairedData("streamed", whole.train.take(pairs), whole.valid, whole.test)
    views = [view.gather(torch.arange(pairs)) for view in (whole.train.view1, whole.train.view2)
             if isinstance(view, StreamedView)]
    memory = PairedData("memory", type(whole.train).of("train", *views), whole.valid, whole.test)
    experiment = load_experiment(MODEL, {"max_epochs": 1})
    speeds: dict[str, list[float]] = {"memory": [], "streamed": []}
    for seed in range(ROUNDS):
        for name, data in (("memory", memory), ("streamed", streamed)):
            torch.manual_seed(seed)
            model = experiment.build_model(data.view1_shape, data.view2_shape)
            line = fit(model, experiment.build_objective(), data, experiment.config, seed=seed).log[0]
            speeds[name].append(pairs / line["seconds_train"])
    ratio = statistics.median(s / m for s, m in zip(speeds["streamed"], speeds["memory"], strict=True))
    each = ", ".join(f"{name} {statistics.median(values):,.0f}" for name, values in speeds.items())
    print(f"streamed / in memory: {ratio:.3f} ({each} pairs/s)", flush=True)
    return {"pairs": pairs, "pairs_per_second": speeds, "ratio": ratio}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--limit", type=float, default=4.0, help="gigabytes of memory that a process may have")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this folder and leave everything there")
    parser.add_argument("--group", type=Path, metavar="DIR", help="also run the stages inside this control group")
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.child:
        return child(options.child, options.keep / "repeated.h5", options.limit, options.group)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        path = (options.keep or Path(temporary)).absolute() / "repeated.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        pairs = len(read_h5(path, stream=True).train) if path.is_file() else make(path, options.gigabytes)
        size, seconds = path.stat().st_size / 1e9, time.perf_counter() - started
        print(f"{pairs:,} training pairs, {size:.1f} GB, made in {seconds:.0f} s", flush=True)
        results = {"machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}", "pairs": pairs,
                   "gigabytes": size, "limit_gigabytes": options.limit, "group": options.group is not None,
                   "compared": compare(path)}
        for stage in STAGES:
            results[stage] = run_stage(stage, path, options.limit, options.group)
    if options.gigabytes >= 20:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
