"""The documentation site: every page in its place, every public name in the reference, links as in the repository.

Whether it builds without a warning is ``make check``'s to say (``mkdocs build --strict``), and the slow test's here.
"""
from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import xmodal

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def nav_paths(entries) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    below = entries.values() if isinstance(entries, dict) else entries
    return [path for entry in below for path in nav_paths(entry)]


def module(name: str) -> ModuleType:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def documented() -> list[str]:
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^::: (\S+)$", text, re.MULTILINE)


def test_every_page_is_in_the_navigation_once_and_nothing_else_is():
    paths = nav_paths(CONFIG["nav"])
    assert len(paths) == len(set(paths))
    assert sorted(path for path in paths if path.startswith("docs/")) == PAGES
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_public_name_is_in_the_reference_once():
    names = documented()
    assert len(names) == len(set(names))
    assert {f"xmodal.{name}" for name in xmodal.__all__} == {name for name in names if name.count(".") == 1}


@pytest.mark.parametrize("name", documented())
def test_what_the_reference_names_can_be_imported(name):
    path, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(path), attribute).__doc__


def test_all_that_mkdocs_can_check_fails_the_build():
    checks = CONFIG["validation"]
    assert set(checks["nav"].values()) | set(checks["links"].values()) == {"warn"}
    assert set(checks["links"]) == {"not_found", "anchors", "absolute_links", "unrecognized_links"}


def test_nothing_is_asked_of_other_servers():
    assert CONFIG["theme"]["font"] is False and CONFIG["extra"]["generator"] is False
    assert not any("://" in path for path in CONFIG.get("extra_css", []) + CONFIG.get("extra_javascript", []))
    assert "site_url" not in CONFIG and "repo_url" not in CONFIG


def test_links_are_found_and_code_is_left_alone():
    text = """A [page](../benchmarks/README.md#search "title"), a ![picture](demo.png), <img src="a%20b.png">,
`[no](code.md)`,
[out](https://example.org), [here](#anchor), [mail](mailto:a@b.c) and

[reference]: models/x.py

```python
print("[no](fence.md)")
```
"""
    assert list(module("hooks").links(text)) == ["../benchmarks/README.md", "demo.png", "a b.png", "models/x.py"]


def test_roles_and_tables_of_docstrings_become_markdown():
    griffe = pytest.importorskip("griffe")
    owner = griffe.Class("Layer", parent=griffe.Module("layers", parent=griffe.Module("xmodal")))
    owner.members["fit"] = griffe.Function("fit", parent=owner)
    given = ("See :func:`xmodal.linalg.whiten`, :meth:`fit` and :class:`Other`::\n\n    code\n\n"
             "Args:\n    r1, r2: ridges\n        of views\n    x: (n, d)")
    text = module("docstrings").markdown_of(given, owner)
    assert '"xmodal.linalg.whiten"><code>whiten</code>' in text
    assert '"xmodal.layers.Layer.fit"><code>fit</code>' in text and '"xmodal.layers.Other"><code>Other</code>' in text
    assert "::" not in text
    assert "    r1: ridges\n        of views\n    r2: ridges\n        of views\n    x: (n, d)" in text


def test_attributes_are_described_by_comments_and_keep_their_own_types():
    griffe = pytest.importorskip("griffe")
    code = '''class Gallery:
    """Items.

    Attributes:
        dim: width.
        ids: names.

    More.
    """

    dim: int
    kind: str  #: exact or not
    #: the rows
    #: of all
    rows: list
'''
    with griffe.temporary_visited_package("pack", {"__init__.py": code}) as package:
        loaded = griffe.load("pack", search_paths=[package.filepath.parent.parent],
                             extensions=griffe.load_extensions(module("docstrings").Docstrings))
    gallery = loaded["Gallery"]
    assert gallery["kind"].docstring.value == "exact or not" and gallery["rows"].docstring.value == "the rows\nof all"
    described = next(part for part in gallery.docstring.parse("google") if part.kind.value == "attributes").value
    assert [(one.name, str(one.annotation or "")) for one in described] == [("dim", "int"), ("ids", "")]
    assert gallery.docstring.value.endswith("More.")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nothing_of_other_servers(tmp_path):
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]*\shref=\"([^\"]+)\"", text)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
