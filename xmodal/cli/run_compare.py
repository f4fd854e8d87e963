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
from collections.abc import Sequence
from pathlib import Path

from xmodal.atomic import replacing
from xmodal.checkpoint import RunFolder
from xmodal.cli.common import command_parser, pick_device, run_command, seed_number
from xmodal.cli.plot_log import SUFFIXES as FIGURE_SUFFIXES
from xmodal.comparison import compare_runs
from xmodal.errors import DataError
from xmodal.metrics import DIRECTIONS, PRIMARY
from xmodal.metrics.comparison import METRICS
from xmodal.report.comparison import FORMATS, SUFFIXES
from xmodal.report.row_curves import plot_rows


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
    _check_files(args)
    comparison = compare_runs(args.runs, args.data, args.split, n_test=args.n_test,
                              directions=DIRECTIONS if args.direction is None else (args.direction,),
                              metric=args.metric, baseline=args.baseline, level=args.level, seed=args.seed,
                              device=pick_device(args.device))
    print(FORMATS[args.format or "text"](comparison))
    written = []
    if args.out is not None:
        with replacing(args.out) as path:
            path.write_text(FORMATS[SUFFIXES[args.out.suffix.lower()]](comparison) + "\n", encoding="utf-8")
        written.append(args.out)
    if args.figure is not None:
        figure = plot_rows({row["name"]: [RunFolder(Path(run)).log() for run in row["runs"]]
                            for row in comparison["rows"]}, f"{PRIMARY.key}_va")
        with replacing(args.figure) as path:
            figure.savefig(path, format=args.figure.suffix[1:].lower(), dpi=150)
        written.append(args.figure)
    if args.format in (None, "text"):  # anything else is for a program, and nothing but that
        print(*(f"wrote {path}" for path in written), sep="\n", end="\n" if written else "")
    return 0


def _check_files(args: argparse.Namespace) -> None:
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
