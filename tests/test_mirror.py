"""Every module has its oracle in tests/: found by its name, or listed here with the words that show it.

By name: the test file is called after the module (``test_batches.py``, ``test_data_batches.py``) or its room
(``test_data.py``), or after a module of the same room that imports it, and imports the one that it is called after.
Names that a package exports lead to the module that defines them.
"""
from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from test_imports import MODULES, room
from test_imports import imports as read_imports

TESTS = {path.stem: path for path in sorted(Path(__file__).parent.glob("test_*.py"))}
INNER = [name for name, path in MODULES.items() if path.name != "__init__.py"]

#: What is tested under another name: the test file, and a word of it that only a test of this module would hold.
LISTED = {
    "__main__": ("test_console", '"-m", "xmodal"'),
    "cli.by_class": ("test_within", "--bits"),
    "cli.completion": ("test_console", "completion"),
    "cli.page": ("test_page", "--html"),
    "cli.page_items": ("test_page", "page_items."),
    "cli.refine_cca": ("test_commands", "refine_cca.main"),
    "cli.run_demo": ("test_demo", "run_demo.main"),
    "cli.run_eval": ("test_commands", "run_eval.main"),
    "cli.run_search": ("test_search", "run_search.main"),
    "cli.run_train": ("test_commands", "run_train.main"),
    "comparison.compare": ("test_run_compare", "compare_runs("),
    "comparison.rows": ("test_run_compare", "rows_of("),
    "errors": ("test_common", "did_you_mean("),
    "evaluator.hubs": ("test_hubness", "--hubness"),
    "evaluator.restoring": ("test_pictures", "restoring_errors"),
    "evaluator.verification": ("test_verification", "--verify"),
    "features.choices": ("test_image_text", "image_encoders("),
    "features.sounds": ("test_audio_score_engrave", "frame_by_frame"),
    "layers.batch_norm": ("test_distributed", "SharedBatchNorm"),
    "layers.binary": ("test_autoencoders", "Bits("),
    "metrics.chance": ("test_plane", "chance_recall("),
    "objectives.by_class": ("test_verifier", "ByClass"),
    "objectives.decorrelation": ("test_objectives_in_batch", "VICReg"),
    "objectives.neighbours": ("test_objectives_in_batch", "NeighbourhoodComponents"),
    "objectives.noise": ("test_objectives_in_batch", "NoiseRegularised"),
    "objectives.verification": ("test_verifier", "MatchOrNot"),
    "ranges": ("test_tuning", "Range("),
    "report.figures": ("test_page", "binned("),
    "report.html": ("test_page", "element("),
    "report.items": ("test_page", "item_html("),
    "report.page": ("test_page", "--html"),
    "report.row_curves": ("test_comparison", "plot_rows("),
    "report.style": ("test_browser", "visit.overflow"),
}


# -- who imports what ------------------------------------------------------------------------------------------------

imports = cache(read_imports)


@cache
def exports(package: str) -> dict[str, tuple[str, str]]:
    """What a package's ``__init__`` imports, by the name it gives it: module and name there."""
    found = {}
    if MODULES[package].name == "__init__.py":
        for node in ast.parse(MODULES[package].read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("xmodal"):
                found.update({alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names})
    return found


def home(module: str, name: str) -> str:
    """The module that ``from module import name`` is about."""
    while module in MODULES and name in exports(module):
        module, name = exports(module)[name]
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


@cache
def imported_by(test: str) -> frozenset[str]:
    """The modules of xmodal that a test file imports."""
    found = set()
    for node in ast.walk(ast.parse(TESTS[test].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xmodal":
            found |= {home(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found & MODULES.keys() - {"xmodal"})


@cache
def reached(start: str, everywhere: bool) -> frozenset[str]:
    """A module and what it imports, and what that imports: of its own room, or everywhere."""
    seen, waiting = {start}, [start]
    while waiting:
        for name in imports(waiting.pop()) - {"xmodal"} - seen:
            if name in MODULES and (everywhere or room(name) == room(start)):
                seen.add(name)
                waiting.append(name)
    return frozenset(seen)


def names_of(module: str) -> set[str]:
    """What the test file of a module may be called."""
    parts = module.split(".")[1:]
    return {f"test_{parts[-1]}", f"test_{'_'.join(parts)}", f"test_{parts[0]}"}


def oracles(module: str) -> list[str]:
    """The test files that are a module's by their names."""
    return [test for test in TESTS for named in imported_by(test)
            if room(named) == room(module) and test in names_of(named) and module in reached(named, False)]


# -- the rule --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("module", INNER)
def test_the_module_has_an_oracle(module):
    short = module.removeprefix("xmodal.")
    if short not in LISTED:
        assert oracles(module), (f"no test file is called after {module} and imports it; write one ("
                                 f"{' or '.join(sorted(names_of(module)))}), or list in LISTED which one tests it")
        return
    test, word = LISTED[short]
    assert test in TESTS, f"{test}, which LISTED gives for {module}, is gone"
    assert word in TESTS[test].read_text(encoding="utf-8"), f"{test} holds no {word!r} any more, so who tests {module}?"
    if short != "__main__":  # run as a program
        assert any(module in reached(name, True) for name in imported_by(test)), f"{test} doesn't lead to {module}"


def test_the_list_holds_nothing_more_than_it_must():
    assert [name for name in LISTED if f"xmodal.{name}" not in INNER] == [], "these modules are gone"
    assert [name for name in LISTED if oracles(f"xmodal.{name}")] == [], "these are found by their names"


@pytest.mark.parametrize(("text", "found"), [
    ("from xmodal import CCALayer", {"xmodal.layers.cca"}),
    ("from xmodal.layers import cca, CCALayer", {"xmodal.layers.cca"}),
    ("import xmodal.linalg", {"xmodal.linalg"}),
    ("from xmodal.data import load_data", {"xmodal.data.sets"}),
    ("from numpy import linalg", set()),
])
def test_names_lead_home(text, found, tmp_path, monkeypatch):
    file = tmp_path / "test_made_up.py"
    file.write_text(text)
    monkeypatch.setitem(TESTS, "test_made_up", file)
    imported_by.cache_clear()
    assert imported_by("test_made_up") == found
    imported_by.cache_clear()


def test_a_module_that_nobody_tests_is_noticed(tmp_path, monkeypatch):
    def without(kept: Iterable[str]) -> dict[str, Path]:
        return {name: path for name, path in TESTS.items() if name in kept}

    assert oracles("xmodal.linalg") == ["test_linalg"]
    monkeypatch.setattr(f"{__name__}.TESTS", without(set(TESTS) - {"test_linalg"}))
    assert oracles("xmodal.linalg") == []
