"""A gallery of 10 GB is built and searched by processes that may have 2 GB of memory.

  python -m benchmarks.speed.search_disk --group DIR                # 10 GB of disk, ten minutes
  python -m benchmarks.speed.search_disk --gigabytes 0.5 --limit 2  # a look; nothing is kept

20,000,000 embeddings of width 128 (see embeddings.py) go through ``Gallery.build(blocks, path=...)`` and are then
searched memory-mapped, each by a process of its own. ``--group`` names a control group made for the occasion, which
limits what these allocate and how much of the file the system may keep in memory for them, all in all:

  mkdir /sys/fs/cgroup/memory/small && echo 2000000000 > /sys/fs/cgroup/memory/small/memory.limit_in_bytes

Without it the system only refuses allocations beyond the limit while the gallery is built (RLIMIT_DATA, which also
counts a private mapping of a file). Results go beside those of ``make bench``, as the part search_disk.
"""
from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.linear_cca.fits import memory
from benchmarks.speed import embeddings
from benchmarks.speed.common import ROOT, Row, claim, merge, say
from xmodal.search import Gallery

K, AT_ONCE, CHECKED = 10, (1, 10, 100, 1000), 20
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Watch(threading.Thread):
    """The largest part of resident memory that is no file's, in MB, looked at twenty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, memory("RssAnon"))
            time.sleep(0.05)


def blocks(made: dict[str, Tensor], count: int, seconds: list[float]) -> Iterator[Tensor]:
    """The embeddings, and what making them took."""
    for first in range(0, count, embeddings.BLOCK):
        started = time.perf_counter()
        block = embeddings.block(made, first, min(embeddings.BLOCK, count - first))
        seconds[0] += time.perf_counter() - started
        yield block


def build(folder: Path, count: int) -> Row:
    seconds = [0.0]
    gallery = Gallery.build(blocks(embeddings.read(folder / "embeddings.safetensors"), count, seconds),
                            path=folder / "gallery")
    return {"items": len(gallery), "seconds_making_embeddings": seconds[0]}


def search(folder: Path, count: int) -> Row:
    queries = embeddings.read(folder / "embeddings.safetensors")["queries"]
    started = time.perf_counter()
    gallery = Gallery.load(folder / "gallery")
    found: Row = {"seconds_loading": time.perf_counter() - started, "searches": {}}
    for at_once in AT_ONCE:
        wall, cpu = time.perf_counter(), time.process_time()
        rows = gallery.query(queries[:at_once], K).rows
        found["searches"][str(at_once)] = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**found, "rows": rows[:CHECKED].tolist()}


STAGES = {"build": build, "search": search}


def child(options: argparse.Namespace) -> None:
    """One stage in this process; its last line is JSON."""
    torch.set_num_threads(1)
    if options.group is not None:
        (options.group / "cgroup.procs").write_text(str(os.getpid()))
    elif options.child == "build":
        resource.setrlimit(resource.RLIMIT_DATA, (int(options.limit * 1e9),) * 2)
    watch = Watch()
    watch.start()
    started, cpu = time.perf_counter(), time.process_time()
    found = STAGES[options.child](options.folder, options.count)
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu,
                      "peak_mb": memory("VmHWM"), "peak_mb_without_file": watch.peak, **found}))


def run_stage(stage: str, folder: Path, count: int, options: argparse.Namespace) -> Row:
    inside = [] if options.group is None else ["--group", str(options.group)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.speed.search_disk", "--child", stage, "--folder",
                           str(folder), "--count", str(count), "--limit", str(options.limit), *inside],
                          capture_output=True, text=True, cwd=ROOT, env={**os.environ, **ONE_THREAD})
    if done.returncode:
        raise SystemExit(f"{stage} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    found: Row = json.loads(done.stdout.strip().splitlines()[-1])
    say(f"  search_disk, {stage}: {({key: value for key, value in found.items() if key != 'rows'})}")
    return found


def wrong_rows(made: dict[str, Tensor], count: int, rows: Tensor) -> int:
    """How many of the rows found score less than the true one at their place, by a product with all embeddings."""
    queries, best = made["queries"][:len(rows)], torch.full((len(rows), K), -torch.inf)
    scores = torch.full(rows.shape, torch.nan)
    for first, block in zip(range(0, count, embeddings.BLOCK), blocks(made, count, [0.0]), strict=True):
        products = queries @ block.T
        best = torch.cat([best, products], dim=1).topk(K, dim=1).values
        inside = (rows >= first) & (rows < first + len(block))
        scores = torch.where(inside, products.gather(1, (rows - first).clamp(0, len(block) - 1)), scores)
    return int((~((scores - best).abs() < 1e-5)).sum())


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.search_disk", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.24)
    parser.add_argument("--limit", type=float, default=2.0, help="gigabytes, where there is no control group")
    parser.add_argument("--group", type=Path, metavar="DIR", help="run the stages inside this control group")
    parser.add_argument("--where", type=Path, default=Path(), metavar="DIR", help="make a temporary folder here")
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    options = arguments()
    if options.child:
        child(options)
        return
    torch.set_num_threads(1)
    count = round(options.gigabytes * 1e9 / 4 / embeddings.WIDTH)
    with tempfile.TemporaryDirectory(dir=options.where) as temporary:
        folder = Path(temporary).absolute()
        about = embeddings.prepare(folder / "embeddings.safetensors", next(iter(embeddings.HEADS)))
        found: Row = {"about": about, "gigabytes": options.gigabytes,
                      "limit": options.limit if options.group is None else limit_of(options.group)}
        for stage in STAGES:
            found[stage] = run_stage(stage, folder, count, options)
        rows = torch.tensor(found["search"].pop("rows"))
        found["wrong_rows"] = wrong_rows(embeddings.read(folder / "embeddings.safetensors"), count, rows)
    found["claims"] = claims(found, count)
    say(json.dumps(found["claims"], indent=1))
    if options.gigabytes >= 10 and options.group is not None:
        merge("search_disk", found)


def limit_of(group: Path) -> float:
    """GB, of a control group of either version."""
    file = next(group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists())
    return int(file.read_text()) / 1e9


def claims(found: Row, count: int) -> list[Row]:
    title = f"search_disk: {count:,} items, {found['gigabytes']:g} GB, limit {found['limit']:.3g} GB"
    made = []
    for stage in STAGES:
        made.append(claim(f"{title}: {stage}, seconds", found[stage]["seconds"]))
        made.append(claim(f"{title}: {stage}, largest resident memory, MB, pages of libraries and files included",
                          found[stage]["peak_mb"]))
        made.append(claim(f"{title}: {stage}, largest resident memory that is no file's, MB",
                          found[stage]["peak_mb_without_file"], at_most=2000))
    for at_once, each in found["search"]["searches"].items():
        made.append(claim(f"{title}: {at_once} queries at once, seconds", each["seconds"]))
    made.append(claim(f"{title}: wrong rows of {CHECKED} queries", found["wrong_rows"], at_most=0))
    return made


if __name__ == "__main__":
    main()
