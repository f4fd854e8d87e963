"""What the extra ``audio`` brings: found when it is needed, and named when it isn't there."""
from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from xmodal.errors import DataError

#: tinysoundfont asks for PyAudio, which it needs for live playback alone and which has no wheels for Linux.
WITHOUT_DEPENDENCIES = "tinysoundfont"
_INSTALLED_AS = {"resvg_py": "resvg-py", "PIL": "Pillow"}
_NEEDED = ("verovio", "resvg_py", "PIL", "music21", "pretty_midi", WITHOUT_DEPENDENCIES)


def required(module: str) -> Any:
    """The module, imported.

    Raises:
        DataError: it isn't installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(_advice([module])) from error


def folder_of(package: str) -> Path:
    """Where a package lies, without running it: only files that come with it are needed.

    Raises:
        DataError: it isn't installed; says how to.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(_advice([package]))
    return Path(spec.origin).parent


def check_installed() -> None:
    """Raises one :class:`DataError` that names all missing packages, before any work is done."""
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise DataError(_advice(missing))


def _advice(modules: list[str]) -> str:
    names = ", ".join(_INSTALLED_AS.get(module, module) for module in modules)
    steps = []
    if modules != [WITHOUT_DEPENDENCIES]:
        steps.append('pip install "xmodal[audio]" (here: pip install -e ".[audio]")')
    if WITHOUT_DEPENDENCIES in modules:
        steps.append(f"pip install --no-deps {WITHOUT_DEPENDENCIES}")
    return f"audio_score needs {names}: {' and '.join(steps)}"
