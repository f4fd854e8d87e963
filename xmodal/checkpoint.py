"""The run folder: everything one training leaves behind, each file either whole or not there. Nothing is unpickled."""
from __future__ import annotations

import io
import json
import math
import platform
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from xmodal.atomic import only_one, replacing
from xmodal.distributed import from_first, rank
from xmodal.errors import CheckpointError, DataError, did_you_mean
from xmodal.linear import ClosedForm
from xmodal.metrics import DIRECTIONS

REFINED = "weights_est_UV.safetensors"


class RunFolder:
    """``runs/<experiment>[-<tag>]/`` and the files in it.

    Args:
        path: the folder; :meth:`create` makes it, everything else expects it.
    """

    CONFIG = "config.json"  # resolved configuration, seed, data fingerprint, versions, git commit
    EXPERIMENT = "experiment.py"  # a copy of the model file
    WEIGHTS = "weights.safetensors"  # the best model
    RESUME = "resume.pt"  # the last state of training
    LOG = "log.jsonl"  # a line per epoch
    METRICS = "metrics.json"  # of all test pairs
    CARD = "card.md"  # what all of this is, for people
    PICTURES = ("roc", "reconstructions", "walk", "samples", "filters", "neighbours", "precision_recall")  # NAME….png
    EVENTS = "tensorboard"  # a folder: the log as events, where they were asked for

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def exists(self) -> bool:
        """Whether a training has been started here."""
        return self.file(self.CONFIG).exists()

    def refuse_if_taken(self) -> None:
        """Raises a :class:`CheckpointError` if there is a run here, or what is left of one."""
        if any(self.file(name).exists() for name in (self.CONFIG, self.WEIGHTS, self.RESUME)):
            way_on = "--resume continues it" if self.exists else f"but its {self.CONFIG} is missing"
            raise CheckpointError(f"{self.path} holds a run already: {way_on}, --tag NAME starts another beside it, "
                                  "--overwrite replaces it")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside the block no other process trains here.

        Raises:
            CheckpointError: another one does.
        """
        with only_one(self.file(".lock")) as alone:
            if not alone:
                raise CheckpointError(f"another process is training in {self.path}: wait for it, or --tag NAME starts "
                                      "another run beside it")
            yield

    def create(self, config: Mapping[str, Any], source: str, overwrite: bool = False) -> None:
        """Starts a run: writes its configuration and a copy of its experiment.

        Raises:
            CheckpointError: there is a run already, and ``overwrite`` is not set.
        """
        if not overwrite:
            self.refuse_if_taken()
        elif self.path.is_dir():
            for name in (self.CONFIG, self.EXPERIMENT, self.WEIGHTS, self.RESUME, self.LOG):
                self.file(name).unlink(missing_ok=True)
            self.clear_results()
            self.clear_events()
            self.clear_temporary_files()
        with replacing(self.file(self.EXPERIMENT)) as path:
            path.write_text(source, encoding="utf-8")
        self.write_json(self.CONFIG, config)

    def clear_results(self) -> None:
        """Removes what further training makes untrue: metrics, a re-estimated projection, the card, pictures."""
        pictures = (old for name in self.PICTURES for old in self.path.glob(f"{name}*.png"))
        for old in (*self.path.glob("metrics*.json"), self.file(REFINED), self.file(self.CARD), *pictures):
            old.unlink(missing_ok=True)

    def clear_events(self) -> None:
        """Removes what was written for TensorBoard; of what else is in that folder, nothing."""
        for old in self.file(self.EVENTS).glob("events.out.tfevents.*"):
            old.unlink(missing_ok=True)

    def clear_temporary_files(self) -> None:
        """Removes what a kill in the middle of writing left behind."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def write_card(self, text: str) -> None:
        with replacing(self.file(self.CARD)) as path:
            path.write_text(text, encoding="utf-8")

    # -- JSON -------------------------------------------------------------------------------------------------------

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        with replacing(self.file(name)) as path:
            path.write_text(to_json(content), encoding="utf-8")

    def config(self) -> dict[str, Any]:
        """The run's ``config.json``.

        Raises:
            CheckpointError: no such run, or not what :meth:`create` wrote.
        """
        if not self.exists:
            near = [p.parent.name for p in self.path.parent.glob(f"*/{self.CONFIG}")]
            hint = did_you_mean(self.path.name, near) if near else "train it first with run_train.py"
            raise CheckpointError(f"there is no run in {self.path}: {hint}")
        content = self.read_json(self.CONFIG)
        required = {"config": dict, "seed": int, "data": dict}
        wrong = [name for name, kind in required.items() if not isinstance(content.get(name), kind)]
        wrong += ["a seed that can be"] if "seed" not in wrong and not 0 <= content["seed"] < 2**63 else []
        if wrong or not isinstance(content["data"].get("fingerprint"), str):
            raise CheckpointError(f"{self.file(self.CONFIG)} lacks {', '.join(wrong) or 'data.fingerprint'}: "
                                  "it is damaged, or was written by something else")
        return content

    def metrics(self) -> dict[str, Any] | None:
        """The run's ``metrics.json``; None where it has not been evaluated.

        Raises:
            CheckpointError: it is damaged.
        """
        if not self.file(self.METRICS).is_file():
            return None
        content = self.read_json(self.METRICS)
        if not all(isinstance(content.get(direction), dict) for direction in DIRECTIONS):
            raise CheckpointError(f"{self.file(self.METRICS)} is damaged: remove it, and run_eval.py writes it again")
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a file of the run.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            content = json.loads(self.file(name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.file(name)} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.file(name)} is damaged: expected an object")
        return content

    def write_log(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with replacing(self.file(self.LOG)) as path:
            path.write_text("".join(json.dumps(_without_nan(line)) + "\n" for line in lines), encoding="utf-8")

    def log(self) -> list[dict[str, Any]]:
        """The lines of ``log.jsonl``, an epoch each; none where nothing was logged yet. See :func:`read_log`."""
        return read_log(self.file(self.LOG)) if self.file(self.LOG).is_file() else []

    # -- weights ----------------------------------------------------------------------------------------------------

    def save_weights(self, state: Mapping[str, Tensor], name: str = WEIGHTS, **about: object) -> None:
        """Writes a model's ``state_dict``; ``about`` goes into the file's header as text."""
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        content = save(tensors, metadata={key: str(value) for key, value in about.items()})
        with replacing(self.file(name)) as path:  # written by us: a full disk is an OSError then
            path.write_bytes(content)

    def load_weights(self, model: nn.Module | ClosedForm, name: str = WEIGHTS) -> dict[str, str]:
        """Fills ``model``, strictly: every name and shape must fit. Returns what the header says about them.

        Raises:
            CheckpointError: the file is missing, damaged, or another model's.
        """
        path = self.file(name)
        if not path.is_file():
            hint = "run refine_cca.py first" if name == REFINED else "no epoch of it was finished; --resume continues"
            raise CheckpointError(f"{path} is missing: {hint}")
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
            tensors = load_file(path)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        load_strictly(model, tensors, str(path))
        return about

    # -- the state of training --------------------------------------------------------------------------------------

    def save_resume(self, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(dict(state), content)
        with replacing(self.file(self.RESUME)) as path:
            path.write_bytes(content.getbuffer())

    def load_resume(self) -> dict[str, Any] | None:
        """The last saved state of training; None when the run was stopped before there was one.

        Only process 0 reads the file, where several train together.
        """
        path = self.file(self.RESUME)
        content = from_first(path.read_bytes() if rank() == 0 and path.exists() else None)
        if content is None:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles in an unusual protocol, which are refused anyway
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises half a dozen kinds on damaged files, none of them documented
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}): --overwrite starts again") from error
        if not isinstance(state, dict):
            raise CheckpointError(f"{path} is damaged: expected a dictionary; --overwrite starts again")
        return state


