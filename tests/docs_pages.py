"""The pages of the documentation, read: their fences, commands, links and headings, each with its line."""
from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
#: What a fence may hold. The first three are run, the others are parsed or only looked at.
LANGUAGES = ("python", "sh", "console", "text", "csv", "tsv", "json", "toml", "yaml")
SINGLE_PAGES = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "DATA_LICENCES.md", "data/README.md",
                "benchmarks/README.md", "examples/README.md")
#: Pages whose blocks change the repository and are run, in a copy of it, by a test of their own. Their ``text`` fences
#: may hold commands.
WALKED = {"CONTRIBUTING.md": "tests/test_contributing.py"}
ERROR = "error:"


class Failure(Exception):  # noqa: N818 (what a page does wrong)
    """Why a block or a command is no good; its text goes behind page and line."""


def all_pages() -> list[Path]:
    """Every page, present ones of the single ones included."""
    single = [ROOT / name for name in SINGLE_PAGES]
    return [path for path in single if path.is_file()] + sorted((ROOT / "docs").rglob("*.md"))


@dataclass(frozen=True)
class Fence:
    """A fenced block: the line of its opening fence, the first word after that, and what is between."""

    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A simple command: its words, the line where it begins, where its output goes, and what it should say.

    Attributes:
        error: the page's line that begins with ``error:`` in the output of a console block; exit code 2 is expected.
        output: the file that ``>`` names.
        readers: programs that its output is piped to.
    """

    line: int
    words: tuple[str, ...]
    error: str | None = None
    output: str | None = None
    readers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Link:
    line: int
    target: str


@dataclass
class Page:
    """A page by its path, as Markdown understands it.

    Attributes:
        unclosed: lines of fences that never end.
        indented: lines of blocks that are code by four spaces alone: no language, so nobody would run them.
        codes: (line, text) of code within sentences.
    """

    path: Path
    text: str
    fences: list[Fence] = field(default_factory=list)
    unclosed: list[int] = field(default_factory=list)
    indented: list[int] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    codes: list[tuple[int, str]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The path as messages and tests show it."""
        return self.path.relative_to(ROOT).as_posix() if self.path.is_relative_to(ROOT) else self.path.name

    @cached_property
    def anchors(self) -> set[str]:
        """What ``#`` may name: headings as GitHub slugs them, anchors in HTML, and objects of the API reference."""
        found: set[str] = set()
        for heading in self.headings:
            slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            found.add(slug if slug not in found else
                      next(f"{slug}-{n}" for n in range(1, 99) if f"{slug}-{n}" not in found))
        found.update(re.findall(r'<\w+[^>]*\b(?:id|name)="([^"]+)"', self.text))
        found.update(re.findall(r"^::: *(\S+)", self.text, re.MULTILINE))
        return found


def read_page(path: Path) -> Page:
    """Reads a page; what is wrong with it is for :func:`mistakes` to say."""
    page = Page(path, path.read_text(encoding="utf-8"))
    lines = page.text.split("\n")
    tokens = MarkdownIt("commonmark").enable("table").parse(page.text)
    for number, token in enumerate(tokens):
        first = (token.map or (0, 0))[0] + 1
        if token.type == "fence":
            page.fences.append(Fence(first, (token.info.split() or [""])[0], token.content))
            if token.map and not re.match(r"[\s>]*(`{3,}|~{3,})\s*$", lines[token.map[1] - 1]):
                page.unclosed.append(first)
        elif token.type == "code_block":
            page.indented.append(first)
        elif token.type == "html_block":
            page.links += [Link(first, target) for target in _html_targets(token.content)]
        elif token.type == "inline":
            _read_inline(page, token.children or [], first, tokens[number - 1].type == "heading_open")
    return page


def _read_inline(page: Page, children: list, line: int, is_heading: bool) -> None:
    if is_heading:
        page.headings.append("".join(child.content for child in children if child.type in ("text", "code_inline")))
    for child in children:
        if child.type in ("softbreak", "hardbreak"):
            line += 1
        elif child.type == "code_inline":
            page.codes.append((line, child.content))
        elif child.type == "html_inline":
            page.links += [Link(line, target) for target in _html_targets(child.content)]
        elif target := child.attrGet("href") or child.attrGet("src"):
            page.links.append(Link(line, str(target)))


def _html_targets(html: str) -> list[str]:
    return re.findall(r'\b(?:href|src)="([^"]+)"', html)


# -- what can be told without running anything -----------------------------------------------------------------------

