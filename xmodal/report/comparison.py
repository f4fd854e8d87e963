"""One table over runs, as text, Markdown, LaTeX, CSV or JSON. Formatting only.

All take what ``xmodal.comparison.compare_runs`` puts together::

    {"data": {"title", "split", "n_pairs", ...}, "directions", "metric", "level", "baseline", "resamples", "seed",
     "rows": [{"name", "experiment", "runs", "seeds", "V1_to_V2": {key: VALUE}, "V2_to_V1": {...},
               "interval": {direction: [low, high]}, "dim", "sum_correlation": VALUE, "canonical_correlation": VALUE,
               "valid_mrr": VALUE, "epochs": VALUE, "seconds": VALUE}],
     "reference": {direction: name}, "comparisons": [{"direction", "row", "other", "difference", "low", "high", "p",
     "p_holm", "significant"}], "notes": [text]}

where a VALUE is ``{"mean", "std", "values"}`` over the row's runs; ``std`` is None for a single one, and so is ``mean``
where nothing is known.
"""
from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xmodal.metrics.comparison import METRICS
from xmodal.report.escaping import latex, markdown, one_paragraph
from xmodal.report.text import WIDTH

Comparison = Mapping[str, Any]


class Column(NamedTuple):
    """A column of the table: the key of its values, its head, its decimals, and which way is better, if one is."""

    key: str
    head: str
    digits: int
    high_is_better: bool | None = None


RETRIEVAL = (Column("r1", "R@1", 1, True), Column("r5", "R@5", 1, True), Column("r10", "R@10", 1, True),
             Column("r25", "R@25", 1, True), Column("median_rank", "MedR", 1, False), Column("mrr", "MRR", 3, True))
#: Shown only where it is what is tested.
MEAN_RANK = Column("mean_rank", "MeanR", 1, False)
TRAINING = (Column("sum_correlation", "sum corr", 2, True), Column("canonical_correlation", "can corr", 2, True),
            Column("valid_mrr", "valid MRR", 3, True), Column("epochs", "epochs", 0), Column("seconds", "sec", 1))
_BY_DIRECTION = ("metric_low", "metric_high", "reference", "difference", "difference_low", "difference_high", "p",
                 "p_holm", "significant")


class _Cell(NamedTuple):
    mean: str
    spread: str     # without its ±; empty for a single run
    best: bool
    mark: str       # "*" the best, "†" significantly different, of the tested metric alone


class _Block(NamedTuple):
    head: str
    columns: Sequence[Column]
    rows: list[list[_Cell]]


def _blocks(comparison: Comparison) -> list[_Block]:
    """A block for each direction, and one for what has no direction."""
    tested = comparison["metric"]
    columns = (*RETRIEVAL, *((MEAN_RANK,) if tested == MEAN_RANK.key else ()))
    blocks = []
    for direction in comparison["directions"]:
        marks = _marks(comparison, direction)
        cells = _cells(columns, [row[direction] for row in comparison["rows"]])
        blocks.append(_Block(direction, columns, [
            [cell._replace(mark=mark) if column.key == tested else cell
             for cell, column in zip(line, columns, strict=True)]
            for line, mark in zip(cells, marks, strict=True)]))
    return [*blocks, _Block("either way", TRAINING, _cells(TRAINING, comparison["rows"]))]


def _cells(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[list[_Cell]]:
    """The values as texts; all that read like the best value of their column are the best."""
    by_column = []
    for column in columns:
        values = [row[column.key] for row in rows]
        means = [_number(value["mean"], column.digits) for value in values]
        known = [value["mean"] for value in values if value["mean"] is not None]
        best = "" if column.high_is_better is None or len(known) < 2 else \
            _number((max if column.high_is_better else min)(known), column.digits)
        by_column.append([_Cell(mean, "" if value["std"] is None else _number(value["std"], column.digits),
                                mean == best, "") for mean, value in zip(means, values, strict=True)])
    return [list(line) for line in zip(*by_column, strict=True)]


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits if abs(value) < 1000 else 0}f}"


def _marks(comparison: Comparison, direction: str) -> list[str]:
    """Of each row: ``*`` for the best of the tested metric, ``†`` where it differs from the reference."""
    rows, metric = comparison["rows"], comparison["metric"]
    means = [row[direction][metric]["mean"] for row in rows]
    best = (max if METRICS[metric] else min)(means)
    different = {test["row"] for test in _against_reference(comparison, direction) if test["significant"]}
    return [("*" if mean == best and len(rows) > 1 else "") + ("†" if row["name"] in different else "")
            for row, mean in zip(rows, means, strict=True)]


