"""The MNIST-halves study: every row of docs/mnist_halves.md, trained with several seeds and tested.

  python -m benchmarks.mnist_halves                          # all that is not there yet, then the tables
  python -m benchmarks.mnist_halves --seeds 0 --rows CorrNet MAE
  python -m benchmarks.mnist_halves --tables                 # only write the tables

A result is kept in benchmarks/results/mnist_halves.jsonl as soon as it is there; started again, the study goes on where
it stopped, and several may run side by side on different seeds. Delete lines to have them done again. All from the
repository's root; the data by prepare_data.py mnist_halves.
"""
from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.mnist_halves.rows import CLASSIFIER, HALF, RAW, SINGLE_VIEW, TABLES, Row
from benchmarks.trainings import MODELS, RESULTS, at, finished, keep, machine, spread, train
from xmodal import PairedData, evaluate, load_data, load_experiment
from xmodal.atomic import replacing
from xmodal.augment import RandomAffine
from xmodal.data import pair_batches
from xmodal.evaluator import embed
from xmodal.metrics import transfer_accuracy
from xmodal.networks import evaluating
from xmodal.towers import conv_tower

FILE = RESULTS / "mnist_halves.jsonl"
DOC = RESULTS.parent.parent / "docs" / "mnist_halves.md"
CLASSIFIER_EPOCHS = 8


def tested(model: Any, data: PairedData, precision: str = "float32") -> dict[str, Any]:
    """All metrics of the test pairs, and accuracies by the transfer protocol."""
    z1, z2 = (z.cpu() for z in embed(model, data.test, precision=precision))
    labels = data.test.labels
    sides = {"V1_to_V2": (z1, z2), "V2_to_V1": (z2, z1), "V1_to_V1": (z1, z1), "V2_to_V2": (z2, z2)}
    return {**evaluate(model, data, precision=precision),
            "transfer": {key: transfer_accuracy(*side, labels).accuracy for key, side in sides.items()}}


def run_row(row: Row, data: PairedData, seed: int) -> None:
    """Trains and tests a row with one seed and keeps what comes out."""
    experiment = load_experiment(MODELS / f"{row.model}.py", row.overrides)
    network, about = train(data, experiment.config, row.build_model or experiment.build_model,
                           row.build_objective or experiment.build_objective, seed)
    precision = experiment.config.precision
    views = {row.name: lambda model: model, **row.parts}
    keep(FILE, *({"row": name, **about, **tested(view(network), data, precision)} for name, view in views.items()))


def run_raw(data: PairedData) -> dict[str, Any]:
    """The protocol's SVM on the grey values of a half, asked about the same half of other digits."""
    halves = (data.test.view1, data.test.view2)
    return {"transfer": {f"V{view}_to_V{view}": transfer_accuracy(half, half, data.test.labels).accuracy
                         for view, half in enumerate(halves, start=1)}}


def run_classifier(data: PairedData, seed: int) -> dict[str, Any]:
    """How well a half can be classified at all: towers as in the best model, trained with labels."""
    started, accuracies = time.process_time(), {}
    for view in (1, 2):
        torch.manual_seed(seed)
        network = nn.Sequential(RandomAffine(HALF, rotate=10, scale=0.1, shear=0.15, shift=0.05),
                                nn.Unflatten(1, HALF),
                                conv_tower(HALF, [16, 32, 64], 10, nonlinearity=nn.ReLU, hidden=[256]))
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CLASSIFIER_EPOCHS)
        for epoch in range(CLASSIFIER_EPOCHS):
            for batch in pair_batches(data.train, 500, seed=seed, epoch=epoch):
                with torch.autocast("cpu", torch.bfloat16):
                    scores = network(batch[view - 1])
                optimizer.zero_grad()
                cross_entropy(scores.float(), data.train.labels[batch.pairs[:, 0]]).backward()
                optimizer.step()
            schedule.step()
        with evaluating(network):
            found = torch.cat([network(items).argmax(dim=1) for items in
                               getattr(data.test, f"view{view}").split(1000)])
        accuracies[f"V{view}_to_V{view}"] = 100 * float((found == data.test.labels).float().mean())
    return {"cpu_seconds": time.process_time() - started, "transfer": accuracies}


#: Rows that no model file trains; with a seed, or once.
OTHERS = {RAW: lambda data, seed: run_raw(data), CLASSIFIER: run_classifier}
ONCE = (RAW,)


