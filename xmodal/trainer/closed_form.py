"""The training of a model that needs none: one fit, one line of the log, the same files in the run folder."""
from __future__ import annotations

import json
import time
import warnings
from typing import Any

import torch
from sklearn.base import clone

from xmodal.checkpoint import RunFolder
from xmodal.data import PairedData, n_batches
from xmodal.errors import CheckpointError, ExperimentError
from xmodal.evaluator import embed
from xmodal.linear import PLS, ClosedForm, LinearCCA
from xmodal.linear.cca import components, sides
from xmodal.linear.closed_form import FIT_BATCH
from xmodal.metrics import PRIMARY, retrieval_metrics
from xmodal.trainer.display import Display
from xmodal.trainer.validation import probe, retrieval_line


def fit_closed_form(model: ClosedForm, data: PairedData, *, seed: int, run: RunFolder | None, resume: bool,
                    device: str | torch.device, display: Display) -> dict[str, Any]:
    """Fits to all training pairs and validates; returns the line of the log.

    A fit that was interrupted starts again when it is resumed, one that was finished is only loaded.
    """
    if resume and run is not None and run.file(RunFolder.WEIGHTS).is_file():
        line = _logged_line(run)
        run.load_weights(model)
        model.to(device)
        display.note("already finished")
        return line
    started, total = time.perf_counter(), n_batches(data.train, FIT_BATCH)
    try:
        model.set_params(device=str(device))
        model.fit_split(data.train, seed=seed, progress=lambda done: display.batch(1, done, total, None))
        seconds = time.perf_counter() - started
        valid = retrieval_metrics(*embed(model, data.valid, device=device), data.valid.pairs)
        sample = probe(data)
        train = retrieval_metrics(*embed(model, sample, device=device), sample.pairs)
        line = {"epoch": 1, "refit_pairs": model.n_pairs_, **retrieval_line(train, valid),
                "seconds": time.perf_counter() - started, "seconds_train": seconds, "best": True}
        if run is not None:
            run.clear_results()
            run.write_log([line])
            run.save_weights(model.state_dict(), epoch=1)  # last: what has weights is finished
        display.epoch(line)
    finally:
        display.close()
    return line


def _logged_line(run: RunFolder) -> dict[str, Any]:
    path = run.file(RunFolder.LOG)
    try:
        line = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
        float(line[f"{PRIMARY.key}_va"])
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or damaged: --overwrite starts again") from error
    return dict(line)


def check_closed_form(model: ClosedForm, objective: object, data: PairedData) -> None:
    """A fit of a copy to a few training pairs: mistakes surface before anything is written.

    Raises:
        ExperimentError: says what doesn't fit.
    """
    name = type(model).__name__
    if objective is not None:
        raise ExperimentError(f"{name} is fitted in closed form, without an objective: write build_objective = None")
    few = data.train.take(50)
    state = torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few pairs for any method
            trial = clone(model).set_params(device="cpu")
            if isinstance(model, LinearCCA | PLS):  # how many a kernel allows only all pairs can tell
                components(model.n_components, torch.empty(sides(data.train, model.unpaired_weight), device="meta"))
            if "n_components" in trial.get_params():
                trial.set_params(n_components=None)
            trial.fit_split(few)
    except ValueError as error:  # ours and scikit-learn's
        whose = "; where build_model takes it from CONFIG, that is dim_latent" if "n_components" in str(error) else ""
        raise ExperimentError(f"{name} can't be fitted to items of shape {data.view1_shape} and {data.view2_shape}: "
                              f"{error}{whose}") from error
    finally:
        torch.set_rng_state(state)
