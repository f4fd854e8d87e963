"""The evaluation blocks and the line per epoch, as plain text. Formatting only."""
from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from xmodal.errors import DataError, did_you_mean
from xmodal.metrics import DIRECTIONS

WIDTH = 80
_EPOCH_COLUMNS = (("epoch", 5), ("loss_tr", 8), ("loss_va", 8), ("mrr_tr", 6), ("mrr_va", 6), ("med_tr", 6),
                  ("med_va", 6), ("lr", 7), ("sec", 5), ("refit", 6), ("left", 4))


def evaluation_block(metrics: Mapping[str, Any], direction: str, title: str,
                     intervals: Mapping[str, tuple[float, float]] | None = None) -> str:
    """The report of one direction as plain text, at most 80 columns.

    A line of the hit rates says: percent of the queries (their number), then percent divided by k, as this method
    family's programs print it. The two correlations stand side by side, because the first alone can be gamed.

    Args:
        metrics: ``{"V1_to_V2": {...}, "V2_to_V1": {...}}`` as ``retrieval_metrics`` returns it, and, where known,
            ``chance`` of each direction, ``sum_correlation``, ``canonical_correlation`` and ``dim``.
        direction: which of the two.
        title: what was evaluated; it must say ``synthetic`` where the data are.
        intervals: (low, high) by key; by default ``metrics[direction]["intervals"]``, if any.

    Raises:
        DataError: no such direction.
    """
    if direction not in metrics:
        raise DataError(f"direction {direction!r}: {did_you_mean(direction, [k for k in metrics if '_to_' in k])}")
    values = metrics[direction]
    bounds = intervals if intervals is not None else values.get("intervals", {})
    queries, gallery = values["n_queries"], values["n_gallery"]
    lines = [*textwrap.wrap(title, WIDTH), "Hit Rates:"]
    for k in sorted(int(key[1:]) for key in values if key[0] == "r" and key[1:].isdecimal()):
        rate = values[f"r{k}"]
        lines.append(f"Top {k:02d}: {rate:.3f} ({values[f'hits{k}']}) {rate / k:.3f}{_bounds(bounds, f'r{k}', 2)}")
    lines += [f"Median Rank: {values['median_rank']:.2f} ({gallery}){_bounds(bounds, 'median_rank', 2)}",
              f"Mean Rank  : {values['mean_rank']:.2f} ({gallery}){_bounds(bounds, 'mean_rank', 2)}",
              f"Mean Dist  : {values['mean_distance']:.5f}",
              f"MRR        : {values['mrr']:.3f}{_bounds(bounds, 'mrr', 3)}",
              f"Min Dist   : {values['min_distance']:.5f}",
              f"Max Dist   : {values['max_distance']:.5f}",
              f"Med Dist   : {values['median_distance']:.5f}"]
    if queries != gallery:
        lines.append(f"Queries    : {queries} with a match, {gallery} items in the gallery")
    if values.get("tied_queries", 0) > 0:
        lines.append(f"Tied       : {values['tied_queries']} of {queries} queries; ties take the average rank")
    if "map" in values:
        lines += _class_lines(values)
    if "chance" in values:
        lines.append(f"By chance  : {_in_short(values['chance'])}")
    if "sum_correlation" in metrics:
        lines += textwrap.wrap(_correlations(metrics), WIDTH)
    return "\n".join(lines)


