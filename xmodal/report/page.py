"""One page about one evaluation: from numbers, figures and items to HTML. Formatting only."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xmodal.metrics import DIRECTIONS
from xmodal.report import figures
from xmodal.report.figures import direction_name, draw
from xmodal.report.html import (
    Markup,
    contents,
    document,
    element,
    figure,
    foreign,
    join,
    paragraph,
    section,
    table,
)
from xmodal.report.items import Item, item_html

#: Metrics of the table: key, name, digits after the point.
_ROWS = (("mrr", "MRR", 3), ("median_rank", "Median rank", 2), ("mean_rank", "Mean rank", 2),
         ("map", "mAP, same class", 3), ("ndcg10", "nDCG at 10, same class", 3),
         ("mean_distance", "Mean distance of pairs (1 − cosine)", 4),
         ("median_distance", "Median distance of pairs", 4))


@dataclass(frozen=True)
class Asked:
    """A query and what was found for it.

    Attributes:
        query: the item that asked.
        partner: its match, the most similar one where it has several.
        rank: that match's rank.
        cosine: its similarity.
        near: the nearest items of the gallery, best first.
        right: which of these are matches.
    """

    query: Item
    partner: Item
    rank: float
    cosine: float
    near: Sequence[Item]
    right: Sequence[bool]


@dataclass(frozen=True)
class Hubs:
    """How often the items of a gallery are found, in one direction.

    Attributes:
        counts: (n,) how many queries have each item among their ``k`` nearest.
        skew: of ``counts``.
        k: how many nearest.
        n_queries: how many queries.
        biggest: the items that are found most often, with their counts.
    """

    counts: np.ndarray
    skew: float
    k: int
    n_queries: int
    biggest: Sequence[tuple[Item, int]]


@dataclass(frozen=True)
class Scatter:
    """Pairs in a plane.

    Attributes:
        one, two: (m, 2) the items of view 1 and of view 2.
        lines: the first so many pairs are joined.
        classes: (m,) to colour by; None colours by view.
        shares: of the variance along the axes; None where these mean nothing.
    """

    one: np.ndarray
    two: np.ndarray
    lines: int
    classes: np.ndarray | None = None
    shares: tuple[float, float] | None = None


@dataclass(frozen=True)
class PageContent:
    """All that the page shows.

    Attributes:
        title: what was evaluated on what.
        subtitle: which pairs, and what must be said of them.
        synthetic: whether the values are made up.
        metrics: as ``metrics.json`` has them, with intervals and chance.
        view_names: what view 1 and view 2 are.
        ranks: (q,) of each direction.
        chance: ks and what chance finds there, in percent, of each direction.
        pearson, canonical: (d,) correlations per dimension.
        log: lines of ``log.jsonl``; None where there is none.
        closed_form: whether the model was fitted without epochs.
        sheet: of each direction, headings and queries.
        planes: title, note and points of each picture of the embeddings.
        hubs: of each direction.
        notes: sentences below some sections, by the section's name.
        blocks: further results as plain text.
        config: the run's configuration.
        data: facts about the data, in order.
        splits: name, pairs, and items of either view, of each split.
        environment: facts about versions and devices, in order.
        commands: what to type for the same result.
        source: the model file.
    """

    title: str
    subtitle: str
    synthetic: bool
    metrics: Mapping[str, Any]
    view_names: tuple[str, str]
    ranks: Mapping[str, np.ndarray]
    chance: Mapping[str, tuple[np.ndarray, np.ndarray]]
    pearson: np.ndarray
    canonical: np.ndarray
    log: Sequence[Mapping[str, Any]] | None
    closed_form: bool
    sheet: Mapping[str, Sequence[tuple[str, Sequence[Asked]]]]
    planes: Sequence[tuple[str, str, Scatter]]
    hubs: Mapping[str, Hubs]
    config: Mapping[str, Any]
    data: Sequence[tuple[str, object]]
    splits: Sequence[tuple[object, ...]]
    environment: Sequence[tuple[str, object]]
    commands: Sequence[str]
    source: str
    notes: Mapping[str, str] = field(default_factory=dict)
    blocks: Sequence[str] = ()


def render(page: PageContent) -> str:
    """The page as one HTML document that loads nothing."""
    sections = [("results", "Results", _results(page)), ("ranks", "Ranks", _ranks(page)),
                ("correlation", "Correlation per dimension", _correlation(page)),
                ("training", "Training", _training(page)),
                *((f"sheet-{direction}", f"Retrieved: {direction_name(direction)}", _sheet(page, direction))
                  for direction in DIRECTIONS),
                ("embedding", "Embedding", _embedding(page)), ("hubs", "Hubs", _hubs(page)),
                ("configuration", "Configuration", _configuration(page)), ("data", "Data", _data(page)),
                ("again", "Doing it again", _again(page))]
    return document(page.title, _header(page, [(name, title) for name, title, _ in sections]),
                    element("main", *(section(name, title, content) for name, title, content in sections)),
                    element("footer", paragraph("Made by xmodal eval. Nothing on this page is loaded from "
                                                "anywhere else.")))


# -- results -------------------------------------------------------------------------------------------------------

def _header(page: PageContent, sections: Sequence[tuple[str, str]]) -> Markup:
    cards = [(name, direction_name(direction), f"{page.metrics[direction][key]:.{digits}f}{unit}",
              _interval(page.metrics[direction], key, digits))
             for name, key, digits, unit in (("MRR", "mrr", 3, ""), ("Recall at 1", "r1", 1, " %"))
             for direction in DIRECTIONS]
    cards.append(("Canonical correlation", "both views", f"{page.metrics['canonical_correlation']:.2f}",
                  f"of {page.metrics['dim']}"))
    listed = element("dl", *(element("div", element("dt", name, Markup("<br>"), about),
                                     element("dd", value, element("small", more)))
                             for name, about, value, more in cards), class_="cards")
    warned = [paragraph(element("b", "Synthetic data."), " The values are made up: they show that the commands work, "
                        "and say nothing about a method.", class_="notice")] if page.synthetic else []
    return join([element("header", element("h1", foreign(page.title)), paragraph(foreign(page.subtitle)),
                         contents(sections)), *warned, listed])


def _results(page: PageContent) -> Markup:
    ks = sorted(int(key[1:]) for key in page.metrics[DIRECTIONS[0]] if key[0] == "r" and key[1:].isdecimal())
    rows = [[f"Recall at {k} (%)", *(_valued(page.metrics[d], f"r{k}", 2) for d in DIRECTIONS),
             _by_chance(page, f"r{k}", 2)] for k in ks]
    rows += [[name, *(_valued(page.metrics[d], key, digits) for d in DIRECTIONS), _by_chance(page, key, digits)]
             for key, name, digits in _ROWS if key in page.metrics[DIRECTIONS[0]]]
    rows += [[name, *(_with_small(f"{page.metrics[d][key]:,}") for d in DIRECTIONS), ""]
             for key, name in (("n_queries", "Queries"), ("n_gallery", "Items in the gallery"),
                               ("tied_queries", "Queries with ties"))]
    return join([table(["", *map(_column, DIRECTIONS), "chance"], rows, "Retrieval metrics of both directions"),
                 paragraph("In small figures: 95 % intervals, by bootstrap over the queries. Similarity is the cosine; "
                           "with several matches the best one counts; ties take the average rank, so that a collapsed "
                           "model has the ranks of chance.", class_="muted"),
                 *(element("pre", block) for block in page.blocks)])


def _column(direction: str) -> str:
    """A direction's name that folds at its arrow only."""
    return direction_name(direction).replace("view ", "view\u00a0")


