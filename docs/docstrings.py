"""Docstrings of xmodal as the API reference shows them: an extension of Griffe (mkdocs.yml).

Docstrings are Google style with Sphinx's roles, which Markdown doesn't know: a role becomes a link where its target is
in the reference and code elsewhere, ``::`` and tables of ``====`` become code blocks. ``#:`` comments are docstrings of
attributes, and arguments that are described together (``r1, r2: ridges``) are told apart.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([^`]+)`")
_TOGETHER = re.compile(r"^( {4})(\w+(?:, \w+)+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_COMMENT = re.compile(r"\s*#:\s?(.*)")


class Docstrings(griffe.Extension):
    """Rewrites docstrings when they have been read."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, agent: Any, **kwargs: Any) -> None:
        if attr.docstring is None and (comment := _comment_of(attr)):
            attr.docstring = griffe.Docstring(comment, lineno=attr.lineno, endlineno=attr.lineno, parent=attr)

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value, obj)

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        for owner in _classes(pkg):
            if owner.docstring is not None:
                owner.docstring.value = _untyped_attributes(owner.docstring.value, owner)


def _classes(place: griffe.Object) -> Iterator[griffe.Class]:
    """All classes of a package, those of its modules included."""
    for member in place.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Class | griffe.Module):
            yield from _classes(member)


def _untyped_attributes(text: str, owner: griffe.Class) -> str:
    """Says of attributes without an annotation that they have none: Griffe would give them that of the one before."""
    head, title, rest = text.partition("\nAttributes:\n")
    section, blank, tail = rest.partition("\n\n")

    def told(found: re.Match[str]) -> str:
        try:
            known = owner[found[1]].annotation is not None
        except (AttributeError, KeyError, griffe.GriffeError):
            known = False
        return found[0] if known else f"    {found[1]} ():"

    return head + title + re.sub(r"^ {4}(\w+):", told, section, flags=re.MULTILINE) + blank + tail


def _comment_of(attr: griffe.Attribute) -> str:
    """The ``#:`` comment behind an attribute, or those above it."""
    if attr.lineno is None:
        return ""
    lines = attr.lines_collection[attr.filepath]
    behind = re.search(r"#:\s?(.*)", lines[(attr.endlineno or attr.lineno) - 1])
    if behind:
        return behind.group(1)
    above: list[str] = []
    for line in reversed(lines[:attr.lineno - 1]):
        found = _COMMENT.fullmatch(line)
        if not found:
            break
        above.insert(0, found.group(1))
    return "\n".join(above)


def markdown_of(text: str, obj: griffe.Object) -> str:
    """A docstring's text as Markdown."""
    def told_apart(found: re.Match[str]) -> str:
        return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))

    text = _TOGETHER.sub(told_apart, _code_blocks(text))
    return _ROLE.sub(lambda found: _reference(found.group(1), obj), text)


def _reference(name: str, obj: griffe.Object) -> str:
    """A link to ``name`` as it is meant in ``obj``; plain code where the reference doesn't have it."""
    if name.startswith(("xmodal.", "torch.", "numpy.", "sklearn.")):
        path = name
    else:
        owner = obj if obj.is_class or obj.is_module else obj.parent
        inside = owner is not None and owner.is_class and name.split(".")[0] in owner.members
        path = f"{owner.path if inside and owner is not None else obj.module.path}.{name}"
    shown = name if name != path else name.rpartition(".")[2]
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'


def _code_blocks(text: str) -> str:
    """``::`` goes, since what follows is indented anyhow; tables of ``====`` are indented."""
    result: list[str] = []
    in_table, lines = False, text.splitlines()
    for number, line in enumerate(lines):
        rule = re.fullmatch(r"\s*=+(\s+=+)+\s*", line) is not None
        last = rule and not any(re.fullmatch(r"\s*=+(\s+=+)+\s*", other) for other in lines[number + 1:])
        in_table = in_table or rule
        if line.strip() != "::":
            plain = re.sub(r"``([^`]*)``", r"\1    ", line)  # as wide as it was
            result.append(" " * 4 + plain if in_table else re.sub(r"::$", ":", line))
        in_table = in_table and not last
    return "\n".join(result)
