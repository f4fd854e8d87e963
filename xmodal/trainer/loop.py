"""``fit()``: the only training loop."""
from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from xmodal.checkpoint import RunFolder, load_strictly
from xmodal.config import TrainConfig
from xmodal.data import Batch, PairedData, PairSplit, n_batches, pair_batches
from xmodal.diagnosis import diagnose, largest_values, require_finite_state
from xmodal.distributed import alone, gather_rows, largest, rank, same_everywhere, size
from xmodal.errors import CheckpointError, DataError, NumericalError
from xmodal.evaluator import tower_precision
from xmodal.linear import ClosedForm
from xmodal.metrics import PRIMARY
from xmodal.networks import Model
from xmodal.start import Start, frozen_modules
from xmodal.trainer.check import check_experiment
from xmodal.trainer.closed_form import fit_closed_form
from xmodal.trainer.display import Display, Silent
from xmodal.trainer.generators import generator_states, set_generators
from xmodal.trainer.optimizer import check_state, make_optimizer, scheduled
from xmodal.trainer.progress import FitResult, Progress
from xmodal.trainer.signals import on_stop_signals
from xmodal.trainer.starting import Started, damaged, kept_in_eval, start_from, started_before
from xmodal.trainer.step import backward, compiled, make_step
from xmodal.trainer.validation import Validation, judge_of

#: The resume state is written when the time since the last writing is this many times what writing took.
SAVE_COST_FACTOR = 20


def fit(model: Model | ClosedForm, objective: nn.Module | None, data: PairedData, config: TrainConfig, *,
        seed: int = 23, run: RunFolder | None = None, resume: bool = False, device: str | torch.device = "cpu",
        display: Display | None = None, start: Start | None = None) -> FitResult:
    """Trains ``model`` on ``data.train`` and keeps the weights that do best on ``data.valid``, by ``config.judge`` (or
    the last ones, if ``config.keep`` says so).

    Each epoch: shuffled batches, a refit of the head's statistics on all training pairs, validation. Without a better
    validation MRR (or loss) for ``config.patience`` epochs, the best model is reloaded with its optimizer state and
    refined with a smaller learning rate, ``config.refinement_steps`` times. The order of batches depends on ``seed``
    and the epoch alone, so a resumed training takes the same steps as an undisturbed one.

    Frozen parameters (``requires_grad=False``) are left alone, and modules whose parameters are all frozen stay in eval
    mode, so that batch norm keeps its statistics there. A model with ``needs_no_pairs = True`` is trained on all items
    of both views, with a partner or without.

    A model of :mod:`xmodal.linear` is fitted to the training pairs in closed form, which makes a log of one line; of
    ``config`` nothing is used, and signals do what they do anywhere in Python.

    Several processes (:mod:`xmodal.distributed`) train as one does, each on its part of every batch; the first one
    writes, and all of them return the same.

    SIGINT (Ctrl-C) and SIGTERM end training after the current batch (after validation, if that is under way), with its
    state saved if there is a ``run``; the result's ``signal`` says which, and whoever calls in a loop should stop.

    Args:
        model: towers and head (DESIGN section 1). Initialise it under ``torch.manual_seed(seed)``.
        objective: maps ``(Embedded, pairs)`` to the loss; None with a model of :mod:`xmodal.linear`.
        data: what to train and validate on; the test split is not touched.
        config: the experiment's settings.
        seed: of the order of batches.
        run: where to keep weights, log and resume state; None keeps nothing.
        resume: continue from the state in ``run``; the beginning, if there is none yet.
        device: where the model is trained.
        display: shows progress.
        start: weights of another run to begin with, and which of them to train; ``model`` is changed accordingly. What
            came of it is in the ``config.json`` of ``run``, and a training that is resumed needs the other run no more.

    Raises:
        DataError: several processes hold different data, or only some of them stream.
        ExperimentError: model, objective and data don't fit together, or what to start from doesn't fit the model.
        NumericalError: the loss is not finite; the message says where and why, the best weights stay.
        CheckpointError: the state to resume is damaged, or another model's; what to start from is missing.
    """
    first = rank() == 0
    if resume and run is None and not isinstance(model, ClosedForm):
        raise CheckpointError("resume needs a run folder")
    state = run.load_resume() if resume and run is not None and not isinstance(model, ClosedForm) else None
    started = start_from(start, model) if start is not None and state is None else Started()
    if not same_everywhere(f"{data.fingerprint} {data.train.is_streamed}"):
        raise DataError("the processes of this training hold different data, or some stream them and others don't: "
                        "their parts would be of different batches; give all the same data and the same stream=...")
    check_experiment(model, objective, data)
    if isinstance(model, ClosedForm) or objective is None:  # never the one without the other: that was checked
        with alone():
            line = fit_closed_form(cast(ClosedForm, model), data, seed=seed, run=run if first else None, resume=resume,
                                   device=device, display=display or Silent())
        return FitResult([line], 1, line[f"{PRIMARY.key}_va"], "closed form")
    if state is not None:
        started = started_before(state, cast(RunFolder, run), model)
    training = _Training(model.to(device), objective.to(device), data, config, seed, run if first else None,
                         torch.device(device), display or Silent(), started)
    if resume:
        training.restore(cast(RunFolder, run), state)
    if started.about:
        training.say_what_was_started(started)
    return training.run()