def baseline_line(name: str, metrics: Mapping[str, Any], direction: str) -> str:
    """A baseline in two or three short lines, to stand below the block of a model."""
    lines = [f"{name}:", f"  {_in_short(metrics[direction])}"]
    if "sum_correlation" in metrics:
        lines += textwrap.wrap(_correlations(metrics), WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def _in_short(values: Mapping[str, Any]) -> str:
    hits = [f"top {k:02d} {values[f'r{k}']:.2f}" for k in (1, 10) if f"r{k}" in values]
    return ", ".join([f"MRR {values['mrr']:.3f}", *hits, f"median rank {values['median_rank']:.2f}"])


def transfer_block(transfer: Mapping[str, Any]) -> str:
    """What ``xmodal.evaluator.transfer`` returns, as a small table of at most 80 columns."""
    rows = (("trained on view 1", "V1_to_V1", "V1_to_V2"), ("trained on view 2", "V2_to_V1", "V2_to_V2"),
            ("raw, the same view", "raw_V1_to_V1", "raw_V2_to_V2"))
    lines = [f"Transfer: accuracy of linear SVMs in percent, mean of {transfer['folds']} folds",
             f"{'tested on':<18}  view 1  view 2",
             *(f"{name:<18} {transfer[key1]:7.2f} {transfer[key2]:7.2f}" for name, key1, key2 in rows)]
    if transfer["unconverged"] > 0:
        lines.append(f"Unconverged: {transfer['unconverged']} of {6 * transfer['folds']} SVM fits "
                     "stopped at the iteration limit")
    return "\n".join(lines)


def group_block(groups: Mapping[str, Any]) -> str:
    """What ``xmodal.evaluator.retrieve_groups`` returns and its ``word``, as a small table of at most 80 columns."""
    who = "all items vote" if groups["excerpt"] is None else f"the {groups['excerpt']} items in its middle vote"
    sides = [groups[direction] for direction in DIRECTIONS]
    rows = (("Asked (in the gallery)", [f"{side['n_groups']} ({side['n_gallery']})" for side in sides]),
            ("Top 01", [f"{side['r1']:.2f}" for side in sides]),
            ("Top 05", [f"{side['r5']:.2f}" for side in sides]),
            ("MRR", [f"{side['mrr']:.3f}" for side in sides]),
            ("Median Rank", [f"{side['median_rank']:.2f}" for side in sides]),
            ("Offset, median error", [_number(side["offset_error"], ".3f") for side in sides]),
            (f"Top 01, offset within {groups['tolerance']:g}", [f"{side['offset_within']:.2f}" for side in sides]),
            (f"Items located within {groups['tolerance']:g}", [f"{side['located']:.2f}" for side in sides]))
    return "\n".join([*textwrap.wrap(f"Retrieval of a whole {groups['word']}: {who}", WIDTH),
                      f"{'':<28} {DIRECTIONS[0]:>15} {DIRECTIONS[1]:>15}",
                      *(f"{name:<28} {one:>15} {two:>15}" for name, (one, two) in rows)])


_WAYS = (("plain", "plain"), ("CSLS, training queries", "csls_train"), ("CSLS, all queries", "csls"),
         ("inv. softmax, training", "inverted_softmax_train"), ("inv. softmax, all", "inverted_softmax"))


def hub_block(hubs: Mapping[str, Any], direction: str) -> str:
    """What ``xmodal.evaluator.find_hubs`` returns of one direction, as a small table of at most 80 columns."""
    about = ("Hubs: items among the 10 nearest of too many queries, and what is found without their favours, learned "
             "from training queries or from all these queries at once")
    rows = [f"{name:<22} {way['skew']:6.2f} {way['never']:6.2f} {way['largest']:8.2f} {way['r1']:7.2f} "
            f"{way['r10']:7.2f} {way['median_rank']:8.1f} {way['mrr']:7.3f}"
            for name, way in ((name, hubs[direction][key]) for name, key in _WAYS)]
    return "\n".join([*textwrap.wrap(about, WIDTH), f"{'':<22} {'skew':>6} {'never':>6} {'largest':>8} {'Top 01':>7} "
                      f"{'Top 10':>7} {'med.rank':>8} {'MRR':>7}", *rows,
                      *textwrap.wrap("never: percent of items that are nobody's neighbour; largest: percent of the "
                                     "queries that share the greatest hub", WIDTH)])


def verification_block(report: Mapping[str, Any]) -> str:
    """What ``xmodal.evaluator.verify`` reports, as a small table of at most 80 columns."""
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("Matching pairs, others", lambda one: f"{one['n_matching']}, {one['n_others']}"),
        ("Area under the ROC curve", lambda one: f"{one['auc']:.4f}"),
        ("Equal error rate", lambda one: f"{one['eer']:.2f}"),
        ("Accuracy, threshold of validation", lambda one: f"{one['accuracy']:.2f} ({one['threshold']:.3f})"),
        ("True accepts at 0.1 % false ones", lambda one: _number(one["tar@0.1%"], ".2f")),
        ("True accepts at 1 % false ones", lambda one: _number(one["tar@1%"], ".2f"))]
    question = "are they of one class" if report.get("match") == "class" else "does a pair match"
    lines = [f"Verification: {question}? (percent; others at random, or nearest)"]
    ways = {"by cosine": report} if "cosine" not in report else {"by the network": report,
                                                                  "by cosine": report["cosine"]}
    for way, found in ways.items():
        kinds = [kind for kind in ("random", "hard") if kind in found]
        lines.append(f"{way if len(ways) > 1 else '':<34}" + "".join(f" {kind + ' others':>18}" for kind in kinds))
        lines += [f"{name:<34}" + "".join(f" {cell(found[kind]):>18}" for kind in kinds) for name, cell in rows]
    return "\n".join(lines)


