"""What the weights of another run are worth where pairs are few: from scratch, frozen, fine-tuned.

  python -m benchmarks.transfer mnist_to_fashion        # halves of digits, then halves of clothes
  python -m benchmarks.transfer emoji                   # emoji of one artist, then those of another
  python -m benchmarks.transfer emoji --seeds 0 --ways "from scratch"
  python -m benchmarks.transfer tables                  # prints what is there

Needs data/mnist_halves.h5, data/fashion_halves.h5 and data/emoji.h5 (prepare_data.py). All ways have the same towers,
objective, number of steps, batches and validation pairs. A source is trained once for each seed and all ways start from
it. Every finished training is a line in benchmarks/results/transfer.jsonl; started again, a study goes on where it
stopped.
"""
from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.trainings import RESULTS, finished, keep, machine, spread, study_parser
from xmodal import (
    InfoNCE,
    LearnedProjection,
    PairedData,
    PairSplit,
    Start,
    TrainConfig,
    TwoTower,
    embed,
    evaluate,
    fit,
    load_data,
)
from xmodal.checkpoint import RunFolder
from xmodal.data import n_batches, pair_batches
from xmodal.errors import did_you_mean
from xmodal.towers import mlp

FILE = RESULTS / "transfer.jsonl"
#: What is done with the source's weights. "as they are" is no training at all.
WAYS: dict[str, Callable[[str], Start | None]] = {
    "as they are": lambda run: Start(run),
    "from scratch": lambda run: None,
    "frozen": lambda run: Start(run, last=1),
    "fine-tuned": lambda run: Start(run, rate=0.1),
    "fine-tuned, whole rate": lambda run: Start(run),
}
NEIGHBOURS = 5
SHOWN = {"MRR, view 1 asks": ("V1_to_V2", 3), "MRR, view 2 asks": ("V2_to_V1", 3),
         "accuracy, percent": ("accuracy", 1)}  # what: (key, digits)


class Problem(NamedTuple):
    """A source, a target, and the budget of a training on either."""

    source: PairedData
    target: PairedData
    sizes: tuple[int, ...]
    tower: Callable[[tuple[int, ...], int], nn.Module]
    config: TrainConfig  # of the target
    steps: int  # of the target
    epochs: int  # of the source
    rows: int = 0  # of an epoch at least: fewer pairs are repeated, so that an epoch is not one step


def _perceptron(shape: tuple[int, ...], dim: int) -> nn.Module:
    return mlp(shape, [500, 300], dim)


def _behind_dropout(shape: tuple[int, ...], dim: int) -> nn.Module:
    return nn.Sequential(nn.RMSNorm(shape, elementwise_affine=False), nn.Dropout(0.5), mlp(shape, [256], dim))


def halves() -> Iterator[tuple[str, Problem]]:
    """Digits to clothes, both cut in a left and a right half; 1,000 pairs to validate."""
    config = TrainConfig(dim_latent=50, batch_size=100, learning_rate=2e-3, schedule="cosine", refinement_steps=0)
    source, target = (dataclasses.replace(data, valid=data.valid.take(1000))
                      for data in map(load_data, ("mnist_halves", "fashion_halves")))
    yield "mnist_to_fashion", Problem(source, target, (100, 300, 1000, 3000, 10000), _perceptron, config, 500, 3, 1000)


def artists() -> Iterator[tuple[str, Problem]]:
    """Emoji as Noto draws them to those of OpenMoji: same names, other pictures. An emoji is in the same split for all
    artists, so that no name that is tested has been seen."""
    config = TrainConfig(dim_latent=256, batch_size=100, learning_rate=1e-3, schedule="cosine", refinement_steps=0,
                         l2=1e-2, decoupled=True)
    data = load_data("emoji")
    source, target = of_artist(data, "noto"), of_artist(data, "openmoji")
    sizes = (30, 100, 300, len(target.train))
    yield "noto to openmoji", Problem(source, target, sizes, _behind_dropout, config, 120, 12)


def of_artist(data: PairedData, artist: str) -> PairedData:
    """The pairs whose picture is by one artist."""
    def chosen(split: PairSplit) -> PairSplit:
        by = [name.split()[-1] == artist for name in split.ids or ()]
        return split.select(torch.tensor(by)[split.pair_table()[:, 0]].nonzero().flatten())

    return dataclasses.replace(data, name=f"{data.name} by {artist}", train=chosen(data.train),
                               valid=chosen(data.valid), test=chosen(data.test))


STUDIES: dict[str, Callable[[], Iterator[tuple[str, Problem]]]] = {"mnist_to_fashion": halves, "emoji": artists}


def few(data: PairedData, n: int, seed: int) -> PairedData:
    """The data with ``n`` training pairs, drawn anew for each seed."""
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:n]
    return dataclasses.replace(data, train=data.train.select(rows.sort().values))


def train(problem: Problem, data: PairedData, seed: int, epochs: int, start: Start | None = None,
          run: RunFolder | None = None) -> tuple[TwoTower, dict[str, Any]]:
    """A trained model, and what there is to say about its training."""
    config = dataclasses.replace(problem.config, max_epochs=epochs, patience=epochs)
    torch.manual_seed(seed)
    model = made(problem, data)
    began = time.process_time()
    result = fit(model, InfoNCE(), data, config, seed=seed, start=start, run=run)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)  # half a training is no result
    return model, {"cpu_seconds": time.process_time() - began, "epochs": len(result.log),
                   "best_epoch": result.best_epoch, "valid_mrr": result.best_value}


