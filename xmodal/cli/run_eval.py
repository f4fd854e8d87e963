"""Evaluates a run on test pairs: prints a direction, writes both to metrics.json.

  python run_eval.py --model models/x.py --data mine.npz
      view 1 asks, view 2 answers: hit rates in percent, ranks, MRR (1 is best)
  python run_eval.py --run runs/x --V2_to_V1
      the run by its folder, which knows its data; the other direction
  python run_eval.py --model models/x.py --data mine.npz --ci --linear_cca
      with 95 % intervals, and linear CCA of the raw views to compare with
  python run_eval.py --model models/x.py --data mine.npz --html report.html
      a page that shows everything, and loads nothing from anywhere
  python run_eval.py --model models/x.py --data mine.npz --verify --hubness
      do two items match? do some items turn up for every query?
  python run_eval.py --model models/x.py --data mnist_halves --transfer
      with labels: what one view's classifier knows of the other view
  python run_eval.py --model models/x.py --data mnist_halves --identify --within 1
      with labels: classes by neighbours; similar items of view 1
  python run_eval.py --model models/x.py --data audio_score --group piece
      whole pieces, by the votes of their excerpts
  python run_eval.py --model models/x.py --data emoji --neighbours 6
      draws queries and what they found (also --reconstruct, --walk, --samples)
  python run_eval.py --model models/x.py --data mine.h5 --embeddings z.h5
      writes the embeddings of the split
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from xmodal.checkpoint import REFINED, RunFolder, to_json
from xmodal.cli.by_class import (
    add_class_options,
    check_class_options,
    class_blocks,
    draw_precision_recall,
    measure_classes,
)
from xmodal.cli.card import write_card
from xmodal.cli.common import (
    add_run_options,
    command_parser,
    describe_data,
    load_run_data,
    name_of_part,
    parse_run,
    pick_device,
    run_command,
    run_folder,
    seed_number,
)
from xmodal.cli.drawing import (
    add_drawing_options,
    check_items,
    check_out,
    check_restores,
    draw_pictures,
    draw_roc,
    write_pictures,
)
from xmodal.cli.page import check_html, write_page
from xmodal.cli.program import as_typed
from xmodal.data import PairedData
from xmodal.distributed import rank
from xmodal.errors import CheckpointError, DataError
from xmodal.evaluator import (
    MATCHES,
    RestoringModel,
    Verified,
    check_classes,
    check_groups,
    check_transfer,
    embed_split,
    evaluate,
    find_hubs,
    linear_cca_baseline,
    metrics_of,
    restoring_errors,
    retrieve_groups,
    tower_precision,
    transfer,
    verify,
    write_embeddings,
)
from xmodal.linear import ClosedForm
from xmodal.networks import Model
from xmodal.report import (
    baseline_line,
    evaluation_block,
    group_block,
    hub_block,
    restoring_block,
    transfer_block,
    verification_block,
)
from xmodal.runs import load_model


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_run(make_parser(), argv)
    return run_command(lambda: run_eval(args), args.debug, together=True)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_run_options(parser, trained=True)
    parser.add_argument("--V2_to_V1", action="store_true", help="print the other direction: view 2 asks for view 1")
    parser.add_argument("--split", default="test", metavar="NAME",
                        help="test (default), valid, train, or a further test split such as test_timbre")
    parser.add_argument("--n_test", type=int, metavar="N", help="evaluate on the first N pairs only")
    parser.add_argument("--estimate_UV", action="store_true",
                        help=as_typed("use the projection that refine_cca.py estimated"))
    parser.add_argument("--ci", action="store_true", help="add bootstrap 95 %% intervals over queries")
    parser.add_argument("--seed", type=seed_number, default=23,
                        help="of what is drawn at random, such as the bootstrap (default: 23)")
    parser.add_argument("--linear_cca", action="store_true", help="also fit and print linear CCA of the raw views")
    parser.add_argument("--transfer", action="store_true",
                        help="also train linear SVMs on one view and test them on the other; needs labels")
    parser.add_argument("--verify", nargs="?", const="pair", choices=MATCHES, help="also tell matching pairs from "
                        "others, random and hard ones (ROC area, equal error rate, ...), and draw the curves: roc.png "
                        "in the run folder; class: others are of other classes only")
    parser.add_argument("--hubness", action="store_true", help="also tell how strong hubs are, and what CSLS and the "
                        "inverted softmax find, which correct for them")
    parser.add_argument("--group", metavar="WORD", help="also retrieve whole groups, called WORD (such as piece), by "
                        "votes of their items; needs ids that read PIECE@PLACE")
    parser.add_argument("--excerpt", type=int, metavar="N", help="with --group: only N items in each one's middle vote")
    parser.add_argument("--embeddings", metavar="FILE", type=Path,
                        help="also write the split's embeddings to an HDF5 file, block by block")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page that shows all of it: metrics "
                        "with intervals (as --ci), curves, retrieved items, hubs, configuration, data")
    add_class_options(parser)
    add_drawing_options(parser)
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of the report")
    return parser


def run_eval(args: argparse.Namespace) -> int:
    """One evaluation, from options to report; returns the exit code."""
    check_out(args)
    check_html(args)
    _check_excerpt(args)
    check_class_options(args)
    run = run_folder(args)
    device = pick_device(args.device)
    data = load_run_data(args, run.config())  # a missing run is said before data are read
    chosen = data.split(args.split)
    if args.n_test is not None and not 1 <= args.n_test <= len(chosen):
        raise DataError(f"--n_test must be from 1 to {len(chosen):,} (the {args.split} pairs), got {args.n_test:,}")
    counted = chosen if args.n_test is None else chosen.take(args.n_test)
    if args.transfer:
        check_transfer(counted)
    if args.verify is not None:
        check_classes(data.valid, args.verify)
        check_classes(counted, args.verify)
    if args.group is not None:
        check_groups(counted)
    check_class_options(args, counted)
    check_items(args, chosen, counted)
    model, about, header = load_model(run, data, REFINED if args.estimate_UV else RunFolder.WEIGHTS, device)
    check_restores(args, model)
    precision = about["config"].get("precision", "float32")
    intervals = args.ci or args.html is not None
    embedded = embed_split(model, data, args.split, n_test=args.n_test, device=device, precision=precision)
    metrics = metrics_of(embedded, intervals=intervals, seed=args.seed)
    metrics |= {"experiment": about.get("experiment"), "tag": about.get("tag"), "seed": about["seed"],
                "data": data.name, "fingerprint": data.fingerprint, "synthetic": data.synthetic,
                "weights": {"file": REFINED if args.estimate_UV else RunFolder.WEIGHTS, **header}}
    verified = _further(args, model, data, metrics, device, precision, intervals)
    if args.embeddings is not None:
        write_embeddings(model, data, args.split, args.embeddings, device=device, precision=precision)
    with tower_precision(precision, device):
        pictures = draw_pictures(args, model, data, chosen, counted, device, precision)
    if verified is not None:
        pictures.append(draw_roc(verified.judged))
    pictures += draw_precision_recall(metrics)
    metrics_file = f"{name_of_part(args, 'metrics')}.json"
    kept = {**_still_true(run, metrics_file, metrics), **metrics}
    _print_report(args, run, data, kept if args.json else metrics)
    if rank() == 0:
        if args.html is not None:
            write_page(args, run, model, data, embedded, metrics, about, device, precision)
        write_pictures(args, run, pictures)
        run.write_json(metrics_file, kept)  # last: a run that can't be written to can still be read about
        if metrics_file == RunFolder.METRICS:
            write_card(run, model)
    return 0


def _further(args: argparse.Namespace, model: Model | ClosedForm, data: PairedData, metrics: dict[str, Any],
             device: torch.device, precision: str, intervals: bool) -> Verified | None:
    """Adds what else was asked for to ``metrics``; returns what curves are drawn of."""
    if args.linear_cca:
        metrics["linear_cca"] = evaluate(linear_cca_baseline(data, metrics["dim"]), data, args.split,
                                         n_test=args.n_test, intervals=intervals, seed=args.seed)
    if args.transfer:
        metrics["transfer"] = transfer(model, data, args.split, n_test=args.n_test, device=device, precision=precision)
    verified = verify(model, data, args.split, match=args.verify, n_test=args.n_test, device=device,
                      precision=precision, seed=args.seed) if args.verify else None
    if verified is not None:
        metrics["verification"] = verified.report
    if args.hubness:
        metrics["hubness"] = find_hubs(model, data, args.split, n_test=args.n_test, device=device, precision=precision)
    metrics |= measure_classes(args, model, data, metrics["dim"], device, precision)
    if args.group is not None:
        metrics["groups"] = {"word": args.group,
                             **retrieve_groups(model, data, args.split, n_test=args.n_test, device=device,
                                               precision=precision, excerpt=args.excerpt)}
    if args.reconstruct is not None:
        metrics["reconstruction"] = restoring_errors(cast(RestoringModel, model), data, args.split, n_test=args.n_test,
                                                     device=device, precision=precision)
    return verified


def _print_report(args: argparse.Namespace, run: RunFolder, data: PairedData, metrics: Mapping[str, Any]) -> None:
    """The report of one direction and what else was asked for, or ``metrics.json``."""
    if args.json:
        print(to_json(metrics), end="")
        return
    direction = "V2_to_V1" if args.V2_to_V1 else "V1_to_V2"
    title = f"{run.path.resolve().name} on {data.title}, {args.split} pairs, {direction}"
    print(describe_data(data), "", evaluation_block(metrics, direction, title), sep="\n")
    if args.linear_cca:
        print(baseline_line("Linear CCA of the raw views", metrics["linear_cca"], direction))
    if args.transfer:
        print(transfer_block(metrics["transfer"]))
    if args.verify:
        print(verification_block(metrics["verification"]))
    if args.hubness:
        print(hub_block(metrics["hubness"], direction))
    if args.group is not None:
        print(group_block(metrics["groups"]))
    if args.reconstruct is not None:
        print(restoring_block(metrics["reconstruction"]))
    for block in class_blocks(metrics):
        print(block)
    if args.embeddings is not None:
        print(f"embeddings of all {args.split} items in {args.embeddings}")


def _check_excerpt(args: argparse.Namespace) -> None:
    if args.excerpt is not None and args.group is None:
        raise DataError("--excerpt is for votes of groups: give --group, too, such as --group piece")
    if args.excerpt is not None and args.excerpt < 1:
        raise DataError(f"--excerpt must be at least 1, got {args.excerpt}")


def _still_true(run: RunFolder, name: str, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an earlier evaluation of the same weights on the same pairs wrote; nothing where there is none."""
    if not run.file(name).is_file():
        return {}
    try:
        old = run.read_json(name)
    except CheckpointError:  # it is written anew
        return {}
    new = json.loads(to_json(metrics))  # as it reads back
    return old if all(old.get(key) == new[key] for key in ("weights", "fingerprint", "split", "n_pairs")) else {}
