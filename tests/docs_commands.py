"""Runs a page: its Python blocks in one namespace, its commands through ``main(argv)``, from top to bottom.

First lines of a block that mean something: ``# models/NAME.py`` or ``# NAME.py`` is also written to that file, for the
commands that follow; ``# needs: PACKAGE`` is run where that is installed, and compiled elsewhere. Before a training its
run folder is removed, and before a preparation its file, since pages show the same command more than once.
"""
from __future__ import annotations

import ast
import csv
import functools
import importlib
import importlib.util
import io
import json
import linecache
import os
import re
import runpy
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT, Command, Failure, Fence, Page, commands
from docs_standins import World, in_block

from xmodal.cli import console
from xmodal.cli.program import VERBS

#: Programs of others: named on the pages, not run.
OTHERS = ("apt", "apt-get", "bash", "brew", "conda", "curl", "docker", "git", "mkdocs", "npm", "pytest", "ruff", "mypy",
          "source", "sudo", "tensorboard", "uv", "wget")
#: What a pipe may lead to, likewise.
READERS = ("grep", "head", "jq", "less", "sort", "tail", "tee", "wc")
#: Modules that ``python -m`` may name, likewise.
OTHER_MODULES = ("http.server", "pytest", "venv")
#: Commands that are run as they are, in the scratch folder.
SHELL = ("cat", "cp", "ls", "mkdir", "mv", "rm", "touch")


