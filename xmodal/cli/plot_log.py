"""Draws training curves of any number of runs, best validation values marked.

  python plot_log.py runs/*/log.jsonl --key "mrr_%s" --high_is_better
      thick: training pairs, thin: validation pairs
  python plot_log.py runs/digits_ccal_cont runs/digits_ccal_tno --out curves.svg
      two run folders, to a file
  python plot_log.py runs/* --watch --out curves.png
      again with every new epoch, until Ctrl-C
"""
from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xmodal.atomic import replacing
from xmodal.checkpoint import RunFolder, read_log
from xmodal.cli.common import command_parser, run_command
from xmodal.errors import DataError
from xmodal.metrics import PRIMARY
from xmodal.report import MOST_EPOCHS, plot_curves

DEFAULT_OUT = Path("model_evolution.png")
SUFFIXES = (".png", ".svg", ".pdf")

Pause = Callable[[float], None]


def main(argv: Sequence[str] | None = None, *, pause: Pause = time.sleep, max_polls: int | None = None) -> int:
    """The command; ``pause`` and ``max_polls`` let a test end what ``--watch`` would do for ever."""
    args = make_parser().parse_args(argv)
    return run_command(lambda: plot_log(args, pause, max_polls), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="log.jsonl files or run folders")
    parser.add_argument("--key", default=f"{PRIMARY.key}_%s", metavar="KEY",
                        help="what to draw; %%s stands for both tr and va (default: %(default)s)")
    parser.add_argument("--high_is_better", action="store_true", default=None,
                        help=f"mark the highest value as the best (known for {PRIMARY.key}; others: the lowest)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a .png, .svg or .pdf in place of a window")
    parser.add_argument("--watch", nargs="?", type=float, const=5.0, metavar="SECONDS",
                        help="look for new epochs every so many seconds (default: 5) until Ctrl-C")
    parser.add_argument("--max_epoch", type=int, metavar="N", help="leave later epochs out")
    parser.add_argument("--ymin", type=float, help="lower end of the y axis")
    parser.add_argument("--ymax", type=float, help="upper end of the y axis")
    return parser


def plot_log(args: argparse.Namespace, pause: Pause, max_polls: int | None) -> int:
    """One drawing, or one after the other; returns the exit code."""
    _check_options(args)
    runs = name_runs(args.logs)
    for path in runs.values():
        if not path.is_file() and (args.watch is None or not path.parent.is_dir()):  # --watch waits for a first epoch
            raise DataError(f"there is no log {path}: expected a log.jsonl or the folder of a run")
    window = args.out is None and window_available()
    if not window and args.out is None:
        args.out = DEFAULT_OUT
    if window:
        return _show(args, runs, max_polls)
    if args.watch is None:
        _write(args, runs)
        print(f"wrote {args.out}")
        return 0
    try:
        watch(runs, lambda: _write(args, runs), lambda: pause(args.watch), max_polls)
    except KeyboardInterrupt:
        print(f"\nthe last drawing is in {args.out}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    if args.out is not None and args.out.suffix.lower() not in SUFFIXES:
        raise DataError(f"--out {args.out}: expected a file that ends in {', '.join(SUFFIXES)}, "
                        f"got {args.out.suffix or 'no suffix'}")
    if args.out is not None and "\0" in str(args.out):
        raise DataError("--out can't hold a NUL character")
    if args.out is not None and not args.out.parent.is_dir():
        raise DataError(f"--out {args.out}: there is no folder {args.out.parent}")
    if args.watch is not None and not 0 < args.watch < float("inf"):
        raise DataError(f"--watch: expected a positive number of seconds, got {args.watch:g}")
    for name in ("ymin", "ymax"):
        if not math.isfinite(getattr(args, name) or 0.0):
            raise DataError(f"--{name}: expected a number, got {getattr(args, name)}")
    if args.max_epoch is not None and not 1 <= args.max_epoch < MOST_EPOCHS:
        raise DataError(f"--max_epoch: expected at least 1 and less than {MOST_EPOCHS:,}, got {args.max_epoch}")


def name_runs(arguments: Sequence[str | Path]) -> dict[str, Path]:
    """Log files by the name of their run: its folder's, with as many parents as it takes to tell runs apart."""
    paths = [Path(argument) for argument in arguments]
    paths = list(dict.fromkeys(path / RunFolder.LOG if path.is_dir() else path for path in paths))
    # log.jsonl says nothing, its folder does; any other name (a copy kept aside) is itself the name.
    parts = [_resolved(path).parent.parts if path.name == RunFolder.LOG else _resolved(path).with_suffix("").parts
             for path in paths]
    deepest = max(len(part) for part in parts)
    for depth in range(1, deepest + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(paths):
            return dict(zip(names, paths, strict=True))
    return {str(path): path for path in paths}


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a NUL character: no such file, as is said later
        return path.absolute()


def draw(args: argparse.Namespace, runs: dict[str, Path], figure: Any = None) -> Any:
    """Reads the logs and draws them; a matplotlib figure."""
    return plot_curves({name: read_log(path) for name, path in runs.items()}, args.key, args.high_is_better,
                       args.max_epoch, args.ymin, args.ymax, figure)


def _write(args: argparse.Namespace, runs: dict[str, Path]) -> None:
    """Draws into ``--out``, whole or not at all."""
    figure = draw(args, runs)
    with replacing(args.out) as path:
        figure.savefig(path, format=args.out.suffix[1:].lower(), dpi=150)


def watch(runs: dict[str, Path], redraw: Callable[[], None], pause: Callable[[], None],
          max_polls: int | None = None) -> None:
    """Redraws whenever a log has changed; what can't be drawn yet is said once, and waited for."""
    seen, complaint = None, ""
    polls = 0
    while max_polls is None or polls < max_polls:
        polls += 1
        now = [_stamp(path) for path in runs.values()]
        if now != seen:
            seen = now
            try:
                redraw()
                complaint = ""
                print(f"drawn at {time.strftime('%H:%M:%S')}; Ctrl-C ends", flush=True)
            except (DataError, FileNotFoundError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    print(f"waiting: {complaint}", file=sys.stderr, flush=True)
        pause()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def window_available() -> bool:
    """Whether matplotlib can open a window here."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    import matplotlib

    return matplotlib.get_backend().lower() not in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def _show(args: argparse.Namespace, runs: dict[str, Path], max_polls: int | None) -> int:
    """Draws in a window, again whenever a log changes under ``--watch``, until it is closed."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 6), layout="constrained")

    def redraw() -> None:
        draw(args, runs, figure)
        figure.canvas.draw_idle()

    def pause() -> None:
        plt.pause(args.watch)
        if not plt.fignum_exists(figure.number):
            raise KeyboardInterrupt     # a closed window ends watching as Ctrl-C does

    if args.watch is None:
        redraw()
        plt.show()
        return 0
    try:
        watch(runs, redraw, pause, max_polls)
    except KeyboardInterrupt:
        plt.close(figure)
    return 0
