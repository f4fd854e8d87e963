"""Command lines that nobody would type, and tables of captions as nobody should write them."""
from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks.fuzz.arrays import small_arrays
from benchmarks.fuzz.harness import Case, WrongError, answer, outcome
from benchmarks.fuzz.mutations import ODD_TEXTS, damaged, odd_value
from benchmarks.fuzz.runs import model_source, small_data, trained_runs, write_run
from xmodal.cli import plot_log, prepare_data, refine_cca, run_eval, run_train
from xmodal.data import load_data
from xmodal.data.captions import read_captions
from xmodal.data.problems import Problems

_TEXTS = tuple(ODD_TEXTS)
_COUNTS = ("1", "2", "3", "6", "0", "-1", "99999999999999999999999", "1.5", "x", "", "١", "1e2", " 2 ", "0x2", "nan",
           "\0")
_PATHS = ("toy.h5", "toy.npz", "toy.py", "odd.py", "folder", "folder.h5", "nowhere.h5", "text.h5", "text.npz", ".",
          "..", "",
          "link.h5", "loop.h5", "toy.h5/x", "a" * 300 + ".h5", "net.py", "toy.H5", "no access", "emoji", "iapr",
          "~/x.h5", "/dev/null", "/dev/null.h5", "\udcff.h5", *_TEXTS)
_RUN = {"--model": ("net.py", "net.py", "net.py", "cca.py", "kernel.py", "nested.py", "odd.py", *_PATHS),
        "--data": ("toy.h5", "toy.h5", "toy.h5", "toy.npz", *_PATHS), "--tag": ("a", "b c", *_TEXTS),
        "--runs": ("runs", "runs", "new/deep", "text.h5", "loop.h5", *_TEXTS),
        "--device": ("cpu", "auto", "cuda", "cuda:7", "meta", "mps", "cpu:1", "cuda:-1", "xpu", *_TEXTS),
        "--views": _TEXTS}
_FIELDS = ("dim_latent=2", "batch_size=3", "batch_size=0", "learning_rate=1e-3", "learning_rate=1e30", "l2=1e38",
           "alpha=auto",
           "alpha=0", "keep=last", "schedule=cosine", "optimizer=rmsprop", "r1=0", "gamma=-1", "odd=1", "=", "=1", "r1",
           "r1=",
           "precision=bf16", "clip_norm=1e-30", "r1=[1,2]", "max_epochs=0", "patience=x", "r1=1=2", " r1 = 1 ",
           "weight_tno=nan",
           "r1=\0", "l2=(", "l2=" + "(" * 300, "gamma=1e400", "dim_latent=1e3", "dim_latent=99999999999",
           "batch_size=2**3",
           "patience=" + "9" * 5000, "l2={[]:1}", "decoupled=True", "refinement_steps=-0", "rT=1j", "lr_multiplier=0.5")
_TRAIN = _RUN | {"--seed": _COUNTS, "--set": _FIELDS, "--precision": ("bf16", "float32", "x", ""), "--resume": (),
                 "--overwrite": (), "--show_architecture": (), "--no_dump": (), "--stream": (), "--help": ()}
_EVAL = _RUN | {"--V2_to_V1": (), "--split": ("test", "valid", "train", "test_hard", *_TEXTS), "--n_test": _COUNTS,
                "--estimate_UV": (), "--ci": (), "--seed": _COUNTS, "--linear_cca": (), "--transfer": (),
                "--group": ("piece", *_TEXTS), "--excerpt": _COUNTS, "--embeddings": ("e.h5", "folder", *_TEXTS),
                "--reconstruct": _COUNTS, "--walk": _COUNTS, "--neighbours": _COUNTS,
                "--out": ("a.png", "a.jpg", "folder", "x/a.png", *_TEXTS), "--json": (), "--nothing": ()}
