"""``run_eval.py --html``: what the page of an evaluation shows is brought together here."""
from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.atomic import replacing
from xmodal.checkpoint import RunFolder
from xmodal.cli.by_class import class_blocks
from xmodal.cli.card import run_options, training_commands
from xmodal.cli.page_items import EACH, Shelf, item_labels, retrieval_sheet, sample_pairs, shown_hubs
from xmodal.data import PairedData, PairSplit
from xmodal.data.sets import DATA_SETS
from xmodal.errors import DataError
from xmodal.evaluator import EmbeddedSplit
from xmodal.linear import ClosedForm
from xmodal.metrics import DIRECTIONS, Ranks
from xmodal.metrics.chance import chance_recall, match_counts
from xmodal.metrics.correlation import canonical_correlations, dimension_correlations
from xmodal.metrics.plane import neighbour_map, principal_plane
from xmodal.metrics.views import KS
from xmodal.networks import Model
from xmodal.report.curves import MOST_EPOCHS
from xmodal.report.page import PageContent, Scatter, render
from xmodal.report.text import (
    baseline_line,
    group_block,
    hub_block,
    restoring_block,
    transfer_block,
    verification_block,
)

SUFFIXES = (".html", ".htm")
#: Pairs in the scatter plots: of both components, and of t-SNE, which takes longer; and pairs joined by lines.
PLANE_PAIRS, MAP_PAIRS, JOINED = 2000, 500, 120
#: Points of the curve of recall.
CURVE_POINTS = 200


