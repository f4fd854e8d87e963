"""How errors, warnings and interrupts leave a command."""
from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import pytest

from xmodal import errors
from xmodal.cli.common import command_parser, pick_device, run_command, run_folder
from xmodal.errors import DataError, ExperimentError, did_you_mean


@pytest.mark.parametrize(("error", "code", "said"), [
    (DataError("a\n  long\nstory"), 2, "error: a long story\n"),
    (FileNotFoundError(2, "No such file", "x"), 2, "error: [Errno 2] No such file: 'x'\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (BrokenPipeError(), 141, ""),
    (MemoryError(), 2, "error: out of memory\n"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "error: out of memory\n"),
])
def test_users_errors_are_one_line(error, code, said, capsys, monkeypatch):
    own = sys.stdout
    monkeypatch.setattr(sys, "stdout", own)  # a broken pipe replaces it

    def body() -> int:
        raise error

    assert run_command(body, debug=False) == code
    if sys.stdout is not own:
        sys.stdout.close()
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("bug", [ZeroDivisionError, RuntimeError, RecursionError, NotImplementedError])
def test_bugs_of_ours_keep_their_traceback(bug):
    def body() -> int:
        raise bug

    with pytest.raises(bug):
        run_command(body, debug=False)


@pytest.mark.parametrize("argument", ["--set=--", "--tag=--", "--two\nlines"])
def test_odd_options_are_one_line(argument, capsys):
    parser = command_parser("A command.")
    parser.add_argument("--set", action="append")
    parser.add_argument("--tag")
    with pytest.raises(SystemExit) as left:
        parser.parse_args([argument])
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_a_processor_with_a_number_is_refused():
    with pytest.raises(ExperimentError, match="--device cpu:1 can't be used here"):
        pick_device("cpu:1")


def test_warnings_are_one_line_and_the_process_keeps_its_own_way(capsys):
    before = warnings.showwarning

    def body() -> int:
        warnings.simplefilter("always")
        warnings.warn("few pairs", stacklevel=1)
        return 0

    assert run_command(body, debug=False) == 0
    assert capsys.readouterr().err == "warning: few pairs\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(("tag", "expected"), [(None, "runs/x"), ("a1", "runs/x-a1")])
def test_run_folder(tag, expected):
    assert run_folder(argparse.Namespace(model="models/x.py", tag=tag, runs=Path("runs"))).path == Path(expected)


@pytest.mark.parametrize("tag", ["../up", "a/b", "..", "/root"])
def test_a_tag_stays_inside_the_runs(tag):
    with pytest.raises(ExperimentError, match="--tag"):
        run_folder(argparse.Namespace(model="x.py", tag=tag, runs=Path("runs")))


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ExperimentError, match="can't be used here"):
        pick_device("warp")


def test_did_you_mean():
    assert did_you_mean("digit", ["digits", "iapr"]) == "did you mean digits?"
    assert did_you_mean("zzz", [f"a{i:03}" for i in range(31)]).endswith("a010, a011, ... (31)")
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"


def test_did_you_mean_knows_names_by_their_parts():
    assert did_you_mean("minst", ["audio_score", "icons", "mnist_halves", "mnist_label", "mnist_twins"]) == \
        "did you mean mnist_twins or mnist_label or mnist_halves?"
    assert did_you_mean("halfs", ["icons", "mnist_halves"]) == "did you mean mnist_halves?"
    assert did_you_mean("mnist_halfs", ["mnist_label", "mnist_halves"]).startswith("did you mean mnist_halves or")


def test_did_you_mean_looks_at_few_of_many_names(monkeypatch):
    compared = []
    ratio = errors.difflib.SequenceMatcher.real_quick_ratio
    monkeypatch.setattr(errors.difflib.SequenceMatcher, "real_quick_ratio",
                        lambda self: compared.append(self.a) or ratio(self))
    ids = [f"image{i:06}" for i in range(30_000)]
    assert did_you_mean("image01234", ids).startswith("did you mean image01")
    assert did_you_mean("zebra", ids).endswith(", ... (30,000)") and did_you_mean("0", ids).startswith("known: ")
    assert len(set(compared)) <= 3 * 2000