def mistakes(page: Page) -> list[str]:
    """Fences without a known language, code that is no fence, links that lead nowhere; each with page and line."""
    found = [(fence.line, f"the fence has no language; known: {', '.join(LANGUAGES)}" if not fence.language else
              f"the fence's language {fence.language!r} is unknown; known: {', '.join(LANGUAGES)}")
             for fence in page.fences if fence.language not in LANGUAGES]
    found += [(fence.line + offset, "a command in a text fence is not run: make it a console fence")
              for fence in page.fences if fence.language == "text" and page.name not in WALKED
              for offset, line in enumerate(fence.text.split("\n"), start=1) if line.startswith("$ ")]
    found += [(line, "the fence is never closed") for line in page.unclosed]
    found += [(line, "a block is code by its indentation alone: put it into a fence") for line in page.indented]
    found += [(link.line, problem) for link in page.links if (problem := _broken(page, link.target))]
    return [f"{page.name}:{line}: {what}" for line, what in sorted(found)]


def _broken(page: Page, target: str) -> str | None:
    """Why a relative link leads nowhere; None where it is fine, or leads to another server."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    place, _, anchor = unquote(target).partition("#")
    path = page.path if not place else (page.path.parent / place).resolve()
    if not path.exists():
        return f"the link {target} leads to no file"
    if anchor and path.suffix == ".md":
        anchors = page.anchors if path == page.path else read_page(path).anchors
        if anchor not in anchors:
            return f"the link {target}: {path.name} has no heading for it; it has {', '.join(sorted(anchors))}"
    return None


# -- commands --------------------------------------------------------------------------------------------------------

def commands(fence: Fence) -> Iterator[Command]:
    """The simple commands of a ``sh`` or ``console`` fence.

    Raises:
        ValueError: a line that no shell would read (a quote that isn't closed), or text before the first ``$``; with
            the line in front.
    """
    for line, text, output in (_prompts if fence.language == "console" else _lines)(fence):
        try:
            words = _words(text)
        except ValueError as error:
            raise ValueError(f"{line}: {error} in {text!r}") from error
        error = next((said for said in output if said.startswith(ERROR)), None)
        yield from _simple(words, line, error)


def _words(text: str) -> list[str]:
    reader = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split, reader.commenters = True, ""
    return list(reader)


def _lines(fence: Fence) -> Iterator[tuple[int, str, list[str]]]:
    """(line, command without its comment, no output); lines that end in a backslash are joined."""
    number, text = 0, ""
    for offset, raw in enumerate(fence.text.split("\n"), start=1):
        number = number or fence.line + offset
        line = re.sub(r"(^|\s)#.*", "", raw) if not _quoted(raw) else raw
        if line.rstrip().endswith("\\"):
            text += line.rstrip()[:-1] + " "
            continue
        if (text + line).strip():
            yield number, (text + line).strip(), []
        number, text = 0, ""
    if text.strip():
        yield number, text.strip(), []


def _quoted(line: str) -> bool:
    """Whether the first ``#`` of a line is inside quotes."""
    before = line.partition("#")[0]
    return "#" in line and (before.count('"') % 2 == 1 or before.count("'") % 2 == 1)


def _prompts(fence: Fence) -> Iterator[tuple[int, str, list[str]]]:
    """(line, command, its output): commands stand after ``$``, the rest is output."""
    blocks: list[tuple[int, list[str], list[str]]] = []
    for offset, raw in enumerate(fence.text.split("\n"), start=1):
        if raw.startswith("$ "):
            blocks.append((fence.line + offset, [raw[2:]], []))
        elif blocks and not blocks[-1][2] and blocks[-1][1][-1].rstrip().endswith("\\"):
            blocks[-1][1].append(raw.removeprefix("> "))
        elif blocks:
            blocks[-1][2].append(raw)
        elif raw.strip():
            raise ValueError(f"{fence.line + offset}: a console block begins with a command after '$ '")
    for line, typed, output in blocks:
        for _, text, _ in _lines(Fence(line - 1, "sh", "\n".join(typed))):
            yield line, text, output


def _simple(words: list[str], line: int, error: str | None) -> Iterator[Command]:
    """Cuts a line at ``&&``, ``;`` and ``&``; knows pipes and ``> FILE``."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", ";", "&"):
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        own, *readers = _cut(part, "|")
        output = None
        for sign in (">", ">>"):
            if sign in own:
                at = own.index(sign)
                output = own[at + 1] if at + 1 < len(own) else ""
                own = own[:at] + own[at + 2:]
        if own:
            yield Command(line, tuple(own), error, output, tuple(reader[0] for reader in readers if reader))


def _cut(words: list[str], sign: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == sign:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
