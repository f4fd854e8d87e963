"""DESIGN section 2: a module imports only from lines above it; inside a folder there are no circles."""
from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "xmodal"
#: From the ground up. Names not written yet are allowed to be absent.
ORDER = ["errors", "atomic", "linalg", "nearest", "covariance", "distributed", "layers", "towers", "augment",
         "networks", "objectives", "metrics", "features", "data", "linear", "ranges", "start", "config", "checkpoint",
         "diagnosis", "evaluator", "trainer", "runs", "comparison", "tuning", "search", "report", "pictures", "cli",
         "__main__"]
NOT_YET: set[str] = set()


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("xmodal", *parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(name: str) -> set[str]:
    """Modules of xmodal that a module imports anywhere in its text, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{name}: star import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {module for module in found if module.split(".")[0] == "xmodal"}


def room(name: str) -> str:
    return name.split(".")[1]


INNER = sorted(name for name in MODULES if name != "xmodal")


def test_every_module_has_its_place():
    assert {room(name) for name in INNER} | NOT_YET == set(ORDER) | NOT_YET


@pytest.mark.parametrize("name", INNER)
def test_imports_only_from_above(name):
    for imported in imports(name):
        assert imported in MODULES, f"{name} imports {imported}, which does not exist"
        assert imported != "xmodal", f"{name} imports the package itself; name the module"
        assert room(imported) == room(name) or ORDER.index(room(imported)) < ORDER.index(room(name)), imported


@pytest.mark.parametrize("folder", sorted({room(name) for name in INNER if name.count(".") > 1}))
def test_no_circles_inside_a_folder(folder):
    inside = {name for name in INNER if room(name) == folder and name.count(".") > 1}
    list(TopologicalSorter({name: imports(name) & inside for name in inside}).static_order())
