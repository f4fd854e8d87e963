"""Prints a script that lets the shell complete verbs, options, data sets and files of xmodal (extra completion).

  xmodal completion bash > ~/.local/share/bash-completion/completions/xmodal
  xmodal completion zsh > ~/.zfunc/_xmodal
      in a folder of zsh's $fpath
  xmodal completion tcsh > ~/.xmodal.tcsh
      source it from ~/.tcshrc

The next shell has it. Print it again after an update of xmodal: new options are in the new script only.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from xmodal.cli.common import command_parser, run_command
from xmodal.cli.program import VERBS, called_as
from xmodal.data.sets import DATA_SETS
from xmodal.features.packages import required

SHELLS = ("bash", "zsh", "tcsh")
#: What follows an option, by the placeholder that its help shows.
_FILES = {"FILE", "PATH", "LOG", "DATA", "QUERY"}
_FOLDERS = {"DIR", "RUN", "PLACE"}


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: _print(args.shell), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("shell", choices=SHELLS, help="which shell completes")
    return parser


def _print(shell: str) -> int:
    shtab = required("shtab")
    print(shtab.complete(whole_parser(shtab), shell))
    return 0


def whole_parser(shtab: Any) -> argparse.ArgumentParser:
    """The parser of ``xmodal`` with those of all verbs inside, each argument saying to ``shtab`` what completes it."""
    parser = argparse.ArgumentParser("xmodal", description="two-view embeddings for cross-modal retrieval")
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers()
    for verb, (module, what) in VERBS.items():
        with called_as(f"xmodal {verb}"):
            own = import_module(f"xmodal.cli.{module}").make_parser()
        for action in own._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE
            elif action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY
            elif action.dest == "name":
                action.choices = [*DATA_SETS]
        verbs.add_parser(verb, help=what, description=what, parents=[own], add_help=False)
    return parser
