"""Names of emoji in two languages, matched across languages.

  python examples/cross_lingual_emoji.py                      1,316 pairs to train on, half a minute of one core
  python examples/cross_lingual_emoji.py --quick              fewer features and epochs, a third of that
  python examples/cross_lingual_emoji.py --languages en ja --query cat --query snow
  python examples/cross_lingual_emoji.py --pictures           also emoji's pictures by their names (data/emoji.h5)

From the root of the repository; npm fetches 6.7 MB, or --source DIR has what `npm pack emojibase-data@17.0.0` made.
Editors open the cells (``# %%``) as a notebook.
"""
# %% [markdown]
# # Emoji across languages
#
# **The pairs.** An emoji is called *cat face* in English and *Katzengesicht* in German, and both languages add keywords
# (pet, Haustier). View 1 is the text in one language, view 2 that in another one. There is no dictionary and no model
# of a language: all that is known are some thirteen hundred pairs of texts. Can one find the German name of an emoji
# that was never seen, by its English one, among the German names that were never seen?
#
# This example uses xmodal as a library. The other two use its commands.
from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from xmodal import (
    Gallery,
    LinearCCA,
    PairedData,
    PairSplit,
    XmodalError,
    evaluate,
    fit,
    load_data,
    load_experiment,
)
from xmodal import embed as embed_split
from xmodal.atomic import replacing
from xmodal.checkpoint import to_json
from xmodal.data import write_h5
from xmodal.data.emoji import LICENCE, PACKAGES, Emoji, read_emoji
from xmodal.data.npm import npm_package
from xmodal.data.splitting import SPLIT_SEED, split_groups
from xmodal.features.texts import TfIdf, text_encoder
from xmodal.metrics import DIRECTIONS, retrieval_ranks
from xmodal.networks import evaluating
from xmodal.pictures import write_png


# %% [markdown]
# ## Prepare
# The package `emojibase-data` has the texts. `read_emoji` leaves out flags, components and skin tones, and what has no
# name in one of the languages.
#
# **Splits without leaks.** Man, woman and person doing the same differ in one word; and some names are shared. Whatever
# has a text or such a family in common must be on one side of the split, or test items would be known from training.
# `split_groups` takes the keys of each item and keeps together what they connect.
#
# **Features.** TF-IDF of runs of 2 to 4 characters inside words: they reach across inflections and compounds
# (*Katzengesicht*), and need no knowledge of a language, not even spaces. Vocabulary and weights come from training
# texts alone. The encoders are kept with the data, so that a query of one's own becomes a vector in the same way later.
# %%
def read(languages: Sequence[str], source: Path | None) -> list[Emoji]:
    """The emoji that have a name in both languages; npm gets them, unless they are in ``source``."""
    with npm_package(PACKAGES["names"], source=source) as package:
        return read_emoji(package, languages)


def make_data(emoji: Sequence[Emoji], languages: Sequence[str], n_grams: int) -> PairedData:
    """The pairs of texts as TF-IDF vectors, split 80/10/10."""
    side = split_groups([[one.family, *one.texts.items()] for one in emoji])
    parts = [[one for one, where in zip(emoji, side, strict=True) if where == number] for number in range(3)]
    encoders = [TfIdf(words=0, characters=n_grams).fit([one.texts[language] for one in parts[0]])
                for language in languages]
    splits = []
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        texts = [[one.texts[language] for one in part] for language in languages]
        view1, view2 = (encoder(said) for encoder, said in zip(encoders, texts, strict=True))
        splits.append(PairSplit.of(name, view1, view2, ids=[one.code for one in part], caption1=texts[0],
                                   caption2=texts[1]))
    state1, state2 = (json.dumps(encoder.state(), ensure_ascii=False) for encoder in encoders)
    return PairedData("emoji_names", *splits, source=PACKAGES["names"], licence=LICENCE.partition(";")[0],
                      split_seed=SPLIT_SEED, view1_name=languages[0], view2_name=languages[1], encoder1=state1,
                      encoder2=state2).with_fingerprint()


