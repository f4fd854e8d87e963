"""Trains an experiment and keeps what it leaves in runs/<experiment>[-<tag>]/.

  python run_train.py --model models/digits_ccal_cont.py --data digits
      trains until validation MRR stops rising; the best epoch's weights stay
  python run_train.py --model models/x.py --data mine.npz --tag s1 --seed 1
      the same with another seed, kept beside the first: runs/x-s1
  python run_train.py --model models/x.py --data mine.npz --set batch_size=500
      with another value in the model file's CONFIG
  python run_train.py --model models/x.py --data mine.npz --resume
      goes on where it was interrupted, to the same weights bit for bit
  python run_train.py --model models/digits_cca.py --data digits
      a method in closed form: fitted at once
  python run_train.py --model models/emoji_cca.py --data emoji --views en de
      two other views of the same items
  torchrun --nproc_per_node=4 run_train.py --model models/x.py --data mine.h5
      four processes, one result

Every epoch prints loss, MRR and median rank (1 is best) on training (tr) and
validation (va) pairs, the learning rate, seconds, refit (training pairs that
the head's statistics were computed on) and how many more epochs may pass
without a better one; * marks the best so far.
"""
from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from xmodal.checkpoint import RunFolder, environment
from xmodal.cli.card import write_card
from xmodal.cli.common import (
    add_run_options,
    command_parser,
    describe_data,
    load_run_data,
    pick_device,
    run_command,
    run_folder,
    seed_number,
)
from xmodal.cli.display import display_for
from xmodal.cli.tensorboard import TensorBoardDisplay, require_tensorboard
from xmodal.config import Experiment, TrainConfig, load_experiment, parse_override
from xmodal.data import PairedData, load_data
from xmodal.distributed import rank, size, wait_for_all
from xmodal.errors import CheckpointError, ExperimentError
from xmodal.linear import ClosedForm
from xmodal.runs import experiment_of, require_same_data
from xmodal.trainer import FitResult, check_experiment, fit, judge_of


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: train(args), args.debug, together=True)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_run_options(parser)
    parser.add_argument("--seed", type=seed_number, help="of initial weights and order of batches (default: 23)")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="FIELD=VALUE", dest="overrides",
                        help="replaces a field of the experiment's CONFIG for this run; one or several")
    parser.add_argument("--precision", choices=("float32", "bf16"), help="bf16: towers in bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="compile the towers (torch.compile)")
    parser.add_argument("--resume", action="store_true", help="continue a run that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    parser.add_argument("--show_architecture", action="store_true", help="print model and objective before training")
    parser.add_argument("--no_dump", action="store_true", help="keep nothing: no run folder is made")
    parser.add_argument("--tensorboard", action="store_true", help="also write tensorboard/ in the run folder")
    parser.add_argument("--stream", action="store_true", help="read batches from the file instead of loading it")
    return parser


def train(args: argparse.Namespace) -> int:
    """One training, from options to run folder; returns the exit code."""
    for one, other in (("no_dump", "resume"), ("no_dump", "overwrite"), ("no_dump", "tensorboard"),
                       ("resume", "overwrite")):
        if getattr(args, one) and getattr(args, other):
            raise ExperimentError(f"--{one} and --{other} contradict each other: leave one out")
    if args.tensorboard:
        require_tensorboard()  # before data are read
    run = None if args.no_dump else run_folder(args)
    resume = args.resume and run is not None and run.exists
    overrides = _overrides(args)
    device = pick_device(args.device)
    about = run.config() if run is not None and resume else None
    if run is not None and about is not None:
        seed = _same_seed(run, about, args.seed)
        experiment = _same_experiment(run, about, overrides)
        about = {**about, "config": dataclasses.asdict(experiment.config)}
    else:
        seed = 23 if args.seed is None else args.seed
        experiment = load_experiment(args.model, overrides)
    if run is not None and about is None and experiment.start is not None \
            and Path(experiment.start.run).resolve() == run.path.resolve():
        raise ExperimentError(f"START names {run.path}, where this training would write: --tag NAME trains beside it")
    if run is not None and not resume and not args.overwrite:
        run.refuse_if_taken()  # before data are read
        if args.resume:
            print(f"there is no run in {run.path} yet: starting it")
    if about is not None:
        data = load_run_data(args, about, _stream(args, about))
    else:
        data = load_data(args.data, stream=_stream(args, None), views=args.views or experiment.views)
    print(describe_data(data))
    if run is not None and about is not None:
        require_same_data(run, about, data)
    torch.manual_seed(seed)
    model = experiment.build_model(data.view1_shape, data.view2_shape)
    objective = experiment.build_objective()
    if args.show_architecture:
        print(model, *([] if objective is None else [objective]), sep="\n")
    check_experiment(model, objective, data, experiment.start if about is None else None)
    extent = f"{type(model).__name__} in closed form" if isinstance(model, ClosedForm) else \
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    together = f", {size()} processes" if size() > 1 else ""
    wait_for_all()  # whatever is read of the run folder has been read
    with ExitStack() as training:
        if run is not None and rank() == 0:
            training.enter_context(run.taken())
            if about is None:
                run.create(describe_run(experiment, data, args, seed, str(device)), experiment.source, args.overwrite)
            else:
                run.write_json(RunFolder.CONFIG, about)  # max_epochs may be another
        if rank() > 0:
            torch.manual_seed(seed + rank())  # the model is made; what towers draw from now on should differ
        print(f"Model: {experiment.name}, {extent}, seed {seed}, {device}{together}")
        events = TensorBoardDisplay(display_for(sys.stdout), run) if args.tensorboard and run and rank() == 0 else None
        result = fit(model, objective, data, experiment.config, seed=seed, run=run, resume=resume, device=device,
                     display=events or display_for(sys.stdout), start=experiment.start)
        if events is not None:
            events.finish()
        if run is not None and rank() == 0 and not _interrupted(result):
            write_card(run, model)
        wait_for_all()
    return _conclude(result, run, experiment.config)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What ``--set``, ``--precision`` and ``--compile`` replace; a field given twice is a mistake."""
    given = [parse_override(text) for text in args.overrides]
    if args.precision:
        given.append(("precision", args.precision))
    if args.compile:
        given.append(("compile", True))
    names = [name for name, _ in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ExperimentError(f"{twice[0]} is set more than once")
    return dict(given)


def _stream(args: argparse.Namespace, about: dict[str, Any] | None) -> bool | None:
    """Whether to stream. A resumed run reads as it did before: the order of batches differs between the two ways."""
    if about is not None:
        return bool(about["data"].get("streamed", False))
    return True if args.stream else None


def _same_seed(run: RunFolder, about: dict[str, Any], seed: int | None) -> int:
    if seed is not None and seed != about["seed"]:
        raise CheckpointError(f"{run.path} was started with --seed {about['seed']}; a resumed run keeps it")
    return int(about["seed"])


def _same_experiment(run: RunFolder, about: dict[str, Any], overrides: dict[str, Any]) -> Experiment:
    """The run's own experiment. Only how long to train may change when it is resumed."""
    changed = [name for name, value in overrides.items()
               if name != "max_epochs" and about["config"].get(name, value) != value]
    if changed:
        name = changed[0]
        raise CheckpointError(f"{run.path} was started with {name}={about['config'][name]!r}; a resumed run keeps its "
                              "settings (only max_epochs may change); --tag starts another")
    longer = overrides.get("max_epochs", about["config"].get("max_epochs")) != about["config"].get("max_epochs")
    if longer and about["config"].get("schedule") == "cosine":
        raise CheckpointError(f"{run.path} was started with schedule='cosine' over max_epochs="
                              f"{about['config']['max_epochs']}: another max_epochs would be another schedule; --tag "
                              "starts another run")
    return experiment_of(run, {**about, "config": {**about["config"], **overrides}})


def describe_run(experiment: Experiment, data: PairedData, args: argparse.Namespace, seed: int, device: str
                 ) -> dict[str, Any]:
    """The content of ``config.json``."""
    return {
        "experiment": experiment.name, "tag": args.tag, "seed": seed, "device": device,
        "config": dataclasses.asdict(experiment.config),
        "data": {"spec": args.data, "name": data.name, "title": data.title, "version": data.version,
                 "source": data.source, "licence": data.licence, "synthetic": data.synthetic,
                 "split_seed": data.split_seed, "fingerprint": data.fingerprint,
                 "view1_shape": list(data.view1_shape), "view2_shape": list(data.view2_shape),
                 "views": [data.view1_name, data.view2_name] if data.view1_name and data.view2_name else None,
                 "streamed": data.train.is_streamed, "pairs": {split.name: len(split) for split in data.splits()}},
        **environment(),
    }


def _interrupted(result: FitResult) -> bool:
    """Whether a signal ended a training that would have gone on."""
    return result.finished.startswith("interrupted")


def _conclude(result: FitResult, run: RunFolder | None, config: TrainConfig) -> int:
    if result.signal is not None and _interrupted(result):
        print(f"stopped after epoch {len(result.log)}" + ("; --resume continues" if run is not None else ""))
        return 128 + result.signal
    if result.finished == "closed form":
        print(f"fitted in closed form: validation MRR {result.best_value:.4f}")
    else:
        kept = f"{'best ' if config.keep == 'best' else ''}{judge_of(config).name}"
        print(f"finished ({result.finished}): {kept} {result.best_value:.4f} in epoch {result.best_epoch}")
    if run is not None:
        print(f"kept in {run.path}")
    return 0
