"""What every command shares: how errors leave the program, options they have in common, and the way to a run."""
from __future__ import annotations

import argparse
import difflib
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from xmodal.checkpoint import RunFolder
from xmodal.cli.program import as_typed, called
from xmodal.data import PairedData, load_data
from xmodal.data.files import VIEWS
from xmodal.distributed import first_to_say, joined, launched, local_rank, rank, size
from xmodal.errors import CheckpointError, ExperimentError, XmodalError
from xmodal.runs import spec_of_data

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141  # the reader of our output (head, less) left, as for any command that SIGPIPE ends


class Parser(argparse.ArgumentParser):
    """Mistakes in one line, close options or verbs offered."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        for text in sys.argv[1:] if args is None else args:
            if text.startswith("--") and text.endswith("=--"):  # argparse makes an empty list of that value
                self.error(f"argument {text[:-3]}: expected a value, got --")
            option = text.partition("=")[0]
            known = self._option_string_actions
            if option == "--":
                break
            if option.startswith("--") and not any(name.startswith(option) for name in known):
                self.error(f"unrecognized arguments: {text}")  # before argparse asks for what is required
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        wrong = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        close = difflib.get_close_matches(wrong, self._option_string_actions, n=1) if wrong else []
        hint = f"did you mean {close[0]}?" if close else "see --help"
        print(f"error: {as_typed(' '.join(message.split()))}; {hint}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR)


def command_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose description is the command's docstring, examples included, and that knows ``--debug``."""
    parser = Parser(called(), description=_folded(as_typed(doc or "")),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _folded(doc: str) -> str:
    """Paragraphs folded at 79 columns; what is indented (commands, code) stays as it is."""
    blocks = doc.strip().split("\n\n")
    return "\n\n".join(block if block.startswith(" ") else textwrap.fill(block, 79, break_on_hyphens=False)
                       for block in blocks)


def add_run_options(parser: argparse.ArgumentParser, trained: bool = False) -> None:
    """The options that say which experiment, which data and which run; one that is ``trained`` is a folder, too."""
    if trained:
        parser.add_argument("--run", metavar="DIR", type=Path, help="the run folder, such as runs/digits_ccal_cont, in "
                            "place of --model and --data; --data then says where its data lie now")
    parser.add_argument("--model", required=not trained, metavar="FILE",
                        help="model file, such as models/digits_ccal_cont.py")
    parser.add_argument("--data", required=not trained, metavar="DATA",
                        help="a prepared data set's name, a .h5 or .npz file, or a .py file with load()")
    parser.add_argument("--views", nargs=2, metavar="VIEW",
                        help="which two views, where the data hold several, such as: efficientnet en, or: en de")
    parser.add_argument("--tag", help="tells runs of one experiment apart: runs/<experiment>-<tag>")
    parser.add_argument("--runs", default="runs", metavar="DIR", type=Path, help="where runs are kept (default: runs)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")


def parse_run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command about a trained run: ``--run``, or ``--model`` and ``--data``."""
    args = parser.parse_args(argv)
    missing = [f"--{name}" for name in ("model", "data") if getattr(args, name) is None]
    if args.run is None and missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}, or --run in their place")
    besides = [f"--{name}" for name, default in (("model", None), ("tag", None), ("runs", Path("runs")))
               if getattr(args, name) != default]
    if args.run is not None and besides:
        parser.error(f"--run says which run it is: leave out {' and '.join(besides)}")
    return args


def run_command(body: Callable[[], int], debug: bool, together: bool = False) -> int:
    """Runs ``body`` and turns the user's errors into one line on stderr and exit code 2.

    ``OSError`` is among them: a full disk or a read-only folder is the user's to mend, too.

    Args:
        body: the command; returns its exit code.
        debug: also show the traceback.
        together: where torchrun started several processes they work together, and the first one speaks for all.
    """
    if together and launched():
        return _run(lambda: _run_together(body, debug), debug)
    return _run(body, debug)


def _run_together(body: Callable[[], int], debug: bool) -> int:
    with joined(), ExitStack() as silence:
        if rank() > 0:
            silence.enter_context(redirect_stdout(silence.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
            silence.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        return _run(body, debug)


def _run(body: Callable[[], int], debug: bool) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn_in_one_line
            return body()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (so that Python's last flush finds a reader)
        return EXIT_NO_READER
    except (XmodalError, OSError, MemoryError, RuntimeError) as error:
        memory = isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)  # torch's ways
        if isinstance(error, RuntimeError) and not memory:
            raise
        if debug:
            traceback.print_exc()
        text = " ".join((str(error) if isinstance(error, XmodalError | OSError) else "out of memory").split())
        if first_to_say(text):
            print(f"error: {as_typed(text)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _warn_in_one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                      file: TextIO | None = None, line: str | None = None) -> None:
    print(f"warning: {as_typed(str(message))}", file=sys.stderr)


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA when there is one; several processes on one machine take a GPU each.

    Raises:
        ExperimentError: no such device here.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available() and size() > 1:
        name = f"cuda:{local_rank()}"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("xmodal runs on cpu and cuda")
        torch.empty(0, device=device)
        if device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ExperimentError(f"--device {name} can't be used here: {str(error).splitlines()[0][:200]}") from error
    return device


def seed_number(text: str) -> int:
    """The type of ``--seed``: a whole number that torch and NumPy both take."""
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, got {text}")
    return seed


def run_folder(args: argparse.Namespace) -> RunFolder:
    """``--run``, or ``runs/<experiment>[-<tag>]`` of the given options."""
    folder = getattr(args, "run", None)
    if "\0" in f"{args.tag}{args.runs}{folder}":
        raise ExperimentError("--tag, --runs and --run can't hold a NUL character")
    if folder is not None:
        return RunFolder(folder)
    name = Path(args.model).stem
    if args.tag and (Path(args.tag).name != args.tag or args.tag in (".", "..")):
        raise ExperimentError(f"--tag becomes part of a folder's name and can't be {args.tag!r}")
    return RunFolder(args.runs / (f"{name}-{args.tag}" if args.tag else name))


def load_run_data(args: argparse.Namespace, about: dict[str, Any], stream: bool | None = None) -> PairedData:
    """The data of ``--data``, or else the run's own, in the views that it was trained on."""
    trained = about["data"].get("views")
    if args.views is not None and args.views != (trained or [*VIEWS]):
        raise CheckpointError(f"{run_folder(args).path} was trained on the views {' '.join(trained or VIEWS)}: leave "
                              "out --views, or train again")
    spec = spec_of_data(run_folder(args), about) if args.data is None else args.data
    return load_data(spec, stream=stream, views=trained)


def name_of_part(args: argparse.Namespace, name: str) -> str:
    """``metrics`` is of all test pairs by the run's own weights; anything else has a name that says so."""
    return "_".join([name, *([] if args.split == "test" else [args.split]),
                     *([] if args.n_test is None else [f"n{args.n_test}"]), *(["est_UV"] if args.estimate_UV else [])])


def describe_data(data: PairedData) -> str:
    """What is printed when data were loaded: pairs of each split, shapes, and what else must be said."""
    lines = [f"Data : {data.title}",
             *(f"{split.name.capitalize():5}: {len(split):,}" for split in data.splits()),
             f"Views: {_shape(data.view1_name, data.view1_shape)} and {_shape(data.view2_name, data.view2_shape)}"]
    return "\n".join(lines + textwrap.wrap(data.note, 79))


def _shape(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} {' × '.join(map(str, shape))}".strip()
