"""What every command shares: how errors leave the program, and the options they have in common."""
from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

from xmodal.errors import XmodalError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def command_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose description is the command's docstring, examples included, and that knows ``--debug``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run_command(body: Callable[[], int], debug: bool) -> int:
    """Runs ``body`` and turns the user's errors into one line on stderr and exit code 2.

    ``OSError`` is among them: a full disk or a read-only folder is the user's to mend, too.
    """
    try:
        return body()
    except BrokenPipeError:
        return 0  # the reader of our output (head, less) left
    except (XmodalError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
