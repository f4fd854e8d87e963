"""Cross-modal retrieval: train, evaluate and search two-view embeddings.

first steps:
  xmodal doctor                                    is everything here?
  xmodal train --model mine.py --data digits       a model file, built-in data
  xmodal eval --model mine.py --data digits --ci   both directions, intervals
  xmodal search --run runs/mine --query 17         what item 17 finds

Each verb explains itself, with examples: xmodal VERB --help. In a clone of the
repository the verbs are scripts as well: python run_train.py is xmodal train.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from xmodal.checkpoint import version_of
from xmodal.cli.common import Parser, run_command
from xmodal.cli.program import VERBS, called_as
from xmodal.errors import ExperimentError, did_you_mean


def main(argv: Sequence[str] | None = None) -> int:
    """The console command ``xmodal``: a verb and what is for it."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    if words and words[0] in VERBS:
        module, _ = VERBS[words[0]]
        with called_as(f"xmodal {words[0]}"):
            return int(import_module(f"xmodal.cli.{module}").main(words[1:]))
    if words and not words[0].startswith("-"):
        return run_command(lambda: _refuse(words[0]), debug=False)
    parser = make_parser()
    if words:
        parser.parse_args(words)  # prints help or version, or refuses
    parser.print_help()
    return 0


def _refuse(word: str) -> NoReturn:
    raise ExperimentError(f"xmodal has no verb {word!r}; {did_you_mean(word, VERBS)}")


def make_parser() -> argparse.ArgumentParser:
    """The parser of what stands before a verb; its subparsers are empty."""
    parser = Parser("xmodal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"xmodal {version_of('xmodal')}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb, (_, what) in VERBS.items():
        verbs.add_parser(verb, help=what, add_help=False)
    return parser
