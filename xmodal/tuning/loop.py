"""The search itself: trial after trial, until there are enough."""
from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from xmodal.config import Experiment, load_experiment
from xmodal.data import PairedData
from xmodal.errors import ExperimentError, NumericalError, one_line
from xmodal.metrics import PRIMARY
from xmodal.trainer import Display, FitResult, Silent, fit
from xmodal.trainer.signals import on_stop_signals
from xmodal.tuning.folder import TuneFolder
from xmodal.tuning.sampling import Candidate, next_candidate
from xmodal.tuning.trial import Trial

#: A trial that was killed so often has failed: what kills it (memory, say) would do so again.
MOST_ATTEMPTS = 2


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the search; what trials had ended are kept."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class _Hopeless(Exception):  # noqa: N818 (it is no error)
    """Ends the training of a trial that is not worth going on with."""


def without_test(data: PairedData) -> PairedData:
    """The data of a search, which never sees a test pair: validation pairs stand where test pairs would."""
    return dataclasses.replace(data, test=data.valid, further=())


@dataclass(frozen=True)
class Search:
    """A search, ready to run.

    Attributes:
        experiment: with what to search in, and with the values that are the same in all trials.
        fixed: these values.
        data: without its test split.
        folder: where trials are kept.
        seed: of the sampler; trial 1 is trained with it, trial 2 with the next, and so on.
        seeds: how many trainings a trial has, each with a seed of its own. Their mean counts: where validation pairs
            are few, one training is as much luck as settings. Only the first one may be ended early.
        prune_after: the number of epochs that every trial has; later it may be ended for being worse than the median
            of the others. Models in closed form have no epochs.
        device: where models are trained.
        display: shows the training of trials.
    """

    experiment: Experiment
    fixed: dict[str, Any]
    data: PairedData
    folder: TuneFolder
    seed: int
    prune_after: int
    device: torch.device
    seeds: int = 1
    display: Display = dataclasses.field(default_factory=Silent)
    _asked: list[int] = dataclasses.field(default_factory=list, init=False, repr=False)  # signals not heeded yet

    def run(self, trials: list[Trial], total: int, ended: Callable[[Trial], None]) -> None:
        """Tries until ``trials``, which the folder holds, have become ``total``; calls ``ended`` with each new one.

        A trial that fails (its loss is not finite, the model can't be made with its values, memory is full) counts,
        with its reason. One that was killed is begun again, once.

        Raises:
            Stopped: a signal asked for it. The trial that was running is forgotten, and begun again next time.
        """
        self._asked.clear()
        attempts = trials.pop().attempts if trials and trials[-1].state == "running" else 0
        try:
            with on_stop_signals(_stop):
                while len(trials) < total:
                    trial = self._begin(trials, attempts + 1)
                    attempts = 0
                    trials.append(trial)
                    self.folder.write(trials)
                    ended(trial)
                    if self._asked:  # when it was as good as done
                        raise Stopped(self._asked[0])
        except Stopped:
            self.folder.write(trials)
            raise

    def _begin(self, trials: list[Trial], attempt: int) -> Trial:
        defaults = dataclasses.asdict(self.experiment.config)
        candidate = next_candidate(self.experiment.search, trials, seed=self.seed, defaults=defaults,
                                   prune_after=self.prune_after)
        number = len(trials) + 1
        seed = (self.seed + (number - 1) * self.seeds) % 2**63
        trial = Trial(number, "running", candidate.params, seed, attempts=attempt)
        if attempt > MOST_ATTEMPTS:
            return dataclasses.replace(trial, state="failed", attempts=MOST_ATTEMPTS,
                                       reason="the process was killed in the middle of it, twice")
        self.folder.write([*trials, trial])
        return self._train(trial, candidate)

    def _train(self, trial: Trial, candidate: Candidate) -> Trial:
        started = time.perf_counter()
        watching = _Watching(self.display, candidate)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that batches are small for a head: its value will tell
                first, *others = (self._fit(trial, seed, watching) for seed in range(self.seeds))
        except _Hopeless:
            trial = dataclasses.replace(trial, state="pruned", value=watching.best, best_epoch=watching.best_epoch)
        except (NumericalError, ExperimentError, MemoryError, RuntimeError) as error:
            trial = dataclasses.replace(trial, state="failed", reason=_reason(error))
        else:
            values = tuple(result.log[result.best_epoch - 1][f"{PRIMARY.key}_va"] for result in (first, *others))
            trial = dataclasses.replace(trial, state="done", value=fmean(values), values=values,
                                        best_epoch=first.best_epoch)
        return dataclasses.replace(trial, curve=tuple(watching.curve), seconds=time.perf_counter() - started)

    def _fit(self, trial: Trial, repeat: int, watching: _Watching) -> FitResult:
        """The training that ``run_train.py`` would do with the same values and seed.

        Raises:
            Stopped: a signal asked for it.
        """
        seed = (trial.seed + repeat) % 2**63
        experiment = load_experiment(self.folder.file(TuneFolder.EXPERIMENT), {**self.fixed, **trial.params},
                                     name=self.experiment.name)
        torch.manual_seed(seed)
        model = experiment.build_model(self.data.view1_shape, self.data.view2_shape)
        objective = experiment.build_objective()
        watching.last_epoch = experiment.config.max_epochs if objective is not None else 1
        result = fit(model, objective, self.data, experiment.config, seed=seed, device=self.device,
                     display=watching if repeat == 0 else self.display, start=experiment.start)
        if result.signal is not None and (result.finished.startswith("interrupted") or repeat + 1 < self.seeds):
            raise Stopped(result.signal)
        self._asked.extend([] if result.signal is None else [result.signal])
        return result


def _reason(error: Exception) -> str:
    """Why a trial failed; an error that is nobody's but ours is raised again."""
    if isinstance(error, NumericalError | ExperimentError):
        return one_line(error)
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "out of memory"
    raise error


def _stop(number: int) -> None:
    raise Stopped(number)


class _Watching:
    """Passes on what a training shows, and ends it where its candidate is hopeless."""

    def __init__(self, display: Display, candidate: Candidate) -> None:
        self.display, self.candidate = display, candidate
        self.curve: list[float] = []
        self.last_epoch = 0  # which nothing is gained by ending

    @property
    def best(self) -> float | None:
        pick = max if PRIMARY.high_is_better else min
        return pick(self.curve, default=None)

    @property
    def best_epoch(self) -> int:
        return self.curve.index(self.best) + 1 if self.best is not None else 0

    def batch(self, epoch: int, done: int, total: int, loss: float | None) -> None:
        self.display.batch(epoch, done, total, loss)

    def epoch(self, line: dict[str, Any]) -> None:
        value = line[f"{PRIMARY.key}_va"]
        self.curve.append(value)
        self.display.epoch(line)
        if self.candidate.is_hopeless(line["epoch"], value) and line["epoch"] < self.last_epoch:
            raise _Hopeless

    def note(self, text: str) -> None:
        self.display.note(text)

    def close(self) -> None:
        self.display.close()