def run(row: Row, data: PairedData, seed: int | None) -> None:
    if row.model is not None:
        run_row(row, data, seed)
    elif row.name in OTHERS:
        keep(FILE, {"row": row.name, "seed": seed, "machine": machine(), **OTHERS[row.name](data, seed)})


def same_settings(row: Row, result: dict[str, Any]) -> bool:
    """Whether a result came from the CONFIG that the model file has now; other settings are trained again."""
    if row.model is None:
        return True
    config = load_experiment(MODELS / f"{row.model}.py", row.overrides).config
    return bool(result.get("config") == dataclasses.asdict(config))


# -- tables -------------------------------------------------------------------------------------------------------

def results_of(name: str) -> list[dict[str, Any]]:
    return [result for result in finished(FILE) if result["row"] == name]


def cells(name: str, published: tuple[float | None, float, float] | None) -> list[str]:
    """Sum of correlations and both accuracies, each published beside ours; canonical correlation, MRR, seconds."""
    ours = results_of(name)

    def mean(*path: str, digits: int) -> str:
        return spread((at(result, path) for result in ours), digits)

    given = ["–" if value is None else f"{value:.2f}" for value in published or (None, None, None)]
    return [given[0], mean("sum_correlation", digits=2), mean("canonical_correlation", digits=2),
            given[1], mean("transfer", "V1_to_V2", digits=2), given[2], mean("transfer", "V2_to_V1", digits=2),
            mean("V1_to_V2", "mrr", digits=3), mean("cpu_seconds", digits=0)]


def table(rows: list[Row]) -> str:
    """Markdown; the published columns only where something was published."""
    header = ["", "sum corr., published", "ours", "canonical corr.", "left → right, published", "ours",
              "right → left, published", "ours", "MRR", "CPU s", "published by"]
    lines = []
    for row in rows:
        lines.append([row.name, *cells(row.name, row.published), row.source])
        lines += [[name, *cells(name, None), ""] for name in row.parts]
    if not any(row.published for row in rows):
        drop = {1, 4, 6, 10}
        header = ["", "sum corr.", "canonical corr.", "left → right", "right → left", "MRR", "CPU s"]
        lines = [[cell for i, cell in enumerate(line) if i not in drop] for line in lines]
    return markdown([header, *lines])


def single_view_table() -> str:
    """Accuracies of learning from a half and being asked about the same half of other digits."""
    lines = [[name, *(spread((at(result, ("transfer", side)) for result in results_of(name)), 2)
                      for side in ("V1_to_V1", "V2_to_V2"))] for name in SINGLE_VIEW]
    return markdown([["", "left", "right"], *lines])


def markdown(lines: list[list[str]]) -> str:
    header, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rest])


def write_tables() -> None:
    """Puts the tables between their markers in docs/mnist_halves.md, and on the screen."""
    text = DOC.read_text()
    tables = {name: table(rows) for name, rows in TABLES.items()} | {"single view": single_view_table()}
    for name, content in tables.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{content}\n{end}{rest.partition(end)[2]}"
        print(f"\n{name}\n{content}")
    with replacing(DOC) as path:
        path.write_text(text)


def all_rows() -> dict[str, Row]:
    """Every row of every table, by its name; of those without a model the name is all there is."""
    rows = {row.name: row for row in chain.from_iterable(TABLES.values())}
    return rows | {name: Row(name) for name in (RAW, CLASSIFIER)}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    if unknown := set(args.rows or ()) - all_rows().keys():
        parser.error(f"no row {unknown.pop()!r}; there are: {', '.join(all_rows())}")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    data = None if args.tables else load_data("mnist_halves")
    rows = all_rows()
    wanted = [name for name in rows if not args.rows or name in args.rows]
    for seed in args.seeds if data is not None else ():
        for name in wanted:
            if data is None or (rows[name].model is None and name not in OTHERS):
                continue
            wanted_seed = None if name in ONCE else seed
            if not any(result["seed"] == wanted_seed and same_settings(rows[name], result)
                       for result in results_of(name)):
                print(name if wanted_seed is None else f"{name}, seed {seed}", file=sys.stderr, flush=True)
                run(rows[name], data, wanted_seed)
    write_tables()


if __name__ == "__main__":
    main()
