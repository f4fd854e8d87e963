"""Commands and options that pages name within sentences: whether they exist."""
from __future__ import annotations

import functools
import importlib
import io
import re
from contextlib import redirect_stdout

from docs_commands import benchmark_arguments, example, make, module_of, options_of_example, pip
from docs_pages import ROOT, Command, Failure, Page

from xmodal.cli.program import VERBS

#: Options that pages name and that are other programs'. One that no page names fails a test.
FOREIGN = {"--max_dim": "the ancestor's", "--dump": "the ancestor's", "--dump_results": "the ancestor's"}
_SYNOPSIS = re.compile(r"[\[{<|…]|\.\.\.")


def wrong_codes(page: Page) -> list[str]:
    """Commands and options in sentences that don't exist; each with page and line.

    Of a command only its options are looked at, since what a sentence shows is rarely all of it; benchmarks, ``make``
    and ``pip`` as in blocks.
    """
    found = []
    for line, text in page.codes:
        try:
            _check_code(text)
        except Failure as failure:
            found.append(f"{page.name}:{line}: {failure}")
    return found


def _check_code(text: str) -> None:
    words = text.split()
    if words[:1] in (["python"], ["python3"]) and len(words) > 1:
        words = words[1:]
    if not words:
        return
    options = {word.partition("=")[0] for word in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)}
    if words[0] == "-m" and len(words) > 1 and words[1].startswith("benchmarks."):
        if not _SYNOPSIS.search(text):
            benchmark_arguments(words[1], words[2:], text)
        known = _options_of_benchmark(words[1])
    elif module := module_of(words[0]):
        known = _options_of(module)
    elif words[0] == "xmodal" and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
        if words[1] not in VERBS:
            raise Failure(f"xmodal has no verb {words[1]!r} in {text}")
        known = _options_of(VERBS[words[1]][0])
    elif words[0].startswith("--"):
        known = frozenset().union(*(_options_of(module) for module, _ in VERBS.values()),
                                  *map(_options_of_benchmark, all_benchmarks()),
                                  *map(options_of_example, (ROOT / "examples").glob("*.py")))
    elif words[0] in ("make", "pip") and len(words) > 1:
        (make if words[0] == "make" else pip)(Command(0, tuple(words)), words[1:])
        return
    elif re.fullmatch(r"examples/\w+\.py", words[0]):
        example(words, text)
        return
    else:
        return
    if unknown := sorted(options - known - {"--help", "--version"} - FOREIGN.keys()):
        raise Failure(f"there is no option {unknown[0]} in {text}")


@functools.cache
def _options_of(module: str) -> frozenset[str]:
    return frozenset(importlib.import_module(f"xmodal.cli.{module}").make_parser()._option_string_actions)


@functools.cache
def _options_of_benchmark(name: str) -> frozenset[str]:
    said = io.StringIO()
    with redirect_stdout(said):
        benchmark_arguments(name, ["--help"], name)
    return frozenset(re.findall(r"--[a-zA-Z][\w-]*", said.getvalue()))


def all_benchmarks() -> list[str]:
    """Every benchmark that ``python -m`` runs and that has options."""
    files = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks").glob("*/*.py")]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in files
                  if "def arguments(" in path.read_text(encoding="utf-8"))
