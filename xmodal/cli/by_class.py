"""``run_eval.py --identify``, ``--within`` and ``--bits``: what labels let one ask of embeddings."""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xmodal.cli.drawing import Picture
from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError
from xmodal.evaluator import Coder, TwoViewModel, check_identification, check_within, identify, retrieve_within
from xmodal.report import identification_block, plot_precision_recall, within_block, within_name
from xmodal.search.codes import BEST, make_codes


def add_class_options(parser: argparse.ArgumentParser) -> None:
    """``--identify``, ``--within`` and ``--bits``."""
    parser.add_argument("--identify", action="store_true", help="also tell classes by nearest neighbours: majorities, "
                        "one and five items of a class, and unknown classes; needs labels")
    parser.add_argument("--within", type=int, nargs="+", choices=(1, 2), metavar="VIEW", help="also let items of view "
                        "1 or 2 ask for others of their class in the same view, beside PCA, LSA, raw items and binary "
                        "codes, and draw the curves: precision_recall_view1.png; needs labels")
    parser.add_argument("--bits", type=int, nargs="+", metavar="N", help="with --within: also codes of so many bits "
                        "(as many as dimensions in any case)")


def check_class_options(args: argparse.Namespace, split: PairSplit | None = None) -> None:
    """Whether the options fit each other and, where it is given, the split."""
    if args.bits is not None and args.within is None:
        raise DataError("--bits is for retrieval within a view: give --within, too, such as --within 1")
    for bits in args.bits or ():
        if bits < 1:
            raise DataError(f"--bits must be at least 1, got {bits}")
    if split is not None:
        if args.identify:
            check_identification(split)
        for view in args.within or ():
            check_within(split, view)


def measure_classes(args: argparse.Namespace, model: TwoViewModel, data: PairedData, dim: int, device: torch.device,
                    precision: str) -> dict[str, Any]:
    """What the options ask for, under the keys of ``metrics.json``: ``identification``, ``within``."""
    metrics: dict[str, Any] = {}
    if args.identify:
        metrics["identification"] = identify(model, data, args.split, n_test=args.n_test, device=device,
                                             precision=precision, seed=args.seed)
    if args.within is not None:
        coders = make_coders(sorted({dim, *(args.bits or ())}), dim)
        metrics["within"] = {f"view{view}": retrieve_within(model, data, view, args.split, n_test=args.n_test,
                                                            device=device, precision=precision, coders=coders)
                             for view in sorted(set(args.within))}
    return metrics


def make_coders(bits: list[int], dim: int) -> dict[str, tuple[int, Coder]]:
    """Codes of so many bits by name: the signs, where there are as many dimensions, and the best of all ways."""
    def code(known: Tensor, items: Tensor, count: int, how: str) -> Tensor:
        return make_codes(known, count, how).of_items(items)

    return {f"codes: {'signs' if how == 'sign' else how}, {count} bits": (count, partial(code, count=count, how=how))
            for count in bits for how in ("sign", BEST) if how != "sign" or count <= dim}


def class_blocks(metrics: Mapping[str, Any]) -> list[str]:
    """What people read of it."""
    blocks = [identification_block(metrics["identification"])] if "identification" in metrics else []
    return blocks + [within_block(found, int(view[-1])) for view, found in metrics.get("within", {}).items()]


def draw_precision_recall(metrics: Mapping[str, Any]) -> list[Picture]:
    """A picture for each view that was asked for."""
    return [Picture(f"precision_recall_{view}", plot_precision_recall(
        {f"{within_name(name)} (mAP {way['map']:.3f})": way["precisions"] for name, way in found.items()}))
        for view, found in metrics.get("within", {}).items()]
