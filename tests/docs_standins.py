"""The small world in which the documentation's commands and blocks run.

Data sets: the real preparing code, run on small raw files that are made here in the formats of the real ones: MNIST's
idx files (enlarged 8 × 8 digits, for Fashion-MNIST as well), npm archives of emoji and icons, IAPR's NPZ file and
release, six of Bach's chorales. Shapes of items are the real ones but for TF-IDF, whose width is its vocabulary; there
are some hundred pairs. What would be downloaded comes from a server on loopback and from an ``npm`` of our own.

What is made smaller, all in :func:`small_world`:

* a training by a model file ends after 1 epoch, one by a ``TrainConfig`` of a Python block after 10, whatever
  ``max_epochs`` says (an epoch of some hundred pairs is a few batches);
* model files in closed form have at most 64 dimensions, kernel CCA in them is approximate, with at most 64 features;
  ``run_tune.py`` stops at 2 trials, learned codes after 20 steps;
* ``run_demo.py`` starts its server and ends, ``plot_log.py --watch`` looks once;
* Milvus at an http address is a Milvus Lite file.

A run that a command needs and that its page has not trained (``runs/emoji_infonce``) is trained on demand, once for all
pages, and copied.
"""
from __future__ import annotations

import gzip
import importlib
import io
import json
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docs_pages import ROOT, Failure
from filelock import FileLock
from loopback import Site, serving
from scipy.io import wavfile
from small_scores import copy_chorales
from test_iapr_release import annotation, photograph
from test_image_text import drawing, pack, png
from test_twins import checksums, idx

from xmodal import KernelCCA, PairedData, PairSplit, TrainConfig, config
from xmodal.cli import plot_log, run_demo, run_train, run_tune
from xmodal.cli.prepare_data import main as prepare_data
from xmodal.cli.program import VERBS
from xmodal.data import emoji, fetch, iapr, icons, mnist, mnist_halves, mnist_label, twins, write_h5
from xmodal.data.audio_score import making
from xmodal.data.sets import DATA_SETS
from xmodal.linear import ClosedForm

EPOCHS, BLOCK_EPOCHS, TRIALS, MOST, CODE_STEPS = 1, 10, 2, 64, 20
N_TRAIN, N_VALID, N_TEST = 320, 100, 120
IAPR = iapr.Protocol(n_rows=120, n_valid=10, n_test=14)
SCORE_PAIRS = 78  # 60 of them train
PREPARED = ("mnist_halves", "mnist_label", "mnist_twins", "fashion_halves", "fashion_twins", "audio_score", "emoji",
            "icons", "iapr")
NPM = """#!/bin/sh
# npm pack NAME@VERSION: copies the archive that the test has made
name="${2%@*}"
cp "RAW/$(echo "${name#@}" | tr / -)-${2##*@}.tgz" .
"""
X_PY = '''"""CCA layer with a pairwise ranking loss, for any two flat views."""
from xmodal import CCALayer, PairwiseRanking, Range, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=8, batch_size=100, learning_rate=1e-3, alpha="auto")
SEARCH = {"learning_rate": Range(1e-4, 1e-2, log=True)}


def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [32], CONFIG.dim_latent), mlp(view2_shape, [32], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, r2=CONFIG.r2, alpha=CONFIG.alpha))


def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma)
'''
MINE_PY = '''"""Two views of ten common factors."""
import numpy as np


def load():
    draw = np.random.default_rng(0)
    factors = draw.normal(size=(500, 10))
    return {"view1": factors @ draw.normal(size=(10, 20)), "view2": factors @ draw.normal(size=(10, 30))}
'''


#: Whether a Python block of a page is running.
in_block: ContextVar[bool] = ContextVar("in_block", default=False)


# -- raw files -------------------------------------------------------------------------------------------------------

