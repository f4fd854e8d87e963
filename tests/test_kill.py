"""kill -9 at random moments: training always resumes, and ends with the weights of an undisturbed run."""
from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

MODEL = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")
KILLS = 24
ARGUMENTS = ["--model", MODEL, "--data", "digits", "--set", "max_epochs=12", "--resume"]


def train(folder: str) -> None:
    """In a process of its own: run_train.py as a user types it."""
    import torch

    from xmodal.cli import run_train

    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 (until the process ends)
    torch.set_num_threads(1)
    sys.exit(run_train.main(ARGUMENTS))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_training_survives_kill_9(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xmodal.cli.run_train", "sklearn.datasets"])  # children have all this imported

    def start(name: str) -> multiprocessing.process.BaseProcess:
        (tmp_path / name).mkdir(exist_ok=True)
        process = context.Process(target=train, args=(str(tmp_path / name),))
        process.start()
        return process

    def finish(name: str) -> float:
        began = time.monotonic()
        process = start(name)
        process.join(120)
        assert process.exitcode == 0
        return time.monotonic() - began

    finish("warm-up")
    whole = finish("undisturbed")
    generator, killed = random.Random(0), 0
    for _ in range(10 * KILLS):
        process = start("killed")
        process.join(whole * generator.uniform(0.0, 0.9))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        if process.exitcode == 0:  # it was done before it was killed: start over
            shutil.rmtree(tmp_path / "killed")
        else:
            assert process.exitcode == -signal.SIGKILL
            killed += 1
        if killed == KILLS:
            break
    assert killed == KILLS
    finish("killed")
    run = Path("runs", "digits_ccal_cont", "weights.safetensors")
    assert (tmp_path / "undisturbed" / run).read_bytes() == (tmp_path / "killed" / run).read_bytes()
    assert not list((tmp_path / "killed").rglob(".*.tmp"))
