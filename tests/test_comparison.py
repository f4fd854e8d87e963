"""Rows of runs: the bootstrap against loops, false alarms at about the level, Holm by hand, tables that can be read."""
from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from xmodal.errors import DataError
from xmodal.metrics import paired_bootstrap_difference
from xmodal.metrics.comparison import compare_rows, holm
from xmodal.report.comparison import (
    FORMATS,
    comparison_csv,
    comparison_json,
    comparison_latex,
    comparison_markdown,
    comparison_text,
)
from xmodal.report.escaping import latex, markdown, markdown_code, yaml_string
from xmodal.report.row_curves import plot_rows

# -- the bootstrap -----------------------------------------------------------------------------------------------------


def simulated_row(rng: np.random.Generator, common: np.ndarray, seeds: int, of_seeds: float, of_both: float = 0.7,
                  shift: float = 0.0) -> list[np.ndarray]:
    """Ranks of some runs: hard queries are hard for all rows, seeds differ, and so does each query for each seed."""
    latent = common + shift + of_seeds * rng.normal(size=(seeds, 1)) + of_both * rng.normal(size=(seeds, len(common)))
    return list(np.maximum(1.0, np.ceil(np.exp(1.0 + latent))))


def slow_rows(rows: list[list[np.ndarray]], statistic: Any, n_resamples: int, seed: int) -> tuple[list, list, list]:
    """Value, resampled deviations and variance from seeds of each row, by loops over the same random numbers."""
    generator = np.random.default_rng(seed)
    n = len(rows[0][0])
    drawn = generator.integers(n, size=(n_resamples, n))
    values, deviations, variances = [], [], []
    for row in rows:
        own = [statistic(ranks) for ranks in row]
        resampled = [[statistic(ranks[queries]) for ranks in row] for queries in drawn]
        value = statistics.fmean(own)
        deviation = [statistics.fmean(line) - value for line in resampled]
        variances.append(0.0)
        if len(row) > 1 and statistics.variance(own) > 0:
            by_queries = sum(statistics.variance([line[s] - statistics.fmean(line) for line in resampled])
                             for s in range(len(row))) / (len(row) - 1)
            share = max(0.0, 1.0 - by_queries / statistics.variance(own))
            scale = math.sqrt(share * len(row) / (len(row) - 1))
            chosen = generator.integers(len(row), size=(n_resamples, len(row)))
            for b in range(n_resamples):
                deviation[b] += scale * (statistics.fmean(own[s] for s in chosen[b]) - value)
            variances[-1] = statistics.variance(own) / len(row)
        values.append(value)
        deviations.append(deviation)
    return values, deviations, variances


@pytest.mark.parametrize("name, statistic", [
    ("mrr", lambda ranks: statistics.fmean(1 / r for r in ranks)), ("median_rank", lambda r: float(np.median(r))),
    ("r5", lambda ranks: 100 * sum(r <= 5 for r in ranks) / len(ranks)), ("mean_rank", lambda r: float(np.mean(r)))])
def test_rows_and_differences_are_those_of_a_slow_reference(name, statistic):
    rng = np.random.default_rng(3)
    common = rng.normal(size=17)
    rows = [simulated_row(rng, common, count, 0.6, shift=shift) for count, shift in ((3, 0.0), (1, 0.4), (2, 0.5))]
    found = compare_rows(rows, [(0, 1), (2, 0)], name, n_resamples=41, level=0.9, seed=5)
    values, deviations, variances = slow_rows(rows, statistic, 41, 5)
    for i, interval in enumerate(found.rows):
        assert interval.value == pytest.approx(values[i])
    for (i, j), difference in zip([(0, 1), (2, 0)], found.differences, strict=True):
        both = np.subtract(deviations[i], deviations[j])
        seeded = [k for k in (i, j) if variances[k] > 0]
        if seeded:
            degrees = max(np.var(both)**2 / sum(variances[k]**2 / (len(rows[k]) - 1) for k in seeded),
                          min(len(rows[k]) - 1 for k in seeded))
            both = np.array([np.sign(x) * np.std(both) * stats.t(degrees).isf(stats.norm.sf(abs(x) / np.std(both)))
                             for x in both])
        resampled = values[i] - values[j] + both
        p = min(1.0, 2 * (1 + min(sum(resampled <= 0), sum(resampled >= 0))) / 42)
        expected = (values[i] - values[j], *np.quantile(resampled, (0.05, 0.95)), p)
        assert difference == pytest.approx(expected, abs=1e-9)


