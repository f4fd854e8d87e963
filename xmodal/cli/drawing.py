"""``run_eval.py --reconstruct``, ``--walk``, ``--samples``, ``--filters``, ``--neighbours``: pictures of what a model
restores, makes up, looks for and retrieves."""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from xmodal.checkpoint import RunFolder
from xmodal.cli.common import name_of_part
from xmodal.data import PairedData, PairSplit, StreamedView, pair_batches, view_batches
from xmodal.data.pairs import View
from xmodal.errors import DataError, ExperimentError
from xmodal.evaluator import EMBED_BATCH, RestoringModel, embed
from xmodal.metrics import Judged, retrieval_ranks, roc
from xmodal.nearest import spread_rows
from xmodal.networks import CorrNet, Model, VariationalAutoencoder, evaluating
from xmodal.pictures import (
    Items,
    ViewStyle,
    filter_sheet,
    neighbour_sheet,
    pair_sheet,
    reconstruction_sheet,
    walk_strip,
    write_png,
)
from xmodal.report import plot_roc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAIRS = 50     # rows of --reconstruct
NEIGHBOURS = 5
WALK_POINTS = 11    # t = 0, 0.1, ... 1


class Picture(NamedTuple):
    """What is to be written, under which name (without suffix), and what else is said of it."""

    name: str
    figure: Figure
    lines: Sequence[str] = ()


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """``--reconstruct``, ``--walk``, ``--samples``, ``--filters``, ``--neighbours`` and ``--out``."""
    parser.add_argument("--reconstruct", type=int, metavar="N",
                        help="also draw N pairs and what a CorrNet or autoencoder restores of them")
    parser.add_argument("--samples", type=int, metavar="N",
                        help="also draw N pairs that a variational autoencoder makes of codes drawn at random")
    parser.add_argument("--filters", type=int, metavar="N",
                        help="also draw what the N units of each tower's first layer look for that have most weight")
    parser.add_argument("--walk", type=int, nargs=2, metavar=("I", "J"),
                        help="also draw what lies between the codes of view-2 items I and J, counted from 0")
    parser.add_argument("--neighbours", type=int, metavar="N",
                        help="also draw N queries, their partners, and the five items nearest to each")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="the picture, a .png (default: reconstructions.png, ... in the run folder)")


# -- checks, each as early as it can be made ---------------------------------------------------------------------

def check_out(args: argparse.Namespace) -> None:
    """Whether ``--out`` names one picture, and can be written."""
    if args.out is None:
        return
    asked = sum(option is not None for option in (args.reconstruct, args.walk, args.samples, args.neighbours,
                                                  args.verify))
    if args.filters is not None or asked + len(set(args.within or ())) != 1:
        raise DataError("--out names one picture: give it with either --reconstruct, --walk, --samples, --neighbours, "
                        "--verify or one view's --within")
    if args.out.suffix.lower() != ".png":
        raise DataError(f"--out {args.out}: expected a file that ends in .png, got {args.out.suffix or 'no suffix'}")
    if "\0" in str(args.out):
        raise DataError("--out can't hold a NUL character")
    if args.out.is_dir():
        raise DataError(f"--out {args.out} is a folder; expected the name of a file")
    if not args.out.parent.is_dir():
        raise DataError(f"--out {args.out}: there is no folder {args.out.parent}")


def check_items(args: argparse.Namespace, chosen: PairSplit, counted: PairSplit) -> None:
    """Whether the pairs of ``counted`` and the items of ``chosen`` are there that are to be drawn."""
    n = args.reconstruct
    if n is not None and not 1 <= n <= MOST_PAIRS:
        raise DataError(f"--reconstruct must be from 1 to {MOST_PAIRS}, got {n:,}")
    if n is not None and (found := len(distinct_pairs(counted, n))) < n:
        raise DataError(f"--reconstruct must be from 1 to {found} (the {args.split} pairs that share no item with one "
                        f"drawn before), got {n}")
    if args.neighbours is not None and not 1 <= args.neighbours <= min(MOST_PAIRS, len(counted)):
        raise DataError(f"--neighbours must be from 1 to {min(MOST_PAIRS, len(counted))}, got {args.neighbours:,}")
    for option in ("samples", "filters"):
        wanted = getattr(args, option)
        if wanted is not None and not 1 <= wanted <= MOST_PAIRS:
            raise DataError(f"--{option} must be from 1 to {MOST_PAIRS}, got {wanted:,}")
    last = len(chosen.view2) - 1
    if args.walk is not None and not all(0 <= item <= last for item in args.walk):
        raise DataError(f"--walk: view-2 items of the {args.split} split are 0 to {last:,}, got {args.walk[0]:,} and "
                        f"{args.walk[1]:,}")


def check_restores(args: argparse.Namespace, model: Model) -> None:
    """Whether the model has what the options need."""
    for option, needed in (("reconstruct", ("restorings",)), ("walk", ("code", "decode")), ("samples", ("sample",))):
        if getattr(args, option) is not None and not all(hasattr(model, name) for name in needed):
            what, such = ("has a prior of codes", "VariationalAutoencoder") if option == "samples" else \
                ("restores its views", "CorrNet")
            raise ExperimentError(f"--{option} needs a model that {what}, such as {such}; {type(model).__name__} does "
                                  "not")
    if args.filters is not None and not first_layers(model):
        raise ExperimentError(f"--filters needs towers that begin with a linear layer or a convolution; those of "
                              f"{type(model).__name__} do not")


