"""Searches the settings of an experiment that do best on its validation pairs; test pairs are left alone (extra tune).

  python run_tune.py --model models/digits_ccal_cont.py --data digits --trials 20
      trains twenty times; the same command with 40 goes on
  python run_tune.py --model models/x.py --data mine.npz --set max_epochs=30
      with another value of CONFIG in all trials
  python run_tune.py --model models/x.py --data mine.npz --search alpha=auto,1
  python run_tune.py --model models/x.py --data mine.npz --search l2=1e-6:1e-2:log
      searches a field that the model file doesn't, or elsewhere

What to search in stands in the model file, a range or a list of values for each field of its CONFIG:

  SEARCH = {"learning_rate": Range(1e-4, 1e-2, log=True),
            "dim_latent": [16, 24, 32], "alpha": ["auto", 1.0]}

Trials are kept in runs/<experiment>[-<tag>]-tune/; the same command goes on until there are as many as --trials says,
however it was interrupted. Trial 1 takes the file's own values, as far as the search holds them. A line says of each:
the best validation MRR, the epochs trained, * for the best so far, p for pruned (ended early, since most others did
better then) or f for failed, and the values tried.
"""
from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console

from xmodal.checkpoint import environment, to_json
from xmodal.cli.common import add_run_options, command_parser, pick_device, run_command, run_folder, seed_number
from xmodal.cli.program import as_typed
from xmodal.cli.trials import TrialDisplay, TrialTable, opening, summary
from xmodal.config import Experiment, load_experiment, parse_override
from xmodal.data import PairedData, load_data
from xmodal.distributed import launched
from xmodal.errors import CheckpointError, ExperimentError
from xmodal.features.packages import required
from xmodal.ranges import as_plain, parse_search
from xmodal.trainer import check_experiment
from xmodal.tuning import Search, Stopped, Trial, TuneFolder, best_of, importance, without_test


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: tune(args), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_run_options(parser)
    parser.add_argument("--trials", type=_count, default=20, metavar="N",
                        help="how many there should be in the end, earlier ones included (default: 20)")
    parser.add_argument("--seed", type=seed_number, help="of the search; its trials are trained with this seed and the "
                        "ones after it (default: 23)")
    parser.add_argument("--seeds", type=_count, metavar="N", help="train each trial with so many seeds and take the "
                        "mean: where validation pairs are few, one training is luck (default: 1)")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="FIELD=VALUE", dest="overrides",
                        help="replaces a field of the experiment's CONFIG in all trials; one or several")
    parser.add_argument("--search", action="extend", nargs="+", default=[], metavar="FIELD=...",
                        help="also searches a field, or searches it elsewhere: FIELD=LOW:HIGH, FIELD=LOW:HIGH:log, or "
                        "FIELD=A,B,C")
    parser.add_argument("--prune_after", type=_epochs, metavar="EPOCHS",
                        help="epochs that every trial has; later it is ended if it does worse than half of the others "
                        "did then (default: 10)")
    parser.add_argument("--overwrite", action="store_true", help="replace the search that is there")
    parser.add_argument("--stream", action="store_true", help="read batches from the file instead of loading it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; what else there is to say goes "
                        "to stderr")
    return parser


def tune(args: argparse.Namespace) -> int:
    """One search, from options to the best settings; returns the exit code."""
    if launched():
        raise ExperimentError("run_tune.py works in one process: start it without torchrun")
    required("optuna")  # before data are read
    fixed, added = _pairs("set", map(parse_override, args.overrides)), _pairs("search", map(parse_search, args.search))
    both = [name for name in added if name in fixed]
    if both:
        raise ExperimentError(f"{both[0]} is in both --set and --search: leave one out")
    experiment = load_experiment(args.model, fixed, search=added)
    if experiment.config.judge != "mrr":
        raise ExperimentError(f"run_tune.py compares trials by validation MRR, and {args.model} has "
                              f"judge={experiment.config.judge!r}: give --set judge=mrr if that means something for it")
    if not experiment.search:
        raise ExperimentError(f"{args.model} has nothing to search: give it SEARCH = {{\"learning_rate\": Range(1e-4, "
                              "1e-2, log=True)}, or add --search learning_rate=1e-4:1e-2:log")
    device, path = pick_device(args.device), run_folder(args).path
    folder = TuneFolder(path.with_name(f"{path.name}-tune"))
    stored = None if args.overwrite else folder.about()
    about = _about(args, experiment, fixed, stored)
    if stored is not None:
        folder.require_same(stored, about, experiment.source)  # before data are read
    streamed = stored["data"].get("streamed") is True if stored is not None else True if args.stream else None
    data = load_data(args.data, stream=streamed, views=args.views or experiment.views)
    about = {**about, "data": _about_data(data)}
    data = without_test(data)
    _check(experiment, data, about["seed"])
    with folder.taken():
        stored = None if args.overwrite else folder.about()  # another process may have begun one
        if stored is not None:
            folder.require_same(stored, about, experiment.source)
        else:
            folder.begin({**about, "spec": args.data, **environment()}, experiment.source)
        trials = folder.trials(experiment.search)
        search = Search(experiment, fixed, data, folder, about["seed"], about["prune_after"], device, about["seeds"])
        return _search(args, search, trials, about)


