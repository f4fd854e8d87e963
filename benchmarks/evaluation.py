"""Retrieval evaluation, both directions: seconds and peak memory of xmodal and of peers that are installed.

    python -m benchmarks.evaluation                         # 10,000 pairs, d = 128, every method found
    python -m benchmarks.evaluation --n 100000 --methods xmodal --threads 2

Each method runs in a process of its own on the same embeddings (view 2 is view 1 plus noise), so that peak memory is
its own; the peak includes Python, torch and the embeddings. Peers: ``pip install -r benchmarks/requirements.txt``.
Figures are also written to benchmarks/results/evaluation_<n>.json.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.linear_cca.fits import memory

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Result = dict[str, float]
MAX_N = {"sort": 20_000, "torchmetrics": 5_000, "ranx": 2_000, "sentence_transformers": 20_000}


def embeddings(n: int, d: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views (n, d) float32 of the same standard normal items, one of them with noise added."""
    generator = torch.Generator().manual_seed(0)
    z1 = torch.randn(n, d, generator=generator)
    return z1, torch.randn(n, d, generator=generator).mul_(noise).add_(z1)


def run_xmodal(z1: torch.Tensor, z2: torch.Tensor) -> Result:
    """Everything ``retrieval_metrics`` reports without labels, both directions."""
    from xmodal.metrics import retrieval_metrics
    result = retrieval_metrics(z1, z2)
    return {direction: values["mrr"] for direction, values in result.items()}


def run_sort(z1: torch.Tensor, z2: torch.Tensor) -> Result:
    """What most public code does: the whole score matrix, one argsort per direction."""
    unit1, unit2 = torch.nn.functional.normalize(z1), torch.nn.functional.normalize(z2)
    result = {}
    for direction, scores in (("V1_to_V2", unit1 @ unit2.T), ("V2_to_V1", unit2 @ unit1.T)):
        order = scores.argsort(dim=1, descending=True)
        ranks = (order == torch.arange(len(scores))[:, None]).nonzero()[:, 1] + 1
        result[direction] = float((1.0 / ranks).mean())
    return result


def run_torchmetrics(z1: torch.Tensor, z2: torch.Tensor) -> Result:
    """RetrievalMRR on flat scores; moved above 0, because it takes scores ≤ 0 for not retrieved."""
    from torchmetrics.retrieval import RetrievalMRR
    unit1, unit2 = torch.nn.functional.normalize(z1), torch.nn.functional.normalize(z2)
    n = len(z1)
    result = {}
    for direction, scores in (("V1_to_V2", unit1 @ unit2.T), ("V2_to_V1", unit2 @ unit1.T)):
        indexes = torch.arange(n).repeat_interleave(n)
        target = torch.eye(n, dtype=torch.bool).flatten()
        result[direction] = float(RetrievalMRR()((scores + 2.0).flatten(), target, indexes=indexes))
    return result


def run_ranx(z1: torch.Tensor, z2: torch.Tensor) -> Result:
    """ranx on full-depth runs, the score matrix given as dictionaries."""
    from ranx import Qrels, Run, evaluate
    unit1, unit2 = torch.nn.functional.normalize(z1), torch.nn.functional.normalize(z2)
    names = [str(i) for i in range(len(z1))]
    qrels = Qrels({name: {name: 1} for name in names})
    result = {}
    for direction, scores in (("V1_to_V2", unit1 @ unit2.T), ("V2_to_V1", unit2 @ unit1.T)):
        rows = {name: dict(zip(names, row, strict=True)) for name, row in zip(names, scores.tolist(), strict=True)}
        result[direction] = float(evaluate(qrels, Run(rows), "mrr"))
    return result


