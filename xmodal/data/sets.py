"""The data sets by name, and what ``--data`` takes."""
from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xmodal.data import audio_score, emoji, folder, iapr, icons, mnist_halves, mnist_label, twins
from xmodal.data.digits import load_digits
from xmodal.data.files import VIEWS, read_h5
from xmodal.data.mnist import fashion
from xmodal.data.npz import data_from_arrays, read_npz
from xmodal.data.pairs import PairedData
from xmodal.errors import DataError, XmodalError, did_you_mean, one_line


@dataclass(frozen=True)
class DataSet:
    """A data set that comes with the toolkit: made in memory by ``load``, or written to a file by ``prepare``.

    ``options`` are the keyword arguments that ``prepare`` takes from ``prepare_data.py``. ``play`` writes the sound of
    an item, by its id, to a ``.wav`` file.
    """

    summary: str
    load: Callable[[], PairedData] | None = None
    prepare: Callable[..., None] | None = None
    options: tuple[str, ...] = ()
    play: Callable[..., None] | None = None


DATA_SETS: Mapping[str, DataSet] = {
    "digits": DataSet("halves of 1,797 handwritten digits, 32 + 32 values; built in", load=load_digits),
    "mnist_halves": DataSet("halves of MNIST digits, 392 + 392 values, 70,000 pairs", prepare=mnist_halves.prepare,
                            options=("source", "url")),
    "mnist_label": DataSet("MNIST digits and their ten labels, 784 + 10 values, 70,000 pairs",
                           prepare=mnist_label.prepare, options=("source", "url")),
    "mnist_twins": DataSet("two MNIST pictures of one digit, 784 + 784 values, 70,000 pairs",
                           prepare=twins.prepare, options=("source", "url")),
    "fashion_halves": DataSet("halves of Fashion-MNIST, 392 + 392 values, 70,000 pairs",
                              prepare=partial(mnist_halves.prepare, collection=fashion), options=("source", "url")),
    "fashion_twins": DataSet("two Fashion-MNIST pictures of a kind, 784 + 784, 70,000 pairs",
                             prepare=partial(twins.prepare, collection=fashion), options=("source", "url")),
    "audio_score": DataSet("sheet music and its sound, 80x100 + 92x42 values, 13,000 pairs",
                           prepare=audio_score.prepare, options=("source", "pairs", "seed", "corpus"),
                           play=audio_score.play),
    "emoji": DataSet("emoji by three artists and their names in 28 languages, 4,800 pairs", prepare=emoji.prepare,
                     options=("source", "image_features", "text_features", "zero_shot")),
    "icons": DataSet("icons of two sets and their names, 13,400 pairs", prepare=icons.prepare,
                     options=("source", "image_features", "text_features", "zero_shot")),
    "iapr": DataSet("IAPR TC-12 images and texts, 4096 + 2048 values, 19,996 pairs", prepare=iapr.prepare,
                    options=("source", "url", "synthetic", "legacy_normalisation", "images", "annotations",
                             "image_features", "text_features")),
    "from_folder": DataSet("pictures and captions of your own, 1280 + 2048 values",
                           prepare=folder.prepare, options=("images", "captions", "image_features", "text_features",
                                                            "keep_unpaired")),
}


def default_data_dir() -> Path:
    """Where prepared data lie: ``$XMODAL_DATA``, or the folder ``data``."""
    return Path(os.environ.get("XMODAL_DATA") or "data")


def data_file(spec: str) -> Path | None:
    """The file that ``spec`` names, whether it is there or not; None for a data set that is made in memory."""
    if Path(spec).suffix.lower() in (".h5", ".hdf5", ".npz", ".py"):
        return Path(spec)
    built_in = spec in DATA_SETS and DATA_SETS[spec].load is not None
    return None if built_in else default_data_dir() / f"{spec}.h5"


def load_data(spec: str, *, data_dir: Path | None = None, stream: bool | None = None,
              views: Sequence[str] | None = None) -> PairedData:
    """The data set that ``spec`` names, with its fingerprint.

    Args:
        spec: the name of a data set (built in, prepared, or a file ``<data_dir>/<name>.h5`` of one's own), a ``.h5``,
            ``.hdf5`` or ``.npz`` file, or a ``.py`` file whose function ``load()`` returns a :class:`PairedData` or a
            dict of arrays with the NPZ keys.
        data_dir: where prepared data lie; ``$XMODAL_DATA`` or ``data`` by default.
        stream: leave the views of an HDF5 file on disk; None decides by the free memory. Nothing else is streamed.
        views: the names of the two views to take, where an HDF5 file holds more; None takes its first two, which are
            also called ``view1`` and ``view2``.

    Raises:
        DataError: unknown, not prepared, missing or damaged, or with bad values; one line that says what to do.
    """
    path = Path(spec)
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return read_h5(path, stream, views)
    built_in = DATA_SETS[spec].load if spec in DATA_SETS else None
    if views is not None and tuple(views) != VIEWS and (built_in is not None or suffix in (".npz", ".py")):
        raise DataError(f"{spec} has no views to choose from; give view1 view2")
    if stream and (built_in is not None or suffix in (".npz", ".py")):
        raise DataError(f"{spec} is read into memory: to stream, write it to an HDF5 file (xmodal.data.write_h5)")
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".py":
        return _load_py(path)
    if not spec or suffix or len(path.parts) != 1:
        raise DataError(f"can't read {spec or 'nothing'} as data: expected a name, a .h5, .hdf5 or .npz file, or a .py "
                        "file with load()")
    return _load_named(spec, data_dir or default_data_dir(), stream, views)


def _load_named(name: str, data_dir: Path, stream: bool | None, views: Sequence[str] | None) -> PairedData:
    known = DATA_SETS.get(name)
    if known is not None and known.load is not None:
        return known.load()
    file = data_dir / f"{name}.h5"
    if file.is_file():
        return read_h5(file, stream, views)
    if known is not None:
        raise DataError(f"{name} is not prepared: run python prepare_data.py {name} (looked for {file})")
    for beside in (f"{name}{suffix}" for suffix in (".npz", ".h5", ".hdf5", ".py")):
        if Path(beside).is_file():
            raise DataError(f"unknown data set {name!r}; there is a file {beside}: give --data {beside}")
    names = {*DATA_SETS, *(one.stem for one in data_dir.glob("*.h5"))}
    raise DataError(f"unknown data set {name!r}; {did_you_mean(name, names)}")


def _load_py(path: Path) -> PairedData:
    """Run the user's file and call its ``load()``."""
    if not path.is_file():
        raise DataError(f"no file {path}")
    module_name = f"xmodal_loader_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"can't load {path} as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses in the file look themselves up there
    try:
        spec.loader.exec_module(module)
        load = getattr(module, "load", None)
        if not callable(load):
            raise DataError(f"{path} has no function load()")
        result: Any = load()
    except XmodalError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"{path} failed: {type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.modules.pop(module_name, None)
    if isinstance(result, PairedData):
        return result.with_fingerprint()
    if isinstance(result, Mapping):
        return data_from_arrays(result, path.stem, str(path))
    raise DataError(f"load() of {path} must return PairedData or a dict of arrays; got {type(result).__name__}")
