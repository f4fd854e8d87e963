"""The text that users read, and curves drawn without a window."""
from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from xmodal.errors import DataError
from xmodal.metrics import retrieval_metrics
from xmodal.report import baseline_line, epoch_header, epoch_line, evaluation_block, plot_curves
from xmodal.report.curves import _spread

VALUES = {"r1": 31.05, "hits1": 621, "r5": 58.25, "hits5": 1165, "r10": 68.0, "hits10": 1360, "r25": 80.5,
          "hits25": 1610, "median_rank": 3.0, "mean_rank": 33.99, "mrr": 0.44, "mean_distance": 0.58933,
          "median_distance": 0.59, "min_distance": 0.1, "max_distance": 1.2, "tied_queries": 0, "n_queries": 2000,
          "n_gallery": 2000}
METRICS = {"V1_to_V2": VALUES, "V2_to_V1": VALUES | {"mrr": 0.5}, "sum_correlation": 45.816,
           "canonical_correlation": 45.799, "dim": 50}


def test_the_block_reads_as_users_know_it() -> None:
    assert evaluation_block(METRICS, "V1_to_V2", "iapr_ccal_cont on iapr (synthetic), test").splitlines() == [
        "iapr_ccal_cont on iapr (synthetic), test",
        "Hit Rates:",
        "Top 01: 31.050 (621) 31.050",
        "Top 05: 58.250 (1165) 11.650",
        "Top 10: 68.000 (1360) 6.800",
        "Top 25: 80.500 (1610) 3.220",
        "Median Rank: 3.00 (2000)",
        "Mean Rank  : 33.99 (2000)",
        "Mean Dist  : 0.58933",
        "MRR        : 0.440",
        "Min Dist   : 0.10000",
        "Max Dist   : 1.20000",
        "Med Dist   : 0.59000",
        "Sum correlation: 45.82 of 50 | Canonical correlation: 45.80 of 50",
    ]


def test_the_block_says_more_where_there_is_more() -> None:
    values = VALUES | {"tied_queries": 7, "n_gallery": 10_000, "map": 0.25, "ndcg1": 0.5, "ndcg5": 0.4,
                       "ndcg10": 0.333, "ndcg25": 0.3, "intervals": {"mrr": (0.42, 0.46), "r1": (29.0, 33.1)}}
    text = evaluation_block(METRICS | {"V2_to_V1": values}, "V2_to_V1", "a very long title " * 9)
    assert "Top 01: 31.050 (621) 31.050 [29.00, 33.10]" in text and "MRR        : 0.440 [0.420, 0.460]" in text
    assert "2000 with a match, 10000 items in the gallery" in text and "7 of 2000 queries" in text
    assert "mAP        : 0.250 (same class)\nnDCG       : @1 0.500, @5 0.400, @10 0.333, @25 0.300 (same class)" in text
    by_chance = {"r1": 0.01, "r5": 0.05, "r10": 0.1, "r25": 0.25, "median_rank": 5000.5, "mrr": 0.000979}
    with_chance = evaluation_block(METRICS | {"V2_to_V1": values | {"chance": by_chance}}, "V2_to_V1", "t")
    assert "By chance  : MRR 0.001, top 01 0.01, top 10 0.10, median rank 5000.50\nSum corr" in with_chance
    assert max(map(len, text.splitlines())) <= 80
    given = evaluation_block(METRICS, "V1_to_V2", "t", intervals={"median_rank": (2, 4)})
    assert "Median Rank: 3.00 (2000) [2.00, 4.00]" in given
    assert "undefined" in evaluation_block({"V1_to_V2": values | {"map": math.nan}}, "V1_to_V2", "t")


def test_the_block_takes_what_the_metrics_return() -> None:
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    metrics = retrieval_metrics(z, z, labels1=[0, 1] * 15, labels2=[1, 0] * 15)
    assert "Top 01: 100.000 (30) 100.000" in evaluation_block(metrics, "V1_to_V2", "t")
    with pytest.raises(DataError, match="did you mean V1_to_V2"):
        evaluation_block(metrics, "V1toV2", "t")