def run_sentence_transformers(z1: torch.Tensor, z2: torch.Tensor) -> Result:
    """InformationRetrievalEvaluator (MRR@10 only) with a stand-in model that looks embeddings up."""
    from sentence_transformers.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    class Lookup:
        """The part of SentenceTransformer that the evaluator calls."""

        def __init__(self, query: torch.Tensor, corpus: torch.Tensor) -> None:
            self.tables = {"q": query, "c": corpus}
            self.similarity, self.similarity_fn_name = cos_sim, "cosine"

        def encode(self, sentences: list[str], **_: Any) -> torch.Tensor:
            return self.tables[sentences[0][0]][[int(text[1:]) for text in sentences]]

        encode_query = encode_document = encode

    n = len(z1)
    result = {}
    for direction, query, corpus in (("V1_to_V2", z1, z2), ("V2_to_V1", z2, z1)):
        evaluator = InformationRetrievalEvaluator(
            {f"q{i}": f"q{i}" for i in range(n)}, {f"c{i}": f"c{i}" for i in range(n)},
            {f"q{i}": {f"c{i}"} for i in range(n)}, mrr_at_k=[10], ndcg_at_k=[10], accuracy_at_k=[10],
            precision_recall_at_k=[10], map_at_k=[10], score_functions={"cosine": cos_sim}, write_csv=False)
        scores = evaluator.compute_metrices(Lookup(query, corpus))
        result[direction] = scores["cosine"]["mrr@k"][10]
    return result


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], Result]] = {
    "xmodal": run_xmodal, "sort": run_sort, "sentence_transformers": run_sentence_transformers,
    "torchmetrics": run_torchmetrics, "ranx": run_ranx}


def child(options: argparse.Namespace) -> int:
    """Measures one method in this process and prints one JSON line."""
    torch.set_num_threads(options.threads)
    z1, z2 = embeddings(options.n, options.d, options.noise)
    small = embeddings(200, options.d, options.noise)
    METHODS[options.child](*small)                  # imports and start-up are not evaluation
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew; ru_maxrss would begin at the parent's peak
    wall, cpu = time.perf_counter(), time.process_time()
    scores = METHODS[options.child](z1, z2)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory("VmHWM")
    print(json.dumps({"wall": wall, "cpu": cpu, "before": before, "peak": peak, **scores}))
    return 0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="number of pairs")
    parser.add_argument("--d", type=int, default=128, help="dimension")
    parser.add_argument("--noise", type=float, default=2.0, help="noise added to view 2; large is chance level")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--child", choices=list(METHODS), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the chosen methods one after the other and prints a table."""
    options = arguments(argv)
    if options.child:
        return child(options)
    print(f"{options.n} x {options.n}, d={options.d}, noise {options.noise}, {options.threads} thread(s)")
    print(f"{'method':22}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'of it before':>14}{'MRR V1_to_V2':>14}"
          f"{'V2_to_V1':>10}")
    found = {method: report(method, options) for method in options.methods}
    rows = {method: row for method, row in found.items() if row is not None}
    about = {"machine": platform.machine(), "torch": torch.__version__, "d": options.d, "noise": options.noise,
             "threads": options.threads}
    RESULTS.joinpath(f"evaluation_{options.n}.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return 0


def measure(method: str, *, n: int, d: int = 128, noise: float = 2.0, threads: int = 1) -> dict[str, Any]:
    """What a process of its own found: ``wall``, ``cpu`` (seconds), ``before``, ``peak`` (MB) and the MRR of either
    direction; ``missing`` or ``failed`` says why there is nothing."""
    if n > MAX_N.get(method, n):
        return {"missing": f"left out above n = {MAX_N[method]}"}
    if method != "sort" and importlib.util.find_spec(method) is None:
        return {"missing": "not installed"}
    arguments = {"n": n, "d": d, "noise": noise, "threads": threads, "child": method}
    limited = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run([sys.executable, "-m", "benchmarks.evaluation",
                           *(f"--{key}={value}" for key, value in arguments.items())],
                          capture_output=True, text=True, cwd=ROOT, env={**os.environ, **limited})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"failed ({done.returncode}): {last[:90]}"}
    row: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def report(method: str, options: argparse.Namespace) -> Result | None:
    """Measures ``method`` and prints its line of the table; None when there is nothing to say but why."""
    row = measure(method, n=options.n, d=options.d, noise=options.noise, threads=options.threads)
    if "wall" not in row:
        print(f"{method:22}  {row.get('missing') or row['failed']}")
        return None
    print(f"{method:22}{row['wall']:9.2f}{row['cpu']:9.2f}{row['peak']:9.0f}{row['before']:14.0f}"
          f"{row['V1_to_V2']:14.4f}{row['V2_to_V1']:10.4f}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
