"""What a training shows while it runs."""
from __future__ import annotations

from typing import Any, Protocol


class Display(Protocol):
    """What a training shows while it runs; see :mod:`xmodal.cli.display` for those that the commands use."""

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None: ...

    def epoch(self, line: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Shows nothing."""

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None: ...

    def epoch(self, line: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...