def _search(args: argparse.Namespace, search: Search, trials: list[Trial], about: Mapping[str, Any]) -> int:
    stream = sys.stderr if args.json else sys.stdout
    table = TrialTable(search.experiment.search)
    print(opening(search, args.trials, trials), *([table.header()] if len(trials) < args.trials else []), sep="\n",
          file=stream, flush=True)
    best = best_of(trials)

    def ended(trial: Trial) -> None:
        nonlocal best
        before, best = best, best_of(trials)
        print(table.line(trial, is_best=best is not before), file=stream, flush=True)

    display = TrialDisplay(Console(file=stream))
    try:
        dataclasses.replace(search, display=display).run(trials, args.trials, ended)
    except Stopped as stopped:
        print(f"stopped after {_trials(trials)}; the same command goes on", file=stream)
        return 128 + stopped.number
    finally:
        display.close()
    if best is None:
        raise ExperimentError(f"none of {_trials(trials)} came to its end; the last one: {trials[-1].reason}")
    result = _result(args, search, trials, best, about)
    search.folder.write_best(result)
    print(to_json(result) if args.json else summary(result, search.folder.path),
          end="" if args.json else "\n")
    return 0


def _trials(trials: Sequence[Trial]) -> str:
    return "1 trial" if len(trials) == 1 else f"{len(trials)} trials"


def _count(text: str) -> int:
    return _at_least(text, 1)


def _epochs(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
    return int(text)


def _pairs(option: str, given: Any) -> dict[str, Any]:
    """Fields and what is given for them; a field given twice is a mistake."""
    found: dict[str, Any] = {}
    for name, value in given:
        if name in found:
            raise ExperimentError(f"--{option} has {name} more than once")
        found[name] = value
    return found


def _about(args: argparse.Namespace, experiment: Experiment, fixed: Mapping[str, Any], stored: Mapping[str, Any] | None
           ) -> dict[str, Any]:
    """What makes trials comparable, but for the data. Options that aren't given are what they were."""
    def option(name: str, default: int) -> int:
        given = getattr(args, name)
        if given is not None or stored is None:
            return default if given is None else int(given)
        value = stored.get(name)
        if not isinstance(value, int) or not (name == "seeds") <= value < 2**63:
            raise CheckpointError(f"{TuneFolder.SEARCH} lacks a {name} that can be: it is damaged; --overwrite starts "
                                  "again")
        return value

    return {"experiment": experiment.name, "search": as_plain(experiment.search), "fixed": dict(fixed),
            "seed": option("seed", 23), "seeds": option("seeds", 1), "prune_after": option("prune_after", 10)}


def _about_data(data: PairedData) -> dict[str, Any]:
    return {"title": data.title, "fingerprint": data.fingerprint, "synthetic": data.synthetic,
            "views": [data.view1_name, data.view2_name] if data.view1_name and data.view2_name else None,
            "streamed": data.train.is_streamed}


def _check(experiment: Experiment, data: PairedData, seed: int) -> None:
    """The experiment with its own values has to be one that can be trained."""
    torch.manual_seed(seed)
    check_experiment(experiment.build_model(data.view1_shape, data.view2_shape), experiment.build_objective(), data,
                     experiment.start)


def _result(args: argparse.Namespace, search: Search, trials: Sequence[Trial], best: Trial, about: Mapping[str, Any]
            ) -> dict[str, Any]:
    """The content of ``best.json``."""
    states = [trial.state for trial in trials]
    return {"experiment": search.experiment.name, "data": about["data"], "metric": "validation MRR",
            "trials": {"total": len(trials), **{state: states.count(state) for state in ("done", "pruned", "failed")}},
            "number": best.number, "value": best.value, "values": best.values, "best_epoch": best.best_epoch,
            "epochs": best.epochs, "seed": best.seed, "params": best.params, "fixed": search.fixed,
            "own_value": trials[0].value if trials[0].params.items() <= dataclasses.asdict(
                search.experiment.config).items() else None,
            "importance": importance(search.experiment.search, trials), "command": _command(args, search, best)}


def _command(args: argparse.Namespace, search: Search, best: Trial) -> list[str]:
    """What trains the best trial again, as it was trained first, in a run folder."""
    command = [*as_typed("python run_train.py").split(), "--model", args.model, "--data", args.data]
    command += ["--views", *args.views] if args.views else []
    command += ["--runs", str(args.runs)] if str(args.runs) != "runs" else []
    command += ["--device", args.device] if args.device != "auto" else []
    command += ["--stream"] if search.data.train.is_streamed else []
    command += ["--seed", str(best.seed), "--tag", f"{args.tag}-tuned" if args.tag else "tuned"]
    for name, value in {**search.fixed, **best.params}.items():
        command += ["--set", f"{name}={value}"]
    return [shlex.quote(part) for part in command]