# -- what is counted and drawn -----------------------------------------------------------------------------------

def draw_pictures(args: argparse.Namespace, model: Model, data: PairedData, chosen: PairSplit, counted: PairSplit,
                  device: torch.device, precision: str = "float32") -> list[Picture]:
    """The pictures that the options ask for."""
    pictures = []
    restoring = cast("CorrNet | VariationalAutoencoder", model)    # check_restores has looked
    if args.filters is not None:
        pictures += draw_filters(model, data, args.filters)
    with evaluating(model):
        if args.samples is not None:
            made = cast(VariationalAutoencoder, model).sample(args.samples, args.seed)
            pictures.append(Picture("samples", pair_sheet(*made, view_styles(data, chosen))))
        if args.reconstruct is not None:
            pictures.append(Picture("reconstructions",
                                    draw_reconstructions(restoring, data, counted, args.reconstruct, device)))
        if args.walk is not None:
            pictures.append(Picture("walk_{}_{}".format(*args.walk),
                                    draw_walk(restoring, data, chosen, args.walk, device)))
    if args.neighbours is not None:
        direction = "V2_to_V1" if args.V2_to_V1 else "V1_to_V2"
        pictures.append(draw_neighbours(model, data, counted, args.neighbours, direction, device, precision))
    return pictures


def distinct_pairs(split: PairSplit, n: int) -> Tensor:
    """Rows (int64) of the first ``n`` pairs that share no item with one taken before; fewer, if there are no more."""
    taken1: set[int] = set()
    taken2: set[int] = set()
    rows: list[int] = []
    for row, (one, two) in enumerate(split.pair_table().tolist()):
        if len(rows) == n:
            break
        if one not in taken1 and two not in taken2:
            taken1.add(one)
            taken2.add(two)
            rows.append(row)
    return torch.tensor(rows)


def draw_reconstructions(model: RestoringModel, data: PairedData, split: PairSplit, n: int, device: torch.device
                         ) -> Figure:
    """The first ``n`` pairs of distinct items, and what is restored of them."""
    x, y, _ = next(pair_batches(split.select(distinct_pairs(split, n)), n, device=device))
    restored = model.restorings(x, y)
    columns: tuple[list[Tensor], list[Tensor]] = ([x], [y])
    sources: tuple[list[str], list[str]] = ([], [])
    for name, values in restored.items():
        view, _, source = name.partition("_from_")
        columns[int(view[-1]) - 1].append(values)
        sources[int(view[-1]) - 1].append("both" if source == "both" else f"view {source[-1]} alone")
    return reconstruction_sheet(*columns, view_styles(data, split), sources)


def draw_walk(model: CorrNet | VariationalAutoencoder, data: PairedData, split: PairSplit, ends: Sequence[int],
              device: torch.device) -> Figure:
    """What is restored from codes on the straight way between those of two view-2 items; where the views have codes of
    their own, view 1 goes from one item's partner to the other's."""
    rows = torch.tensor(ends)
    y = items_of(split.view2, rows).to(device)
    if getattr(model, "needs_no_pairs", False):
        first, last = model.code(items_of(split.view1, _partners(split, ends)).to(device), y)
    else:
        first, last = model.code(y=y)
    steps = torch.arange(WALK_POINTS, device=device) / (WALK_POINTS - 1)
    codes = (1 - steps)[:, None] * first + steps[:, None] * last
    return walk_strip(*model.decode(codes), steps.tolist(), view_styles(data, split))


def _partners(split: PairSplit, items: Sequence[int]) -> Tensor:
    """Of each view-2 item the first view-1 item that it is paired with."""
    pairs, found = split.pair_table(), []
    for item in items:
        rows = pairs[pairs[:, 1] == item, 0]
        if not len(rows):
            raise DataError(f"--walk: view-2 item {item} of the {split.name} split has no partner in view 1, and this "
                            "model's walk through view 1 goes between partners")
        found.append(rows[0])
    return torch.stack(found)


def first_layers(model: nn.Module) -> dict[int, nn.Linear | nn.Conv2d]:
    """By view the first layer of its tower or encoder that has weights, where it is a linear layer or a convolution."""
    found: dict[int, nn.Linear | nn.Conv2d] = {}
    model = getattr(model, "base", model)  # of a Verifier
    for view in (1, 2):
        tower = getattr(model, f"tower{view}", getattr(model, f"encoder{view}", None))
        layer = next((one for one in (tower.modules() if isinstance(tower, nn.Module) else ())
                      if any(True for _ in one.parameters(recurse=False))), None)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            found[view] = layer
    return found