def check_html(args: argparse.Namespace) -> None:
    """Whether ``--html`` names a file that can be written, before data are read."""
    path: Path | None = args.html
    if path is None:
        return
    if "\0" in str(path):
        raise DataError("--html can't hold a NUL character")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"--html {path}: expected a file that ends in {' or '.join(SUFFIXES)}, got "
                        f"{path.suffix or 'no suffix'}")
    if path.is_dir():
        raise DataError(f"--html {path} is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise DataError(f"--html {path}: there is no folder {path.parent}")


def write_page(args: argparse.Namespace, run: RunFolder, model: Model | ClosedForm, data: PairedData,
               embedded: EmbeddedSplit, metrics: Mapping[str, Any], about: Mapping[str, Any], device: torch.device,
               precision: str) -> None:
    """Writes the page to ``args.html``, whole or not at all, and says so."""
    split, z1, z2, ranks, fit = embedded
    pearson = dimension_correlations(z1, z2, split.pairs).numpy()
    canonical = canonical_correlations(z1, z2, fit, split.pairs).numpy()
    shelf = Shelf(data, split)
    name = run.path.resolve().name
    page = PageContent(
        title=f"{name} on {data.title}", subtitle=_subtitle(args, split, metrics), synthetic=data.synthetic,
        metrics=metrics, view_names=view_names(data),
        ranks={direction: getattr(ranks, direction).numpy() for direction in DIRECTIONS},
        chance=chance_curves(split, z1, z2, ranks), pearson=pearson, canonical=canonical, log=read_run_log(run),
        closed_form=isinstance(model, ClosedForm), sheet=retrieval_sheet(shelf, z1, z2, ranks),
        planes=draw_planes(split, z1, z2), hubs=shown_hubs(shelf, z1, z2), config=about["config"],
        data=data_facts(data, about),
        splits=[(one.name, len(one), len(one.view1), len(one.view2)) for one in data.splits()],
        environment=environment_facts(about, device, precision), commands=commands(args, run, about),
        source=run.file(RunFolder.EXPERIMENT).read_text(encoding="utf-8", errors="replace"),
        notes=_notes(split), blocks=further_blocks(args, metrics))
    with replacing(args.html) as beside:
        beside.write_text(render(page), encoding="utf-8")
    print(f"report in {args.html}", file=sys.stderr if args.json else sys.stdout)


# -- numbers -------------------------------------------------------------------------------------------------------

def chance_curves(split: PairSplit, z1: Tensor, z2: Tensor, ranks: Ranks) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each direction, ks from 1 to the size of the gallery, evenly spaced by their logarithms, and what chance
    finds there."""
    curves = {}
    for direction, matches, n in zip(DIRECTIONS, match_counts(split.pairs, ranks, len(z1), len(z2)),
                                     (len(z2), len(z1)), strict=True):
        spaced = np.geomspace(1, n, CURVE_POINTS).round().astype(np.int64)
        ks = np.unique(np.concatenate((spaced, [k for k in KS if k <= n])))
        curves[direction] = ks, chance_recall(matches, n, ks)
    return curves


def draw_planes(split: PairSplit, z1: Tensor, z2: Tensor) -> list[tuple[str, str, Scatter]]:
    """Pictures of both views' embeddings: principal components by view and (with labels) by class, and t-SNE."""
    plane = principal_plane(z1, z2)
    pairs = sample_pairs(split, PLANE_PAIRS)
    labels = item_labels(split)
    classes = None if labels is None else labels[0][pairs[:, 0]].numpy()
    rows = pairs.numpy()    # a tensor of one number would be taken for a number
    components = Scatter(plane.view1[rows[:, 0]], plane.view2[rows[:, 1]], JOINED, shares=plane.shares)
    lines = f"Lines join {min(JOINED, len(pairs)):,} of the pairs."
    drawn = [("Principal components", f"{lines} The percentages are shares of the variance.", components)]
    if classes is not None:
        drawn.append(("Principal components", "The same points.",
                      dataclasses.replace(components, lines=0, classes=classes)))
    few = pairs[:MAP_PAIRS]
    mapped = map_pairs(z1, z2, few, None if classes is None else classes[:MAP_PAIRS])
    if mapped is not None:
        drawn.append(("t-SNE", f"{len(few):,} pairs; only what is near means something here, not how far the rest is.",
                      mapped))
    return drawn


def map_pairs(z1: Tensor, z2: Tensor, pairs: Tensor, classes: np.ndarray | None) -> Scatter | None:
    """t-SNE of the items of ``pairs``, each item once; None where there is nothing to map."""
    items1, at1 = pairs[:, 0].unique(return_inverse=True)
    items2, at2 = pairs[:, 1].unique(return_inverse=True)
    places = neighbour_map(torch.cat([z1.cpu()[items1], z2.cpu()[items2]]))
    if places is None:
        return None
    return Scatter(places[at1.numpy()], places[at2.numpy() + len(items1)], JOINED, classes)


def read_run_log(run: RunFolder) -> list[dict[str, Any]] | None:
    """The lines of ``log.jsonl``; None where it is missing or damaged, which costs the page its curves only."""
    try:
        log = run.log()
    except (DataError, OSError):
        return None
    return log if log and all(0 <= line.get("epoch", 0) < MOST_EPOCHS for line in log) else None


# -- words ---------------------------------------------------------------------------------------------------------

def _subtitle(args: argparse.Namespace, split: PairSplit, metrics: Mapping[str, Any]) -> str:
    first = "" if args.n_test is None else "the first "
    weights = ", statistics estimated by xmodal refine" if args.estimate_UV else ""
    return (f"{first}{len(split):,} {args.split} pairs of {len(split.view1):,} items in view 1 and "
            f"{len(split.view2):,} in view 2, {metrics['dim']} dimensions{weights}")


def view_names(data: PairedData) -> tuple[str, str]:
    one, two = (f"view {view}" + (f" ({name})" if name else "")
                for view, name in ((1, data.view1_name), (2, data.view2_name)))
    return one, two


def _notes(split: PairSplit) -> dict[str, str]:
    shown = min(PLANE_PAIRS, len(split))
    sampled = f"All {len(split):,} pairs." if shown == len(split) else \
        f"A sample of {shown:,} of {len(split):,} pairs, drawn at random; the components are those of all items."
    return {"sheet": f"At most {EACH} of each kind, ordered by rank and, among equals, by the cosine of the match. "
            "Framed and ticked: a match.",
            "embedding": f"Unit vectors of both views in one plane. {sampled}"}


def further_blocks(args: argparse.Namespace, metrics: Mapping[str, Any]) -> list[str]:
    """What else was asked for, as the command prints it."""
    blocks = []
    if "linear_cca" in metrics:
        blocks += [baseline_line(f"Linear CCA of the raw views, {direction}", metrics["linear_cca"], direction)
                   for direction in DIRECTIONS]
    if "hubness" in metrics:
        blocks += [f"{direction}\n{hub_block(metrics['hubness'], direction)}" for direction in DIRECTIONS]
    if "transfer" in metrics:
        blocks.append(transfer_block(metrics["transfer"]))
    if "groups" in metrics:
        blocks.append(group_block(metrics["groups"]))
    if "reconstruction" in metrics:
        blocks.append(restoring_block(metrics["reconstruction"]))
    if "verification" in metrics:
        blocks.append(verification_block(metrics["verification"]))
    return blocks + class_blocks(metrics)


def data_facts(data: PairedData, about: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What is known of the data, in the order in which the page lists it."""
    one, two = view_names(data)
    facts = [("name", data.title), ("version", data.version), ("source", data.source), ("licence", data.licence),
             ("fingerprint", data.fingerprint), (one, _shape(data.view1_shape)), (two, _shape(data.view2_shape)),
             ("synthetic", "yes: the values are made up" if data.synthetic else "no"),
             ("split seed", "the source fixes the split" if data.split_seed is None else data.split_seed),
             ("note", data.note), ("given as", about["data"].get("spec", ""))]
    return [(name, value) for name, value in facts if value != ""]


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) + " values"


def environment_facts(about: Mapping[str, Any], device: torch.device, precision: str) -> list[tuple[str, object]]:
    """Where and with what the run was trained, and evaluated."""
    versions = about.get("versions") or {}
    return [("trained on", about.get("device", "unknown")),
            *((f"trained with {name}", version) for name, version in versions.items()),
            ("git commit", about.get("git_commit") or "unknown"), ("evaluated on", str(device)),
            ("evaluated with torch", torch.__version__), ("precision of the towers", precision)]


def commands(args: argparse.Namespace, run: RunFolder, about: Mapping[str, Any]) -> list[str]:
    """What to type for the same training and evaluation, what differs from the model file's settings included."""
    spec = str(about["data"].get("spec") or args.data)
    known = DATA_SETS.get(spec)
    chosen = [*([] if args.split == "test" else ["--split", args.split]),
              *([] if args.n_test is None else ["--n_test", str(args.n_test)]),
              *(["--estimate_UV"] if args.estimate_UV else [])]
    what, where = run_options(about, run.path.parent)
    evaluation = ["xmodal", "eval", *what, *where, *chosen, "--html", str(args.html)]
    return [*([shlex.join(["xmodal", "prepare", spec])] if known is not None and known.prepare else []),
            *training_commands(run, about, run.path.parent), shlex.join(evaluation)]
