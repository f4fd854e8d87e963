"""What the documentation site does beyond mkdocs: its links are those of the repository.

Every file gets the path that it has in the repository, ``docs/search.md`` and not ``search.md``, and pages of other
folders join in (``benchmarks/README.md``). A relative link therefore leads to the same place on the site as where the
repository is browsed, and mkdocs checks all of them. What is linked and isn't a page (a model file, a folder, results)
becomes one, or is copied as it is.
"""
from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[1]
#: Shown as pages; other files are copied as they are.
SHOWN = {".py": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "sh", ".txt": "text", ".cfg": "ini",
         "": "text"}
#: Of a linked folder that is shown as a list.
HIDDEN = ("__pycache__", ".")

_CODE = re.compile(r"^([ \t]*)(`{3,}|~{3,}).*?^\1\2[ \t]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)|^\[[^\]]+\]:\s*(\S+)|(?:src|href)=\"([^\"]+)\"",
                   re.MULTILINE)


class ShownFile(File):
    """A file that is no Markdown, or a folder, as a page."""

    def is_documentation_page(self) -> bool:
        return True


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings get the anchors that GitHub and GitLab give them; a folder in ``nav`` stands for all that is in it."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    if config.nav:
        config.nav = [_expanded(entry) for entry in config.nav]
    return config


def _expanded(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    (title, below), = entry.items()
    if not isinstance(below, str) or not below.endswith("/"):
        return entry
    programs = sorted(path.name for path in (ROOT / below).glob("*.py"))
    return {title: [below + "README.md", *({name: below + name} for name in programs)]}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Gives files of docs/ their paths in the repository, and adds what ``nav`` and links name."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
            files.append(File(f"docs/{file.src_uri}", str(ROOT), file.dest_dir, file.use_directory_urls,
                              dest_uri=file.dest_uri, inclusion=file.inclusion))
    for path in _paths(config.nav or []):
        _add(path, files, config, InclusionLevel.INCLUDED)
    waiting = [file for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for link in links(page.content_string):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page.src_uri), link))
            added = _add(path, files, config, InclusionLevel.NOT_IN_NAV)
            if added is not None and added.src_uri.endswith(".md"):
                waiting.append(added)
    return files


def on_page_content(html: str, **kwargs: Any) -> str:
    """A value stays with its deviation when a table is narrow; names of the library lead to the reference, if there."""
    public = (ROOT / "xmodal" / "__init__.py").read_text(encoding="utf-8")
    names = re.findall(r'^    "([A-Z]\w+)",$', public, re.MULTILINE)

    def linked(found: re.Match[str]) -> str:
        name = found[1] if found[1].startswith("xmodal.") else f"xmodal.{found[1]}"
        return f'<autoref optional identifier="{name}">{found[0]}</autoref>'

    named = re.sub(rf"<code>((?:xmodal\.)[\w.]+|{'|'.join(names)})</code>(?![^<]*</(?:a|autoref)>)", linked, html)
    return named.replace(" ± ", "\u00a0±\u00a0")


def links(text: str) -> Iterator[str]:
    """The relative paths that a Markdown text links to, without their anchors."""
    for found in _LINK.finditer(_CODE.sub("", text)):
        path = unquote(next(filter(None, found.groups()))).partition("#")[0]
        if path and not path.startswith("/") and not re.match(r"[a-z][a-z0-9+.-]*:", path):
            yield path


def _paths(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from _paths(entry)


def _add(path: str, files: Files, config: MkDocsConfig, inclusion: InclusionLevel) -> File | None:
    """Adds a file of the repository, unless it is there already or doesn't exist (which mkdocs says)."""
    place = ROOT / path
    if path.startswith("..") or files.get_file_from_path(path) is not None or not place.exists():
        return None
    shown = place.is_dir() or place.suffix in SHOWN
    if shown:
        file: File = ShownFile.generated(config, path, content=_shown(place, path), inclusion=inclusion)
    else:
        target = {"benchmarks/README.md": "benchmarks.html", "data/README.md": "data.html",
                  "README.md": "readme.html"}.get(path)
        file = File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=target, inclusion=inclusion)
        if target is not None:
            file.name = target.removesuffix(".html")  # a page like others, not the one that stands for its section
    files.append(file)
    return file


def _shown(place: Path, path: str) -> str:
    """A page that shows a file, or what is in a folder."""
    if place.is_dir():
        names = sorted(one.name + "/" * one.is_dir() for one in place.iterdir() if not one.name.startswith(HIDDEN))
        return f"# {path}/\n\n" + "".join(f"* `{name}`\n" for name in names)
    language = SHOWN[place.suffix]
    return f"# {place.name}\n\n`{path}`\n\n`````{language}\n{place.read_text(encoding='utf-8').rstrip()}\n`````\n"
