"""Run folders made into rows of a comparison: runs of one experiment that differ in nothing but their seed."""
from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.checkpoint import RunFolder
from xmodal.config import TrainConfig
from xmodal.errors import CheckpointError, DataError, did_you_mean


@dataclass(frozen=True)
class Row:
    """One experiment with its runs, one for each seed."""

    name: str
    experiment: str
    runs: list[RunFolder]
    seeds: list[int]


def open_runs(paths: Sequence[Path]) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Run folders with their ``config.json``, checked as far as that goes without data.

    Raises:
        CheckpointError: a folder without a run, or one that has no weights yet.
        DataError: a run given twice, or runs on different data.
    """
    runs: list[tuple[RunFolder, dict[str, Any]]] = []
    seen: dict[Path, Path] = {}
    for path in paths:
        if "\0" in str(path):
            raise DataError("the name of a run can't hold a NUL character")
        run = RunFolder(path)
        runs.append((run, run.config()))
        if path.resolve() in seen:
            raise DataError(f"{path} was given twice" + (f" (as {seen[path.resolve()]}, too)"
                                                         if seen[path.resolve()] != path else ""))
        seen[path.resolve()] = path
        if not run.file(RunFolder.WEIGHTS).is_file():
            raise CheckpointError(f"{run.file(RunFolder.WEIGHTS)} is missing: no epoch of it was finished; leave it "
                                  "out, or continue it with run_train.py --resume")
        _require_same_data(*runs[0], *runs[-1])
    return runs


def _require_same_data(first: RunFolder, about: dict[str, Any], other: RunFolder, about_other: dict[str, Any]) -> None:
    data, data_other = about["data"], about_other["data"]
    if data["fingerprint"] == data_other["fingerprint"] and data.get("views") == data_other.get("views"):
        return
    said = [f"{run.path} was trained on {each.get('title', each.get('name'))} ({each['fingerprint'][:12]}"
            f"{', views ' + ' and '.join(map(str, each['views'])) if isinstance(each.get('views'), list) else ''})"
            for run, each in ((first, data), (other, data_other))]
    raise DataError(f"{' and '.join(said)}: a paired comparison needs the same data; compare them apart")


def rows_of(runs: Sequence[tuple[RunFolder, dict[str, Any]]]) -> list[Row]:
    """The runs in rows, in the order of each row's first run.

    Of one row are runs with the same experiment name, the same resolved configuration and the same model file, comments
    and spaces aside. Rows of one experiment are told apart by the fields in which they differ.

    Raises:
        DataError: two runs of a row have the same seed, which would be counted as two.
    """
    groups: dict[str, list[tuple[RunFolder, dict[str, Any]]]] = {}
    for run, about in runs:
        key = json.dumps([_experiment(run, about), _config(about), _code(run)], sort_keys=True)
        groups.setdefault(key, []).append((run, about))
    names = _names(list(groups.values()))
    rows = []
    for name, members in zip(names, groups.values(), strict=True):
        seeds = [about["seed"] for _, about in members]
        for i, seed in enumerate(seeds):
            if seed in seeds[:i]:
                both = f"{members[seeds.index(seed)][0].path} and {members[i][0].path}"
                raise DataError(f"{both} are the same experiment with the same seed {seed}: leave one of them out")
        rows.append(Row(name, _experiment(*members[0]), [run for run, _ in members], seeds))
    return rows


def name_of(rows: Sequence[Row], wanted: str) -> str:
    """The name of the row that is called so, that has a run in a folder called so, or whose experiment alone is.

    Raises:
        DataError: there is no such row, or more than one.
    """
    for found in ([row for row in rows if row.name == wanted],
                  [row for row in rows if any(wanted in (run.path.resolve().name, str(run.path)) for run in row.runs)],
                  [row for row in rows if row.experiment == wanted]):
        if len(found) == 1:
            return found[0].name
    known = [row.name for row in rows]
    raise DataError(f"baseline {wanted}: there is no such row; {did_you_mean(wanted, known)}")


def _experiment(run: RunFolder, about: dict[str, Any]) -> str:
    return str(about.get("experiment") or run.path.resolve().name)


def _config(about: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration; fields that came after the run was trained have their defaults."""
    return {**dataclasses.asdict(TrainConfig()), **about["config"]}


def _code(run: RunFolder) -> str:
    """What a run's model file does, without what only its readers see.

    Raises:
        CheckpointError: it can't be read.
    """
    path = run.file(RunFolder.EXPERIMENT)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({type(error).__name__}): leave the run out") from error
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    return ast.dump(tree)


def _names(groups: Sequence[Sequence[tuple[RunFolder, dict[str, Any]]]]) -> list[str]:
    """The experiment's name, with what tells rows of one experiment apart: fields, or else the first run's folder."""
    experiments = [_experiment(*group[0]) for group in groups]
    configs = [_config(group[0][1]) for group in groups]
    names = []
    for experiment, config in zip(experiments, configs, strict=True):
        same = [other for name, other in zip(experiments, configs, strict=True) if name == experiment]
        differing = [field for field in config if any(other.get(field) != config[field] for other in same)]
        names.append(experiment + (f" ({', '.join(f'{field}={config[field]}' for field in differing)})"
                                   if differing else ""))
    return [name if names.count(name) == 1 else f"{name} ({group[0][0].path})"
            for name, group in zip(names, groups, strict=True)]
