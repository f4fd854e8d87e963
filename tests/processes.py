"""Several processes that work together, as torchrun starts them, forked from one that has everything imported."""
from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["xmodal.cli.run_train", "xmodal.cli.run_eval", "xmodal.cli.refine_cca",
                                "sklearn.datasets"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(body: Callable[..., Any], count: int, *args: Any, **environment: str) -> list[BaseProcess]:
    """``body(*args)`` in so many processes with the environment that torchrun gives them, and more of it."""
    environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(free_port())}
    processes = [CONTEXT.Process(target=_enter, args=(body, number, environment, args)) for number in range(count)]
    for process in processes:
        process.start()
    return processes


def _enter(body: Callable[..., Any], number: int, environment: dict[str, str], args: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(environment, RANK=str(number), LOCAL_RANK=str(number))
    torch.set_num_threads(1)
    sys.exit(body(*args))


def finish(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Their exit codes, once all have ended; those that don't are killed and have none."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
    return codes

def together(body: Callable[..., Any], count: int, *args: Any) -> None:
    """Runs ``body`` to its end in all processes."""
    codes = finish(start(body, count, *args))
    assert codes == [0] * count

def command(module: str, folder: str, arguments: list[str]) -> int:
    """A command as a user types it, in ``folder``; what it prints goes to files there, one a process."""
    import importlib

    os.chdir(folder)
    number = os.environ["RANK"]
    sys.stdout = Path(f"out{number}.txt").open("a", buffering=1)  # noqa: SIM115 (until the process ends)
    sys.stderr = Path(f"err{number}.txt").open("a", buffering=1)  # noqa: SIM115 (until the process ends)
    main = importlib.import_module(f"xmodal.cli.{module}").main
    return int(main(arguments))