def _valued(values: Mapping[str, Any], key: str, digits: int) -> Markup:
    if not math.isfinite(values[key]):
        return element("span", "undefined")
    interval = _interval(values, key, digits)
    return _with_small(f"{values[key]:.{digits}f}", interval)


def _with_small(value: str, small: str = "") -> Markup:
    """A value and what stands below it, on a wide screen beside it, where an empty place keeps others in line."""
    return join([value, Markup("<br>" if small else ""), element("small", small)])


def _interval(values: Mapping[str, Any], key: str, digits: int) -> str:
    low, high = values.get("intervals", {}).get(key, (None, None))
    return "" if low is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _by_chance(page: PageContent, key: str, digits: int) -> str:
    if key not in page.metrics[DIRECTIONS[0]]["chance"]:
        return ""
    one, two = (f"{page.metrics[direction]['chance'][key]:.{digits}f}" for direction in DIRECTIONS)
    return one if one == two else f"{one} / {two}"


def _ranks(page: PageContent) -> Markup:
    n_gallery = {direction: page.metrics[direction]["n_gallery"] for direction in DIRECTIONS}
    first = ", ".join(f"{page.metrics[d]['r1']:.1f} % ({direction_name(d)})" for d in DIRECTIONS)
    tenth = ", ".join(f"{page.metrics[d]['r10']:.1f} % ({direction_name(d)})" for d in DIRECTIONS)
    return element("div", figure(draw("ranks", f"Histogram of ranks. At rank 1: {first}.", figures.rank_histogram,
                                      page.ranks, n_gallery), "Where the best match of a query stands. Bins widen to "
                                 "the right; a rank of 1.5, that of a tie, is in the bin of 2."),
                   figure(draw("recall", f"Recall at k against k. At k = 10: {tenth}.", figures.recall_curves,
                               page.ranks, page.chance),
                          "Queries that have a match among the first k. Dashed: what drawing k items blindly finds."),
                   class_="figures")


