"""How the program was called: as a script (``python run_train.py``) or as a verb of ``xmodal`` (``xmodal train``)."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

#: Verbs of the console command: the module of ``xmodal.cli``, by whose name there mostly is a script, and what it does.
VERBS: Mapping[str, tuple[str, str]] = {
    "prepare": ("prepare_data", "get a data set, check it, split it, write it to data/NAME.h5"),
    "train": ("run_train", "train a model file on data; everything goes to runs/"),
    "eval": ("run_eval", "evaluate a run on test pairs, both directions"),
    "plot": ("plot_log", "draw the training curves of runs"),
    "refine": ("refine_cca", "estimate a run's CCA projection again, on other pairs"),
    "search": ("run_search", "find a query's nearest items of the other view"),
    "demo": ("run_demo", "the same in a local page: type, draw, record, pick"),
    "compare": ("run_compare", "one table over runs, and which of them differ"),
    "tune": ("run_tune", "search settings that do best on validation pairs"),
    "doctor": ("doctor", "report versions, devices, data, and what is missing"),
    "completion": ("completion", "print a script that lets the shell complete all this"),
}
_VERB_OF = {module: verb for verb, (module, _) in VERBS.items()}
_SCRIPTS = re.compile(rf"(torchrun (?:--\S+ )*)?(?:python )?\b({'|'.join(_VERB_OF)})\.py\b")
_called: ContextVar[str | None] = ContextVar("called", default=None)


@contextmanager
def called_as(name: str) -> Iterator[None]:
    """Inside, the program goes by this name, such as ``xmodal train``."""
    token = _called.set(name)
    try:
        yield
    finally:
        _called.reset(token)


def called() -> str | None:
    """The name that the program goes by; None where it is a script's."""
    return _called.get()


def as_typed(text: str) -> str:
    """Text that names scripts, for whoever called ``xmodal``: with verbs in place of scripts.

    ``run python prepare_data.py emoji`` becomes ``run xmodal prepare emoji``.
    """
    if called() is None:
        return text
    return _SCRIPTS.sub(lambda found: f"{found[1] or ''}{'-m ' if found[1] else ''}xmodal {_VERB_OF[found[2]]}", text)
