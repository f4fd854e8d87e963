"""How much of a batch's statistics a CCA layer should take: alpha × batch size on three problems.

  python -m benchmarks.alpha                       # all; some hours on 2 cores
  python -m benchmarks.alpha --problems digits mnist_halves --seeds 0 1 2

Every training is added to benchmarks/results/alpha.jsonl as soon as it ends; started again, or in several processes
with --part 1/2 and --part 2/2, the study goes on with what is missing. The table also has the ridge of the last refit
chosen on the validation pairs, in closed form, against the fixed one that training had.
"""
from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.trainings import RESULTS, finished, keep, spread, study_parser, train
from xmodal import CCALayer, PairedData, PairwiseRanking, TrainConfig, TwoTower, embed, load_data, retrieval_metrics
from xmodal.augment import RandomAffine, RandomSound
from xmodal.layers.cca import auto_alpha, effective_sample_size
from xmodal.towers import Coordinates, conv_tower, mlp

FILE = RESULTS / "alpha.jsonl"
ALPHAS = (1.0, 0.3, 0.1, 0.03, "auto")
BATCHES = (32, 100, 400)
RIDGES = tuple(10.0 ** exponent for exponent in range(-6, 2))


@dataclass(frozen=True)
class Problem:
    """Data, towers and budget; the head is a CCA layer of ``dim``, the objective a ranking loss."""

    data: str
    dim: int
    epochs: int
    n_train: int  #: pairs, evenly spread over the training split
    conv: bool = False
    learning_rate: float = 1e-3


PROBLEMS = {"digits": Problem("digits", 24, 40, 1197),
            "mnist_halves": Problem("mnist_halves", 50, 10, 10_000),
            "audio_score": Problem("audio_score", 32, 10, 5_000, conv=True, learning_rate=4e-3)}


def towers(data: PairedData, problem: Problem) -> tuple[nn.Module, nn.Module]:
    if not problem.conv:
        hidden = [500, 300] if problem.data == "mnist_halves" else [256]
        return mlp(data.view1_shape, hidden, problem.dim), mlp(data.view2_shape, hidden, problem.dim)

    def tower(channels: int, height: int, width: int, filters: list[int]) -> nn.Module:
        return nn.Sequential(Coordinates(), conv_tower((channels + 2, height, width), filters, problem.dim,
                                                       convolutions=1))

    channels, height, width = data.view1_shape
    sheet = nn.Sequential(RandomAffine(data.view1_shape, scale=0.05, shift=0.03, outside="edge"), nn.AvgPool2d(2),
                          tower(channels, height // 2, width // 2, [8, 32, 64]))
    return sheet, nn.Sequential(RandomSound(frames=1, gain=6), tower(*data.view2_shape, [8, 32, 64, 64]))


def few(data: PairedData, n: int) -> PairedData:
    """With ``n`` training pairs, evenly spread over all of them."""
    rows = torch.linspace(0, len(data.train) - 1, n).long()
    return dataclasses.replace(data, train=data.train.select(rows), fingerprint="") if n < len(data.train) else data


def run(data: PairedData, name: str, alpha: float | str, batch: int, seed: int) -> dict[str, Any]:
    """One training; test figures with the ridge that it had, and with the one that is best on the validation pairs."""
    problem = PROBLEMS[name]
    config = TrainConfig(dim_latent=problem.dim, batch_size=batch, learning_rate=problem.learning_rate,
                         schedule="cosine", max_epochs=problem.epochs, patience=problem.epochs, refinement_steps=0,
                         l2=1e-5, alpha=alpha, precision="bf16" if problem.conv else "float32")

    def build_model(*_: Any) -> TwoTower:
        return TwoTower(*towers(data, problem), CCALayer(problem.dim, config.r1, config.r2, config.alpha))

    model, about = train(data, config, build_model, lambda: PairwiseRanking(margin=0.5), seed)
    test = _mrr(model, data, "test", config.precision)
    valid = {}
    for ridge in RIDGES:
        model.head.r1 = model.head.r2 = ridge
        valid[ridge] = sum(_mrr(model, data, "valid", config.precision))
    best = max(valid, key=lambda ridge: valid[ridge])
    model.head.r1 = model.head.r2 = best
    used = auto_alpha(batch, problem.dim) if alpha == "auto" else float(alpha)
    return {"problem": name, "alpha": alpha, "alpha_used": used, "batch": batch,
            "pairs_per_dim": effective_sample_size(batch, used) / problem.dim, "mrr": test, "ridge": best,
            "mrr_chosen_ridge": _mrr(model, data, "test", config.precision), **about}


def _mrr(model: TwoTower, data: PairedData, split: str, precision: str) -> tuple[float, float]:
    pairs = data.split(split)
    report = retrieval_metrics(*embed(model, pairs, precision=precision), pairs.pairs)
    return report["V1_to_V2"]["mrr"], report["V2_to_V1"]["mrr"]


def table(rows: list[dict[str, Any]], name: str) -> str:
    """Markdown: MRR (mean of both directions), over batch sizes and alphas; then the same with the chosen ridge."""
    lines = [f"{name}: MRR on test pairs, fixed ridge / chosen on validation pairs (effective pairs per dimension)", "",
             "| batch | " + " | ".join(f"alpha {alpha}" for alpha in ALPHAS) + " |",
             "|---" * (len(ALPHAS) + 1) + "|"]
    for batch in BATCHES:
        cells = []
        for alpha in ALPHAS:
            these = [row for row in rows if (row["problem"], row["alpha"], row["batch"]) == (name, alpha, batch)]
            cells.append(f"{spread((_mean(row, 'mrr') for row in these), 3)} / "
                         f"{spread((_mean(row, 'mrr_chosen_ridge') for row in these), 3)} "
                         f"({these[0]['pairs_per_dim']:.0f})" if these else "–")
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(row: Mapping[str, Any], key: str) -> float:
    return sum(row[key]) / 2


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--part", default="1/1", metavar="I/N", help="do every N-th training, from the I-th on")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    part, parts = map(int, args.part.split("/"))
    for name in args.problems:
        whole = load_data(PROBLEMS[name].data)
        data = few(whole, PROBLEMS[name].n_train)
        todo = list(itertools.product(args.seeds, BATCHES, ALPHAS))[part - 1::parts]
        for seed, batch, alpha in todo:
            wanted = {"problem": name, "alpha": alpha, "batch": batch, "seed": seed, "fingerprint": whole.fingerprint}
            if any(wanted.items() <= row.items() for row in finished(FILE)):
                continue
            result = run(data, name, alpha, batch, seed) | {"fingerprint": whole.fingerprint}
            keep(FILE, result)
            print(f"{name}, batch {batch}, alpha {alpha}, seed {seed}: MRR {_mean(result, 'mrr'):.3f}, with ridge "
                  f"{result['ridge']:g} {_mean(result, 'mrr_chosen_ridge'):.3f}, {result['cpu_seconds']:.0f} CPU s",
                  flush=True)
    for name in args.problems:
        print(f"\n{table(finished(FILE), name)}")


if __name__ == "__main__":
    main()