@dataclass
class Runner:
    """Runs the fences of a page, in a scratch folder that is the current one.

    Attributes:
        failures: ``page:line: what``.
    """

    page: Page
    world: World
    patch: pytest.MonkeyPatch
    failures: list[str] = field(default_factory=list)
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def run(self) -> list[str]:
        for fence in self.page.fences:
            if fence.language == "python":
                self._at(fence.line, functools.partial(self._python, fence))
            elif fence.language in ("sh", "console"):
                self._commands(fence)
            elif fence.language not in ("", "text"):
                self._at(fence.line, functools.partial(_parse, fence))
        return self.failures

    def _at(self, line: int, body: Callable[[], None]) -> None:
        try:
            body()
        except Failure as failure:
            self.failures.append(f"{self.page.name}:{line}: {failure}")
        except Exception as error:  # of what we import, or of this harness
            self.failures.append(f"{self.page.name}:{line}: {type(error).__name__}: {error}")

    # -- Python ------------------------------------------------------------------------------------------------------

    def _python(self, fence: Fence) -> None:
        for name in re.findall(r"""["']runs/([\w.-]+)""", fence.text):
            self.world.ensure_run(name)
        lines = self.page.text.split("\n")
        if named := re.match(r"# ((?:models/)?\w+\.py)\n", fence.text):  # a file, for the commands that follow
            Path(named[1]).write_text(fence.text, encoding="utf-8")
        file = f"{self.page.name} (block of line {fence.line})"
        source = "\n" * fence.line + fence.text  # so that tracebacks have the lines of the page
        linecache.cache[file] = (len(source), None, [f"{line}\n" for line in lines], file)
        said, token = io.StringIO(), in_block.set(True)
        try:
            code = compile(source, file, "exec", dont_inherit=True)
            if not _missing(fence.text):
                with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the small data sets have constant columns
                    exec(code, self.namespace)
        except (Exception, SystemExit) as error:
            raise Failure(f"the Python block failed in line {_line_in(error, file, fence.line)}: "
                          f"{type(error).__name__}: {error}") from error
        finally:
            in_block.reset(token)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _commands(self, fence: Fence) -> None:
        try:
            found = list(commands(fence))
        except ValueError as error:
            self.failures.append(f"{self.page.name}:{error}")
            return
        for command in found:
            self._at(command.line, functools.partial(self._command, command))

    def _command(self, command: Command) -> None:
        command = self._assigned(command)
        if not command.words:
            return
        if unknown := [name for name in command.readers if name not in READERS]:
            raise Failure(f"unknown program {unknown[0]!r} in {command}")
        program, *rest = command.words
        ways: dict[str, Callable[[Command, list[str]], None]] = {
            "python": self._python_command, "python3": self._python_command, "xmodal": self._verb,
            "torchrun": self._torchrun, "make": make, "pip": pip, "cd": _change_folder}
        if program in ways:
            ways[program](command, rest)
        elif program in SHELL:
            self._shell(command)
        elif program not in OTHERS:
            raise Failure(f"unknown program {program!r} in {command}")

    def _assigned(self, command: Command) -> Command:
        """``NAME=VALUE`` in front, and after ``export``, goes into the environment of this and what follows."""
        words = [*command.words]
        if words[0] == "export":
            words = words[1:]
        while words and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0])):
            self.patch.setenv(found[1], found[2])
            words = words[1:]
        return replace(command, words=tuple(os.path.expandvars(word) for word in words))

    def _shell(self, command: Command) -> None:
        words = [found for word in command.words for found in _expanded(word)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Failure(f"{command} failed: {done.stderr.strip()}")

    def _python_command(self, command: Command, words: list[str]) -> None:
        if words[:1] == ["-m"]:
            self._module(command, words[1], words[2:])
        elif words[:1] == ["-c"]:
            self._call(command, lambda: exec(compile(words[1], "python -c", "exec"), {"__name__": "__main__"}))
        elif words and (module := module_of(words[0])):
            self._main(command, module, words[1:], importlib.import_module(f"xmodal.cli.{module}").main)
        elif words and words[0].startswith("examples/"):
            example(words, str(command))
        elif words and Path(words[0]).is_file():
            self._call(command, lambda: self._script(words))
        else:
            raise Failure(f"there is no program {' '.join(words[:1]) or 'at all'} in {command}")

    def _script(self, words: list[str]) -> None:
        self.patch.setattr(sys, "argv", words)
        self.patch.syspath_prepend(str(Path(words[0]).parent.resolve()))
        runpy.run_path(words[0], run_name="__main__")

    def _module(self, command: Command, name: str, words: list[str]) -> None:
        if name.split(".")[0] == "benchmarks":
            benchmark_arguments(name, words, str(command))
        elif name == "pip":
            pip(command, words)
        elif name == "xmodal":
            self._verb(command, words)
        elif name not in OTHER_MODULES:
            raise Failure(f"unknown module {name!r} in {command}")

    def _verb(self, command: Command, words: list[str]) -> None:
        verb = words[0] if words else ""
        module = VERBS[verb][0] if verb in VERBS else ""
        self._main(command, module, words[1:], lambda rest: console.main([*words[:1], *rest]))

    def _torchrun(self, command: Command, words: list[str]) -> None:
        """In one process."""
        while words and not words[0].endswith(".py"):
            words = words[1:]
        self._python_command(command, words)

    def _main(self, command: Command, module: str, words: list[str], main: Callable[[list[str]], int]) -> None:
        """A command of xmodal, by its arguments."""
        self._see_to_runs(module, words, command.error is not None)
        words = [found for word in words for found in _expanded(word)]
        self._call(command, lambda: main(words))

    def _see_to_runs(self, module: str, words: list[str], refused: bool) -> None:
        """The runs that the words name are there then; a training's own is not, unless it is to be refused."""
        if module in ("run_eval", "refine_cca") and (model := _value(words, "--model")):
            tag = _value(words, "--tag")
            self.world.ensure_run(Path(model).stem + (f"-{tag}" if tag else ""), _value(words, "--data"),
                                  _values(words, "--views"))
        elif module in ("run_train", "run_tune") and (model := _value(words, "--model")):
            self.world.ensure_starts(model)
            tag, runs = _value(words, "--tag"), _value(words, "--runs") or "runs"
            folder = Path(runs) / (Path(model).stem + (f"-{tag}" if tag else "")
                                   + ("-tune" if module == "run_tune" else ""))
            if not refused and "--resume" not in words:
                shutil.rmtree(folder, ignore_errors=True)
        elif module == "prepare_data" and words and not refused and not {"--show", "--wav"} & set(words):
            for name in (words[0], _value(words, "--name")):  # nor are data that are to be prepared
                Path("data", f"{name}.h5").unlink(missing_ok=True)
        for word in words:
            if found := re.match(r"runs/([\w.-]+)(?![\w.*?\[-])", word):
                self.world.ensure_run(found[1])
            elif (found := re.match(r"runs/([\w.-]*)[*?\[]", word)) and not _expanded(word, as_is=False):
                for model_file in sorted(Path("models").glob(f"{found[1] or 'digits_c'}*.py")):
                    self.world.ensure_run(model_file.stem)

    def _call(self, command: Command, body: Callable[[], Any]) -> None:
        """Calls a program and compares how it ends with what the page says."""
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = body() or 0
        except SystemExit as end:
            code = end.code or 0
        except Exception as error:
            raise Failure(f"{command} ended with {type(error).__name__}: {error}\n{_tail(traceback.format_exc())}"
                          ) from error
        if command.output is not None:
            Path(command.output).write_text(out.getvalue())
        said = " ".join(err.getvalue().split())
        if command.error is None:
            if code != 0:
                raise Failure(f"{command} ended with exit code {code}: {_tail(err.getvalue())}")
        elif code != 2:
            raise Failure(f"{command} should end with exit code 2 ({command.error}), and ended with {code}")
        elif (beginning := _beginning(command.error)) not in said:
            raise Failure(f"{command} should say {beginning!r}, and said {said!r}")


# -- parts -----------------------------------------------------------------------------------------------------------

def _missing(block: str) -> list[str]:
    """Packages that a block says it needs, in a first line ``# needs: NAME``, and that are not installed."""
    needed = re.match(r"# needs: (.+)\n", block)
    return [] if needed is None else \
        [name for name in re.split(r"[ ,]+", needed[1].strip()) if importlib.util.find_spec(name) is None]


def _line_in(error: BaseException, file: str, default: int) -> int:
    """The page's line in which a block failed."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno or default
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] or default if lines else default


def _tail(text: str, lines: int = 6) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _beginning(error: str) -> str:
    """The first words of an error, up to six and to the first number: those depend on the data."""
    words: list[str] = []
    for word in error.split()[:7]:
        if len(words) > 2 and re.search(r"\d|…", word):
            break
        words.append(word)
    return " ".join(words).rstrip("…")


def _expanded(word: str, as_is: bool = True) -> Sequence[str]:
    """What a shell makes of ``*`` and ``?``: the files, or (``as_is``) the word itself where there are none."""
    found = [str(path) for path in sorted(Path().glob(word))] if re.search(r"[*?]", word) and word[0] != "/" else []
    return found or [word][:as_is]


def _value(words: Sequence[str], option: str) -> str | None:
    values = _values(words, option)
    return values[0] if values else None


def _values(words: Sequence[str], option: str) -> list[str]:
    """What is given for an option, either way of writing it."""
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            return [word.partition("=")[2]]
        if word == option:
            rest = words[place + 1:]
            end = next((i for i, one in enumerate(rest) if one.startswith("--")), len(rest))
            return list(rest[:end])
    return []


def module_of(script: str) -> str | None:
    """The module behind one of the scripts in the repository's root."""
    name = script.removesuffix(".py")
    return name if script.endswith(".py") and any(name == module for module, _ in VERBS.values()) else None


def benchmark_arguments(name: str, words: Sequence[str], command: str) -> None:
    """Imports a benchmark and lets it check a command line; it is not run.

    Raises:
        Failure: there is no such benchmark, or it refuses.
    """
    said = io.StringIO()
    try:
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
        if not hasattr(module, "arguments"):
            raise Failure(f"{name} has no arguments(argv) that would check {command}")
        with redirect_stderr(said):
            module.arguments(list(words))
    except ModuleNotFoundError as error:
        raise Failure(f"there is no {error.name} for {command}") from error
    except SystemExit as end:
        if end.code:
            raise Failure(f"{command}: {_tail(said.getvalue(), 1)}") from end


def targets() -> set[str]:
    """What ``make`` can make."""
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def make(command: Command, words: Sequence[str]) -> None:
    wanted = [word for word in words if not word.startswith("-") and "=" not in word]
    if unknown := [word for word in wanted if word not in targets()]:
        raise Failure(f"the Makefile has no target {unknown[0]!r} ({command})")


def example(words: Sequence[str], command: str) -> None:
    """A program of examples/ must be there and know its options; tests/test_examples.py runs it."""
    path = ROOT / words[0]
    if not path.is_file():
        raise Failure(f"there is no {words[0]} for {command}")
    given = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
    if unknown := sorted(given - options_of_example(path) - {"--help"}):
        raise Failure(f"there is no option {unknown[0]} in {command}")


def options_of_example(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r'add_argument\("(--[\w-]+)"', path.read_text(encoding="utf-8")))