# %% [markdown]
# ## Train
# **Linear CCA** finds pairs of directions, one in each view, along which the texts of an emoji agree. It is solved in
# closed form. There are more features than pairs, so all depends on the ridge `r1 = r2 = 3`, the variance that is added
# to each feature, in units of their mean variance.
#
# **A learned projection with InfoNCE** (`models/emoji_infonce.py`, made for pictures and names) has a linear map for
# each view behind a dropout of one half, and learns to tell the partner from all others of the batch.
# %%
def train(data: PairedData, quick: bool, seed: int) -> dict[str, tuple[Any, float]]:
    """Both methods trained, and the seconds that took."""
    models: dict[str, tuple[Any, float]] = {}
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*items for .* columns")  # what the ridge is for
        models["linear CCA"] = LinearCCA(min(512, len(data.train) - 1), r1=3.0, r2=3.0).fit_split(data.train), \
            time.perf_counter() - began
    epochs = 10 if quick else 20
    experiment = load_experiment("models/emoji_infonce.py", {"max_epochs": epochs, "patience": epochs})
    began = time.perf_counter()
    torch.manual_seed(seed)
    model = experiment.build_model(data.view1_shape, data.view2_shape)
    fit(model, experiment.build_objective(), data, experiment.config, seed=seed)
    models["InfoNCE"] = model, time.perf_counter() - began
    return models


# %% [markdown]
# ## Evaluate
# Each text of the test split asks for its partner among those of the other language. MRR is the mean of one over the
# partner's rank, R@10 the share of partners that are among the first ten. The first line is what drawing with closed
# eyes finds. With 1,316 pairs, linear CCA in closed form is hard to beat.
# %%
def compare(models: Mapping[str, tuple[Any, float]], data: PairedData) -> dict[str, dict[str, float]]:
    """Test metrics by method; prints them."""
    n = len(data.test)
    first, second = data.view1_name, data.view2_name
    print(f"{n} test pairs           {f'{first} to {second}':^22}   {f'{second} to {first}':^22}")
    print(f"{'':<20}" + f"{'MRR':>9}{'R@1 %':>8}{'R@10 %':>8}" * 2 + f"{'seconds':>9}")
    table = {"chance": {key: value for direction in DIRECTIONS for key, value in (
        (f"{direction} mrr", sum(1 / k for k in range(1, n + 1)) / n), (f"{direction} r1", 100 / n),
        (f"{direction} r10", 1000 / n))}}
    for name, (model, seconds) in models.items():
        metrics = evaluate(model, data)
        table[name] = {f"{direction} {key}": metrics[direction][key] for direction in DIRECTIONS
                       for key in ("mrr", "r1", "r10")}
        table[name]["valid mrr"] = sum(evaluate(model, data, "valid")[direction]["mrr"] for direction in DIRECTIONS) / 2
        table[name]["seconds"] = seconds
    for name, row in table.items():
        cells = "".join(f"{row[f'{direction} mrr']:>9.3f}{row[f'{direction} r1']:>8.1f}{row[f'{direction} r10']:>8.1f}"
                        for direction in DIRECTIONS)
        print(f"{name:<20}{cells}" + (f"{row['seconds']:>9.1f}" if "seconds" in row else ""))
    return table


def best_of(models: Mapping[str, tuple[Any, float]], table: Mapping[str, Mapping[str, float]]) -> tuple[str, Any]:
    """The model with the best *validation* MRR: to choose by the test split would be to test on it no more."""
    name = max(models, key=lambda one: table[one]["valid mrr"])
    return name, models[name][0]


