"""A CSV file of one's own: two groups of columns of the same rows, matched with each other.

  python examples/your_own_csv.py                    three seeds, twenty seconds of one core
  python examples/your_own_csv.py --quick            one seed and fewer epochs, half of that
  python examples/your_own_csv.py --file mine.csv    a file with the same columns (other ones: edit csv_loader.py)

From the root of the repository. Editors open the cells (``# %%``) as a notebook.
"""
# %% [markdown]
# # A CSV file of one's own
#
# **The pairs.** scikit-learn brings a file of 569 rows, one for each needle biopsy of a breast: a picture of its cells
# was measured, and the ten measures (radius, texture, area, ...) were averaged over all cells, and over the three
# largest. View 1 are the ten means, view 2 the ten "worst" values. Can one find a patient's worst cells by the average
# ones, among those of all other patients? That is a small model of many tables: two instruments, two visits, two
# questionnaires, and the question which rows belong together.
#
# `examples/csv_loader.py` reads the file; it is there to be copied. What it decides:
#
# * a row with an empty cell in one half keeps its other half, as an item without a partner;
# * rows are split by item, so that no item is on two sides, and standardised by *training* rows alone;
# * the class (here benign or malignant) is not a view: it is only used to evaluate;
# * with `ITEM`, rows that share a name are several partners of one item (1:n), such as visits of one patient.
from __future__ import annotations

import argparse
import csv
import importlib
import os
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from xmodal import Identity, PairedData, XmodalError, embed, evaluate, load_data, load_run
from xmodal.atomic import replacing
from xmodal.checkpoint import RunFolder, to_json
from xmodal.metrics import DIRECTIONS

LOADER = "examples/csv_loader.py"
MODELS = {"csv_cca": "linear CCA", "csv_kcca": "kernel CCA", "csv_ccal": "CCA layer"}
WORDS = ("benign", "malignant")


def command(name: str, *words: str, log: Path | None = None, quiet: bool = False) -> None:
    """Runs a command here, as ``python NAME.py WORDS`` would in a shell, and prints it; its output goes to ``log``,
    where that is given."""
    if not quiet:
        text = re.sub(r"(--\w+) (?!--)", "\\1\0", f"python {name}.py {' '.join(words)}")  # an option and its value
        lines = textwrap.wrap(text, 74, break_long_words=False, break_on_hyphens=False)
        print("$ " + " \\\n    ".join(lines).replace("\0", " "))
    with ExitStack() as stack:
        if log is not None:
            stack.enter_context(redirect_stdout(stack.enter_context(log.open("a"))))
        code = importlib.import_module(f"xmodal.cli.{name}").main([*words])
    if code:
        sys.exit(code)  # it has said why


# %% [markdown]
# ## Prepare
# Real tables have holes. This one has none, so we make some: every tenth row loses its second half, and every tenth its
# first half. The loader could read scikit-learn's file as it is; the copy has a line of names, as yours will.
# %%
def with_holes(out: Path, file: Path | None) -> Path:
    """A copy of scikit-learn's file with holes, or the user's own file."""
    if file is not None:
        return file
    sys.path.insert(0, "examples")
    loader = importlib.import_module("csv_loader")
    with loader.default_file().open(newline="") as lines:
        rows = [*csv.reader(lines)][1:]
    for number, row in enumerate(rows):
        row[-1] = WORDS[1 - int(row[-1])]
        for place, first in ((3, 20), (7, 0)):
            if number % 10 == place:
                row[first:first + 10] = [""] * 10
    with replacing(out / "cells.csv") as beside, beside.open("w", newline="") as lines:
        csv.writer(lines).writerows([loader.COLUMNS, *rows])
    return out / "cells.csv"


def describe(data: PairedData) -> None:
    """What came of the file."""
    for split in data.splits():
        print(f"  {split.name:<6} {len(split):>4} pairs; {len(split.view1) - len(split):>3} items of view 1 and "
              f"{len(split.view2) - len(split):>3} of view 2 without a partner")


