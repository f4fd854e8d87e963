"""All objectives with the same towers and budget, on MNIST halves and on emoji and their names.

  python -m benchmarks.objectives mnist_halves          # 12 epochs, 3 seeds
  python -m benchmarks.objectives emoji --rows InfoNCE "sigmoid pairs (SigLIP)"
  python -m benchmarks.objectives steps                 # what a step of each costs, as a ratio to the ranking loss
  python -m benchmarks.objectives tables                # prints what is there

Towers, batch size, optimiser, schedule and epochs are the same for all; only what an objective cannot do without
differs: the trace norm needs a CCA layer, classes need labels. Emoji and their names are given as
the first 512 principal components of either view's training items, and towers have dropout: there are 3,904 pairs to
learn from. Every finished training is a line in benchmarks/results/objectives.jsonl; started again, a
study goes on where it stopped.
"""
from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.trainings import RESULTS, at, finished, keep, machine, spread, study_parser, train
from xmodal import (
    BarlowTwins,
    CCALayer,
    Circle,
    EckartYoung,
    Embedded,
    InfoNCE,
    LearnedProjection,
    NeighbourhoodComponents,
    NoiseRegularised,
    PairedData,
    PairwiseRanking,
    Siamese,
    SigmoidPairs,
    SoftDecorrelation,
    TraceNorm,
    TrainConfig,
    Triplet,
    TwoTower,
    VICReg,
    evaluate,
    load_data,
)
from xmodal.errors import did_you_mean
from xmodal.objectives import loss_of_pairs, uses_labels
from xmodal.towers import mlp

FILE = RESULTS / "objectives.jsonl"


class Row(NamedTuple):
    """An objective, and the head that it is used with."""

    objective: Callable[[], nn.Module]
    cca: bool = False
    noise: bool = False


class Problem(NamedTuple):
    """Towers and budget."""

    tower: Callable[[tuple[int, ...], int], nn.Module]
    config: TrainConfig
    ridge: float  # of CCA layers
    components: int | None = None  # that items are reduced to


ROWS = {
    "trace norm (deep CCA)": Row(TraceNorm, cca=True),
    "trace norm, noise-regularised": Row(lambda: NoiseRegularised(TraceNorm(), 1.0), cca=True, noise=True),
    "ranking, mean (CCA layer)": Row(lambda: PairwiseRanking(0.5, symmetric=True), cca=True),
    "ranking, mean": Row(lambda: PairwiseRanking(0.5, symmetric=True)),
    "ranking, hardest (VSE++)": Row(lambda: PairwiseRanking(0.2, symmetric=True, negatives="hardest")),
    "triplet, all": Row(lambda: Triplet(0.2, "all")),
    "triplet, semi-hard": Row(lambda: Triplet(0.2, "semi-hard")),
    "triplet, hardest, warm-up": Row(lambda: Triplet(0.2, "hardest", warm_up=200)),
    "siamese (Hadsell)": Row(lambda: Siamese(1.0)),
    "siamese, not squared": Row(lambda: Siamese(1.0, squared=False)),
    "InfoNCE": Row(InfoNCE),
    "sigmoid pairs (SigLIP)": Row(SigmoidPairs),
    "circle": Row(Circle),
    "Barlow Twins": Row(BarlowTwins),
    "VICReg": Row(VICReg),
    "soft decorrelation": Row(SoftDecorrelation),
    "Eckart–Young": Row(EckartYoung),
    "neighbourhood components (labels)": Row(NeighbourhoodComponents),
}


def _with_dropout(shape: tuple[int, ...], dim: int) -> nn.Module:
    return nn.Sequential(nn.RMSNorm(shape, elementwise_affine=False), nn.Dropout(0.2),
                         mlp(shape, [512], dim, dropout=0.5))


PROBLEMS = {
    "mnist_halves": Problem(lambda shape, dim: mlp(shape, [500, 300], dim),
                            TrainConfig(dim_latent=50, batch_size=1000, learning_rate=2e-3, schedule="cosine",
                                        max_epochs=12, patience=12, refinement_steps=0), ridge=1e-3),
    "emoji": Problem(_with_dropout,
                     TrainConfig(dim_latent=128, batch_size=500, learning_rate=2e-3, schedule="cosine", max_epochs=20,
                                 patience=20, refinement_steps=0, l2=1e-2, decoupled=True),
                     ridge=0.1, components=512),
}
COLUMNS = {"V1_to_V2 MRR": ("V1_to_V2", "mrr"), "V2_to_V1 MRR": ("V2_to_V1", "mrr"), "V1_to_V2 R@1": ("V1_to_V2", "r1"),
           "mAP (class)": ("V1_to_V2", "map"), "sum corr": ("sum_correlation",),
           "canonical corr": ("canonical_correlation",), "s/epoch": ("epoch_seconds",)}