@functools.cache
def extras() -> frozenset[str]:
    """The extras of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    found = next(node.value for node in ast.walk(tree)
                 if isinstance(node, ast.keyword) and node.arg == "extras_require")
    return frozenset(ast.literal_eval(found))


def pip(command: Command, words: Sequence[str]) -> None:
    """Extras of xmodal and files of requirements must be there; what others are called is theirs."""
    for word in words:
        own = re.fullmatch(r"(?:\.|xmodal|.*\.whl|.*xmodal.*)\[([\w, -]+)\]", word)
        if own and (unknown := {name.strip() for name in own[1].split(",")} - extras()):
            raise Failure(f"setup.py has no extra {unknown.pop()!r} ({command})")
    for option in ("-r", "--requirement", "-c", "--constraint"):
        for file in _values(words, option)[:1]:
            if not (ROOT / file).is_file():
                raise Failure(f"there is no file {file} ({command})")


def _change_folder(command: Command, words: list[str]) -> None:
    """Pages begin in a clone already, and nobody leaves it."""
    if words and words[0] not in ("xmodal", "."):
        raise Failure(f"{command}: commands of the pages stay in the root of the repository")


def _parse(fence: Fence) -> None:
    """A fence of data must be what it says it is."""
    try:
        if fence.language in ("csv", "tsv"):
            _table(fence.text, "," if fence.language == "csv" else "\t")
        elif fence.language == "json":
            json.loads(fence.text)
        elif fence.language in ("toml", "yaml") and (parse := _parser_of(fence.language)):
            parse(fence.text)
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"this is no {fence.language}: {error}") from error


def _table(text: str, delimiter: str) -> None:
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if row]
    if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        counts = ", ".join(str(len(row)) for row in rows)
        raise Failure(f"rows of {counts} columns; expected as many in each, at least 2")


def _parser_of(language: str) -> Callable[[str], Any] | None:
    """A parser, where there is one: TOML's comes with Python 3.11, YAML's with the extra ``docs``."""
    name, function = {"toml": ("tomllib", "loads"), "yaml": ("yaml", "safe_load")}[language]
    return getattr(importlib.import_module(name), function) if importlib.util.find_spec(name) else None