def draw_filters(model: nn.Module, data: PairedData, n: int) -> list[Picture]:
    """Of each view's first layer the ``n`` units whose weights are longest: of a linear layer as the view's items are
    drawn, of a convolution the mean over its input's channels."""
    pictures = []
    for view, layer in first_layers(model).items():
        weights = layer.weight.detach().float().cpu()
        weights = weights[weights.flatten(1).norm(dim=1).argsort(descending=True)[:n]]
        shape, flat = ((data.view1_shape, data.picture1), (data.view2_shape, data.picture2))[view - 1]
        if isinstance(layer, nn.Conv2d):
            weights, flat = weights.mean(dim=1), None
        elif weights.shape[1] == math.prod(shape):
            weights = weights.unflatten(1, shape)
        else:  # something comes before the layer
            flat = None
        pictures.append(Picture(f"filters{view}", filter_sheet(weights, flat)))
    return pictures


def draw_neighbours(model: Model, data: PairedData, split: PairSplit, n: int, direction: str, device: torch.device,
                    precision: str = "float32") -> Picture:
    """Of ``n`` queries, evenly spread over the pairs, the partner and the nearest items of the other view."""
    rows = spread_rows(len(split), n)
    one, other = (0, 1) if direction == "V1_to_V2" else (1, 0)
    embedded = embed(model, split, device=device, precision=precision)
    pairs = split.pair_table()
    queries, partners = pairs[rows, one], pairs[rows, other]
    scores = normalize(embedded[one][queries]) @ normalize(embedded[other]).mT
    near = scores.topk(min(NEIGHBOURS, scores.shape[1])).indices.cpu()
    ranks = retrieval_ranks(*embedded, split.pairs)
    asked, rank = (ranks.queries1, ranks.V1_to_V2) if one == 0 else (ranks.queries2, ranks.V2_to_V1)
    styles = shown_styles(data, split)
    found = torch.stack([torch.isin(items, pairs[pairs[:, one] == query, other])
                         for query, items in zip(queries, near, strict=True)])
    sheet = neighbour_sheet(shown_items(data, split, one, queries), shown_items(data, split, other, partners),
                            [shown_items(data, split, other, items) for items in near], found,
                            rank[torch.searchsorted(asked, queries)].tolist(), (styles[one], styles[other]))
    names = [] if split.ids is None else [split.ids[item] for item in pairs[rows, 0].tolist()]
    return Picture(f"neighbours_{direction}", sheet,
                   [f"  row {row}: {name}" for row, name in enumerate(names, start=1)])


def draw_roc(judged: Mapping[str, Judged]) -> Picture:
    """True accepts against false ones, for others at random and for the nearest, by each way of judging."""
    curves = {f"{kind} others" + (f", {how}" if len(judged) > 1 else ""): roc(one.matching, getattr(one, kind))
              for how, one in judged.items() for kind in ("random", "hard") if len(getattr(one, kind))}
    return Picture("roc", plot_roc({name: (curve.false_accepts, curve.true_accepts) for name, curve in curves.items()}))


def items_of(view: View, rows: Tensor) -> Tensor:
    """The items of a view in memory or on disk, in the order of ``rows``."""
    return view.gather(rows) if isinstance(view, StreamedView) else view[rows]


def shown_items(data: PairedData, split: PairSplit, side: int, rows: Tensor) -> Items:
    """What people see of the items in ``rows`` of view 1 (``side`` 0) or 2 (1): thumbnails, or captions in place of
    values that are no picture, or the values."""
    thumbnails, captions = (split.thumbnails1, split.thumbnails2)[side], (split.caption1, split.caption2)[side]
    if thumbnails is not None:
        return items_of(thumbnails, rows)
    view = (split.view1, split.view2)[side]
    if captions is not None and (data.picture1, data.picture2)[side] is None and len(view.shape) == 2:
        return [captions[row] for row in rows.tolist()]
    return items_of(view, rows)


def shown_styles(data: PairedData, split: PairSplit) -> list[ViewStyle]:
    """How :func:`shown_items` are drawn; thumbnails go from 0 to 1."""
    return [style if thumbnails is None else ViewStyle(0.0, 1.0)
            for style, thumbnails in zip(view_styles(data, split), (split.thumbnails1, split.thumbnails2), strict=True)]


def view_styles(data: PairedData, split: PairSplit) -> list[ViewStyle]:
    """A view's scale goes from the least to the greatest value of its items in the split."""
    styles = []
    for view, picture, rising in ((1, data.picture1, data.rising1), (2, data.picture2, data.rising2)):
        bounds = [(items.min().item(), items.max().item()) for items in view_batches(split, view, EMBED_BATCH)]
        styles.append(ViewStyle(min(low for low, _ in bounds), max(high for _, high in bounds), picture,
                                rising))
    return styles


# -- what the command says and writes ----------------------------------------------------------------------------

def write_pictures(args: argparse.Namespace, run: RunFolder, pictures: Sequence[Picture]) -> None:
    """Each picture whole or not at all, and a line about it; under ``--json`` stdout is not for that line."""
    for name, figure, lines in pictures:
        path = args.out or run.file(f"{name_of_part(args, name)}.png")
        write_png(figure, path)
        print(f"wrote {path}", *lines, sep="\n", file=sys.stderr if args.json else sys.stdout)
