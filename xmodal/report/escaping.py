"""Names and texts of any content, made safe for Markdown, LaTeX and YAML."""
from __future__ import annotations

import json
import re

_LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "|": r"\textbar{}", "\"": "''", "†": r"$^\dagger$", "±": r"$\pm$", "≤": r"$\le$", "…": r"\dots{}"}
# An underscore between letters is one in Markdown, too.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~#&$]|(?<![^\W_])_|_(?![^\W_])")
# JSON leaves these as they are, YAML takes them for line breaks or not at all.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def one_paragraph(text: object) -> str:
    """Text on one line, without what no file in UTF-8 can hold."""
    return " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())


def latex(text: object) -> str:
    """Text for LaTeX, every special character escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in one_paragraph(text))


def markdown(text: object) -> str:
    """Text for Markdown, table cells included: nothing in it formats anything."""
    return _MARKDOWN.sub(lambda match: "\\" + match.group(), one_paragraph(text))


def markdown_code(text: object) -> str:
    """Text as a span of code, fenced by more backticks than it holds; not for table cells."""
    inner = one_paragraph(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", inner)), default=0))
    pad = " " if "`" in inner else ""
    return f"{fence}{pad}{inner}{pad}{fence}"


def yaml_string(text: object) -> str:
    """A double-quoted YAML scalar on one line. JSON strings are that, but for a few characters."""
    quoted = json.dumps(str(text).encode("utf-8", "replace").decode("utf-8"), ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)