def _against_reference(comparison: Comparison, direction: str) -> Iterator[Mapping[str, Any]]:
    """The comparisons of one direction's rows with its reference row, each as row less reference."""
    reference = comparison["reference"].get(direction)
    for test in comparison["comparisons"]:
        if test["direction"] == direction and test["other"] == reference:
            yield test
        elif test["direction"] == direction and test["row"] == reference:
            yield {**test, "row": test["other"], "other": reference, "difference": -test["difference"],
                   "low": -test["high"], "high": -test["low"]}


def _title(comparison: Comparison) -> str:
    runs = sum(len(row["runs"]) for row in comparison["rows"])
    data = comparison["data"]
    return (f"{_count(len(comparison['rows']), 'experiment')}, {_count(runs, 'run')} on {data['title']}, "
            f"{data['n_pairs']:,} {data['split']} pairs")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _explanations(comparison: Comparison, best: str) -> list[str]:
    """What stands below the table, a paragraph each; ``best`` says how the best is marked."""
    dims = sorted({row["dim"] for row in comparison["rows"]})
    lines = ["Mean ± standard deviation over n seeds; R@k in percent; " + (f"{best}; " if best else "")
             + f"correlations are at most {' or '.join(map(str, dims))}; sec is the time of all epochs."]
    if comparison["comparisons"]:
        lines.append(_test_line(comparison))
    return [*lines, *comparison["notes"]]


def _test_line(comparison: Comparison) -> str:
    """What † means, or that there is none, and how it was tested."""
    baseline, metric = comparison["baseline"], comparison["metric"]
    other = "the best" if baseline is None else one_paragraph(baseline)
    marked = any(_marks(comparison, direction)[i].endswith("†") for direction in comparison["directions"]
                 for i in range(len(comparison["rows"])))
    seeds = " and seeds" if any(len(row["runs"]) > 1 for row in comparison["rows"]) else ""
    over = _count(len(comparison["comparisons"]), "comparison") + \
        (" (all pairs, since the best is known only by comparing)" if baseline is None else "")
    return (f"{f'† {metric} differs from {other}: p' if marked else f'No {metric} differs from {other} with p'} "
            f"≤ {1 - comparison['level']:.3g} after Holm's correction over {over}; paired bootstrap, "
            f"{comparison['resamples']:,} resamples of queries{seeds}.")


# -- text --------------------------------------------------------------------------------------------------------------


def comparison_text(comparison: Comparison) -> str:
    """Plain text of at most 80 columns; names that leave no room for numbers stand on a line of their own."""
    lines = textwrap.wrap(_title(comparison), WIDTH)
    names = [one_paragraph(row["name"]) for row in comparison["rows"]]
    counts = [str(len(row["runs"])) for row in comparison["rows"]]
    for block in _blocks(comparison):
        lines += ["", *_text_block(block, names, counts)]
    best = "* the best" if len(names) > 1 else ""
    return "\n".join([*lines, "", *(line for text in _explanations(comparison, best)
                                    for line in textwrap.wrap(text, WIDTH))])


def _text_block(block: _Block, names: Sequence[str], counts: Sequence[str]) -> list[str]:
    columns = [_text_column(column.head, [line[i] for line in block.rows]) for i, column in enumerate(block.columns)]
    width = max(map(len, (*counts, "n")))
    columns.insert(0, [f"{text:>{width}}" for text in ("n", *counts)])
    longest = max(map(len, (block.head, *names)))
    for gap in ("  ", " "):     # rather close together than below the name
        numbers = [gap.join(cells) for cells in zip(*columns, strict=True)]
        space = WIDTH - 2 - max(map(len, numbers))
        if longest <= space:
            break
    space = max(len(block.head), min(longest, space))
    lines = []
    for name, number in zip((block.head, *names), numbers, strict=True):
        if len(name) > space:
            lines += [*textwrap.wrap(name, WIDTH), f"{'':<{space}}  {number}".rstrip()]
        else:
            lines.append(f"{name:<{space}}  {number}".rstrip())
    return lines


def _text_column(head: str, cells: Sequence[_Cell]) -> list[str]:
    """Head and cells of one width: means end, and spreads begin, one below the other."""
    mean = max(len(cell.mean) for cell in cells)
    texts = [f"{cell.mean:>{mean}}{'±' + cell.spread if cell.spread else ''}" for cell in cells]
    end = max(map(len, texts))
    texts = [f"{text}{cell.mark}" for text, cell in zip(texts, cells, strict=True)]
    width = max(len(head), *map(len, texts))
    return [f"{head:>{end}}".ljust(width), *(text.ljust(width) for text in texts)]


