"""A disk that is full or read-only, at every single write: one clear line, and nothing that was there is harmed."""
from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import CONTEXT

from benchmarks.kills import PREPARE, make_pictures
from xmodal.checkpoint import RunFolder
from xmodal.cli import plot_log, prepare_data, refine_cca, run_eval, run_train

MODEL = Path(__file__).parent.parent / "models" / "digits_ccal_cont.py"
RUN = Path("runs") / "digits_ccal_cont"
TRAIN = ["--model", str(MODEL), "--data", "digits", "--set", "max_epochs=2"]


class Disk:
    """Fails at its n-th write within a folder: opening to write, making, renaming or removing."""

    def __init__(self) -> None:
        self.folder, self.left, self.number, self.failed = "", 0, 0, ""

    def fail(self, folder: Path, at: int, number: int) -> None:
        self.folder, self.left, self.number, self.failed = str(folder), at, number, ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.left or event not in ("open", "os.rename", "os.mkdir", "os.remove"):
            return
        path = str(arguments[0])
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if (Path(self.folder) / path).is_relative_to(self.folder):
            self.left -= 1
            if not self.left:
                self.failed = f"{event} {Path(path).name}"
                raise OSError(self.number, os.strerror(self.number), path)


DISK = Disk()
sys.addaudithook(DISK)  # hooks can't be removed, so there is one that mostly sleeps


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    DISK.left = 0


def failing_everywhere(folder: Path, command: Any, arguments: list[str], number: int, capsys: Any) -> Iterator[str]:
    """Runs the command with the first write failing, then the second, and so on until it gets by without a failure."""
    for at in range(1, 200):
        DISK.fail(folder, at, number)
        code = command.main(arguments)
        failed, DISK.left = DISK.failed, 0
        printed = capsys.readouterr()
        if not failed:
            assert code == 0 and at > 3
            return
        assert code in (0, 2), failed  # leftovers and locks can do without
        if code == 2:
            assert printed.err.count("error: ") == 1 and os.strerror(number) in printed.err, failed
        assert "Traceback" not in printed.err
        yield failed
    raise AssertionError("it never gets by")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_training_survives_a_failure_of_every_write(folder, capsys, number):
    assert run_train.main([*TRAIN, "--tag", "whole"]) == 0
    expected = Path("runs", "digits_ccal_cont-whole", RunFolder.WEIGHTS).read_bytes()
    failures = []
    for failed in failing_everywhere(folder, run_train, [*TRAIN, "--resume"], number, capsys):
        failures.append(failed)
        if RUN.exists() and (RUN / RunFolder.CONFIG).exists():
            assert run_train.main([*TRAIN, "--resume"]) == 0, failed
            assert (RUN / RunFolder.WEIGHTS).read_bytes() == expected, failed
            capsys.readouterr()
        shutil.rmtree(RUN, ignore_errors=True)
    files = {name for name in ("config.json", "experiment.py", "weights", "resume.pt", "log.jsonl")
             if any(name in failed for failed in failures)}
    assert len(files) == 5 and any(failed.startswith("os.rename") for failed in failures)


@pytest.mark.parametrize("command, arguments", [
    (run_eval, [*TRAIN[:4], "--embeddings", "z.h5", "--neighbours", "2"]), (refine_cca, TRAIN[:4]),
    (plot_log, [str(RUN / "log.jsonl"), "--key", "mrr_%s", "--out", "curves.png"])])
def test_what_was_there_outlives_a_failure_of_every_write(folder, capsys, command, arguments):
    assert run_train.main(TRAIN) == 0 and run_eval.main(TRAIN[:4]) == 0
    before = {path.name: path.read_bytes() for path in RUN.iterdir()}
    capsys.readouterr()
    for failed in failing_everywhere(folder, command, arguments, errno.ENOSPC, capsys):
        assert before.items() <= {path.name: path.read_bytes() for path in RUN.iterdir()}.items(), failed
        assert not list(folder.rglob(".*.tmp")), failed


def test_a_preparation_outlives_a_failure_of_every_write(folder, capsys):
    pytest.importorskip("PIL")
    make_pictures(folder, random.Random(0), 30)
    assert prepare_data.main(PREPARE) == 0
    prepared = folder / "data" / "own.h5"
    before = prepared.read_bytes()
    for failed in failing_everywhere(folder, prepare_data, PREPARE, errno.ENOSPC, capsys):
        assert [path.name for path in prepared.parent.iterdir()] == ["own.h5"], failed
        assert prepared.read_bytes() == before, failed


# -- the real thing: the system cuts files short -----------------------------------------------------------------------


def _limited(folder: str, size: int) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.stdout = Path("out.txt").open("w", buffering=1)  # noqa: SIM115 (until the process ends)
    sys.stderr = Path("err.txt").open("w", buffering=1)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    code = run_train.main([*TRAIN, "--resume"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)  # for what measures coverage
    sys.exit(code)


@pytest.mark.parametrize("size", [1000, 100_000, 1_500_000])  # within config.json, the weights, the resume state
def test_files_cut_short_by_the_system(folder, size):
    assert run_train.main([*TRAIN, "--tag", "whole"]) == 0
    process = CONTEXT.Process(target=_limited, args=(str(folder), size))
    process.start()
    process.join(60)
    error = Path("err.txt").read_text()
    assert process.exitcode == 2 and error.startswith("error: ") and "File too large" in error
    assert not list(folder.rglob(".*.tmp"))
    assert run_train.main([*TRAIN, "--resume"]) == 0
    assert (RUN / RunFolder.WEIGHTS).read_bytes() == Path(f"{RUN}-whole", RunFolder.WEIGHTS).read_bytes()


def test_a_clock_that_runs_backwards(folder, monkeypatch):
    assert run_train.main([*TRAIN, "--tag", "whole"]) == 0
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    assert run_train.main(TRAIN) == 0
    for path in RUN.iterdir():
        os.utime(path, (2**33, 2**33))  # files of the future
    assert run_train.main([*TRAIN[:-1], "max_epochs=3", "--resume"]) == 0
    assert run_train.main([*TRAIN[:-1], "max_epochs=3", "--tag", "whole", "--resume"]) == 0
    assert (RUN / RunFolder.WEIGHTS).read_bytes() == Path(f"{RUN}-whole", RunFolder.WEIGHTS).read_bytes()