# -- correlation and training --------------------------------------------------------------------------------------

def _correlation(page: PageContent) -> Markup:
    dim, total, canonical = page.metrics["dim"], page.metrics["sum_correlation"], page.metrics["canonical_correlation"]
    said = _compared(total, canonical)
    drawn = draw("dimensions", f"Correlation of each dimension. Sum {total:.2f}, canonical {canonical:.2f}, of {dim}.",
                 figures.correlation_bars, page.pearson, page.canonical)
    rows = [["Sum over the embedding's own dimensions", f"{total:.2f}", f"{dim}"],
            ["Sum over canonical dimensions", f"{canonical:.2f}", f"{dim}"]]
    return join([element("div", figure(drawn, "Pearson's correlation of the pairs in each dimension of the embedding "
                                       "as it is, and in each canonical dimension, fitted on the training pairs."),
                         element("div", table(["", "total", "at most"], rows, "Totals of both correlations"),
                                 paragraph("The first total can be raised without finding anything, by copying a "
                                           "feature into several dimensions; the second counts copies once. ", said)),
                         class_="figures")])


def _compared(total: float, canonical: float) -> str:
    """What it means that the sum of Pearson's correlations is larger than the canonical total, or smaller."""
    apart = total - canonical
    if abs(apart) <= 0.02 * max(abs(total), 1.0):
        return "Here they agree."
    if apart > 0:
        return "Here the first is larger: the dimensions repeat each other in part. Go by the second."
    return "Here the second is larger: the views have more in common than one dimension at a time shows."


def _training(page: PageContent) -> Markup:
    if page.closed_form:
        return paragraph("Fitted in closed form: there are no epochs, and no curves of them.")
    if not page.log:
        return paragraph("The run folder holds no log of its epochs (log.jsonl), so there are no curves.")
    drawn = [figure(draw(f"training-{name}", f"{name} over {len(page.log)} epochs", figures.training_curves, page.log,
                         key, height=3.7), caption)
             for name, key, caption in (("mrr", "mrr_%s", "MRR of the validation pairs, and of training pairs, whose "
                                         "gallery has another size. The best epoch is marked."),
                                        ("loss", "loss_%s", "The objective. The least value is marked."))
             if _logged(page.log, key)]
    if not drawn:
        return paragraph("The log of this run holds neither MRR nor loss, so there are no curves.")
    return element("div", *drawn, class_="figures")


