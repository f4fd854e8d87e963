"""Galleries with damaged files, and what people should never type, draw or record as a query."""
from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import wavfile

from benchmarks.fuzz.harness import Case, answer
from benchmarks.fuzz.mutations import ODD_TEXTS, damaged, odd_json
from benchmarks.fuzz.runs import small_data, trained_runs, write_run
from xmodal.cli import run_search
from xmodal.cli.common import run_command
from xmodal.data import load_data
from xmodal.data.readers import ItemReader
from xmodal.features.images import ColourHog
from xmodal.features.sounds import Spectrograms, read_wave
from xmodal.features.texts import TfIdf

_KINDS = (("exact", []), ("codes", ["--bits", "8", "--codes", "rotated"]), ("exact", ["--correction", "csls"]))
_QUERIES = ("0", "1", "99", "-1", "row:1", "row:x", "id:a", "text:x", "1,2,3", "1 2 3 4 5 6", "nan,1,2", "1e999 2 3",
            "q.npy", "q.npy:0", "q.npy:9", "q.png", "q.wav", "q.wav@0.1", "q.wav@9", "toy.h5:1", "toy.h5:99",
            "nowhere.h5:1", ".npy", ".wav", "a\0.png", "/dev/null", "/dev/zero.npy", *ODD_TEXTS)
_GOOD = ("0", "1", "row:1", "q.npy:0", "q.npy:1")


def galleries(folder: Path) -> Case:
    """A gallery with a damaged file, or an odd query, is looked up."""
    data = small_data(folder)
    files = trained_runs(folder, data)["cca"]
    run = folder / "kept" / "cca"
    write_run(run, files)
    built = []
    for number, (kind, options) in enumerate(_KINDS):
        place = folder / f"gallery{number}"
        found = answer(lambda kind=kind, options=options, place=place: run_search.main(
            ["--run", str(run), "--data", str(data), "--build", "--kind", kind, "--gallery", str(place), *options]))
        assert found.code == 0, found.err
        built.append({path.name: path.read_bytes() for path in sorted(place.iterdir())})
    queries = _query_files()

    def case(rng: random.Random, here: Path) -> str:
        arguments = ["--run", str(run), "--data", str(data), "--device", "cpu", *rng.choice(([], ["--json"]))]
        if rng.random() < 0.5:
            whole = rng.choice(built)
            write_run(here / "gallery", _with_damage(rng, whole))
            arguments += ["--gallery", str(here / "gallery"), "--query", rng.choice(("0", "1")),
                          *rng.choice(([], ["--k", "3"], ["--k", "99"]))]
        else:
            for name, content in queries.items():
                (here / name).write_bytes(damaged(rng, content) if rng.random() < 0.7 else content)
            text = rng.choice(_QUERIES if rng.random() < 0.6 else _GOOD)
            arguments += [f"--query={here / text}" if text.startswith("q.") else f"--query={text}"]
            arguments += rng.choice(([], ["--V2_to_V1"], ["--V1_to_V2"], ["--split", "valid"]))
        return answer(lambda: run_search.main(arguments)).outcome

    return case


def readers(folder: Path) -> Case:
    """Damaged pictures, recordings, arrays and stored encoders are made into items."""
    data = load_data(str(small_data(folder)))
    states = [ColourHog(16).state(), Spectrograms(4).state(), TfIdf(8, 4).fit(["a red dog", "a cat"]).state(),
              {"kind": "codes", "length": 4}]
    queries = _query_files()

    def case(rng: random.Random, here: Path) -> str:
        state = rng.choice(states)
        text = json.dumps(state) if rng.random() < 0.5 else odd_json(rng, state).decode("utf-8", "replace")
        content = {name: damaged(rng, one) if rng.random() < 0.6 else one for name, one in queries.items()}

        def use() -> int:
            reader = ItemReader(dataclasses.replace(data, encoder1=text), 1)
            for what, value in (("text", rng.choice(ODD_TEXTS)), ("picture", content["q.png"]),
                                ("sound", content["q.wav"])):
                if what in reader.reads:
                    getattr(reader, what)(value)
            read_wave(content["q.wav"])
            return 0

        def command() -> int:
            return run_command(use, False)

        return answer(command).outcome

    return case


def _query_files() -> dict[str, bytes]:
    png, wav, npy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 30)).save(png, "PNG")
    wavfile.write(wav, 8000, (np.sin(np.arange(4000) / 5) * 9000).astype(np.int16))
    np.save(npy, np.arange(10, dtype=np.float32).reshape(2, 5))
    return {"q.png": png.getvalue(), "q.wav": wav.getvalue(), "q.npy": npy.getvalue()}


def _with_damage(rng: random.Random, whole: dict[str, bytes]) -> dict[str, bytes]:
    files = dict(whole)
    name = rng.choice(sorted(files))
    if rng.random() < 0.05:
        del files[name]
    elif name.endswith(".json") and rng.random() < 0.7:
        files[name] = odd_json(rng, json.loads(whole[name]))
    else:
        files[name] = damaged(rng, whole[name])
    return files

