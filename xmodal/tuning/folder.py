"""The folder of a search: what is searched, and every trial so far, each file whole or not there.

Finished trials lie in a file of ours, one JSON line each, and not in a storage of Optuna's: a line that a kill cut off
in the middle makes its journal unreadable, and the state of its sampler isn't in there. From these lines a search goes
on as if nobody had disturbed it (:mod:`xmodal.tuning.sampling`).
"""
from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xmodal.atomic import only_one, replacing
from xmodal.checkpoint import RunFolder, to_json
from xmodal.errors import CheckpointError
from xmodal.ranges import Choices, same
from xmodal.tuning.trial import Trial, read_trial

#: How searches differ that can't share a folder.
_DIFFERENCES = {"experiment": "for another experiment", "search": "in other ranges (SEARCH, --search)",
                "fixed": "with other values of --set", "seed": "with another --seed", "seeds": "with another --seeds",
                "prune_after": "with another --prune_after", "data": "on other data",
                "source": "for another version of the model file"}


class TuneFolder:
    """``runs/<experiment>[-<tag>]-tune/`` and the files in it.

    Args:
        path: the folder; :meth:`begin` makes it.
    """

    SEARCH = "search.json"  # experiment, data, space, seed
    EXPERIMENT = "experiment.py"  # a copy of the model file
    TRIALS = "trials.jsonl"  # a line per trial
    TABLE = "trials.csv"  # the same for people
    BEST = "best.json"  # the best trial, and the command that trains it

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside the block no other process searches here.

        Raises:
            CheckpointError: another one does.
        """
        with only_one(self.file(".lock")) as alone:
            if not alone:
                raise CheckpointError(f"another process is searching in {self.path}: wait for it, or --tag NAME starts "
                                      "another search beside it")
            yield

    def about(self) -> dict[str, Any] | None:
        """What is searched here; None where nothing is.

        Raises:
            CheckpointError: it is damaged, or the folder is a run's.
        """
        path = self.file(self.SEARCH)
        if not path.is_file():
            if RunFolder(self.path).exists:
                raise CheckpointError(f"{self.path} holds a run, not a search: --tag NAME takes another folder")
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content["data"]["fingerprint"], str):
                raise ValueError("expected an object with data.fingerprint")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}): --overwrite starts again"
                                  ) from error
        return content

    def require_same(self, stored: Mapping[str, Any], about: Mapping[str, Any], source: str) -> None:
        """Refuses to go on with another search than the one that is here: their trials can't be compared.

        Raises:
            CheckpointError: says what differs.
        """
        wrong = [key for key, value in about.items() if not same(value, stored.get(key))]
        if not wrong and self._source() != source:
            wrong = ["source"]
        if wrong:
            difference = _DIFFERENCES[wrong[0]]
            if isinstance(about.get(wrong[0]), int | str):
                difference += f" ({stored.get(wrong[0])}, now {about[wrong[0]]})"
            raise CheckpointError(f"{self.path} holds a search {difference}: --tag NAME starts another one beside it, "
                                  "--overwrite replaces it")

    def _source(self) -> str:
        try:
            return self.file(self.EXPERIMENT).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.file(self.EXPERIMENT)} is missing or damaged: --overwrite starts again"
                                  ) from error

    def begin(self, about: Mapping[str, Any], source: str) -> None:
        """Starts a search, in the place of one that is there."""
        for name in (self.SEARCH, self.TRIALS, self.TABLE, self.BEST):
            self.file(name).unlink(missing_ok=True)
        with replacing(self.file(self.EXPERIMENT)) as path:
            path.write_text(source, encoding="utf-8")
        with replacing(self.file(self.SEARCH)) as path:
            path.write_text(to_json(about), encoding="utf-8")

    def trials(self, space: Mapping[str, Choices]) -> list[Trial]:
        """The trials so far, the first one first.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self.file(self.TRIALS)
        if not path.is_file():
            return []
        try:
            trials = [read_trial(json.loads(line), space) for line in path.read_text(encoding="utf-8").splitlines()]
            if [trial.number for trial in trials] != [*range(1, len(trials) + 1)]:
                raise ValueError("trials are missing")
            if any(trial.state == "running" for trial in trials[:-1]):
                raise ValueError("a trial without an end is followed by others")
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): --overwrite starts again") from error
        return trials

    def write(self, trials: Sequence[Trial]) -> None:
        """Keeps the trials, and writes the table of those that have ended."""
        with replacing(self.file(self.TRIALS)) as path:
            path.write_text("".join(json.dumps(dataclasses.asdict(trial)) + "\n" for trial in trials), encoding="utf-8")
        with replacing(self.file(self.TABLE)) as path:
            path.write_text(_table([trial for trial in trials if trial.state != "running"]), encoding="utf-8")

    def write_best(self, content: Mapping[str, Any]) -> None:
        with replacing(self.file(self.BEST)) as path:
            path.write_text(to_json(content), encoding="utf-8")


def _table(trials: Sequence[Trial]) -> str:
    """CSV with a column per searched field."""
    text = io.StringIO()
    names = list(trials[0].params) if trials else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "value", "best_epoch", "epochs", "seconds", "seed", *names, "reason"])
    for trial in trials:
        writer.writerow([trial.number, trial.state, trial.value, trial.best_epoch, trial.epochs,
                         round(trial.seconds, 2), trial.seed, *(trial.params[name] for name in names), trial.reason])
    return text.getvalue()