# %% [markdown]
# ## Train
# Linear CCA, exact kernel CCA, and a CCA layer behind two small perceptrons: a model file each, see
# `examples/csv_*.py`. The first two are solved in closed form and take a moment; they also use the items without a
# partner, for the statistics of their view. The same commands work in a shell, with `CSV_FILE` in the environment.
# %%
def train(out: Path, seeds: Sequence[int], quick: bool) -> dict[str, list[Path]]:
    """Trains all methods; the run folders of each."""
    runs: dict[str, list[Path]] = {}
    shorter = ("--set", "max_epochs=30", "--set", "patience=30") if quick else ()
    for model in MODELS:
        for seed in seeds if model == "csv_ccal" else seeds[:1]:  # the others draw nothing
            command("run_train", "--model", f"examples/{model}.py", "--data", LOADER, "--runs", str(out), "--tag",
                    f"s{seed}", "--seed", str(seed), "--overwrite", *(shorter if model == "csv_ccal" else ()),
                    log=out / "train.log", quiet=seed != seeds[0])
            runs.setdefault(model, []).append(out / f"{model}-s{seed}")
    return runs


# %% [markdown]
# ## Evaluate
# `run_eval.py` writes both directions to `metrics.json` in the run folder. Items without a partner are in the gallery:
# they can be found, wrongly. The first line of the table is what drawing from the gallery with closed eyes gives, the
# second one what the standardised columns give as they are. That one is no straw man here: the two halves measure the
# same things.
#
# `run_compare.py` makes one row of the runs that differ in their seed alone, and tests which rows differ.
# %%
def evaluate_all(out: Path, runs: Mapping[str, Sequence[Path]], data: PairedData
                 ) -> dict[str, list[dict[str, float]]]:
    """The metrics of all runs, by row of the table that is printed."""
    table = {"chance": [chance(data)],
             "columns as they are": [numbers(evaluate(Identity().fit_split(data.train), data))]}
    for model, folders in runs.items():
        for run in folders:
            command("run_eval", "--model", f"examples/{model}.py", "--data", LOADER, "--runs", str(out), "--tag",
                    run.name.partition("-")[2], "--transfer", log=out / "evaluate.log", quiet=run != runs["csv_cca"][0])
            table.setdefault(MODELS[model], []).append(numbers(RunFolder(run).metrics()))
    print(f"test: {len(data.test.view1)} items of view 1, {len(data.test.view2)} of view 2, {len(data.test)} pairs")
    print(f"{'':<20}{'MRR':^28}{'R@1, %':^14}{'class, %':>11}")
    print(f"{'':<20}" + " ".join(f"{name:>{width}}" for width in (13, 6, 6) for name in ("1 to 2", "2 to 1")))
    for name, rows in table.items():
        print(f"{name:<20}" + " ".join(_cells(rows)).rstrip())
    return table


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the table shows: MRR and hit rate of both directions, and how often the class that a linear SVM learned from
    the embeddings of one view is told from those of the other."""
    found = {f"{direction} {key}": float(metrics[direction][key]) for key in ("mrr", "r1") for direction in DIRECTIONS}
    if "transfer" in metrics:
        found |= {f"{direction} class": float(metrics["transfer"][direction]) for direction in DIRECTIONS}
    return found


def chance(data: PairedData) -> dict[str, float]:
    """The expected MRR of a random order of n items is (1 + 1/2 + ... + 1/n) / n, its hit rate 1 / n."""
    found = {}
    for direction, n in (("V1_to_V2", len(data.test.view2)), ("V2_to_V1", len(data.test.view1))):
        found |= {f"{direction} mrr": sum(1 / k for k in range(1, n + 1)) / n, f"{direction} r1": 100 / n}
    return found


def _cells(rows: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Means over seeds; of MRR the standard deviation, too, where there are several."""
    for key, width, digits in (("mrr", 13, 3), ("r1", 6, 1), ("class", 6, 1)):
        for direction in DIRECTIONS:
            values = [row[f"{direction} {key}"] for row in rows if f"{direction} {key}" in row]
            text = f"{statistics.mean(values):.{digits}f}" if values else ""
            if key == "mrr" and len(values) > 1:
                text += f" ± {statistics.stdev(values):.{digits}f}"
            yield f"{text:>{width}}"