def test_single_runs_are_compared_as_pairs_of_runs_are():
    rng = np.random.default_rng(0)
    a, b = (np.ceil(rng.exponential(6, size=300)) for _ in range(2))
    found = compare_rows([[a], [torch.from_numpy(b)]], [(0, 1)], n_resamples=4000).differences[0]
    pair = paired_bootstrap_difference(a, b, n_resamples=4000)
    assert found[:3] == pytest.approx(pair, abs=3e-3) and found.value == pytest.approx(pair.value)


@pytest.mark.parametrize("seeds, of_seeds", [(1, 0.0), (3, 0.0), (3, 0.15), (3, 0.5), (5, 0.3)])
def test_equal_rows_are_told_apart_about_as_often_as_the_level_says(seeds, of_seeds):
    rng, n = np.random.default_rng(1), 400
    rejected = 0
    for number in range(n):
        common = rng.normal(size=60)
        rows = [simulated_row(rng, common, seeds, of_seeds) for _ in range(2)]
        rejected += compare_rows(rows, [(0, 1)], n_resamples=199, seed=number).differences[0].p <= 0.05
    assert 0.005 <= rejected / n <= 0.08


def test_looking_for_the_best_of_many_equal_rows_raises_no_more_alarms():
    rng, n, alarms = np.random.default_rng(2), 150, 0
    pairs = list(itertools.combinations(range(5), 2))
    for number in range(n):
        common = rng.normal(size=60)
        rows = [simulated_row(rng, common, 3, 0.3) for _ in range(5)]
        found = compare_rows(rows, pairs, n_resamples=999, seed=number)
        alarms += min(holm([difference.p for difference in found.differences])) <= 0.05
    assert alarms / n <= 0.09


def test_rows_that_clearly_differ_are_told_apart():
    rng = np.random.default_rng(4)
    for number in range(30):
        common = rng.normal(size=200)
        rows = [simulated_row(rng, common, 3, 0.05, shift=shift) for shift in (0.0, 0.8)]
        difference = compare_rows(rows, [(0, 1)], n_resamples=999, seed=number).differences[0]
        assert difference.p < 0.05 and 0 < difference.low < difference.value < difference.high


def test_the_same_row_twice_is_the_same():
    ranks = [np.arange(1.0, 30.0), np.arange(2.0, 31.0)]
    alone = compare_rows([ranks[:1], ranks[:1]], [(0, 1)], n_resamples=99).differences[0]
    assert alone == (0.0, 0.0, 0.0, 1.0)
    fixed = compare_rows([[ranks[0]] * 3, ranks], [(0, 1)], n_resamples=99, seed=2)
    assert fixed == compare_rows([[ranks[0]] * 3, ranks], [(0, 1)], n_resamples=99, seed=2)
    assert fixed.rows[0].value == pytest.approx(np.mean(1 / ranks[0]))     # a method that no seed changes


def test_a_single_resample_is_the_least():
    ranks = np.random.default_rng(0).integers(1, 30, 25).astype(float)
    found = compare_rows([[ranks]], [], "mean_rank", n_resamples=1, seed=3).rows[0]
    drawn = np.random.default_rng(3).integers(25, size=25)
    assert found == pytest.approx((ranks.mean(), ranks[drawn].mean(), ranks[drawn].mean()))


@pytest.mark.parametrize("rows, options, message", [
    ([], {}, "at least one run in each row"), ([[]], {}, "at least one run in each row"),
    ([[np.ones(3)], [np.ones(4)]], {}, "the same queries in all runs"),
    ([[np.ones(3)]], {"statistic": "mr"}, "statistic 'mr'"), ([[np.ones(3)]], {"level": 1.0}, "level: expected"),
    ([[np.ones(3)]], {"n_resamples": 0}, "n_resamples: expected"),
])
def test_what_cannot_be_compared_is_told(rows, options, message):
    with pytest.raises(DataError, match=message):
        compare_rows(rows, [], **options)