# %% [markdown]
# ## Look
# Left, the share of partners found among the first k. Right, cosines of some test names in the shared space, a row for
# each name in the first language, a column for each in the second: partners are on the diagonal.
# %%
def look(models: Mapping[str, tuple[Any, float]], best: Any, data: PairedData, file: Path) -> None:
    """Draws both."""
    figure = Figure(figsize=(10, 4.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    ks = torch.arange(1, 26)
    for colour, (name, (model, _)) in zip(("#0072B2", "#D55E00"), models.items(), strict=False):
        z1, z2 = (torch.nn.functional.normalize(z, dim=1) for z in embed_split(model, data.test))
        ranks = retrieval_ranks(z1, z2).V1_to_V2
        left.plot(ks, (ranks[:, None] <= ks).float().mean(dim=0) * 100, color=colour, label=name)
        if model is best:
            rows = torch.linspace(0, len(z1) - 1, 16).long()
            shown = right.imshow(z1[rows] @ z2[rows].T, cmap="Blues", vmin=0)
    left.plot(ks, 100 * ks / len(data.test), color="#999999", linestyle="--", label="chance")
    left.set(xlabel="k", ylabel="partners among the first k (%)", ylim=(0, 100),
             title=f"{data.view1_name} to {data.view2_name}")
    left.legend(frameon=False)
    left.spines[["top", "right"]].set_visible(False)
    names = [[_short(captions[row], number) for number, row in enumerate(rows.tolist(), start=1)]
             for captions in (data.test.caption1 or [], data.test.caption2 or [])]
    right.set_yticks(range(len(rows)), names[0], fontsize=7)
    right.set_xticks(range(len(rows)), names[1], fontsize=7, rotation=60, ha="right", rotation_mode="anchor")
    figure.colorbar(shown, ax=right, label="cosine", shrink=0.8)
    write_png(figure, file)


def _short(text: str, number: int) -> str:
    """A name that fits beside a picture; its number, where the picture's font may lack its letters."""
    name = text.partition(",")[0]
    return (name if len(name) < 22 else f"{name[:20]}…") if max(map(ord, name)) < 0x530 else f"{number}"


# %% [markdown]
# ## Search
# The query is one's own: the encoder of view 1 makes a vector of it, the model embeds that, and the gallery holds the
# embedded names in the second language. Only those of validation and test emoji, none of which was trained on: training
# pairs lie nearer together than others ever will, and would push themselves forward. (Try *frog*: the word is in no
# training text, and so nothing is known of it.)
# %%
def search(model: Any, data: PairedData, queries: Sequence[str]) -> list[dict[str, Any]]:
    """What the queries find; prints it."""
    encode = text_encoder(json.loads(data.encoder1))
    unseen = (data.valid, data.test)
    gallery = Gallery.build(torch.cat([embed_split(model, split)[1] for split in unseen]),
                            [code for split in unseen for code in split.ids or []],
                            captions=[name for split in unseen for name in split.caption2 or []])
    answers = []
    for query in queries:
        vector = torch.from_numpy(encode([query]))
        with evaluating(model):
            found = gallery.query(model.embed_view1(vector), k=5)
        print(f"{query!r} ({data.view1_name}) among {len(gallery):,} names ({data.view2_name}) never seen in training:")
        for score, name in zip(found.scores[0].tolist(), found.captions[0], strict=True):
            print(f"  {score:5.2f}  {name if len(name) < 70 else name[:69] + '…'}")
        answers.append({"query": query, "ids": found.ids[0], "names": found.captions[0]})
    return answers


# %% [markdown]
# ## Pictures
# With `python prepare_data.py emoji` (a minute) the same names find pictures: view 1 is then what a network for
# photographs makes of each picture, three artists to one name (1:n), and view 2 the name in the second language.
# %%
def pictures(language: str, queries: Sequence[str], file: Path) -> None:
    """Linear CCA of pictures and names; draws what the queries find, by default the names of three test emoji."""
    data = load_data("emoji", views=("efficientnet_layers", language))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*items for .* columns")
        model = LinearCCA(256, r1=3.0, r2=3.0).fit_split(data.train)
    metrics = evaluate(model, data)
    print(f"pictures and names in {language}: MRR {metrics['V1_to_V2']['mrr']:.3f} picture to name, "
          f"{metrics['V2_to_V1']['mrr']:.3f} name to picture")
    names = [name.partition(",")[0] for name in data.test.caption2 or []]
    queries = queries or [names[len(names) * place // 4] for place in (1, 2, 3)]
    vectors = torch.from_numpy(text_encoder(json.loads(data.encoder2))(queries))
    found = Gallery.build(embed_split(model, data.test)[0]).query(model.embed_view2(vectors), k=8).rows
    thumbnails: Any = data.test.thumbnails1  # on disk, or in memory
    figure = Figure(figsize=(8.8, 1.3 * len(queries)), dpi=110, layout="constrained")
    grid = figure.subplots(len(queries), found.shape[1], squeeze=False)
    for query, rows, axes in zip(queries, found, grid, strict=True):
        items = thumbnails[rows] if isinstance(thumbnails, torch.Tensor) else thumbnails.gather(rows)
        for ax, item in zip(axes, items, strict=True):
            ax.imshow(item.permute(1, 2, 0).clamp(0, 1))
            ax.axis("off")
        axes[0].set_title(query, loc="left", fontsize=9)
    write_png(figure, file)


# %% [markdown]
# ## What to try next
# * The same by commands: train on `names.h5` with any file of `models/`, such as `emoji_ccal_cont.py`, and
#   `python run_search.py --run RUN --query cat`.
# * Words beside characters, more of them: `TfIdf(4096, 8192)` as `prepare_data.py emoji` has it: MRR 0.85 with linear
#   CCA (docs/image_text.md).
# * A sentence model in place of TF-IDF: `xmodal.features.texts.Sentences` (English), or your own function.
# * Which mistakes are left? Print the names whose rank is worst; most are one of many alike (*one o'clock*).
# %%
def main(argv: Sequence[str] | None = None) -> int:
    """The whole example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs=2, default=("en", "de"), metavar="LANGUAGE", help="such as: en ja")
    parser.add_argument("--query", action="append", metavar="TEXT", help="in the first language; may be repeated")
    parser.add_argument("--quick", action="store_true", help="2,048 runs of characters, 10 epochs")
    parser.add_argument("--seed", type=int, default=0, help="of the learned projection (default: 0)")
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder with the package's archive")
    parser.add_argument("--pictures", metavar="TEXT", nargs="*", help="also find pictures by texts in the second "
                        "language (needs data/emoji.h5; default: the names of three test emoji)")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/cross_lingual_emoji"),
                        help="folder to write to")
    args = parser.parse_args([] if argv is None and "ipykernel" in sys.modules else argv)
    try:
        return run(args)
    except XmodalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """From the registry to the search."""
    emoji = read(args.languages, args.source)
    data = make_data(emoji, args.languages, 2048 if args.quick else 4096)
    args.out.mkdir(parents=True, exist_ok=True)
    write_h5(data, args.out / "names.h5")
    print(f"{len(emoji):,} emoji with names in {' and '.join(args.languages)}: {len(data.train):,} pairs train, "
          f"{len(data.valid)} validate, {len(data.test)} test")
    models = train(data, args.quick, args.seed)
    table = compare(models, data)
    name, best = best_of(models, table)
    look(models, best, data, args.out / "names.png")
    print(f"searching with {name}, which is best on the validation pairs")
    answers = search(best, data, args.query or ["cat", "musical instrument"])
    written = ["names.h5", "names.png", "results.json"]
    if args.pictures is not None:
        pictures(args.languages[1], args.pictures, args.out / "pictures.png")
        written.append("pictures.png")
    with replacing(args.out / "results.json") as beside:
        beside.write_text(to_json({"languages": list(args.languages), "best": name, "table": table,
                                   "answers": answers}))
    print(f"wrote {', '.join(written)} to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