def test_baseline_line() -> None:
    text = baseline_line("Linear CCA of the raw views", METRICS, "V2_to_V1")
    assert " ".join(text.split()).startswith(
        "Linear CCA of the raw views: MRR 0.500, top 01 31.05, top 10 68.00, median rank 3.00")
    assert "Canonical correlation: 45.80 of 50" in text
    assert max(map(len, text.splitlines())) <= 80


# -- epochs ------------------------------------------------------------------------------------------------------

EPOCH = {"epoch": 12, "loss_tr": 0.123456, "loss_va": -45.81234, "mrr_tr": 0.71, "mrr_va": 0.6543,
         "median_rank_tr": 1.0, "median_rank_va": 2.5, "lr": 1e-3, "seconds": 12.34, "refit_pairs": 50_000,
         "best": True, "patience_left": 15}


def test_epoch_lines_stand_below_their_header() -> None:
    header, line = epoch_header(), epoch_line(EPOCH)
    assert line.split() == ["12", "0.1235", "-45.8123", "0.7100", "0.6543", "1.0", "2.5", "1.0e-03", "12.3", "50000",
                            "15", "*"]
    for name, text in (("loss_tr", "0.1235"), ("mrr_va", "0.6543"), ("refit", "50000")):
        assert header.index(name) + len(name) == line.index(text) + len(text)


@pytest.mark.parametrize("line", [
    EPOCH, EPOCH | {"best": False}, {}, {"epoch": 1, "loss_tr": math.nan, "loss_va": math.inf},
    EPOCH | {"loss_tr": -1.23456789e12, "loss_va": 123456789.0, "median_rank_va": 50_000.5, "median_rank_tr": 1e6,
             "seconds": 123456.7, "refit_pairs": 12_345_678, "epoch": 99_999, "patience_left": 1000},
])
def test_epoch_lines_keep_their_columns(line: dict[str, Any]) -> None:
    assert len(epoch_line(line)) <= len(epoch_header()) + 2 <= 80
    assert len(epoch_line(line).split()) == 11 + bool(line.get("best"))


# -- curves ------------------------------------------------------------------------------------------------------

def log(n: int, top: float = 0.5) -> list[dict[str, Any]]:
    return [{"epoch": e, "mrr_tr": top, "mrr_va": top - (e - n / 2)**2 / n**2, "loss_va": 1 / e, "best": e == 1,
             "note": "text"} for e in range(1, n + 1)]


def drawn_texts(figure: Any) -> list[str]:
    axes, = figure.axes
    return [text.get_text() for text in axes.texts]


def legend_texts(figure: Any) -> list[str]:
    return [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()]


def test_curves_mark_the_best_validation_value() -> None:
    figure = plot_curves({"a": log(10), "b": log(20, 0.7)})
    assert sorted(drawn_texts(figure)) == ["0.5000 @ 5", "0.7000 @ 10"]
    assert legend_texts(figure) == ["training", "validation", "a: 0.5000 @ 5", "b: 0.7000 @ 10"]
    assert "higher is better" in figure.axes[0].get_ylabel()
    assert drawn_texts(plot_curves({"a": log(10)}, "loss_va")) == ["0.1000 @ 10"]
    assert drawn_texts(plot_curves({"a": log(10)}, "mrr_va", high_is_better=False)) == ["0.2500 @ 10"]
    assert drawn_texts(plot_curves({"a": log(10)}, max_epoch=3)) == ["0.4600 @ 3"]


def test_curves_tolerate_gaps() -> None:
    lines = log(10)
    lines[4]["mrr_va"] = math.nan
    lines[5]["mrr_va"] = None
    del lines[3]["mrr_va"]
    figure = plot_curves({"a": lines, "_nothing": [{"epoch": 1, "mrr_va": math.nan}], "unborn": []})
    assert drawn_texts(figure) == ["0.4600 @ 3"]
    assert "_nothing (no values)" in legend_texts(figure) and "unborn (no values)" in legend_texts(figure)