def test_holm_by_hand_and_against_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = list(rng.random(6)**3)
        rejected = set()
        for k, i in enumerate(sorted(range(6), key=p.__getitem__)):     # step down until one fails
            if p[i] > 0.2 / (6 - k):
                break
            rejected.add(i)
        assert {i for i, corrected in enumerate(holm(p)) if corrected <= 0.2} == rejected


# -- the tables --------------------------------------------------------------------------------------------------------


def value(mean: float | None, std: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "std": std, "values": [mean]}


def made_up(names: tuple[str, ...] = ("first_row", "second_row"), single: bool = False) -> dict[str, Any]:
    """What run_compare puts together, of which the first row is the better one."""
    rows = []
    for i, name in enumerate(names):
        of = {"r1": value(30.0 - i, 1.0), "r5": value(50.0 - i, 1.5), "r10": value(70.0 - i, 0.1),
              "r25": value(80.0 + i, 2.0), "median_rank": value(4.0 + 2000 * i, 0.5),
              "mean_rank": value(14.0 + i, 0.5), "mrr": value(0.4 - i / 10, 0.01)}
        if single:
            of = {key: value(entry["mean"]) for key, entry in of.items()}
        rows.append({"name": name, "experiment": name, "runs": ["runs/a"] if single else ["runs/a", "runs/b"],
                     "seeds": [1, 2], "V1_to_V2": of, "V2_to_V1": of, "dim": 24,
                     "interval": {"V1_to_V2": [0.1, 0.5], "V2_to_V1": [0.1, 0.5]},
                     "sum_correlation": value(14.0, 0.2), "canonical_correlation": value(13.5, 0.2),
                     "valid_mrr": value(None), "epochs": value(1000.0, 20.0), "seconds": value(123456.7, 3.25)})
    tests = [{"direction": direction, "row": names[0], "other": name, "difference": 0.1, "low": 0.05, "high": 0.2,
              "p": 0.001, "p_holm": 0.002, "significant": True}
             for direction in ("V1_to_V2", "V2_to_V1") for name in names[1:]]
    return {"data": {"title": "toy (synthetic)", "split": "test", "n_pairs": 1234}, "metric": "mrr", "level": 0.95,
            "directions": ["V1_to_V2", "V2_to_V1"], "baseline": None, "resamples": 10_000, "seed": 1, "rows": rows,
            "reference": {"V1_to_V2": names[0], "V2_to_V1": names[0]}, "comparisons": tests, "notes": ["A note."]}


@pytest.mark.parametrize("names", [("first_row", "second_row"), ("a" * 25, "b" * 26 + " (alpha=0.1)"), ("only",),
                                   ("x" * 200, "y")])
def test_text_fits_into_80_columns_and_says_what_matters(names):
    text = comparison_text(made_up(names))
    assert max(map(len, text.splitlines())) <= 80 and "toy (synthetic)" in text and "A note." in text
    assert "".join(names[0].split()) in "".join(text.split())
    assert text.count("0.400±0.010") == 2 and "14.00±0.20" in text and "13.50±0.20" in text and "123457±3.2" in text
    if len(names) > 1:
        assert text.count("0.400±0.010*") == 2 and text.count("0.300±0.010†") == 2
        joined = " ".join(text.split())
        assert "† mrr differs from the best: p ≤ 0.05 after Holm's correction over 2 comparisons" in joined


def test_no_mark_is_explained_where_there_is_none():
    comparison = made_up()
    for test in comparison["comparisons"]:
        test["significant"] = False
    text = comparison_text(comparison)
    assert "†" not in text and "No mrr differs from the best with p ≤ 0.05" in text


