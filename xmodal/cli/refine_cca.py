"""Re-estimates the CCA projection of a run; run_eval.py --estimate_UV uses it.

  python refine_cca.py --model models/x.py --data mine.npz
      on all training pairs
  python refine_cca.py --run runs/x --n_train 5000
      on the first 5,000: how many pairs does the projection need?

A projection that is learned stays as it is: of such a model only the means are estimated.
"""
from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

from xmodal.checkpoint import REFINED, RunFolder
from xmodal.cli.common import (
    add_run_options,
    command_parser,
    load_run_data,
    parse_run,
    pick_device,
    run_command,
    run_folder,
)
from xmodal.data import pair_batches
from xmodal.distributed import rank, size
from xmodal.errors import DataError, ExperimentError
from xmodal.evaluator import EMBED_BATCH, tower_precision
from xmodal.layers import CCALayer, CCAReadout, LearnedProjection
from xmodal.layers.cca import FEW_PAIRS_PER_DIMENSION
from xmodal.linear import ClosedForm
from xmodal.networks import Model
from xmodal.runs import load_model


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_run(make_parser(), argv)
    return run_command(lambda: refine(args), args.debug, together=True)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_run_options(parser, trained=True)
    parser.add_argument("--n_train", type=int, metavar="N", help="how many training pairs to use (default: all)")
    return parser


def refine(args: argparse.Namespace) -> int:
    """Refits a run's head and keeps the result beside its weights; returns the exit code."""
    run = run_folder(args)
    device = pick_device(args.device)
    data = load_run_data(args, run.config())
    train = data.train
    if args.n_train is not None:
        if not 2 <= args.n_train <= len(train):
            raise DataError(f"--n_train must be from 2 to {len(train):,} (the training pairs), got {args.n_train:,}")
        train = train.take(args.n_train)
    model, about, _ = load_model(run, data, RunFolder.WEIGHTS, device)
    if isinstance(model, ClosedForm):
        seen = model.set_params(device=str(device)).fit_split(train, seed=about["seed"]).n_pairs_
    else:
        with tower_precision(about["config"].get("precision", "float32"), device):
            seen = model.refit((b.view1, b.view2) for b in pair_batches(train, EMBED_BATCH, device=device,
                                                                        part=(rank(), size())))
    if seen == 0:
        raise ExperimentError(f"{run.path}: this model keeps no statistics that could be estimated again")
    if rank() == 0:
        run.save_weights(model.state_dict(), REFINED, n_train=seen)
    print(f"{_estimated(model, seen)} on {seen:,} training pairs of {data.title}: {run.file(REFINED)}")
    return 0


def _estimated(model: Model | ClosedForm, seen: int) -> str:
    """What was estimated on ``seen`` pairs; warns, as training does, where these are few for a CCA."""
    if isinstance(model, ClosedForm):
        return f"{type(model).__name__} fitted"
    head = getattr(getattr(model, "base", model), "head", model)  # the base is a Verifier's
    if isinstance(head, LearnedProjection):
        return "means estimated (the projection is learned, and stays)"
    layer = head.cca if isinstance(head, CCAReadout) else head
    if not isinstance(layer, CCALayer):
        return f"statistics of {type(head).__name__} estimated"
    if seen < FEW_PAIRS_PER_DIMENSION * layer.dim:
        warnings.warn(f"CCALayer({layer.dim}): {seen:,} pairs are {seen / layer.dim:.1f} per dimension. CCA fitted on "
                      "so few aligns views by chance; a larger --n_train would help.", stacklevel=2)
    return "projection estimated"