def _logged(log: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(isinstance(line.get(key % part), int | float) for line in log for part in ("tr", "va"))


# -- items ---------------------------------------------------------------------------------------------------------

def _sheet(page: PageContent, direction: str) -> Markup:
    asking, answering = page.view_names if direction == DIRECTIONS[0] else page.view_names[::-1]
    parts = [paragraph("Queries of ", foreign(asking), ", answered by the nearest items of ", foreign(answering), ". ",
                       page.notes.get("sheet", ""), class_="muted")]
    for heading, queries in page.sheet[direction]:
        if queries:
            parts += [element("h3", heading), *map(_query, queries)]
    return join(parts)


def _query(asked: Asked) -> Markup:
    tick = join([" ✓", element("span", " a match", class_="unseen")])
    near = [item_html(item, join([f"{place}.", tick if right else ""]), right=right)
            for place, (item, right) in enumerate(zip(asked.near, asked.right, strict=True), start=1)]
    texts = "items near texts" if asked.partner.is_text else "items near"
    both = "items asked texts" if asked.partner.is_text or asked.query.is_text else "items asked"
    said = element("b", f"Rank {asked.rank:,g}"), f" · cosine of the match {asked.cosine:.3f}".replace("-", "−")
    return element("div", paragraph(*said),
                   element("div", element("ul", item_html(asked.query, "query"), item_html(asked.partner, "its match"),
                                          class_=both, aria_label="The query and its match"),
                           element("ol", *near, class_=texts, aria_label="The nearest items"), class_="row"),
                   class_="query")


def _embedding(page: PageContent) -> Markup:
    drawn = []
    for number, (title, note, points) in enumerate(page.planes):
        names = None if points.shares is None else (f"first component ({100 * points.shares[0]:.1f} %)",
                                                    f"second component ({100 * points.shares[1]:.1f} %)")
        drawn.append(figure(draw(f"plane-{number}", f"{title} of {len(points.one)} pairs", figures.scatter, points.one,
                                 points.two, points.lines, points.classes, names, height=4.6),
                            f"{title}, coloured by {'view' if points.classes is None else 'class'}. {note}"))
    return join([paragraph(page.notes.get("embedding", ""), class_="muted"), element("div", *drawn, class_="figures")])


def _hubs(page: PageContent) -> Markup:
    k = page.hubs[DIRECTIONS[0]].k
    sides = [page.hubs[direction] for direction in DIRECTIONS]
    rows = [["Skewness of the counts", *(f"{side.skew:.2f}" for side in sides)],
            ["Items found, on average", *(f"{side.counts.mean():.1f} times" for side in sides)],
            ["Found most often", *(f"{int(side.counts.max()):,} times" for side in sides)],
            ["Never found (% of the gallery)", *(f"{100 * (side.counts == 0).mean():.1f}" for side in sides)]]
    drawn = draw("hubs", f"How often items are among the {k} nearest of a query", figures.hub_histogram,
                 {direction: page.hubs[direction].counts for direction in DIRECTIONS})
    parts = [element("div", figure(drawn, f"How many queries have an item of the gallery among their {k} nearest."),
                     element("div", table(["", *map(_column, DIRECTIONS)], rows, "Hubs in both directions"),
                             paragraph("A hub is an item that turns up for far too many queries. A skewness of 0 or "
                                       "less says that there are none, one above about 1.4 that they are strong "
                                       "(Radovanović et al. 2010).", class_="muted")), class_="figures")]
    for direction in DIRECTIONS:
        side = page.hubs[direction]
        parts += [element("h3", f"The biggest hubs, {direction_name(direction)}"),
                  element("ul", *(item_html(item, f"{count:,} of {side.n_queries:,} queries")
                                  for item, count in side.biggest), class_="items hubs")]
    return join(parts)


# -- what it was made of -------------------------------------------------------------------------------------------

def _facts(rows: Sequence[tuple[str, object]], label: str) -> Markup:
    return table([], [[name, foreign(str(value))] for name, value in rows], label, numbers=False, class_="facts")


def _configuration(page: PageContent) -> Markup:
    settings = element("dl", *(element("div", element("dt", name), element("dd", "–" if value is None else value))
                               for name, value in page.config.items()), class_="settings")
    source = [element("details", element("summary", "The model file"),
                      element("pre", element("code", page.source), tabindex="0"))] if page.source else []
    return join([settings, *source])


def _data(page: PageContent) -> Markup:
    counted = table(["split", "pairs", "items of view 1", "items of view 2"],
                    [[name, *(f"{count:,}" for count in counts)] for name, *counts in page.splits],
                    "Numbers of pairs and items")
    return join([_facts(page.data, "Facts about the data"), counted])


def _again(page: PageContent) -> Markup:
    return join([element("pre", element("code", "\n".join(page.commands)), tabindex="0"),
                 paragraph("A run refuses data with another fingerprint. The same seed gives the same result on the "
                           "same machine with the same versions.", class_="muted"),
                 _facts(page.environment, "Versions and device")])