class _Training:
    """One run of :func:`fit`."""

    def __init__(self, model: Model, objective: nn.Module, data: PairedData, config: TrainConfig, seed: int,
                 run: RunFolder | None, device: torch.device, display: Display, started: Started) -> None:
        self.model, self.objective, self.data, self.config = model, objective, data, config
        self.seed, self.folder, self.device, self.display = seed, run, device, display
        self.started, self.judge = started, judge_of(config)
        without_pairs = getattr(model, "needs_no_pairs", False)
        self.train_split = data.train.all_items() if without_pairs else data.train
        self.validation = Validation(model, objective, data, config, device)
        self.step = make_step(model, objective, config.precision, data.train.labels)
        self.frozen = frozen_modules(model)  # with the batch norms that the step may have put there
        self.optimizer = make_optimizer([model, objective], config, started.parameters(model, started.slow),
                                        started.rate)
        self.part = rank(), size()
        self.progress = Progress(config.learning_rate, config.patience, config.patience, config.refinement_steps)
        self.best: dict[str, Any] = {}
        self.n_batches = n_batches(self.train_split, config.batch_size)
        self.stopped_by: int | None = None  # the signal that all processes stop for
        self._asked_by = 0
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0

    def run(self) -> FitResult:
        progress = self.progress
        try:
            with (on_stop_signals(self._ask_to_stop), compiled(self.model, self.config.compile),
                  kept_in_eval(self.frozen)):
                if not (progress.finished or progress.epoch or progress.batch):
                    self._first_statistics()
                while not self._stopping() and not progress.finished:  # in this order: it may have come late
                    self._train_epoch()
                    if progress.batch == self.n_batches:
                        self._end_epoch()
                if self.stopped_by is not None and not progress.finished and (progress.epoch or progress.batch):
                    self._save()  # before the first step there is nothing to save, but statistics half made
        finally:
            self.display.close()
            self._load_best()
        finished = progress.finished
        if self.stopped_by is not None and not finished:
            finished = f"interrupted by {signal.Signals(self.stopped_by).name}"
        return FitResult(progress.log, progress.best_epoch, progress.best_value, finished, self.stopped_by)

    def _ask_to_stop(self, number: int) -> None:
        self._asked_by = number

    def _stopping(self) -> bool:
        """Whether training is to end here: all processes ask each other at the same places."""
        self.stopped_by = self.stopped_by or largest(self._asked_by) or None
        return self.stopped_by is not None

    # -- an epoch ---------------------------------------------------------------------------------------------------

    def _first_statistics(self) -> None:
        """Blended statistics need something to start from, and so does a frozen head: the training pairs as the towers
        see them before the first step."""
        if not (self.frozen or getattr(self.model, "blends_statistics", False)):  # a user's own model need not have it
            return
        try:
            with tower_precision(self.config.precision, self.device):
                self.model.refit(self._pairs(), train_mode=True)
        except NumericalError as error:
            batch = next(self._batches(self.data.train, 0))
            raise NumericalError(f"training stopped before the first step: {error}; "
                                 f"{largest_values(Batch(*gather_rows(*batch)))}") from error

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All training pairs, for a refit."""
        for batch in self._batches(self.data.train, 0):
            yield batch.view1, batch.view2

    def _batches(self, split: PairSplit, epoch: int, start: int = 0) -> Iterator[Batch]:
        return pair_batches(split, self.config.batch_size, seed=self.seed, epoch=epoch, start=start, part=self.part,
                            device=self.device)

    def _train_epoch(self) -> None:
        """Takes the epoch's remaining steps, or those until a signal asks for a stop."""
        progress = self.progress
        self.model.train()
        self.objective.train()
        begun, seconds_before = time.perf_counter(), progress.seconds
        for batch in self._batches(self.train_split, progress.epoch + 1, progress.batch):
            self._set_learning_rate()
            loss = self._step(batch)
            progress.batch += 1
            progress.loss_sum += loss
            progress.seconds = seconds_before + time.perf_counter() - begun
            self.display.batch(progress.epoch + 1, progress.batch, self.n_batches, progress.loss_sum / progress.batch)
            if self._stopping():
                break

    def _set_learning_rate(self) -> None:
        progress = self.progress
        steps = progress.epoch * self.n_batches + progress.batch + 0.5  # the middle of the next one
        factor = scheduled(self.config, steps / (self.n_batches * self.config.max_epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = progress.learning_rate * factor * group.get("rate", 1.0)

    def _step(self, batch: Batch) -> float:
        where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}"
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self.step(batch.view1, batch.view2, batch.pairs)
        except NumericalError as error:
            raise NumericalError(f"training stopped in {where}: {error}; {self._diagnosis(batch)}") from error
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericalError(f"training stopped in {where}: the loss is {value}; {self._diagnosis(batch)}")
        backward(loss)
        if self.config.clip_norm is not None:
            parameters = (p for group in self.optimizer.param_groups for p in group["params"])
            nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self.optimizer.step()
        return value

    def _diagnosis(self, batch: Batch) -> str:
        return diagnose(self.model, Batch(*gather_rows(*batch))) + self._kept()

    def _kept(self) -> str:
        best, which = self.progress.best_epoch, "best" if self.config.keep == "best" else "last"
        return f"; the {which} model so far (epoch {best}) is kept" if best else ""

    def _end_epoch(self) -> None:
        progress, started = self.progress, time.perf_counter()
        try:
            line = self._validate()
            if not math.isfinite(line[self.judge.key]):
                raise NumericalError(f"the {self.judge.name}, which judges epochs, is {line[self.judge.key]}")
        except NumericalError as error:
            raise NumericalError(f"training stopped after epoch {progress.epoch + 1}: {error}{self._kept()}") from error
        progress.epoch += 1
        improved = self._judge(line[self.judge.key])
        line = {"epoch": progress.epoch, "loss_tr": progress.loss_sum / max(progress.batch, 1), **line,
                "lr": self.optimizer.param_groups[0]["lr"], "seconds": progress.seconds + time.perf_counter() - started,
                "seconds_train": progress.seconds, "best": improved, "patience_left": progress.patience_left,
                "refinement": self.config.refinement_steps - progress.refinements_left}
        progress.log.append(line)
        progress.batch, progress.loss_sum, progress.seconds = 0, 0.0, 0.0
        refining = self._refine_or_finish()
        self._keep(improved)  # before anything is shown: a display may fail, a reader of our output may leave
        self.display.epoch(line)
        if refining:
            self.display.note(refining)

    def _validate(self) -> dict[str, Any]:
        require_finite_state(self.model)
        with tower_precision(self.config.precision, self.device):
            refit_pairs = self.model.refit(self._pairs())
        return {"refit_pairs": refit_pairs, **self.validation.line()}

    # -- which model is best, and when to stop ----------------------------------------------------------------------

    def _judge(self, value: float) -> bool:
        """Books an epoch's validation value; True when its weights are the ones to keep so far."""
        progress = self.progress
        sign = 1 if self.judge.high_is_better else -1
        if self.config.keep == "best" and progress.best_epoch and sign * value <= sign * progress.best_value:
            progress.patience_left -= 1
            return False
        progress.best_value, progress.best_epoch = value, progress.epoch
        progress.patience_left = progress.patience
        self.best = {"model": copy.deepcopy(self.model.state_dict()),
                     "objective": copy.deepcopy(self.objective.state_dict()),
                     "optimizer": copy.deepcopy(self.optimizer.state_dict())}
        return True

    def _refine_or_finish(self) -> str:
        """Decides how training goes on; returns what there is to say about it."""
        progress, config = self.progress, self.config
        if progress.epoch >= config.max_epochs:
            progress.finished = "max_epochs"
        elif progress.patience_left <= 0 and progress.refinements_left == 0:
            progress.finished = "patience"
        elif progress.patience_left <= 0:
            progress.refinements_left -= 1
            progress.learning_rate *= config.lr_multiplier
            progress.patience = min(progress.patience, config.refinement_patience)
            progress.patience_left = progress.patience
            self._load_best()
            self._set_optimizer(self.best["optimizer"])
            return (f"refining the best model (epoch {progress.best_epoch}, {self.judge.name} "
                    f"{progress.best_value:.4f}) with learning rate {progress.learning_rate:.2g}")
        return ""

    def _load_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best["model"])
            self.objective.load_state_dict(self.best["objective"])

    def _set_optimizer(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(copy.deepcopy(state))
        check_state(self.optimizer)

    # -- keeping and resuming ---------------------------------------------------------------------------------------

    def _keep(self, improved: bool) -> None:
        due = False
        if self.folder is not None:
            if improved:
                self._write_best()
            self.folder.write_log(self.progress.log)
            since = time.monotonic() - self._saved_at
            due = bool(self.progress.finished) or since >= SAVE_COST_FACTOR * self._save_seconds
        if largest(due):
            self._save()

    def _write_best(self) -> None:
        if self.folder is not None:
            self.folder.save_weights(self.best["model"], epoch=self.progress.best_epoch)

    def _save(self) -> None:
        """Writes the resume state. It alone says where training stands; log and weights follow from it."""
        states, cuda_states = generator_states(self.device)
        if self.folder is None:
            return
        started = time.monotonic()
        self.folder.save_resume({"progress": asdict(self.progress), "model": self.model.state_dict(),
                                 "optimizer": self.optimizer.state_dict(), "best": self.best,
                                 "objective": self.objective.state_dict(), "rng": states, "cuda_rng": cuda_states,
                                 "start": self.started.plain()})
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def say_what_was_started(self, started: Started) -> None:
        """On the screen, and in ``config.json`` where there is one."""
        self.display.note(started.note)
        if self.folder is not None and self.folder.exists:
            self.folder.write_json(RunFolder.CONFIG, {**self.folder.config(), "start": started.about})

    def restore(self, run: RunFolder, state: dict[str, Any] | None) -> None:
        """Takes up the state of the run folder, and rewrites the log and the best weights to agree with it."""
        if self.folder is not None:
            self.folder.clear_temporary_files()
        if state is None:
            self.display.note("nothing was saved yet: starting from the beginning")
            return
        try:
            self._take_up(state)
            if self.folder is not None:
                self.folder.write_log(self.progress.log)
            if self.best:
                self._write_best()
            if self.progress.finished and not state["progress"]["finished"]:  # max_epochs was lowered
                self._save()
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise damaged(run, error) from error
        if self.folder is not None and not self.progress.finished:
            self.folder.clear_results()
        self.display.note(f"continuing after epoch {self.progress.epoch}" if not self.progress.finished else
                          f"already finished after epoch {self.progress.epoch}")

    def _take_up(self, state: dict[str, Any]) -> None:
        progress = self.progress = Progress(**state["progress"])
        for saved in (*([state["best"]] if state["best"] else []), state):  # what is gone back to later is tried now
            load_strictly(self.model, saved["model"], RunFolder.RESUME)
            self.objective.load_state_dict(saved["objective"])
            self._set_optimizer(saved["optimizer"])
        set_generators(state["rng"], state["cuda_rng"], self.device, self.seed)
        self.best = state["best"]
        if progress.finished == "max_epochs" and progress.epoch < self.config.max_epochs:
            progress.finished = ""  # max_epochs was raised: what this epoch would have led to is decided now
            self._refine_or_finish()
        elif not progress.finished and progress.epoch >= self.config.max_epochs:
            progress.finished = "max_epochs"
