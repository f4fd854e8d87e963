"""Stopping a training by Ctrl-C or SIGTERM without losing anything."""
from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_stop_signals(ask: Callable[[int], None]) -> Iterator[None]:
    """Inside the block the first SIGINT or SIGTERM calls ``ask`` with its number, a second one stops at once.

    Outside of the main thread signals are somebody else's, and nothing happens.
    """
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        ask(number)

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    except ValueError:
        previous = {}
    try:
        yield
    finally:
        for signalled, handler in previous.items():
            signal.signal(signalled, handler)
