"""Pictures and texts: which head finds more, what is lost as training pairs shrink, and retrieval across languages.

  python -m benchmarks.image_text shrink        # 100 %, 50 %, 20 % and 10 % of the training pairs of icons, 3 seeds
  python -m benchmarks.image_text heads         # emoji, and what else there is to compare on icons
  python -m benchmarks.image_text scratch       # small convolutional towers on pixels and characters
  python -m benchmarks.image_text languages     # English to German and Japanese names of emoji
  python -m benchmarks.image_text --tables      # what there is, as tables and docs/image_text_shrinking.png

Every finished training is a line of benchmarks/results/image_text.jsonl; started again, a study goes on where it
stopped.
"""
from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import avg_pool2d

from benchmarks.trainings import MODELS, RESULTS, at, finished, keep, spread, study_parser, train
from xmodal import PairedData, PairSplit, evaluate, load_data, load_experiment

FILE = RESULTS / "image_text.jsonl"
PLOT = Path(__file__).parent.parent / "docs" / "image_text_shrinking.png"
LEARNED = ("learned_cont", "ccal_tno", "ccal_cont", "infonce")
PIXELS = "cca of pixels"
FRACTIONS = (1.0, 0.5, 0.2, 0.1)
COLUMNS = {"V1_to_V2 MRR": ("V1_to_V2", "mrr"), "R@1": ("V1_to_V2", "r1"), "R@10": ("V1_to_V2", "r10"),
           "V2_to_V1 MRR": ("V2_to_V1", "mrr"), "R@1 ": ("V2_to_V1", "r1"), "R@10 ": ("V2_to_V1", "r10"),
           "canonical corr": ("canonical_correlation",), "seconds": ("seconds",)}


class Task(NamedTuple):
    """One training; ``views`` as ``--views`` has them, or none for the default ones or those of the model file."""

    study: str
    data: str
    row: str
    model: str
    views: tuple[str, str] | None = None
    fraction: float = 1.0


def tasks(study: str) -> Iterator[Task]:
    """The trainings of a study, each for every seed."""
    if study == "heads":
        for head in ("cca", *LEARNED):  # on icons these are 100 % of the study shrink
            yield Task(study, "emoji", head, f"emoji_{head}")
        for data in ("icons", "emoji"):
            both = ("efficientnet_layers", "sentences+tfidf")
            yield Task(study, data, "cca, sentences+tfidf", f"{data}_cca", both)
            yield Task(study, data, "infonce, sentences+tfidf", f"{data}_infonce", both)
        yield Task(study, "icons", PIXELS, "icons_cca", ("pixels", "tfidf"))
    if study == "scratch":
        for data in ("emoji", "icons"):
            yield Task("heads", data, "conv, from scratch", f"{data}_conv")
    if study == "languages":
        for other in ("de", "ja"):
            for head in ("cca", "corrnet", "ccal_cont", "infonce"):
                yield Task(study, "emoji", f"en {other}, {head}", f"emoji_{head}", ("en", other))
    if study == "shrink":
        for fraction in reversed(FRACTIONS):
            for head in ("cca", *LEARNED):
                yield Task(study, "icons", head, f"icons_{head}", None, fraction)


def run(task: Task, seed: int, whole: PairedData) -> dict[str, Any]:
    """Trains and evaluates on the test splits."""
    data = _small_and_grey(whole) if task.row == PIXELS else whole
    if task.fraction < 1:
        rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        kept = rows[:round(task.fraction * len(data.train))].sort().values
        data = dataclasses.replace(data, train=data.train.select(kept))
    experiment = load_experiment(MODELS / f"{task.model}.py")
    model, about = train(data, experiment.config, experiment.build_model, experiment.build_objective, seed)
    splits = {name: evaluate(model, data, split=name) for name in data.split_names() if name.startswith("test")}
    return {**task._asdict(), "n_train": len(data.train), "fingerprint": whole.fingerprint, "splits": splits, **about}


def _small_and_grey(data: PairedData) -> PairedData:
    """Pictures as 32 × 32 grey values: what linear CCA can take of raw pixels."""
    def small(split: PairSplit) -> PairSplit:
        pixels = split.view1 if isinstance(split.view1, torch.Tensor) else split.view1.gather(
            torch.arange(len(split.view1)))
        return dataclasses.replace(split, view1=avg_pool2d(pixels.mean(1, keepdim=True), 2).flatten(1))

    return dataclasses.replace(data, train=small(data.train), valid=small(data.valid), test=small(data.test),
                               further=tuple(small(split) for split in data.further))


