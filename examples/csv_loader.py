"""A CSV file as a data set: some columns are view 1, others view 2, and each row is a pair.

  python run_train.py --model examples/csv_kcca.py --data examples/csv_loader.py
  CSV_FILE=mine.csv python run_train.py --model examples/csv_kcca.py --data examples/csv_loader.py

Copy this file and change what is in capitals. ``--data`` takes any Python file with a function ``load()``.
"""
from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmodal import DataError, PairedData, PairSplit

MEASURES = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
            "symmetry", "fractal dimension")

#: Which columns are what. Files whose first line doesn't hold these names have all of COLUMNS, in this order.
VIEW1 = [f"mean {measure}" for measure in MEASURES]
VIEW2 = [f"worst {measure}" for measure in MEASURES]
LABEL: str | None = "diagnosis"  #: the class of a row; None without classes
ITEM: str | None = None  #: names the view-1 item; rows with the same name are several partners of one item (1:n)
COLUMNS = [*VIEW1, *(f"error {measure}" for measure in MEASURES), *VIEW2, "diagnosis"]

SHARES = {"valid": 0.2, "test": 0.2}  #: of the view-1 items; the others train
SEED = 23  #: of the split


def default_file() -> Path:
    """The file that ``CSV_FILE`` names, or one that comes with scikit-learn."""
    if named := os.environ.get("CSV_FILE"):
        return Path(named)
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("scikit-learn is not installed, and CSV_FILE names no file")
    return Path(spec.origin).parent / "datasets" / "data" / "breast_cancer.csv"


def load() -> PairedData:
    """What ``--data examples/csv_loader.py`` calls."""
    return read_pairs(default_file(), VIEW1, VIEW2, LABEL, ITEM)


def read_pairs(file: Path, view1: Sequence[str], view2: Sequence[str], label: str | None = None,
               item: str | None = None) -> PairedData:
    """Reads, splits and standardises a CSV file.

    A row with an empty cell in a view lacks that half: its other half stays, as an item without a partner. All rows of
    one item are on one side of the split. Means and standard deviations are those of the training rows.

    Args:
        file: with a line of names, or without one and with as many columns as COLUMNS.
        view1, view2: names of columns with numbers.
        label: name of a column; its texts, sorted, become the classes 0, 1, ...
        item: name of the column that says which view-1 item a row belongs to; None makes each row an item.

    Raises:
        DataError: the file is missing, lacks a column, or a cell is no number; names file and line.
    """
    rows = _rows(file, [*view1, *view2, *(name for name in (label, item) if name)])
    halves = [[_numbers(row, names, file) for row in rows] for names in (view1, view2)]
    names = [row[item] if item else f"line-{row['']}" for row in rows]
    classes = sorted({row[label] for row in rows}) if label else []
    side = _sides(names)
    scales = [_scale([half for half, name in zip(view, names, strict=True) if half is not None
                      and side[name] == "train"]) for view in halves]
    splits = []
    for split in ("train", "valid", "test"):
        mine = [row for row, name in enumerate(names) if side[name] == split]
        first = {names[row]: row for row in reversed(mine) if halves[0][row] is not None}  # where an item is described
        rows1 = sorted(first.values())
        rows2 = [row for row in mine if halves[1][row] is not None]
        place1 = {names[row]: place for place, row in enumerate(rows1)}
        pairs = [(place1[names[row]], place) for place, row in enumerate(rows2) if names[row] in place1]
        texts = [rows[row][label] if label else "" for row in range(len(rows))]
        splits.append(PairSplit.of(
            split, *(np.array([(halves[view][row] - scales[view][0]) / scales[view][1] for row in chosen])
                     for view, chosen in enumerate((rows1, rows2))),
            pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
            labels=np.array([classes.index(rows[row][label]) for row in rows1]) if label else None,
            ids=[names[row] for row in rows1], caption1=[texts[row] for row in rows1],
            caption2=[f"{names[row]} {texts[row]}" for row in rows2]))
    lacking = [sum(half is None for half in view) for view in halves]
    return PairedData(file.stem, *splits, source=file.name, split_seed=SEED,
                      note=f"{len(rows):,} rows, {lacking[0]:,} lack view 1 and {lacking[1]:,} lack view 2; split by "
                           f"item with seed {SEED}, standardised by training rows")


def _rows(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows by name of column; under ``""`` the number of the line."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.reader(lines)
            head = [name.strip() for name in next(table, [])]
            names = head if set(needed) & set(head) else COLUMNS
            found = [({"": str(table.line_num), **dict(zip(names, row, strict=False))}, len(row)) for row in table
                     if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"can't read {file}: {error}") from error
    if missing := [name for name in needed if name not in names]:
        raise DataError(f"{file} has no column {missing[0]!r}; it has {', '.join(head)}")
    for row, length in found:
        if length != len(names):
            raise DataError(f"{file} line {row['']}: expected {len(names)} cells, got {length}")
    return [row for row, _ in found]


def _numbers(row: dict[str, str], names: Sequence[str], file: Path) -> np.ndarray | None:
    """One half of a row; None if a cell is empty."""
    if not all(row[name].strip() for name in names):
        return None
    try:
        return np.array([float(row[name]) for name in names])
    except ValueError as error:
        raise DataError(f"{file} line {row['']}: {error}") from error


def _sides(names: Sequence[str]) -> dict[str, str]:
    """Which split each item belongs to."""
    items = list(dict.fromkeys(names))
    order = np.random.RandomState(SEED).permutation(len(items))
    n_valid, n_test = (round(share * len(items)) for share in SHARES.values())
    side = dict.fromkeys(items, "train")
    side.update((items[i], "valid") for i in order[:n_valid])
    side.update((items[i], "test") for i in order[n_valid:n_valid + n_test])
    return side


def _scale(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns; 1 for a column that is constant."""
    if not rows:
        raise DataError("no training row has this view")
    deviation = np.std(rows, axis=0)
    return np.mean(rows, axis=0), np.where(deviation > 0, deviation, 1.0)
