"""One table over runs: mean and spread over seeds, and which rows differ by a paired bootstrap over queries and seeds.

  python run_compare.py runs/digits_*
      all of them, mean ± standard deviation; differences from the best marked
  python run_compare.py runs/a runs/b runs/c --baseline a --metric r10
      all against one row, by hit rate at 10
  python run_compare.py runs/digits_*-s? --out table.tex --figure curves.pdf
      for a paper
  python run_compare.py runs/a runs/b --data mine.h5 --split valid --format json

Runs of one experiment that differ in nothing but seed and tag make one row. All must have been trained on the same
data.
"""
from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xmodal.atomic import replacing
from xmodal.checkpoint import RunFolder
from xmodal.cli.common import command_parser, pick_device, run_command, seed_number
from xmodal.cli.plot_log import SUFFIXES as FIGURE_SUFFIXES
from xmodal.cli.rows import Row, name_of, open_runs, rows_of
from xmodal.data import PairedData, PairSplit
from xmodal.errors import DataError, did_you_mean
from xmodal.evaluator import embed, embedded_moments
from xmodal.metrics import DIRECTIONS, PRIMARY, Ranks, canonical_correlation, rank_metrics, retrieval_ranks
from xmodal.metrics import sum_correlation as sum_correlation_of
from xmodal.metrics.comparison import RESAMPLES, compare_rows, holm
from xmodal.report.comparison import FORMATS, METRICS, SUFFIXES
from xmodal.report.row_curves import plot_rows
from xmodal.runs import load_run


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: compare(args), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folders, such as runs/digits_*")
    parser.add_argument("--data", metavar="DATA", help="where the data of the runs lie now (default: where they lay)")
    parser.add_argument("--split", default="test", metavar="NAME", help="test (default), valid, train or a further one")
    parser.add_argument("--n_test", type=int, metavar="N", help="compare on the first N pairs only")
    parser.add_argument("--direction", choices=DIRECTIONS, help="show and test one direction only (default: both)")
    parser.add_argument("--metric", default=PRIMARY.key, metavar="NAME",
                        help=f"what the test is about: {', '.join(METRICS)} (default: {PRIMARY.key})")
    parser.add_argument("--baseline", metavar="NAME", help="compare all rows with this one: a row or one of its runs "
                        "(default: all pairs, differences from the best row marked)")
    parser.add_argument("--level", type=float, default=0.95, help="of intervals and of the test (default: 0.95)")
    parser.add_argument("--seed", type=seed_number, default=23, help="of the bootstrap (default: 23)")
    parser.add_argument("--format", choices=tuple(FORMATS), help="what is printed (default: text)")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help=f"also write a file, as its suffix says: {', '.join(SUFFIXES)}")
    parser.add_argument("--figure", type=Path, metavar="FILE",
                        help=f"draw the training curves of the rows: {', '.join(FIGURE_SUFFIXES)}")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")
    return parser


def compare(args: argparse.Namespace) -> int:
    """One comparison, from options to table; returns the exit code."""
    _check_options(args)
    rows = rows_of(open_runs(args.runs))
    baseline = None if args.baseline is None else name_of(rows, args.baseline)
    device = pick_device(args.device)
    logs = {row.name: [run.log() for run in row.runs] for row in rows}
    data = load_run(rows[0].runs[0].path).data(args.data)
    chosen = data.split(args.split)
    if args.n_test is not None:
        if not 1 <= args.n_test <= len(chosen):
            raise DataError(f"--n_test must be from 1 to {len(chosen):,} (the {args.split} pairs), got {args.n_test:,}")
        chosen = chosen.take(args.n_test)
    measured = [[_measure(run, log, data, chosen, device) for run, log in zip(row.runs, logs[row.name], strict=True)]
                for row in rows]
    comparison = _comparison(args, rows, measured, data, chosen, baseline)
    print(FORMATS[args.format or "text"](comparison))
    written = []
    if args.out is not None:
        with replacing(args.out) as path:
            path.write_text(FORMATS[SUFFIXES[args.out.suffix.lower()]](comparison) + "\n", encoding="utf-8")
        written.append(args.out)
    if args.figure is not None:
        figure = plot_rows(logs, f"{PRIMARY.key}_va")
        with replacing(args.figure) as path:
            figure.savefig(path, format=args.figure.suffix[1:].lower(), dpi=150)
        written.append(args.figure)
    if args.format in (None, "text"):  # anything else is for a program, and nothing but that
        print(*(f"wrote {path}" for path in written), sep="\n", end="\n" if written else "")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    for name, known in (("out", tuple(SUFFIXES)), ("figure", FIGURE_SUFFIXES)):
        path = getattr(args, name)
        if path is None:
            continue
        if "\0" in str(path):
            raise DataError(f"--{name} can't hold a NUL character")
        if path.suffix.lower() not in known:
            raise DataError(f"--{name} {path}: expected a file that ends in {', '.join(known)}, "
                            f"got {path.suffix or 'no suffix'}")
        if not path.parent.is_dir():
            raise DataError(f"--{name} {path}: there is no folder {path.parent}")
    if args.metric not in METRICS:
        raise DataError(f"--metric {args.metric}: {did_you_mean(args.metric, METRICS)}")
    if not 0.5 <= args.level < 1:
        raise DataError(f"--level must be from 0.5 to less than 1, such as 0.95; got {args.level:g}")


# -- what is known of a run --------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """A run, evaluated: ranks of its queries, metrics by direction, and what has no direction (None if unknown)."""

    ranks: Ranks
    by_direction: dict[str, dict[str, float]]
    other: dict[str, float | None]
    dim: int


