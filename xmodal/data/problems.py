"""What was wrong with single items of raw data: counted, said with examples, and listed in a file."""
from __future__ import annotations

from pathlib import Path

from xmodal.atomic import replacing
from xmodal.data.fetch import Say

EXAMPLES = 3


class Problems:
    """Kinds of problems and the items that have them."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, kind: str, item: str) -> None:
        """Note that ``item`` is one of ``kind``, such as ``empty captions``; tabs and the like are written ``\\t``."""
        self._found.setdefault(kind, []).append("".join(map(_visible, item)))

    def __bool__(self) -> bool:
        return bool(self._found)

    def count(self, kind: str) -> int:
        """How many items of that kind there are."""
        return len(self._found.get(kind, ()))

    def tell(self, say: Say, file: Path) -> None:
        """Say how many there are of each kind and which the first are; all of them go into ``file``.

        A ``file`` of an earlier time is removed if there is nothing to tell.
        """
        for kind, items in self._found.items():
            more = f" and {len(items) - EXAMPLES:,} more" if len(items) > EXAMPLES else ""
            say(f"  {kind}: {len(items):,} ({'; '.join(items[:EXAMPLES])}{more})")
        if self._found:
            with replacing(file) as beside:
                beside.write_text("".join(f"{kind}\t{item}\n" for kind, items in self._found.items() for item in items),
                                  encoding="utf-8")
            say(f"  all of them: {file}")
        else:
            file.unlink(missing_ok=True)


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