def _idx_files() -> dict[str, bytes]:
    """The four files of MNIST's format: 8 × 8 digits enlarged to 28 × 28."""
    from sklearn.datasets import load_digits
    source = load_digits()
    pictures = np.pad(np.kron(source.images, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2))) * (255 / 16)
    rows = {"train": slice(N_TRAIN + N_VALID), "t10k": slice(N_TRAIN + N_VALID, N_TRAIN + N_VALID + N_TEST)}
    files = {}
    for name, chosen in rows.items():
        files[f"{name}-images-idx3-ubyte"] = idx(pictures[chosen].astype(np.uint8))
        files[f"{name}-labels-idx1-ubyte"] = idx(source.target[chosen].astype(np.uint8))
    return files


def _emoji_archives(folder: Path) -> None:
    """Forty emoji, ten kinds of four, named in four languages."""
    kinds = {"en": ("cat", "dog", "face", "heart", "tree", "house", "car", "fish", "moon", "cup"),
             "de": ("Katze", "Hund", "Gesicht", "Herz", "Baum", "Haus", "Auto", "Fisch", "Mond", "Tasse"),
             "fr": ("chat", "chien", "visage", "cœur", "arbre", "maison", "voiture", "poisson", "lune", "tasse"),
             "ja": ("ねこ", "いぬ", "かお", "ハート", "木", "家", "車", "魚", "月", "カップ")}
    moods = {"en": ("laughing", "smiling", "sad", "red"), "de": ("lachend", "lächelnd", "traurig", "rot"),
             "fr": ("rieur", "souriant", "triste", "rouge"), "ja": ("笑う", "微笑む", "悲しい", "赤い")}
    codes = [f"1F6{i:02X}" for i in range(40)]
    tables = {}
    for language in kinds:
        tables[f"{language}/data.json"] = json.dumps([
            {"hexcode": code, "label": f"{moods[language][i % 4]} {kinds[language][i // 4]}", "group": 1,
             "tags": [f"{kinds[language][i // 4]}{i % 3}", *(f"{language}{i * n}" for n in (7, 13, 29))],
             "subgroup": i // 4}
            for i, code in enumerate(codes)]).encode()
    groups = {"groups": {"1": "things"}, "subgroups": {str(i): kind for i, kind in enumerate(kinds["en"])}}
    pack(folder, emoji.PACKAGES["names"], {**tables, "meta/groups.json": json.dumps(groups).encode()})
    pack(folder, emoji.PACKAGES["noto"], {f"img/google/64/{code.lower()}.png": png(i) for i, code in enumerate(codes)})
    pack(folder, emoji.PACKAGES["openmoji"], {f"color/svg/{code}.svg": drawing(i) for i, code in enumerate(codes)})
    pack(folder, emoji.PACKAGES["twemoji"], {f"{code.lower()}.svg": drawing(i, "rect") for i, code in enumerate(codes)})


def _icon_archives(folder: Path) -> None:
    """Forty names, twenty first words, in both sets."""
    words = ("arrow", "box", "cat", "dog", "egg", "fan", "gem", "hat", "ink", "jar", "key", "lamp", "map", "nut",
             "oven", "pen", "rose", "sun", "tag", "van")
    names = [f"{word}-{what}" for word in words for what in ("left", "off")]
    tabler = {name: {"tags": [f"tag{i}", name[::-1]], "category": f"kind{i % 6}",
                     "styles": {"outline": {}, **({"filled": {}} if i % 2 == 0 else {})}}
              for i, name in enumerate(names)}
    files = {f"icons/outline/{name}.svg": drawing(i) for i, name in enumerate(names)}
    files |= {f"icons/filled/{name}.svg": drawing(i + 100, "rect") for i, name in enumerate(names) if i % 2 == 0}
    pack(folder, icons.PACKAGES["tabler"], {"icons.json": json.dumps(tabler).encode(), **files})
    mdi = [{"name": name, "aliases": [f"also-{name}"], "tags": [f"group{i % 4}"]} for i, name in enumerate(names)]
    pack(folder, icons.PACKAGES["mdi"], {"meta.json": json.dumps(mdi).encode(), **{
        f"svg/{name}.svg": drawing(200 + i, "rect" if i % 2 else "circle") for i, name in enumerate(names)}})


def _pictures_and_captions(folder: Path, table: Path) -> None:
    """Twenty pictures of two folders, each with two captions."""
    lines = []
    for i in range(20):
        place = folder / "pictures" / f"d{i % 2}" / f"p{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(i))
        lines += [f"p{i}.png\tone of {i % 7} words, number{i}", f"p{i}.png\tanother of {i % 5}, number{i}"]
    table.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _iapr_files(folder: Path) -> bytes:
    """The release's layout in ``folder``; returns the published NPZ file."""
    for i in range(30):
        place = f"{i // 20:02d}/{i + 5}"
        photograph(folder, place, i)
        annotation(folder, place, title=f"Plaza {i}", description=f"a café and item{i} of {i % 9}", notes="Müller")
    draw = np.random.default_rng(0)
    factors = draw.normal(size=(IAPR.n_rows, 16))
    images, texts = (np.abs(factors @ draw.normal(size=(16, width)) + 0.3 * draw.normal(size=(IAPR.n_rows, width)))
                     for width in (IAPR.image_width, IAPR.text_width))
    buffer = io.BytesIO()
    np.savez(buffer, images=images.astype(np.float32), tfidf=texts.astype(np.float32))
    return buffer.getvalue()


def _own_data(folder: Path) -> None:
    """``mine.h5``, ``mine.npz`` and ``mine.py``: flat views of 20 and 30 values; the first has labels and ids."""
    draw = np.random.default_rng(0)
    mix1, mix2 = draw.normal(size=(10, 20)), draw.normal(size=(10, 30))
    splits, whole = [], []
    for name, n in (("train", 400), ("valid", 60), ("test", 80)):
        factors = draw.normal(size=(n, 10))
        views = [factors @ mix + 0.3 * draw.normal(size=(n, mix.shape[1])) for mix in (mix1, mix2)]
        whole.append(views)
        splits.append(PairSplit.of(name, *views, labels=factors.argmax(axis=1) % 5,
                                   ids=[f"{name}{i // 8}@{i % 8}.5" for i in range(n)]))
    write_h5(PairedData("mine", *splits), folder / "mine.h5")
    np.savez(folder / "mine.npz", **{f"view{i + 1}": np.concatenate([views[i] for views in whole]) for i in (0, 1)})
    np.save(folder / "mine.npy", whole[2][0][:3].astype(np.float32))
    np.save(folder / "more.npy", whole[2][1].astype(np.float32))
    (folder / "mine.py").write_text(MINE_PY)
    (folder / "cat.png").write_bytes(png(3))
    wave = (np.sin(np.arange(20 * 22_050) * 0.05) * 20_000).astype(np.int16)
    for name in ("take.wav", "recording.wav"):
        wavfile.write(folder / name, 22_050, wave)


# -- the world -------------------------------------------------------------------------------------------------------

class World:
    """Raw files, prepared data and trained runs in one folder that all test processes share.

    Attributes:
        start: what a page's scratch folder begins with.
        raw: the raw files; ``DIR`` of the pages.
        sums: SHA-256 of the idx files.
        runs: what was trained on demand.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.start, self.raw, self.runs = root, root / "start", root / "raw", root / "runs"
        with FileLock(root / "lock"):
            if not (root / "ready").exists():
                for part in (self.start, self.raw, self.runs):
                    shutil.rmtree(part, ignore_errors=True)
                    part.mkdir()
                self._make()
                (root / "ready").touch()
        self.sums = json.loads((self.raw / "sums.json").read_text())

    def _make(self) -> None:
        raw = _idx_files()
        for name, content in raw.items():
            (self.raw / f"{name}.gz").write_bytes(gzip.compress(content))
        self.sums = checksums(raw)
        (self.raw / "sums.json").write_text(json.dumps(self.sums))
        _emoji_archives(self.raw)
        _icon_archives(self.raw)
        _pictures_and_captions(self.raw, self.start / "FILE.tsv")
        (self.raw / "iapr.npz").write_bytes(_iapr_files(self.raw))
        copy_chorales(self.root / "corpus" / "bach")
        (self.root / "bin").mkdir(exist_ok=True)
        npm = self.root / "bin" / "npm"
        npm.write_text(NPM.replace("RAW", str(self.raw)))
        npm.chmod(0o755)
        (self.start / "DIR").symlink_to(self.raw)
        shutil.copy(self.raw / "iapr.npz", self.start)
        shutil.copytree(ROOT / "models", self.start / "models", ignore=shutil.ignore_patterns("__pycache__"))
        if (ROOT / "examples").is_dir():
            shutil.copytree(ROOT / "examples", self.start / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        (self.start / "models" / "x.py").write_text(X_PY)
        for module, _ in VERBS.values():
            if (ROOT / f"{module}.py").is_file():
                shutil.copy(ROOT / f"{module}.py", self.start)
        _own_data(self.start)
        with small_world(self, self.root / "tmp"):
            for name in PREPARED:
                _quietly(prepare_data, [name, "--data_dir", str(self.start / "data")])
        shutil.rmtree(self.start / "data" / "downloads")

    def scratch(self, folder: Path) -> Path:
        """Fills a page's folder."""
        return Path(shutil.copytree(self.start, folder, symlinks=True))

    def ensure_run(self, name: str, data: str | None = None, views: Sequence[str] = ()) -> None:
        """Sees to it that ``runs/<name>`` is in the current folder: copied, and trained if nobody has needed it yet."""
        here = Path("runs") / name
        if here.exists():
            return
        experiment = next((one for one in _prefixes(name) if (self.start / "models" / f"{one}.py").is_file()), None)
        if experiment is None:
            return  # the command will say so
        data = data or _data_of(experiment)
        key = re.sub(r"\W+", "-", "-".join([name, data, *views]))
        with FileLock(self.root / f"{key}.lock"):
            if not (self.runs / key / "runs" / name).exists():
                self._train(experiment, name, data, views, self.runs / key)
        shutil.copytree(self.runs / key / "runs" / name, here)

    def _train(self, experiment: str, name: str, data: str, views: Sequence[str], folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.scratch(folder)
        tag = ["--tag", name.removeprefix(f"{experiment}-")] if name != experiment else []
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            self.ensure_starts(f"models/{experiment}.py")
            _quietly(run_train.main, ["--model", f"models/{experiment}.py", "--data", data, *tag,
                                      *(["--views", *views] if views else [])])

    def ensure_starts(self, model: str | Path) -> None:
        """The runs that a model file's START names."""
        path = Path(model)
        for name in re.findall(r'Start\(\s*"runs/([\w.-]+)"', path.read_text()) if path.is_file() else ():
            self.ensure_run(name)


def _prefixes(name: str) -> Iterator[str]:
    """The name of a run, then what may be its experiment: the name less a tag, the shortest tag first."""
    yield name
    for place in reversed([found.start() for found in re.finditer("-", name)]):
        yield name[:place]


def _data_of(experiment: str) -> str:
    return max((name for name in DATA_SETS if experiment.startswith(name)), key=len, default="mine.h5")


def _quietly(main: Any, arguments: Sequence[str]) -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(arguments)
    if code != 0:
        raise Failure(f"{' '.join(arguments)} is needed here, and failed: {said.getvalue().strip().splitlines()[-1]}")


class _Inline:
    """In the place of a pool of processes: each job at once, in this one."""

    def submit(self, job: Any) -> Future:
        done: Future = Future()
        done.set_result(job())
        return done

    def shutdown(self, **_options: Any) -> None:
        pass


@contextmanager
def small_world(world: World, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Everything that makes commands small, quick and independent of the network, until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {path.name: path.read_bytes() for path in (*world.raw.glob("*-ubyte.gz"), world.raw / "iapr.npz")}
    with pytest.MonkeyPatch.context() as patch, serving(Site(files)) as site, warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside of tests
        patch.chdir(folder)
        for name in ("XMODAL_DATA", "DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)
        patch.setenv("MPLBACKEND", "agg")
        patch.setenv("COLUMNS", "80")
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("PATH", f"{world.root / 'bin'}:/usr/bin:/bin")
        patch.setattr(fetch, "RETRY_SECONDS", 0.0)
        _small_trainings(patch)
        _small_sources(patch, world, site.url)
        _short_servers(patch, folder)
        yield patch


def _small_trainings(patch: pytest.MonkeyPatch) -> None:
    check, count = TrainConfig.__post_init__, run_tune._count

    def capped(self: TrainConfig) -> None:
        if isinstance(self.max_epochs, int):
            object.__setattr__(self, "max_epochs", min(self.max_epochs, BLOCK_EPOCHS if in_block.get() else EPOCHS))
        check(self)

    patch.setattr(TrainConfig, "__post_init__", capped)
    patch.setattr(config, "_run", _outside_of_blocks(config._run))
    patch.setattr(config, "_users", _with_less(config._users))
    patch.setattr(run_tune, "_count", lambda text: min(count(text), TRIALS))
    patch.setattr(importlib.import_module("xmodal.search.codes"), "_STEPS", CODE_STEPS)


def _outside_of_blocks(run_file: Callable[..., Any]) -> Callable[..., Any]:
    """What runs a model file, which means the same wherever it is loaded."""
    def run(*arguments: Any) -> Any:
        token = in_block.set(False)
        try:
            return run_file(*arguments)
        finally:
            in_block.reset(token)

    return run


def _with_less(make_call: Callable[..., Callable[..., Any]]) -> Callable[..., Callable[..., Any]]:
    """What calls the functions of a model file; a method in closed form that they build is made smaller."""
    def made(*arguments: Any) -> Callable[..., Any]:
        call = make_call(*arguments)

        def build(*shapes: Any) -> Any:
            model = call(*shapes)
            for name in ("n_components", "n_features") if isinstance(model, ClosedForm) else ():
                if isinstance(getattr(model, name, None), int):
                    setattr(model, name, min(getattr(model, name), MOST))
            if isinstance(model, KernelCCA) and model.approximation is None:
                model.approximation = "nystroem"
            return model

        return build

    return made


def _small_sources(patch: pytest.MonkeyPatch, world: World, url: str) -> None:
    for module in (mnist, mnist_halves, mnist_label, twins):
        prepare = mnist.read_mnist if module is mnist else module.prepare
        patch.setitem(prepare.__kwdefaults__, "n_valid", N_VALID)
    for name in ("RAW_SHA256", "FASHION_SHA256"):
        patch.setattr(mnist, name, world.sums)
    patch.setattr(mnist, "MIRRORS", (f"{url}/",))
    patch.setattr(mnist, "FASHION_FOLDER", world.raw)
    patch.setattr(iapr, "PUBLISHED", IAPR)
    patch.setattr(iapr, "URL", f"{url}/iapr.npz")
    scores = importlib.import_module("xmodal.data.audio_score.prepare").prepare
    patch.setitem(scores.__kwdefaults__, "pairs", SCORE_PAIRS)
    patch.setitem(scores.__kwdefaults__, "corpus", (str(world.root / "corpus"),))
    patch.setattr(making, "_pool", lambda workers: _Inline())


def _short_servers(patch: pytest.MonkeyPatch, folder: Path) -> None:
    launch, watch, milvus = run_demo.launch, plot_log.watch, importlib.import_module("xmodal.search.milvus")
    connected = milvus._connected

    def once(page: Any, host: str, port: int, wait: bool) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = launch(page, "127.0.0.1", port, wait=False)
        page.close()
        return address

    patch.setattr(run_demo, "launch", once)
    patch.setattr(plot_log, "watch", lambda runs, redraw, pause, max_polls=None: watch(runs, redraw, lambda: None, 1))
    patch.setattr(milvus, "_connected", lambda uri, *options: connected(
        str(folder / "server.db") if uri.startswith("http") else uri, *options))
