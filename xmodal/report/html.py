"""Parts of an HTML page, made of escaped text: tables, figures, sections, the page around them. Formatting only."""
from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from xmodal.report.style import STYLE

#: Nothing but what is written in the page: no network, no script, no forms.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already. Everything else is escaped where it enters."""


def escape(value: object) -> Markup:
    """``value`` as text of a page, within quotes as well; what no page may hold becomes �."""
    return value if isinstance(value, Markup) else Markup(html.escape(_NO_TEXT.sub("\ufffd", str(value)), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    return Markup(between.join(escape(part) for part in parts))


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """``<tag attributes>content</tag>``; ``class_`` and ``aria_label`` mean ``class`` and ``aria-label``.

    An attribute that is None is left out, one that is True has no value.
    """
    given = [name.rstrip("_").replace("_", "-") + ("" if value is True else f'="{escape(value)}"')
             for name, value in attributes.items() if value is not None and value is not False]
    return Markup(f"<{' '.join([tag, *given])}>{join(content)}</{tag}>")


def foreign(text: str) -> Markup:
    """A text out of the data, whatever the direction of its letters, kept from turning those around it."""
    return element("bdi", text, dir="auto")


def paragraph(*content: object, class_: str | None = None) -> Markup:
    return element("p", *content, class_=class_)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], label: str, *, numbers: bool = True,
          class_: str = "") -> Markup:
    """A table in a box of its own, within which it scrolls where it is wider than the page.

    Args:
        head: names of the columns, or none.
        rows: the first cell of each is its heading.
        label: what it shows, for those who can't see it.
        numbers: the other cells are numbers, which stand at the right.
        class_: a further class of the table.
    """
    lines = [] if not head else [element("thead", element("tr", *(element("th", one, scope="col") for one in head)))]
    body = [element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
            for row in rows]
    classes = " ".join(name for name in ("numbers" if numbers else "", class_) if name) or None
    whole = element("table", element("caption", label, class_="unseen"), *lines, element("tbody", *body),
                    class_=classes)
    return element("div", whole, class_="box", tabindex="0", role="region", aria_label=label)


def figure(picture: Markup, caption: object) -> Markup:
    return element("figure", picture, element("figcaption", caption))


def section(name: str, title: str, *content: object) -> Markup:
    """A chapter of the page; ``name`` is what links to it call it."""
    return element("section", element("h2", title, id=f"{name}-title"), *content, id=name,
                   aria_labelledby=f"{name}-title")


def contents(sections: Sequence[tuple[str, str]]) -> Markup:
    """Links to the sections, by name and title."""
    return element("nav", element("ul", *(element("li", element("a", title, href=f"#{name}"))
                                          for name, title in sections)), aria_label="Contents")


def document(title: str, *content: object) -> str:
    """The whole page. It loads nothing: its policy forbids the browser to."""
    head = join([Markup('<meta charset="utf-8">'),
                 Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'),
                 Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
                 Markup('<meta name="color-scheme" content="light dark">'),
                 Markup('<meta name="referrer" content="no-referrer">'),
                 Markup('<link rel="icon" href="data:,">'),
                 element("title", title), element("style", Markup(STYLE))], "\n")
    lines = ("<!DOCTYPE html>", '<html lang="en">', "<head>", head, "</head>", "<body>", *map(escape, content),
             "</body>", "</html>", "")
    return "\n".join(lines)
