"""A trained run, opened again: its model with its weights, and either view's items embedded by it."""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.checkpoint import RunFolder
from xmodal.config import Experiment, load_experiment
from xmodal.data import PairedData, load_data
from xmodal.data.pairs import as_view
from xmodal.data.readers import ItemReader
from xmodal.data.sets import DATA_SETS, data_file
from xmodal.errors import CheckpointError, DataError
from xmodal.evaluator import EMBED_BATCH, tower_precision
from xmodal.linear import ClosedForm
from xmodal.networks import Model, evaluating


@dataclass(frozen=True)
class TrainedRun:
    """A run's model and what it needs to be used.

    Attributes:
        folder: the run folder.
        about: its ``config.json``.
        model: with its weights, on ``device``.
        header: what the weights' file says about them.
        device: where the model is.
        weights: the file of its weights in the folder.
        view_shapes: shapes of one item of view 1 and of view 2.
        data_spec: where its data lie now; None where they lay at training.
        run_code: whether raw items may be read by a function that the data name (``MODULE:FUNCTION``).
    """

    folder: RunFolder
    about: dict[str, Any]
    model: Model | ClosedForm
    header: dict[str, str]
    device: torch.device
    weights: str
    view_shapes: tuple[tuple[int, ...], tuple[int, ...]]
    data_spec: str | None = None
    run_code: bool = False
    _readers: dict[int, ItemReader] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The folder's name, such as ``digits_ccal_cont-s1``."""
        return self.folder.path.resolve().name

    @property
    def precision(self) -> str:
        """``float32`` or ``bf16``, of the towers."""
        return str(self.about["config"].get("precision", "float32"))

    def embed(self, view: int, items: Tensor) -> Tensor:
        """Items of view 1 or 2, (n, *item shape) float32, as (n, d) float32 on the CPU.

        Raises:
            DataError: items of another shape.
        """
        expected = self.view_shapes[view - 1]
        if items.shape[1:] != expected:
            raise DataError(f"{self.name} embeds view-{view} items of shape {expected}, got {tuple(items.shape[1:])}")
        project = self.model.embed_view1 if view == 1 else self.model.embed_view2
        with evaluating(self.model), tower_precision(self.precision, self.device):
            return torch.cat([project(part.to(self.device)).float().cpu() for part in items.split(EMBED_BATCH)])

    def embed_view1(self, items: Tensor | np.ndarray | Iterable[str | Path]) -> Tensor:
        """Embeddings of view-1 items, (n, d) float32 on the CPU.

        Args:
            items: numbers (n, *item shape); or texts, or paths of pictures or recordings, which go through the encoder
                that is stored with the run's data (these are opened then).

        Raises:
            DataError: items of another shape, not finite, or that the view's encoder doesn't read.
            CheckpointError: the run's data are not where they were; ``load_run(path, data=...)`` says where.
        """
        return self._embed_any(1, items)

    def embed_view2(self, items: Tensor | np.ndarray | Iterable[str | Path]) -> Tensor:
        """Embeddings of view-2 items; see :meth:`embed_view1`."""
        return self._embed_any(2, items)

    def _embed_any(self, view: int, items: Tensor | np.ndarray | Iterable[str | Path]) -> Tensor:
        if isinstance(items, Tensor | np.ndarray):
            numbers = torch.as_tensor(as_view(items, f"view {view}"))
            if not numbers.isfinite().all():
                raise DataError(f"items of view {view} must be finite")
            return self.embed(view, numbers)
        if view not in self._readers:
            self._readers[view] = ItemReader(self.data(), view, self.run_code)
        return self.embed(view, self._readers[view].read(items))

    def data(self, spec: str | None = None) -> PairedData:
        """The data that the run was trained on, in the same views.

        Args:
            spec: where they lie now; by default ``data_spec``, or where :func:`spec_of_data` finds them.

        Raises:
            CheckpointError: they are others, or not where they were.
            DataError: they can't be read.
        """
        data = load_data(spec or self.data_spec or spec_of_data(self.folder, self.about),
                         views=self.about["data"].get("views"))
        require_same_data(self.folder, self.about, data)
        return data


