"""How cases are run: in children that may crash or hang, each case in an empty folder, watched for what it must not do.

A case is a function of random numbers and an empty folder. It returns whether what it tried succeeded or was refused
in one error line, and raises for anything else.
"""
from __future__ import annotations

import faulthandler
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from xmodal.cli.common import run_command

SUCCESS, REFUSED = "success", "refused"
Case = Callable[[random.Random, Path], str]

SECONDS = 20            # a case may take
MEMORY = 3 << 30        # bytes of address space that a child may add
BATCH = 200             # cases of one child
#: What only code from data or weights would do while a case runs.
_FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
              "socket.getaddrinfo", "socket.sendto", "urllib.Request", "shutil.rmtree")


class WrongError(Exception):
    """A case that ended as none may."""


class Answer(NamedTuple):
    """What a command did: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def outcome(self) -> str:
        return REFUSED if self.code else SUCCESS


def answer(command: Callable[[], Any]) -> Answer:
    """Runs a command's ``main`` as a terminal with UTF-8 would show it.

    Raises:
        WrongError: an exit code other than 0 and 2, a traceback, or code 2 without exactly one error line at the end.
    """
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
    lost: list[str] = []  # what is raised where nothing can catch it, and shown as a traceback
    before, sys.unraisablehook = sys.unraisablehook, lambda caught: lost.append(str(caught.exc_value))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = command()
    except SystemExit as end:
        code = end.code
    finally:
        sys.unraisablehook = before
    said, complained = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    lines = complained.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code not in (0, 2) or isinstance(code, bool):
        raise WrongError(f"exit code {code!r}: {complained[-500:]}")
    if lost or "Traceback (most recent call last)" in complained:
        raise WrongError(f"a traceback: {lost[:1]} {complained[-500:]}")
    if len(errors) != (1 if code else 0) or (code and lines[-1] != errors[0]):
        raise WrongError(f"exit code {code} with {len(errors)} error lines: {complained[-500:]}")
    return Answer(code, said, complained)


def outcome(body: Callable[[], Any]) -> str:
    """Success, or refused in one line, of a call that a command would make."""
    def whole() -> int:
        body()
        return 0

    return answer(lambda: run_command(whole, False)).outcome


# -- one case --------------------------------------------------------------------------------------------------

_forbidden_events: list[str] = []
_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _FORBIDDEN:
        _forbidden_events.append(f"{event} {str(arguments)[:100]}")
        raise OSError(f"{event} in a case")


@contextmanager
def _watched() -> Iterator[None]:
    """Stops code that loads code, starts programs or opens connections, even where the case survives the stop."""
    global _watching
    if not hasattr(_audit, "installed"):
        sys.addaudithook(_audit)
        _audit.installed = True  # type: ignore[attr-defined]  # hooks can't be taken away again
    _forbidden_events.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    if _forbidden_events:
        raise WrongError(f"did what it must not: {_forbidden_events[0]}")


def canary(folder: Path) -> Path:
    """The file that malicious pickles make if they are loaded."""
    return folder / "CANARY"


def run_case(case: Case, seed: int, target: str, number: int) -> str:
    """Runs one case in a new folder, which is the working folder meanwhile.

    Raises:
        Exception: the case is a finding.
    """
    before = Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="case-"))
    inside = folder / "work" / "here"  # so that .. is in the case's own folder, too
    inside.mkdir(parents=True)
    try:
        os.chdir(inside)
        with warnings.catch_warnings(), _watched():
            warnings.simplefilter("ignore")
            result = case(random.Random(f"{seed} {target} {number}"), inside)
        if canary(inside).exists():
            raise WrongError("code from the data ran: the canary file is there")
        return result
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


# -- many cases ------------------------------------------------------------------------------------------------

class Finding(NamedTuple):
    """A case that ended wrongly, and how."""

    number: int
    what: str


class Summary(NamedTuple):
    """How the cases of a target ended."""

    cases: int
    successes: int
    refused: int
    findings: list[Finding]
    slowest: int
    slowest_seconds: float
    seconds: float


def run_target(case: Case, seed: int, target: str, numbers: list[int], say: Callable[[str], None]) -> Summary:
    """Runs the cases of a target in children, one child at a time."""
    counts = {SUCCESS: 0, REFUSED: 0}
    findings: list[Finding] = []
    slowest, slowest_seconds = -1, 0.0
    started = time.perf_counter()
    remaining = list(numbers)
    while remaining:
        batch = remaining[:BATCH]
        for number, result, seconds in _in_child(case, seed, target, batch):
            remaining.pop(0)
            if seconds > slowest_seconds:
                slowest, slowest_seconds = number, seconds
            if result in counts:
                counts[result] += 1
            else:
                findings.append(Finding(number, result))
                say(f"{target} {number}: {result}")
    return Summary(len(numbers), counts[SUCCESS], counts[REFUSED], findings, slowest, slowest_seconds,
                   time.perf_counter() - started)


def _in_child(case: Case, seed: int, target: str, numbers: list[int]) -> Iterator[tuple[int, str, float]]:
    """Number, result and seconds of each case; ends early with the case that ended the child."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")  # the parent is warm: imports and trained models are there
    child = context.Process(target=_child, args=(theirs, case, seed, target, numbers))
    child.start()
    theirs.close()
    try:
        for number in numbers:
            started = time.perf_counter()
            result = f"no answer in {SECONDS + 10} s"
            try:
                if ours.poll(SECONDS + 10):  # past the child's own limit, which shows where it hangs
                    result, seconds = ours.recv()
                    yield number, result, seconds
                    continue
            except EOFError:
                child.join()
                result = f"the process ended with code {child.exitcode} ({_signal_name(child.exitcode or 0)})"
            yield number, result, time.perf_counter() - started
            return
    finally:
        child.kill()
        child.join()
        ours.close()


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else "over the time limit, if 1"


def _child(answers: Connection, case: Case, seed: int, target: str, numbers: list[int]) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    for number in numbers:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        started = time.perf_counter()
        try:
            result = run_case(case, seed, target, number)
        except BaseException as error:  # whatever it is, it is the finding
            frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
            result = f"{type(error).__name__}: {str(error)[:600]}\n{frames}"
        answers.send((result, time.perf_counter() - started))
    faulthandler.cancel_dump_traceback_later()
    answers.close()
    os._exit(0)  # nothing of the parent's is to be cleaned up here