# %% [markdown]
# ## Look
# The first two canonical coordinates of the test rows, view 1 and view 2 of each joined by a line: the shorter the
# lines against the cloud, the easier partners are found. Colours are the diagnoses, which no method has seen.
# %%
def look(out: Path, runs: Sequence[Path], data: PairedData) -> Path:
    """Draws two runs side by side."""
    figure = Figure(figsize=(8.4, 4.2), dpi=110, layout="constrained")
    pairs = data.test.pair_table()
    labels = torch.zeros(len(data.test.view1)) if data.test.labels is None else data.test.labels
    for axes, run in zip(figure.subplots(1, len(runs)), runs, strict=True):
        z1, z2 = (z[pairs[:, view], :2] for view, z in enumerate(embed(load_run(run).model, data.test)))
        for label, colour in enumerate(("#0072B2", "#D55E00")):
            one, other = (z[labels[pairs[:, 0]] == label].T for z in (z1, z2))
            axes.plot(*torch.stack([one, other], dim=1), color=colour, linewidth=0.8, alpha=0.6)
            axes.scatter(*one, color=colour, s=14, label=f"{WORDS[label]}, view 1")
            axes.scatter(*other, edgecolor=colour, facecolor="none", s=14, label=f"{WORDS[label]}, view 2")
        axes.set(title=MODELS[run.name.partition("-")[0]], xlabel="canonical coordinate 1")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("canonical coordinate 2")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(out / "coordinates.png")
    return out / "coordinates.png"


# %% [markdown]
# ## Search
# One row asks for its partner. Its id is the line of the file that it is on; `*` marks the partner. Without an id, a
# query is numbers (standardised as the loader does it), or a `.npy` file of rows.
# %%
def search(run: Path, data: PairedData) -> None:
    """Looks up the first test row."""
    first = (data.test.ids or [])[int(data.test.pair_table()[0, 0])]
    command("run_search", "--run", str(run), "--query", first, "--k", "5")


# %% [markdown]
# ## What to try next
# * Your file: copy `csv_loader.py`, change what is in capitals, `--data your_loader.py`.
# * Chosen by validation, not by hand: `python run_tune.py --model examples/csv_ccal.py --data examples/csv_loader.py`.
# * The same rows as a page: `run_eval.py ... --html page.html`. Who is alike within a view: `--within 1`.
# * A column of texts: `xmodal.features.texts.TfIdf`, as in `examples/cross_lingual_emoji.py`.
# %%
def main(argv: Sequence[str] | None = None) -> int:
    """The whole example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a CSV file of one's own")
    parser.add_argument("--quick", action="store_true", help="one seed, 30 epochs")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/your_own_csv"), help="folder to write to")
    args = parser.parse_args([] if argv is None and "ipykernel" in sys.modules else argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        file = with_holes(args.out, args.file)
        print(f"$ export CSV_FILE={file}")
        os.environ["CSV_FILE"] = str(file)  # what the loader reads, here and in the commands
        data = load_data(LOADER)
        describe(data)
        runs = train(args.out, (0,) if args.quick else (0, 1, 2), args.quick)
        table = evaluate_all(args.out, runs, data)
        command("run_compare", *(str(run) for folders in runs.values() for run in folders), "--out",
                str(args.out / "table.md"), log=args.out / "evaluate.log")
        picture = look(args.out, [runs["csv_cca"][0], runs["csv_ccal"][0]], data)
        search(runs["csv_ccal"][0], data)
        with replacing(args.out / "results.json") as beside:
            beside.write_text(to_json(table))
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {file}, table.md, results.json and {picture.name},")
    print(f"and a run folder for each training, to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