_REFINE = _RUN | {"--n_train": _COUNTS, "--n": (), "--": ()}
_PLOT = {"": ("runs/net", "runs/cca", "runs/net/log.jsonl", *_PATHS), "--key": ("mrr_%s", "loss_va", *_TEXTS),
         "--high_is_better": (), "--max_epoch": _COUNTS, "--ymin": _COUNTS, "--ymax": _COUNTS,
         "--out": ("a.svg", "a.png", "a.jpg", "folder", "x/a.svg", "a\0.svg", *_TEXTS)}
_PREPARE = {"": ("from_folder", "mnist_halves", "mnist_label", "emoji", "icons", "iapr", "audio_score", "digits", "",
                 *_TEXTS),
            "--list": (), "--show": ("a.png", "a.jpg", *_TEXTS), "--url": ("http://[", "x:", *_TEXTS),
            "--pairs": _COUNTS,
            "--legacy_normalisation": (), "--seed": _COUNTS, "--corpus": ("nowhere", *_TEXTS),
            "--images": ("pictures", "pictures", "folder", *_PATHS), "--captions": ("c.tsv", "c.tsv", "text.h5",
                                                                                    *_PATHS),
            "--annotations": ("folder", "pictures", *_PATHS), "--name": ("mine", "x.y", "digits", *_TEXTS),
            "--image_features": ("hog", "hogg", "json:loads", "nothing:x", ":", *_TEXTS),
            "--text_features": ("tfidf", "codes", "codes+tfidf", "+", "json:loads", "nothing:x", *_TEXTS),
            "--keep_unpaired": (), "--zero_shot": (), "--out": ("o.h5", "folder.h5", "x/y.h5", "o.npz", *_TEXTS),
            "--data_dir": ("d", "text.h5", *_TEXTS), "--wav": ("a", *_TEXTS)}
_TAKES = {"--views": 2, "--walk": 2, "--wav": 2}
_GIVEN = {"mnist_halves", "mnist_label", "emoji", "icons", "iapr", "audio_score"}


def command_lines(folder: Path) -> Case:
    """Options of every command in any combination, on small data in a folder full of odd files."""
    data = small_data(folder)
    runs = trained_runs(folder, data)
    np.savez(folder / "toy.npz", **small_arrays(6))
    pictures = _pictures(12)
    warm_up(folder)
    contents = {"toy.h5": data.read_bytes(), "toy.npz": (folder / "toy.npz").read_bytes(), "text.h5": b"text\n",
                "text.npz": b"text", "odd.py": b"def load():\n    return {'view1': 3}\n",
                "toy.py": b"def load():\n    return {'view1': [[1.0, 2.0]] * 30, 'view2': [[1.0], [2.0]] * 15}\n",
                "toy.H5": b"", "c.tsv": _captions(12), **{f"{name}.py": model_source(name).encode() for name in runs}}

    def case(rng: random.Random, here: Path) -> str:
        for name, content in contents.items():
            (here / name).write_bytes(content)
        for name in ("folder", "folder.h5"):
            (here / name).mkdir()
        (here / "link.h5").symlink_to("toy.h5")
        (here / "loop.h5").symlink_to("loop.h5")
        command = rng.choice(("train", "eval", "eval", "refine", "plot", "prepare", "prepare"))
        if command == "prepare":
            (here / "pictures").mkdir()
            for name, content in pictures.items():
                (here / "pictures" / name).write_bytes(content)
        elif rng.random() < 0.9:
            for name in rng.sample(sorted(runs), 2):
                write_run(here / "runs" / name, runs[name])
        main, arguments = _command_line(rng, command)
        with mock.patch.dict(os.environ, {"XMODAL_DATA": str(here)}):
            return answer(lambda: main(arguments)).outcome

    return case