@pytest.mark.parametrize(("ymin", "ymax", "ends"), [
    (5.0, None, (5, 6)), (None, -5.0, (-6, -5)), (0.3, None, (0.3, 0.5125)), (None, 0.4, (0.2375, 0.4)),
    (0.1, 0.2, (0.1, 0.2)), (None, None, (0.2375, 0.5125))])
def test_the_y_axis_is_never_upside_down(ymin: float | None, ymax: float | None, ends: tuple[float, float]) -> None:
    axes, = plot_curves({"a": log(10)}, ymin=ymin, ymax=ymax).axes
    assert axes.get_ylim() == pytest.approx(ends)


@pytest.mark.parametrize(("values", "dots"), [
    ([None, 0.5, None, 0.6, None], [1, 3]), ([0.5], [0]), ([0.5, None, 0.6, 0.7, None, 0.4], [0, 5]),
    ([0.5, 0.6, math.nan, 0.7, 0.8], [])])
def test_values_between_gaps_are_dots(values: list[float | None], dots: list[int]) -> None:
    axes, = plot_curves({"a": [{"epoch": e, "mrr_tr": v, "mrr_va": v} for e, v in enumerate(values, start=1)]}).axes
    for line in axes.lines[:2]:
        assert (line.get_markevery() or [], line.get_marker()) == (dots, "o" if dots else "None")


@pytest.mark.parametrize("runs", [1, 3, 12, 30])
@pytest.mark.parametrize("name", ["r", "iapr_ccal_cont-with_a_long_tag_" * 4])
def test_nothing_covers_anything(runs: int, name: str) -> None:
    figure = plot_curves({f"{name}{i}": log(10 + i, 0.5 + i / 1000) for i in range(runs)})
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    axes, = figure.axes
    legend = figure.legends[0].get_window_extent(renderer)
    page = figure.bbox
    assert legend.y1 <= axes.get_tightbbox(renderer).y0 + 1     # which holds the tick labels and the axis name
    assert legend.x0 >= 0 and legend.x1 <= page.x1 and legend.y0 >= 0
    assert axes.get_window_extent(renderer).height > 0.3 * page.height
    boxes = sorted((text.get_window_extent(renderer) for text in axes.texts), key=lambda box: box.y0)
    assert all(box.x1 <= page.x1 + 1 for box in boxes)
    if runs <= 12:
        assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))


def test_numbers_are_spread_as_little_as_needed() -> None:
    assert _spread([0.2, 0.8], 0.1) == pytest.approx([0.2, 0.8])
    assert _spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert _spread([1.0, 1.0, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert _spread([0.0, 0.01, 0.5], 0.1) == pytest.approx([0.0, 0.1, 0.5])
    assert _spread([0.5] * 5, 0.9) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    rng = np.random.default_rng(0)
    for _ in range(50):
        placed = _spread(sorted(rng.random(12)), 0.04)
        assert min(np.diff(placed)) >= 0.04 - 1e-12 and placed[0] >= 0 and placed[-1] <= 1 + 1e-12


@pytest.mark.parametrize(("arguments", "message"), [
    (({"a": log(3)}, "mrr_v"), "no numbers under 'mrr_v'; did you mean mrr_va"),
    (({"a": log(3)}, "mr_%s"), "did you mean mrr_%s"),
    (({"a": log(3)}, "note"), "no numbers under 'note'"),
    (({"a": log(3)}, "mrr_%d"), "may only stand once, as %s"),
    (({"a": [], "b": []},), "no epoch to draw"),
    (({},), "no epoch to draw"),
    (({"a": log(3)}, "mrr_%s", True, None, 1.0, 0.5), "ymin must be below ymax"),
])
def test_bad_requests_are_told(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot_curves(*arguments)
