"""Sheet music and its sound: chorales engraved and played on the spot, matched by small convolutional towers.

  python examples/audio_score.py --quick     24 chorales, 520 pairs (400 train), 16 epochs: under 40 s of one core
  python examples/audio_score.py             120 chorales, 2,600 pairs (2,000 train), 24 epochs: 3 minutes of one core

From the root of the repository, with the extra ``audio``: pip install -e ".[audio]" and
pip install --no-deps tinysoundfont (`make` has done this). Pairs that are there from an earlier call are used again.
Editors open the cells (``# %%``) as a notebook.
"""
# %% [markdown]
# # Sheet music and its sound
#
# **The pairs.** View 1 is a snippet of sheet music, 80 × 100 pixels; view 2 the spectrogram of two seconds of sound, 92
# bands × 42 frames. Both are centred on the same note. Given the sound, which snippet is it (and the other way round)?
# Nothing is known in advance of either view: no notes, no pitches, just pixels and bands.
#
# docs/audio_score.md has the whole story, and what a real training reaches: linear CCA an MRR of 0.265 among 2,000
# snippets, `models/audio_score_best.py` after 24 epochs of 10,000 pairs 0.859 ± 0.009 (three seeds, 20 minutes each).
# This example is the same path in small.
from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xmodal import DataError, PairedData, XmodalError, load_data
from xmodal.atomic import replacing
from xmodal.checkpoint import RunFolder, to_json
from xmodal.data.audio_score import prepare
from xmodal.data.audio_score.packages import check_installed, folder_of
from xmodal.metrics import DIRECTIONS

LINEAR, TOWERS = "models/audio_score_cca.py", "examples/audio_score_small.py"


class Size(NamedTuple):
    """How much is made and trained."""

    chorales: int
    pairs: int
    epochs: int


QUICK, WHOLE = Size(24, 520, 16), Size(120, 2600, 24)
RECORDINGS = 4  #: that are looked up at the end


def command(name: str, *words: str, log: Path | None = None, quiet: bool = False) -> str:
    """Prints a command and runs it here, as ``python NAME.py WORDS`` would in a shell; what it prints is returned, and
    added to ``log``, warnings included, where that is given."""
    if not quiet:
        text = re.sub(r"(--\w+) (?!--)", "\\1\0", f"python {name}.py {' '.join(words)}")  # an option and its value
        lines = textwrap.wrap(text, 74, break_long_words=False, break_on_hyphens=False)
        print("$ " + " \\\n    ".join(lines).replace("\0", " "), flush=True)
    said, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaints):
        code = importlib.import_module(f"xmodal.cli.{name}").main([*words])
    if log is not None:
        with log.open("a") as file:
            file.write(complaints.getvalue() + said.getvalue())
    if code:
        raise DataError(f"{name}.py: {complaints.getvalue().strip().removeprefix('error: ')}")
    return said.getvalue()