_SIDES = (*DIRECTIONS, "V1_to_V1", "V2_to_V2")


def identification_block(found: Mapping[str, Any]) -> str:
    """What ``xmodal.evaluator.identify`` returns, as a small table of at most 80 columns."""
    used, pairs = found["n_known_pairs"], found["n_pairs"]
    known = f"{used:,} of the {pairs:,}" if used < pairs else f"the {pairs:,}"
    first = found[_SIDES[0]]
    where = f"gallery: {'the other ' if found['among_themselves'] else ''}items of {known} {found['gallery']} pairs"
    if found["gallery"] != "train":
        where += ", whose classes the training pairs lack"
    rows = [("Nearest neighbour", [_number(found[side]["knn1"], ".2f") for side in _SIDES])]
    rows += [(f"Majority of {key[3:]} nearest", [_number(found[side][key], ".2f") for side in _SIDES])
             for key in first if key.startswith("knn") and key != "knn1"]
    rows.append(("mAP (same class)", [_number(found[side]["map"], ".3f") for side in _SIDES]))
    rows += [(f"{key[4:]}-shot", [_spread(found[side], key, 1) for side in _SIDES])
             for key in first if key.startswith("shot") and not key.endswith("_std")]
    sets = [found[side]["open_set"] for side in _SIDES]
    rows += [("Open set: ROC area", [_spread(one, "auc", 3) for one in sets]),
             ("... class found", [_spread(one, "identified", 1) for one in sets])]
    rows += [(f"... at {key[4:-1]} % false alarms", [_spread(one, key, 1) for one in sets])
             for key in reversed(sets[0]) if key.startswith("dir@") and not key.endswith("_std")]
    about = (f"Identification: whose class of {first['n_classes']} is it? By cosines, percent; {where}; few shots and "
             f"open sets ({sets[0]['n_unknown']} of {sets[0]['n_unknown'] + sets[0]['n_known']} classes unknown) are "
             "means ± deviations of draws")
    return "\n".join([*textwrap.wrap(about, WIDTH), f"{'':<24}" + "".join(f" {side:>13}" for side in _SIDES),
                      *(f"{name:<24}" + "".join(f" {cell:>13}" for cell in cells) for name, cells in rows)])


def _spread(values: Mapping[str, Any], key: str, digits: int) -> str:
    value, deviation = (_number(values[name], f".{digits}f") for name in (key, f"{key}_std"))
    return value if value == "-" else f"{value} ± {deviation}"


_WITHIN = {"model": "model", "pca": "PCA of the raw items", "lsa": "LSA of the raw items", "raw": "raw items"}


def within_name(key: str) -> str:
    """What a key of ``xmodal.evaluator.retrieve_within`` is called for people."""
    return _WITHIN.get(key, key)