def load_strictly(model: nn.Module | ClosedForm, tensors: Mapping[str, Tensor], origin: str) -> None:
    """``model.load_state_dict`` with an error that names the first misfits of each kind."""
    if isinstance(model, ClosedForm):
        try:
            return model.load_state_dict(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{origin} does not fit the model: {error}") from error
    own = model.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    shapes = [f"{name} is {tuple(tensors[name].shape)} there and {tuple(own[name].shape)} in the model"
              for name in sorted(own.keys() & tensors.keys()) if own[name].shape != tensors[name].shape]
    problems = [f"{len(names)} {kind} (first: {names[0]})"
                for kind, names in (("missing", missing), ("unexpected", unexpected)) if names]
    problems += shapes[:2] + ([f"and {len(shapes) - 2} more"] if len(shapes) > 2 else [])
    if problems:
        raise CheckpointError(f"{origin} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(dict(tensors))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. A torn last line is one being written, and left out.

    Raises:
        DataError: a corrupt line elsewhere, with its number.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            if not isinstance(record, dict) or not isinstance(record.get("epoch", 0), int):
                raise ValueError("expected an object with a whole epoch")
        except (ValueError, RecursionError) as error:
            if number == len(lines):    # no newline after it
                break
            raise DataError(f"{path}, line {number} is corrupt ({error}): expected one JSON object per line") from error
        records.append(record)
    return records


def to_json(content: Mapping[str, Any]) -> str:
    """Indented JSON with a newline at the end; what is not a number is null."""
    return json.dumps(_without_nan(content), indent=2) + "\n"


def _without_nan(value: Any) -> Any:
    """NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def environment() -> dict[str, Any]:
    """Versions and git commit for ``config.json``: what one needs to run the same again."""
    packages = ("xmodal", "torch", "numpy", "scipy", "scikit-learn", "h5py")
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    versions |= {package: version_of(package) for package in packages}
    return {"versions": versions, "git_commit": _git_commit()}


def version_of(package: str) -> str:
    """The version that is installed of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _git_commit() -> str | None:
    """The commit of the working folder, with ``-dirty`` when tracked files differ from it; None outside of git."""
    try:
        answer = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], timeout=10,
                                capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