# -- Markdown and LaTeX ------------------------------------------------------------------------------------------------


def comparison_markdown(comparison: Comparison) -> str:
    """A Markdown table for each direction and one of what has no direction; the best of a column is bold."""
    lines = [markdown(_title(comparison))]
    for block in _blocks(comparison):
        heads = [block.head, "n", *(column.head for column in block.columns)]
        lines += ["", f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for row, cells in zip(comparison["rows"], block.rows, strict=True):
            texts = [markdown(row["name"]), str(len(row["runs"])), *map(_markdown_cell, cells)]
            lines.append(f"| {' | '.join(texts)} |")
    for text in _explanations(comparison, "the best of a column is bold"):
        lines += ["", markdown(text)]
    return "\n".join(lines)


def _markdown_cell(cell: _Cell) -> str:
    text = f"{cell.mean} ± {cell.spread}" if cell.spread else cell.mean
    return (f"**{text}**" if cell.best else text) + cell.mark.replace("*", "")


def comparison_latex(comparison: Comparison) -> str:
    """A LaTeX ``table`` for ``\\usepackage{booktabs}``: both directions in one tabular, what has none in another."""
    *directions, last = _blocks(comparison)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering\\small",
             f"\\caption{{{latex(_title(comparison))}. "
             f"{' '.join(latex(text) for text in _explanations(comparison, 'the best of a column is bold'))}}}",
             *_tabular(directions, comparison["rows"]), "", "\\medskip", *_tabular([last], comparison["rows"]),
             "\\end{table}"]
    return "\n".join(lines)


def _tabular(blocks: Sequence[_Block], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"\\begin{{tabular}}{{lr{'r' * len(blocks[0].columns)}}}", "\\toprule"]
    for number, block in enumerate(blocks):
        heads = [latex(block.head), "$n$", *(latex(column.head) for column in block.columns)]
        lines += [*(["\\midrule"] if number else []), " & ".join(heads) + r" \\", "\\midrule"]
        for row, cells in zip(rows, block.rows, strict=True):
            lines.append(" & ".join([latex(row["name"]), str(len(row["runs"])), *map(_latex_cell, cells)]) + r" \\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _latex_cell(cell: _Cell) -> str:
    text = (f"{cell.mean} $\\pm$ {cell.spread}" if cell.spread else cell.mean).replace("-", "--")
    return (f"\\textbf{{{text}}}" if cell.best else text) + ("$^\\dagger$" if "†" in cell.mark else "")


# -- CSV and JSON ------------------------------------------------------------------------------------------------------


def comparison_csv(comparison: Comparison) -> str:
    """Plain numbers, a line per row and direction; every value beside its standard deviation (``_std``).

    ``metric_low`` and ``metric_high`` bound the tested metric; ``difference`` is the row less ``reference``.
    """
    keys = [*METRICS, *(column.key for column in TRAINING)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "experiment", "direction", "n_seeds", "metric", *(f"{key}{end}" for key in keys
                                                                             for end in ("", "_std")), "dim",
                     *_BY_DIRECTION])
    for row in comparison["rows"]:
        for direction in comparison["directions"]:
            values = [(row[direction] if key in METRICS else row)[key] for key in keys]
            writer.writerow([one_paragraph(row["name"]), one_paragraph(row["experiment"]), direction, len(row["runs"]),
                             comparison["metric"], *(value[part] for value in values for part in ("mean", "std")),
                             row["dim"], *row["interval"][direction], *_tested(comparison, direction, row["name"])])
    return out.getvalue().rstrip("\n")


def _tested(comparison: Comparison, direction: str, name: str) -> list[Any]:
    """The last columns of a line: the comparison of a row with its reference, empty for the reference itself."""
    for test in _against_reference(comparison, direction):
        if test["row"] == name:
            return [one_paragraph(test["other"]), *(test[key] for key in ("difference", "low", "high", "p", "p_holm")),
                    int(test["significant"])]
    return [""] * (len(_BY_DIRECTION) - 2)


def comparison_json(comparison: Comparison) -> str:
    """Everything, p-values and intervals included; what is not a number is null."""
    return json.dumps(comparison, indent=2, allow_nan=False)


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "text": comparison_text, "markdown": comparison_markdown, "latex": comparison_latex, "csv": comparison_csv,
    "json": comparison_json}
#: Which of them a file's suffix asks for.
SUFFIXES = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}