def load_run(path: str | Path, *, device: str | torch.device = "cpu", weights: str = RunFolder.WEIGHTS,
             data: str | None = None, run_code: bool = False) -> TrainedRun:
    """Opens a run folder; its data are read when they are needed.

    Args:
        path: such as ``runs/digits_ccal_cont``.
        device: where the model goes.
        weights: the file of weights in the folder.
        data: where its data lie now, as ``--data`` has it; by default where :func:`spec_of_data` finds them.
        run_code: see :class:`TrainedRun`.

    Raises:
        CheckpointError: there is no such run, or it is damaged.
        ExperimentError: its model file fails.
    """
    run = RunFolder(path)
    about = run.config()
    shapes = [about["data"].get(key) for key in ("view1_shape", "view2_shape")]
    if not all(isinstance(shape, list) and shape and all(type(n) is int and n > 0 for n in shape) for shape in shapes):
        raise CheckpointError(f"{run.file(RunFolder.CONFIG)} lacks data.view1_shape or data.view2_shape: it is damaged")
    view1_shape, view2_shape = (tuple(shape) for shape in shapes)
    model, header = _restored(run, about, view1_shape, view2_shape, weights, torch.device(device))
    return TrainedRun(run, about, model, header, torch.device(device), weights, (view1_shape, view2_shape), data,
                      run_code)


def load_model(run: RunFolder, data: PairedData, weights: str, device: torch.device
               ) -> tuple[Model | ClosedForm, dict[str, Any], dict[str, str]]:
    """A run's model for data that are at hand, on ``device``; its ``config.json``; what the weights' header says.

    Raises:
        CheckpointError: the run is missing or damaged, or was trained on other data.
    """
    about = run.config()
    require_same_data(run, about, data)
    model, header = _restored(run, about, data.view1_shape, data.view2_shape, weights, device)
    return model, about, header


def _restored(run: RunFolder, about: dict[str, Any], view1_shape: tuple[int, ...], view2_shape: tuple[int, ...],
              weights: str, device: torch.device) -> tuple[Model | ClosedForm, dict[str, str]]:
    model = experiment_of(run, about).build_model(view1_shape, view2_shape)
    header = run.load_weights(model, weights)
    model.to(device)
    if isinstance(model, nn.Module):
        model.eval()
    elif (model.n_features_in_, model.n_features2_in_) != (math.prod(view1_shape), math.prod(view2_shape)):
        raise CheckpointError(f"{run.file(weights)} is for items of {model.n_features_in_} and {model.n_features2_in_} "
                              "values, not for these data: it is damaged, or another model's")
    return model, header


def experiment_of(run: RunFolder, about: dict[str, Any]) -> Experiment:
    """The experiment as it was trained: the run's own copy of the model file, with the run's configuration."""
    return load_experiment(run.file(RunFolder.EXPERIMENT), overrides=about["config"], name=about.get("experiment"))


def spec_of_data(run: RunFolder, about: dict[str, Any]) -> str:
    """Where the data lie that a run was trained on, as ``--data`` has it: where they lay, seen from the current folder
    or else from the one that holds the run's ``runs``.

    Raises:
        CheckpointError: there is no such file.
    """
    spec = about["data"].get("spec")
    if not isinstance(spec, str):
        raise CheckpointError(f"{run.path} does not say what data it was trained on: give --data")
    file = data_file(spec)
    if file is None or file.is_file():
        return spec
    elsewhere = run.path.resolve().parent.parent / file
    if elsewhere.is_file():
        return str(elsewhere)
    if spec in DATA_SETS:
        return spec  # load_data says how it is prepared
    seen = "" if file.is_absolute() else " as seen from the folder it was trained in"
    raise CheckpointError(f"the data of {run.path} were {spec}{seen}, and there is no {file} here: --data FILE says "
                          "where they are (in Python load_run(path, data=...))")


def require_same_data(run: RunFolder, about: dict[str, Any], data: PairedData) -> None:
    """Refuses data other than those that a run was trained on: its test pairs may be among the training pairs.

    Raises:
        CheckpointError: the fingerprints differ.
    """
    trained = about["data"]
    if trained["fingerprint"] != data.fingerprint:
        raise CheckpointError(f"{run.path} was trained on {trained.get('title', 'other data')} "
                              f"(fingerprint {trained['fingerprint'][:12]}), these are {data.title} "
                              f"({data.fingerprint[:12]}): evaluate on the same data, or train again")