def train_row(problem: Problem, row: Row, data: Any, seed: int) -> dict[str, Any]:
    """Trains one objective with one seed; test metrics, seconds and epochs."""
    dim = problem.config.dim_latent

    def build_model(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> TwoTower:
        towers = [problem.tower(shape, dim) for shape in (shape1, shape2)]
        head = CCALayer(dim, r1=problem.ridge, r2=problem.ridge, alpha="auto") if row.cca else LearnedProjection(dim)
        return TwoTower(*towers, head, noise=row.noise)

    network, about = train(data, problem.config, build_model, row.objective, seed)
    return {**evaluate(network, data), **about, "epoch_seconds": about["cpu_seconds"] / about["epochs"]}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row per objective, mean ± standard deviation over its seeds; of CPU seconds the least, since other
    programs make them more and none makes them fewer."""
    lines = ["| | " + " | ".join(COLUMNS) + " | seeds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in (name for name in ROWS if any(result["row"] == name for result in results)):
        mine = [result for result in results if result["row"] == name]
        cells = []
        for path in COLUMNS.values():
            digits = 3 if path[-1] in ("mrr", "map") else 1 if path[-1] in ("r1", "epoch_seconds") else 2
            values = [at(result, path) for result in mine]
            cells.append(spread([min(values)] if path[-1] == "epoch_seconds" else values, digits))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(mine)} |")
    return "\n".join(lines)


def steps(n: int = 1000, d: int = 128, rounds: int = 15) -> str:
    """CPU time of forward and backward of each objective alone, as a ratio to the symmetric ranking loss; the least of
    rounds in turns."""
    draw = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(n, d, generator=draw).requires_grad_() for _ in range(2))
    labels, pairs = torch.randint(10, (n,), generator=draw), torch.arange(n)[:, None].expand(-1, 2)
    made = {name: row.objective() for name, row in ROWS.items() if not row.cca}
    made["triplet, hardest, after the warm-up"] = Triplet(0.2, "hardest", warm_up=0)
    least = dict.fromkeys(made, float("inf"))
    for _ in range(rounds):
        for name, objective in made.items():
            z1.grad = z2.grad = None
            started = time.process_time()
            loss_of_pairs(objective, Embedded(z1, z2), pairs, labels if uses_labels(objective) else None).backward()
            least[name] = min(least[name], time.process_time() - started)
    reference = least["ranking, mean"]
    lines = [f"| n = {n:,}, d = {d} | ms | ratio |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {1e3 * seconds:.1f} | {seconds / reference:.2f} |"
                              for name, seconds in least.items()])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("study", choices=(*PROBLEMS, "steps", "tables"))
    parser.add_argument("--rows", nargs="+", help="only these; all by default")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.rows or () if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]!r}; {did_you_mean(unknown[0], ROWS)}")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.study == "steps":
        print(steps())
        return
    for study in PROBLEMS if args.study == "tables" else (args.study,):
        if args.study != "tables":
            run(study, args.seeds, args.rows)
        print(f"{study}\n{table([result for result in finished(FILE) if result['study'] == study])}\n")
    print(machine())


def reduced(data: PairedData, components: int | None) -> PairedData:
    """Items as their first principal components, those of the training items."""
    if components is None:
        return data
    views: dict[str, dict[str, torch.Tensor]] = {}
    for view in ("view1", "view2"):
        items = getattr(data.train, view)
        torch.manual_seed(0)
        _, _, directions = torch.pca_lowrank(items, q=components, niter=4)
        for split in data.splits():
            views.setdefault(split.name, {})[view] = (getattr(split, view) - items.mean(dim=0)) @ directions
    splits = {split.name: dataclasses.replace(split, **views[split.name], thumbnails1=None, thumbnails2=None)
              for split in data.splits()}
    return dataclasses.replace(data, train=splits["train"], valid=splits["valid"], test=splits["test"],
                               further=tuple(splits[split.name] for split in data.further))


def run(study: str, seeds: list[int], rows: list[str] | None) -> None:
    """Trains what isn't there yet."""
    problem = PROBLEMS[study]
    data = reduced(load_data(study), problem.components)
    for seed in seeds:
        for name, row in ROWS.items():
            done = any((one["study"], one["row"], one["seed"]) == (study, name, seed) for one in finished(FILE))
            if done or (rows and name not in rows) or (uses_labels(row.objective()) and data.train.labels is None):
                continue
            result = train_row(problem, row, data, seed)
            keep(FILE, {**result, "study": study, "row": name, "fingerprint": data.fingerprint})
            print(f"{name}, seed {seed}: MRR {result['V1_to_V2']['mrr']:.4f} {result['V2_to_V1']['mrr']:.4f}, "
                  f"canonical {result['canonical_correlation']:.2f}, {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