# %% [markdown]
# ## Prepare
# `prepare_data.py audio_score` makes data of the published shape from the scores that come with music21. It reads *all*
# pieces of a corpus before it cuts the first pair, since it has to know which have the same melody: a work is on one
# side of the split as a whole. So we give it a folder with some of Bach's chorales. Validation and test pairs are
# displaced by a fixed draw (a few pixels, a twentieth of a second); training pairs are exact, and the towers displace
# them anew in each epoch.
# %%
def make_pairs(out: Path, size: Size, workers: int | None) -> tuple[Path, Path]:
    """The folder of chorales, and the file of pairs."""
    folder, file = out / f"chorales_{size.chorales}", out / f"pairs_{size.pairs}.h5"
    chorales = sorted((folder_of("music21") / "corpus" / "bach").glob("bwv*.mxl"))
    folder.mkdir(parents=True, exist_ok=True)
    for score in chorales[::len(chorales) // size.chorales][:size.chorales]:
        shutil.copy(score, folder / score.name)
    print(f"$ python prepare_data.py audio_score --corpus {folder} \\\n"
          f"    --pairs {size.pairs} --out {file}", flush=True)
    if not file.is_file():
        prepare(file, pairs=size.pairs, corpus=[str(folder)], workers=workers,
                say=lambda line: print(f"{line}   ", end="\r", flush=True) if sys.stdout.isatty() else None)
    return folder, file


def describe(data: PairedData, out: Path, file: Path) -> None:
    """Says how many pairs there are of how many pieces, and draws twelve."""
    for split in data.splits()[:3]:
        pieces = {name.rpartition("@")[0] for name in split.ids or []}
        print(f"  {split.name:<6}{len(split):>6,} pairs of {len(pieces):>2} chorales")
    command("prepare_data", "audio_score", "--show", str(out / "pairs.png"), "--out", str(file))


# %% [markdown]
# ## Train
# Linear CCA of pixels and bands first, with a ridge of ten times their mean variance: what the towers have to beat.
# Then `examples/audio_score_small.py`: two blocks of convolutions for each view, and the CCA layer with *running
# statistics*. A batch has 50 pairs for 16 dimensions; CCA fitted to a batch alone would align the two views by chance,
# and nothing would be left to learn. With `alpha=0.05` each batch moves covariances by a twentieth, which amounts to
# about n (2 - alpha) / alpha = 1,950 pairs.
# %%
def train(out: Path, file: Path, size: Size, seed: int) -> dict[str, Path]:
    """Trains both; their run folders."""
    common = ("--data", str(file), "--runs", str(out), "--tag", f"{size.pairs}-s{seed}", "--overwrite")
    command("run_train", "--model", LINEAR, *common, "--set", "dim_latent=16", "--set", "r1=10.0", "--set", "r2=10.0",
            log=out / "train.log")
    said = command("run_train", "--model", TOWERS, *common, "--seed", str(seed), "--set", f"max_epochs={size.epochs}",
                   "--set", f"patience={size.epochs}", log=out / "train.log")
    print(*(line for line in said.splitlines() if line.startswith(("Model", "finished"))), sep="\n")
    return {"linear CCA": out / f"audio_score_cca-{size.pairs}-s{seed}",
            "towers, CCA layer": out / f"audio_score_small-{size.pairs}-s{seed}"}


# %% [markdown]
# ## Evaluate
# Pairs first: each test snippet asks for its sound among all, and each sound for its snippet.
#
# Then pieces: ids read `piece@seconds`, and with `--group piece` all sounds of a chorale vote for the score that their
# neighbours are from. Many weak votes make a strong one. `located` are single excerpts whose nearest snippet lies in
# the right piece, within a second of the right place. (In quick mode there are four chorales to choose from.)
# %%
def evaluate_all(out: Path, runs: Mapping[str, Path], file: Path) -> dict[str, dict[str, Any]]:
    """The metrics of both, and of chance; prints them."""
    table: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        model, _, tag = run.name.partition("-")
        command("run_eval", "--model", f"{'examples' if model.endswith('small') else 'models'}/{model}.py", "--data",
                str(file), "--runs", str(out), "--tag", tag, "--group", "piece", "--neighbours", "4",
                log=out / "evaluate.log")
        table[name] = RunFolder(run).metrics()
    n = table["linear CCA"]["n_pairs"]
    print(f"{f'{n:,} test pairs':<18}{'sheet to sound':^21}{'sound to sheet':^21}{'sound to sheet, %':>18}")
    print(f"{'':<18}" + f"{'MRR':>8}{'R@1 %':>6}{'R@10 %':>7}" * 2 + f"{'pieces':>9}{'located':>9}")
    print(f"{'chance':<18}" + f"{sum(1 / k for k in range(1, n + 1)) / n:>8.3f}{100 / n:>6.1f}{1000 / n:>7.1f}" * 2
          + f"{100 / table['linear CCA']['groups']['V2_to_V1']['n_gallery']:>9.0f}")
    for name, metrics in table.items():
        sides, groups = [metrics[direction] for direction in DIRECTIONS], metrics["groups"]["V2_to_V1"]
        print(f"{name:<18}" + "".join(f"{side['mrr']:>8.3f}{side['r1']:>6.1f}{side['r10']:>7.1f}" for side in sides)
              + f"{groups['r1']:>9.0f}{groups['located']:>9.1f}")
    return table


# %% [markdown]
# ## Search
# A recording asks for its place in the scores. There is no microphone here, so the first test items are played to WAV
# files, exactly (in the data they are displaced). Yours would be any file: `--query take.wav@12.5` is its excerpt at
# 12.5 seconds.
# %%
def search(run: Path, data: PairedData, folder: Path, file: Path, out: Path) -> list[dict[str, Any]]:
    """Plays the first test items and looks them up; prints what was found."""
    items = (data.test.ids or [])[:RECORDINGS]
    recordings = [out / f"query_{number}.wav" for number in range(1, len(items) + 1)]
    for item, recording in zip(items, recordings, strict=True):
        command("prepare_data", "audio_score", "--wav", item, str(recording), "--corpus", str(folder), "--out",
                str(file), quiet=recording != recordings[0])
    said = command("run_search", "--run", str(run), "--k", str(len(data.test)), "--json",
                   *(word for recording in recordings for word in ("--query", str(recording))))
    answers = []
    for item, query in zip(items, json.loads(said)["queries"], strict=True):
        found = [one["id"] for one in query["neighbours"]]
        answers.append({"item": item, "place": found.index(item) + 1, "found": found[:5]})
        print(f"{item:<22} nearest {found[0]:<22} its own at place {found.index(item) + 1} of {len(found)}")
    return answers


# %% [markdown]
# ## What to try next
# * The whole: `python prepare_data.py audio_score`, then `python run_train.py --model models/audio_score_best.py --data
#   audio_score`. Linear CCA falls behind as pairs get more.
# * What running statistics do: `--set alpha=1.0`.
# * Another instrument than in training: `run_eval.py ... --split test_timbre`.
# * Your own scores: `--corpus DIR` takes MusicXML, MEI and ABC.
# %%
def main(argv: Sequence[str] | None = None) -> int:
    """The whole example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 chorales in place of 120, one process")
    parser.add_argument("--seed", type=int, default=0, help="of the towers (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/audio_score"), help="folder to write to")
    args = parser.parse_args([] if argv is None and "ipykernel" in sys.modules else argv)
    size = QUICK if args.quick else WHOLE
    try:
        check_installed()
        folder, file = make_pairs(args.out, size, 1 if args.quick else None)  # starting processes takes time, too
        data = load_data(str(file))
        describe(data, args.out, file)
        runs = train(args.out, file, size, args.seed)
        table = evaluate_all(args.out, runs, file)
        answers = search(runs["towers, CCA layer"], data, folder, file, args.out)
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with replacing(args.out / "results.json") as beside:
        beside.write_text(to_json({"table": table, "answers": answers}))
    print(f"wrote {file.name}, pairs.png, query_1.wav, ..., results.json and run folders")
    print("(neighbours_V1_to_V2.png in them shows what was found) to")
    print(args.out)
    return 0


if __name__ == "__main__":  # worker processes import this file, too
    sys.exit(main())