def table(results: list[dict[str, Any]], split: str) -> str:
    """Markdown: a row per method, mean ± standard deviation over its seeds."""
    lines = ["| | " + " | ".join(name.strip() for name in COLUMNS) + " | seeds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == row]
        cells = []
        for path in COLUMNS.values():
            digits = 3 if path[-1] == "mrr" else 0 if path[-1] == "seconds" else 1
            where = path if path[-1] == "seconds" else ("splits", split, *path)
            cells.append(spread((at(result, where) for result in mine), digits))
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {len(mine)} |")
    return "\n".join(lines)


def shrink_table(results: list[dict[str, Any]]) -> str:
    """MRR of both directions together by fraction."""
    lines = ["| | " + " | ".join(f"{fraction:.0%}" for fraction in FRACTIONS) + " |",
             "|---" * (len(FRACTIONS) + 1) + "|"]
    for row in dict.fromkeys(result["row"] for result in results):
        cells = [spread((mean_mrr(result) for result in results if result["row"] == row
                         and result["fraction"] == fraction), 3) for fraction in FRACTIONS]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_mrr(result: dict[str, Any]) -> float:
    """Of the two directions, on all test icons."""
    test = result["splits"]["test"]
    return float(test["V1_to_V2"]["mrr"] + test["V2_to_V1"]["mrr"]) / 2


def plot(results: list[dict[str, Any]]) -> None:
    """MRR over the number of training pairs, a line per head with its spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
    for colour, row in zip(colours, dict.fromkeys(result["row"] for result in results), strict=False):
        mine = [result for result in results if result["row"] == row]
        sizes = sorted({result["n_train"] for result in mine})
        groups = [torch.tensor([mean_mrr(result) for result in mine if result["n_train"] == size]) for size in sizes]
        axes.errorbar(sizes, [group.mean() for group in groups], [group.std() if len(group) > 1 else 0.0
                      for group in groups], color=colour, marker="o", markersize=4, capsize=3, linewidth=1.4, label=row)
    axes.set(xscale="log", xlabel="training pairs", ylabel="MRR, mean of both directions",
             title="Icons and their names: fewer training pairs", ylim=(0, None))
    ticks = sorted({result["n_train"] for result in results})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT)
    print(f"wrote {PLOT.name}")


def show(results: list[dict[str, Any]]) -> None:
    """All tables of what there is."""
    for study, data, splits in (("heads", "icons", ("test_tabler", "test")), ("heads", "emoji", ("test",)),
                                ("languages", "emoji", ("test",))):
        mine = [result for result in results if result["data"] == data and (
            result["study"] == study or (study == "heads" and result["fraction"] == 1 and result["study"] == "shrink"))]
        for split in splits if mine else ():
            print(f"\n{study}, {data}, {split}\n\n{table(mine, split)}")
    if mine := [result for result in results if result["study"] == "shrink"]:
        print(f"\nshrink\n\n{shrink_table(mine)}")
        plot(mine)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("study", nargs="?", choices=("heads", "scratch", "languages", "shrink"))
    parser.add_argument("--tables", action="store_true", help="train nothing, print what there is")
    args = parser.parse_args(argv)
    if args.study is None and not args.tables:
        parser.error("give a study, or --tables")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    loaded: dict[Any, PairedData] = {}
    for seed in args.seeds if args.study else ():
        for task in tasks(args.study):
            views = task.views or load_experiment(MODELS / f"{task.model}.py").views
            if (task.data, views) not in loaded:
                loaded[task.data, views] = load_data(task.data, views=views)
            whole = loaded[task.data, views]
            same = {**task._asdict(), "views": task.views and list(task.views), "seed": seed,
                    "fingerprint": whole.fingerprint}
            if any(all(done.get(key) == value for key, value in same.items()) for done in finished(FILE)):
                continue
            result = run(task, seed, whole)
            print(f"{task.study} {task.data} {task.row} {task.fraction:.0%} seed {seed}: test MRR "
                  f"{mean_mrr(result):.4f}, {result['seconds']:.0f} s", flush=True)
            keep(FILE, result)
    show(finished(FILE))


if __name__ == "__main__":
    main()