def _measure(run: RunFolder, log: list[dict[str, Any]], data: PairedData, chosen: PairSplit, device: torch.device
             ) -> _Measured:
    opened = load_run(run.path, device=device)
    z1, z2 = embed(opened.model, chosen, device=device, precision=opened.precision)
    ranks = retrieval_ranks(z1, z2, chosen.pairs)
    fit = embedded_moments(opened.model, data.train, device=device, precision=opened.precision)
    kept = [line for line in log if str(line.get("epoch")) == opened.header.get("epoch")]
    seconds = [_number(line.get("seconds")) for line in log]
    return _Measured(ranks, {direction: rank_metrics(ranks, direction) for direction in DIRECTIONS}, {
        "sum_correlation": sum_correlation_of(z1, z2, chosen.pairs),
        "canonical_correlation": canonical_correlation(z1, z2, fit, chosen.pairs),
        "valid_mrr": _number(kept[-1].get(f"{PRIMARY.key}_va")) if kept else None,
        "epochs": len(log) or None,
        "seconds": sum(second or 0.0 for second in seconds) if any(second is not None for second in seconds) else None,
    }, z1.shape[1])


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


# -- what is known of the rows -----------------------------------------------------------------------------------------


def _comparison(args: argparse.Namespace, rows: Sequence[Row], measured: Sequence[Sequence[_Measured]],
                data: PairedData, chosen: PairSplit, baseline: str | None) -> dict[str, Any]:
    """All that tables and JSON are made of; see :mod:`xmodal.report.comparison`."""
    directions = DIRECTIONS if args.direction is None else (args.direction,)
    described = [_row(row, runs) for row, runs in zip(rows, measured, strict=True)]
    tests: list[dict[str, Any]] = []
    names = [row.name for row in rows]
    pairs = list(_pairs(names, baseline))
    for number, direction in enumerate(directions):
        ranks = [[getattr(run.ranks, direction) for run in runs] for runs in measured]
        found = compare_rows(ranks, pairs, args.metric, level=args.level, seed=args.seed + number)
        for row, interval in zip(described, found.rows, strict=True):
            row["interval"][direction] = [interval.low, interval.high]
        tests += [{"direction": direction, "row": names[i], "other": names[j], "difference": test.value,
                   "low": test.low, "high": test.high, "p": test.p}
                  for (i, j), test in zip(pairs, found.differences, strict=True)]
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test |= {"p_holm": corrected, "significant": corrected <= 1 - args.level}
    return {"data": {"name": data.name, "title": data.title, "fingerprint": data.fingerprint,
                     "synthetic": data.synthetic, "split": args.split, "n_pairs": len(chosen)},
            "directions": list(directions), "metric": args.metric, "level": args.level, "baseline": baseline,
            "correction": "Holm", "resamples": RESAMPLES, "seed": args.seed, "rows": described,
            "reference": {direction: baseline or _best(described, direction, args.metric) for direction in directions},
            "comparisons": tests, "notes": _notes(rows, measured, len(tests), args.level)}


def _pairs(names: Sequence[str], baseline: str | None) -> Iterator[tuple[int, int]]:
    """Which rows are compared: each with the baseline, or all with all. To correct over comparisons with the best row
    alone would not do, since looking for the best is looking at all."""
    if baseline is None:
        yield from itertools.combinations(range(len(names)), 2)
    else:
        yield from ((i, names.index(baseline)) for i, name in enumerate(names) if name != baseline)


def _best(rows: Sequence[Mapping[str, Any]], direction: str, metric: str) -> str:
    best = (max if METRICS[metric] else min)(rows, key=lambda row: row[direction][metric]["mean"])
    return str(best["name"])


def _row(row: Row, runs: Sequence[_Measured]) -> dict[str, Any]:
    by_direction = {direction: {key: _spread([run.by_direction[direction][key] for run in runs]) for key in METRICS}
                    for direction in DIRECTIONS}
    return {"name": row.name, "experiment": row.experiment, "runs": [str(run.path) for run in row.runs],
            "seeds": row.seeds, **by_direction, "interval": {}, "dim": runs[0].dim,
            **{key: _spread([run.other[key] for run in runs]) for key in runs[0].other}}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of what is known of the values."""
    known = [float(value) for value in values if value is not None]
    return {"mean": statistics.fmean(known) if known else None,
            "std": statistics.stdev(known) if len(known) > 1 else None, "values": list(values)}


def _notes(rows: Sequence[Row], measured: Sequence[Sequence[_Measured]], n_tests: int, level: float) -> list[str]:
    notes = []
    single = [row.name for row in rows if len(row.runs) == 1]
    if single and n_tests:
        who = "Rows of one run each" if len(single) == len(rows) else f"One run only: {', '.join(single)}"
        notes.append(f"{who}; seeds were not resampled there, so that a difference is one of these runs, not of what "
                     "other seeds would give (for a method that no seed changes this is the same).")
    if 2 / (RESAMPLES + 1) * n_tests > 1 - level:
        notes.append(f"{n_tests} comparisons are too many for {RESAMPLES:,} resamples at level {level:g}: none can be "
                     "significant. Compare fewer rows, or all with a --baseline.")
    tied = [row.name for row, runs in zip(rows, measured, strict=True)
            if any(float(flags.float().mean()) > 0.01 for run in runs for flags in (run.ranks.tied1, run.ranks.tied2))]
    if tied:
        notes.append(f"{', '.join(tied)}: more than 1 % of the queries are tied; ties take the average rank.")
    return notes