@pytest.mark.parametrize("single", [True, False])
def test_markdown_is_a_table_in_each_block(single):
    text = comparison_markdown(made_up(("a|b_c", "*d*"), single))
    lines = text.splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) == 3
    for i in heads:
        columns = len(re.findall(r"(?<!\\)\|", lines[i]))
        assert all(len(re.findall(r"(?<!\\)\|", line)) == columns for line in lines[i - 1:i + 3])
    assert r"| a\|b_c |" in text and r"| \*d\* |" in text
    assert ("**0.400** |" if single else "**0.400 ± 0.010** |") in text and "†" in text


def test_latex_is_balanced_and_every_line_has_its_cells():
    text = comparison_latex(made_up((r"50%_{x}&\y$#~^", "b")))
    assert "50\\%\\_\\{x\\}\\&\\textbackslash{}y\\$\\#\\textasciitilde{}\\textasciicircum{}" in text
    bare = re.sub(r"\\[{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    for tabular in re.findall(r"\\begin\{tabular\}\{(l[r]+)\}(.*?)\\end\{tabular\}", bare, re.DOTALL):
        lines = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert len(lines) in (6, 3) and all(line.count("&") == len(tabular[0]) - 1 for line in lines)
    assert r"\textbf{0.400 $\pm$ 0.010}" in text and r"0.300 $\pm$ 0.010$^\dagger$" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\usepackage{booktabs}"))


def test_csv_and_json_hold_plain_numbers():
    comparison = made_up(('with,"comma"', "b"))
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert [(line["row"], line["direction"]) for line in lines] == [
        (name, direction) for name in ('with,"comma"', "b") for direction in ("V1_to_V2", "V2_to_V1")]
    assert float(lines[0]["mrr"]) == 0.4 and float(lines[0]["r1_std"]) == 1.0 and lines[0]["valid_mrr"] == ""
    assert lines[0]["reference"] == lines[0]["p"] == "" and lines[2]["reference"] == 'with,"comma"'
    assert [float(lines[2][key]) for key in ("difference", "difference_low", "difference_high", "p_holm",
                                             "significant")] == [-0.1, -0.2, -0.05, 0.002, 1]
    assert json.loads(comparison_json(comparison)) == comparison


def test_one_row_and_the_mean_rank_are_shown_in_every_format():
    for comparison in (made_up(("only",)), {**made_up(), "metric": "mean_rank"}):
        texts = {name: write(comparison) for name, write in FORMATS.items()}
        assert all(texts.values()) and max(map(len, texts["text"].splitlines())) <= 80
    assert "14.0±0.5*" in texts["text"] and "15.0±0.5†" in texts["text"]


def test_texts_of_any_content_are_escaped():
    assert latex("a\n  b\ud800") == "a b?"
    assert markdown("digits_cca _x_ <b>") == r"digits_cca \_x\_ \<b\>"
    assert markdown_code("a``b`") == "``` a``b` ```" and markdown_code("x") == "`x`"
    assert yaml_string("a\n\x85\u2028\ufeff\"é\ud800") == '"a\\n\\u0085\\u2028\\ufeff\\"é?"'


# -- curves ------------------------------------------------------------------------------------------------------------


def test_curves_are_means_with_bands_as_far_as_all_seeds_went():
    logs = {"a": [[{"epoch": e, "mrr_va": e / 10 + s} for e in range(1, 4 + s)] for s in (0, 1)],
            "one": [[{"epoch": 1, "mrr_va": 0.5}]], "nothing": [[]]}
    figure = plot_rows(logs, "mrr_va")
    axes, = figure.axes
    band, = axes.collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.1)
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(1.3)
    drawn = next(line for line in axes.lines if line.get_label().endswith("@ 3"))
    assert list(drawn.get_ydata()) == pytest.approx([0.6, 0.7, 0.8])
    low, high = axes.get_ylim()
    assert low < 0.1 and high > 1.3
    labels = [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()]
    assert labels == ["a (2 seeds): 0.8000 @ 3", "one: 0.5000 @ 1", "nothing (no values)"]
    with pytest.raises(DataError, match="nothing to draw"):
        plot_rows({"a": [[]]}, "mrr_va")