def made(problem: Problem, data: PairedData) -> TwoTower:
    dim = problem.config.dim_latent
    return TwoTower(problem.tower(data.view1_shape, dim), problem.tower(data.view2_shape, dim), LearnedProjection(dim))


def scores(model: TwoTower, data: PairedData) -> dict[str, float]:
    """MRR of the test pairs in both directions; and in percent, how many test items are given their class by their
    nearest neighbours among the training items of the other view, the mean of both ways."""
    metrics = evaluate(model, data)
    train, test = ([nn.functional.normalize(z) for z in embed(model, split)] for split in (data.train, data.test))
    of_train, of_test = (_classes(split) for split in (data.train, data.test))
    right = [voted(train[known], of_train[known], test[asked]).eq(of_test[asked]).float().mean()
             for known, asked in ((0, 1), (1, 0))]
    return {"V1_to_V2": metrics["V1_to_V2"]["mrr"], "V2_to_V1": metrics["V2_to_V1"]["mrr"],
            "accuracy": 100 * float(sum(right)) / 2}


def voted(known: Tensor, classes: Tensor, asked: Tensor) -> Tensor:
    """The class that each row of ``asked`` gets by the votes of its nearest rows of ``known``, which weigh 1 + cosine;
    rows have length 1."""
    found = []
    for rows in asked.split(1000):
        nearest = (rows @ known.T).topk(min(NEIGHBOURS, len(known)))
        votes = torch.zeros(len(rows), int(classes.max()) + 1)
        found.append(votes.scatter_add_(1, classes[nearest.indices], 1 + nearest.values).argmax(dim=1))
    return torch.cat(found)


def _classes(split: PairSplit) -> tuple[Tensor, Tensor]:
    """Classes of the items of either view; a view-2 item has that of a partner."""
    table, labels = split.pair_table(), split.labels
    if labels is None:
        raise SystemExit(f"{split.name} has no labels")
    of_view2 = labels.new_zeros(len(split.view2))
    of_view2[table[:, 1]] = labels[table[:, 0]]
    return labels, of_view2


def run(study: str, seeds: list[int], ways: list[str]) -> None:
    """Trains what isn't there yet."""
    for pair, problem in STUDIES[study]():
        for seed in seeds:
            done = {(one["pair"], one["way"], one["n"], one["seed"]) for one in finished(FILE)}
            todo = [(n, way) for n in problem.sizes for way in ways if (pair, way, n, seed) not in done]
            if not todo:
                continue
            with tempfile.TemporaryDirectory() as folder:
                source = RunFolder(Path(folder) / "source")
                source.create({"config": {}, "seed": seed, "data": {"fingerprint": problem.source.fingerprint}}, "")
                _, about = train(problem, problem.source, seed, problem.epochs, run=source)
                print(f"{pair}, seed {seed}: source trained, validation MRR {about['valid_mrr']:.3f} in "
                      f"{about['cpu_seconds']:.0f} s", flush=True)
                for n, way in todo:
                    line = one_row(problem, few(problem.target, n, seed), seed, way, str(source.path))
                    keep(FILE, {"study": study, "pair": pair, "way": way, "n": n, "seed": seed, **line,
                                "source_valid_mrr": about["valid_mrr"], "source": problem.source.fingerprint,
                                "target": problem.target.fingerprint, "machine": machine()})
                    print(f"{pair}, {n:,} pairs, seed {seed}, {way}: MRR {line['V1_to_V2']:.3f} "
                          f"{line['V2_to_V1']:.3f}, accuracy {line['accuracy']:.1f}, {line['cpu_seconds']:.0f} s",
                          flush=True)


def one_row(problem: Problem, data: PairedData, seed: int, way: str, source: str) -> dict[str, Any]:
    """One way with one number of pairs: scores and training."""
    if way == "as they are":
        model = made(problem, data)
        RunFolder(source).load_weights(model)
        model.refit((batch.view1, batch.view2) for batch in pair_batches(data.train, 1000))
        about: dict[str, Any] = {"cpu_seconds": 0.0, "epochs": 0}
    else:
        table = data.train.pair_table()
        repeated = dataclasses.replace(data.train, pairs=table.repeat(-(-problem.rows // len(table)) or 1, 1))
        epochs = -(-problem.steps // n_batches(repeated, problem.config.batch_size))
        model, about = train(problem, dataclasses.replace(data, train=repeated), seed, epochs, WAYS[way](source))
    return {**scores(model, data), **about}


def table(results: list[dict[str, Any]], key: str, digits: int) -> str:
    """Markdown: a row per way, a column per number of pairs, mean ± standard deviation over seeds."""
    sizes = sorted({one["n"] for one in results})
    lines = ["| target pairs | " + " | ".join(f"{n:,}" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for way in (way for way in WAYS if any(one["way"] == way for one in results)):
        cells = [spread((one[key] for one in results if (one["way"], one["n"]) == (way, n)), digits) for n in sizes]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("study", choices=(*STUDIES, "tables"))
    parser.add_argument("--ways", nargs="+", default=[*WAYS], help="only these; all by default")
    args = parser.parse_args(argv)
    if unknown := [way for way in args.ways if way not in WAYS]:
        parser.error(f"there is no way {unknown[0]!r}; {did_you_mean(unknown[0], WAYS)}")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.study != "tables":
        run(args.study, args.seeds, args.ways)
    results = [one for one in finished(FILE) if args.study in (one["study"], "tables")]
    for pair in dict.fromkeys(one["pair"] for one in results):
        for title, (key, digits) in SHOWN.items():
            print(f"{pair}: {title}\n\n{table([one for one in results if one['pair'] == pair], key, digits)}\n")
    print(machine())


if __name__ == "__main__":
    main()