def _command_line(rng: random.Random, command: str) -> tuple[Callable[[Sequence[str]], int], list[str]]:
    """A command's ``main`` and its arguments."""
    if command == "plot":
        arguments = [rng.choice(_PLOT[""]) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        return plot_log.main, [*arguments, "--out", "curves.svg", *_options(rng, _PLOT, 2)]
    if command == "prepare":
        name = rng.choice(_PREPARE[""])
        start = [name] if rng.random() < 0.95 else []
        if name == "from_folder" and rng.random() < 0.9:
            start += ["--images", "pictures", "--captions", "c.tsv", "--name", "mine"]
        start += ["--image_features", "hog"] if name not in ("digits", "audio_score") and rng.random() < 0.9 else []
        end = ["--source", rng.choice(("folder", "text.h5", "toy.npz", *_PATHS))] if name in _GIVEN else []
        arguments = [*start, *_options(rng, _PREPARE, 3)]
        if name == "from_folder" and not any(option in arguments for option in ("hog", "--list", "--wav", "--show")):
            arguments += ["--image_features", "hog"]  # the default fetches weights
        return prepare_data.main, arguments + end
    start = ["--model", "net.py", "--data", "toy.h5", "--device", "cpu"] if rng.random() < 0.9 else []
    if command == "train":
        long = ["--set", "max_epochs=1"]  # whatever else is asked for; the models' own is two epochs
        return run_train.main, [*start, *(long if rng.random() < 0.5 else []), *_options(rng, _TRAIN, 4)]
    return (run_eval.main, [*start, *_options(rng, _EVAL, 4)]) if command == "eval" else \
        (refine_cca.main, [*start, *_options(rng, _REFINE, 3)])


def _options(rng: random.Random, known: dict[str, tuple[str, ...]], most: int) -> list[str]:
    arguments: list[str] = []
    for option in rng.sample(sorted(known), rng.randrange(most + 1)):
        values = known[option]
        if option:
            arguments.append(option)
        if values:
            first = [rng.choice(values) for _ in range(_TAKES.get(option, 1))]
            arguments[-1:] = [f"{option}={first[0]}"] if option and len(first) == 1 and rng.random() < 0.3 else \
                [*arguments[-1:], *first]
    if rng.random() < 0.05:
        arguments.insert(rng.randrange(len(arguments) + 1), rng.choice(("--nothing", "-x", "extra", "--se", *_TEXTS)))
    return arguments


# -- captions --------------------------------------------------------------------------------------------------

def captions(folder: Path) -> Case:
    """Odd tables, read; every twentieth also makes a data set of a folder of pictures."""
    pictures = _pictures(12)
    warm_up(folder)
    seeds = [_captions(12), _captions(12).replace(b"\t", b","), _captions(12).replace(b"\t", b";"),
             b"image,caption,split\r\n" + b"".join(b'%d.png,"a ""quoted"", one %d",%s\r\n' % (i, i, s) for i, s in
                                                   enumerate((b"train", b"val", b"test") * 4)),
             b"".join(json.dumps({"image": f"{i}.png", "captions": [f"one {i}", "zwei é"],
                                  "split": "train"}).encode() + b"\n"
                      for i in range(12))]

    def case(rng: random.Random, here: Path) -> str:
        table = here / f"c{rng.choice(('.tsv', '.txt', '.csv', '.csv', '.jsonl', '.jsonl', '.CSV', '.xlsx'))}"
        table.write_bytes(damaged(rng, rng.choice(seeds)) if rng.random() < 0.4 else _odd_table(rng,
                                                                                                table.suffix.lower()))
        if rng.random() >= 0.05:
            return outcome(lambda: _read(table, here / "problems.tsv"))
        (here / "pictures" / "deep").mkdir(parents=True)
        for name, content in pictures.items():
            content = damaged(rng, content) if rng.random() < 0.1 else content
            (here / "pictures" / rng.choice(("", "", "deep")) / name).write_bytes(content)
        arguments = ["from_folder", "--images", "pictures", "--captions", table.name, "--name", "mine", "--data_dir",
                     ".",
                     "--image_features", "hog", *rng.choice(([], [], ["--keep_unpaired"]))]
        made = answer(lambda: prepare_data.main(arguments))
        if made.code == 0:
            data = load_data("mine.h5")
            if not all(split.caption2 and all(split.caption2) for split in data.splits()):
                raise WrongError("captions are missing")
        return made.outcome

    return case


def warm_up(folder: Path) -> None:
    """Makes a data set of pictures once: what that imports needn't be imported in each child."""
    (folder / "pictures").mkdir()
    for name, content in _pictures(12).items():
        (folder / "pictures" / name).write_bytes(content)
    (folder / "c.tsv").write_bytes(_captions(12))
    made = answer(lambda: prepare_data.main([
        "from_folder", "--images", str(folder / "pictures"), "--captions", str(folder / "c.tsv"), "--out",
        str(folder / "warm.h5"), "--image_features", "hog"]))
    if made.code:
        raise WrongError(made.err)


def _read(table: Path, told: Path) -> None:
    problems = Problems()
    found = read_captions(table, problems)
    lines: list[str] = []
    problems.tell(lines.append, told)
    for caption in found:
        text = f"{caption.text}"
        if not text.strip() or "\0" in text or text.split() != text.split(" ") or not caption.picture:
            raise WrongError(f"a caption that is none: {caption}")
        text.encode("utf-8")
    if any(len(line.splitlines()) > 1 for line in lines):
        raise WrongError("a problem is told in more than one line")


def _pictures(n: int) -> dict[str, bytes]:
    made = {}
    for i in range(n):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(buffer, "PNG")
        made[f"{i}.png"] = buffer.getvalue()
    return made


def _captions(n: int) -> bytes:
    return "".join(f"{i}.png\ta caption é with word{i}\n" for i in range(n)).encode()


def _odd_table(rng: random.Random, suffix: str) -> bytes:
    """A table of odd names and texts in the way of ``suffix``, or in another one's."""
    ends = (".png", ".png", ".png", "", ".png#2", ".jpg")
    names = [f"{rng.randrange(12)}{rng.choice(ends)}" if rng.random() < 0.8 else
             rng.choice((*_TEXTS, "/etc/passwd", "..\\x.png", "C:\\x", "a" * 5000, "\ud800.png")) for _ in range(14)]
    texts = [rng.choice((f"words {i} and more", *_TEXTS, "\ud800", "x" * 3000, '"', '""', 'a "b" c', '"open', "=1+1"))
             for i in range(14)]
    splits = [rng.choice(("", "train", "VAL", "test", "dev", "x", *_TEXTS[:6])) for _ in range(14)]
    kind = suffix if rng.random() < 0.85 else rng.choice((".csv", ".tsv", ".jsonl"))
    if kind == ".jsonl":
        lines = [json.dumps(odd_value(rng) if rng.random() < 0.15 else {
            rng.choice(("image", "file", "picture")): name if rng.random() < 0.9 else odd_value(rng),
            rng.choice(("caption", "captions", "text")): rng.choice((text, text, [text, text], [text, 3],
                                                                     odd_value(rng))),
            rng.choice(("split", "other")): split if rng.random() < 0.9 else odd_value(rng)})
            for name, text, split in zip(names, texts, splits, strict=True)]
        if rng.random() < 0.1:
            lines.append(rng.choice(("[" * 100_000, "{", "nul", "9" * 5000, "\ufeff{}",
                                     '{"image": "0.png", "image": 3}')))
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    table = io.StringIO(newline="")
    separator = "\t" if kind in (".tsv", ".txt") else rng.choice(",;|")
    rows: list[list[str]] = [[name, text, split][:rng.choice((2, 3, 3))] for name, text, split in
                             zip(names, texts, splits, strict=True)]
    if rng.random() < 0.5:
        rows.insert(0, rng.choice((["image", "caption", "split"], ["caption", "image"], ["image", "image", "text"],
                                   ["split", "file", "caption", "caption"], ["image"])))
    if separator == "\t" or rng.random() < 0.3:
        table.write("".join(separator.join(row) + rng.choice(("\n", "\r\n", "\r")) for row in rows))
    else:
        csv.writer(table, delimiter=separator, escapechar="\\").writerows(rows)
    return table.getvalue().encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")),
                                   "replace")