def within_block(found: Mapping[str, Any], view: int) -> str:
    """What ``xmodal.evaluator.retrieve_within`` returns of one view, as two small tables of at most 80 columns."""
    one = found["model"]
    cuts = [key for key in one if key[0] == "p" and key[1:].isdecimal()]
    about = (f"Within view {view}: {one['n_queries']:,} items each ask for their class among the {one['n_gallery']:,} "
             "others; by cosines, codes by Hamming distance")
    lines = [*textwrap.wrap(about, WIDTH), f"{'':<22} {'dim./bits':>9} {'mAP':>6}"
             + "".join(f" {'P@' + key[1:]:>6}" for key in cuts) + f" {'R-prec':>6}"]
    lines += [f"{within_name(key):<22} {way['size']:>9} " + " ".join(
        f"{_number(way[name], '.3f'):>6}" for name in ("map", *cuts, "r_precision")) for key, way in found.items()]
    levels = len(one["precisions"])
    lines.append("precision at recall    " + " ".join(f"{level / (levels - 1):4.1f}" for level in range(levels)))
    lines += [f"{within_name(key):<22} " + " ".join(f"{_number(value, '.2f'):>4}" for value in way["precisions"])
              for key, way in found.items()]
    return "\n".join(lines)


def restoring_block(errors: Mapping[str, float]) -> str:
    """What ``xmodal.evaluator.restoring_errors`` returns, as a small table."""
    rows = (("from view 1 alone", "view1"), ("from view 2 alone", "view2"), ("from both", "both"))
    cells = {(view, source): _number(errors.get(f"view{view}_from_{source}"), ".3g")
             for view in (1, 2) for _, source in rows}
    return "\n".join(["Restoring: mean squared errors", f"{'':<18}   view 1    view 2",
                      *(f"{name:<18} {cells[1, source]:>8}  {cells[2, source]:>8}" for name, source in rows
                        if any(cells[view, source] != "-" for view in (1, 2)))])


def _number(value: float | None, spec: str) -> str:
    """``-`` for what is undefined: NaN, or None where it was read from a file."""
    return _cell(None if value is None or math.isnan(value) else value, spec)


def _bounds(intervals: Mapping[str, tuple[float, float]], key: str, digits: int) -> str:
    if key not in intervals:
        return ""
    low, high = intervals[key]
    return f" [{low:.{digits}f}, {high:.{digits}f}]"


def _class_lines(values: Mapping[str, float]) -> list[str]:
    if math.isnan(values["map"]):
        return ["mAP        : undefined (no query's class is in the gallery)"]
    gains = [f"@{key[4:]} {value:.3f}" for key, value in values.items() if key.startswith("ndcg")]
    lines = [f"mAP        : {values['map']:.3f} (same class)"]
    return [*lines, f"nDCG       : {', '.join(gains)} (same class)"] if gains else lines


def _correlations(metrics: Mapping[str, Any]) -> str:
    most = f" of {metrics['dim']}" if "dim" in metrics else ""
    parts = [f"{name} correlation: {metrics[key]:.2f}{most}" for name, key in
             (("Sum", "sum_correlation"), ("Canonical", "canonical_correlation")) if key in metrics]
    return " | ".join(parts)


def epoch_header() -> str:
    """The names above the columns of ``epoch_line``."""
    return " ".join(f"{name:>{width}}" for name, width in _EPOCH_COLUMNS)


def epoch_line(line: Mapping[str, Any]) -> str:
    """One line of ``log.jsonl`` in fixed columns, at most 80; what it lacks shows as ``-``.

    ``left`` is the patience that is left, in epochs; an epoch that was the best so far ends in ``*``.
    """
    texts = [_cell(line.get("epoch"), "d"), _cell(line.get("loss_tr"), ".4f"), _cell(line.get("loss_va"), ".4f"),
             _cell(line.get("mrr_tr"), ".4f"), _cell(line.get("mrr_va"), ".4f"),
             _cell(line.get("median_rank_tr"), ".1f"), _cell(line.get("median_rank_va"), ".1f"),
             _cell(line.get("lr"), ".1e"), _cell(line.get("seconds"), ".1f"), _cell(line.get("refit_pairs"), "d"),
             _cell(line.get("patience_left"), "d")]
    cells = [f"{_fit(text, width):>{width}}" for text, (_, width) in zip(texts, _EPOCH_COLUMNS, strict=True)]
    return " ".join(cells) + (" *" if line.get("best") else "")


def _cell(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _fit(text: str, width: int) -> str:
    """A number that is too long for its column, with fewer digits."""
    for digits in (3, 2, 1, 0):
        if len(text) <= width:
            return text
        text = f"{float(text):.{digits}e}".replace("e+0", "e").replace("e-0", "e-")
    return text
