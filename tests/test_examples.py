"""The worked examples run as their pages say, find far more than chance, and write what they name."""
from __future__ import annotations

import ast
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from xmodal import DataError, PairedData, load_data
from xmodal.data.emoji import Emoji

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = ("cross_lingual_emoji", "audio_score", "your_own_csv")
SECONDS = 600  # for one example: it takes half a minute of an idle core


def imported(name: str) -> ModuleType:
    """A file of examples/ as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``python examples/NAME.py WORDS`` from the root of the repository, as a user would."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CSV_FILE", "XMODAL_DATA")}
    return subprocess.run([sys.executable, f"examples/{name}.py", *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=SECONDS, env={**environment, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"})


def check(done: subprocess.CompletedProcess[str], out: Path) -> dict[str, Any]:
    """That it ended well, in lines that a terminal shows, and wrote what it says; its results."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if len(line) > 80 and str(out) not in line] == []
    said = done.stdout[done.stdout.rindex("wrote "):]
    named = re.findall(r"[\w-]+\.(?:h5|png|json|md|wav|csv)\b", said)
    assert "results.json" in named
    for name in named:
        assert list(out.rglob(name)), f"{name} was not written"
    for picture in out.rglob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


# -- as programs and as notebooks ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SCRIPTS)
def test_each_cell_stands_for_itself(name):
    """An editor runs cell after cell: each must be whole, in an order in which names are known."""
    source = (EXAMPLES / f"{name}.py").read_text()
    cells = re.split(r"^# %%.*\n", source, flags=re.MULTILINE)
    assert len(cells) >= 12 and "%% [markdown]" in source
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells:
        exec(compile(cell, name, "exec", dont_inherit=True), namespace)
    assert callable(namespace["main"])
    assert ast.get_docstring(ast.parse(source)).count(f"python examples/{name}.py") >= 2


def test_the_page_names_every_file():
    page = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in sorted(EXAMPLES.glob("*.py")) if path.name not in page] == []


# -- emoji across languages ------------------------------------------------------------------------------------------

def test_names_find_each_other_across_languages(tmp_path):
    done = run("cross_lingual_emoji", "--quick", "--out", str(tmp_path))
    if done.returncode == 2 and done.stderr.startswith("error: npm"):
        pytest.skip(done.stderr.strip())
    found = check(done, tmp_path)
    chance = found["table"]["chance"]
    for direction in ("V1_to_V2", "V2_to_V1"):
        assert chance[f"{direction} mrr"] < 0.04
        for method, least in (("linear CCA", 0.7), ("InfoNCE", 0.4)):
            assert found["table"][method][f"{direction} mrr"] > least
    assert found["best"] == "linear CCA"
    cat, instrument = found["answers"]
    assert cat["query"] == "cat" and "Katze" in cat["names"][0]
    assert instrument["query"] == "musical instrument" and "musik" in instrument["names"][0].lower()
    data = load_data(str(tmp_path / "names.h5"))  # also for the commands
    assert not {*cat["ids"], *instrument["ids"]} & set(data.train.ids)
    assert (data.view1_name, data.view2_name) == ("en", "de") and json.loads(data.encoder2)["kind"] == "tfidf"


def test_without_a_registry_one_line_says_so(tmp_path, monkeypatch, capsys):
    for key, value in (("registry", "http://127.0.0.1:9/"), ("fetch_retries", "0"), ("offline", "false")):
        monkeypatch.setenv(f"npm_config_{key}", value)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    assert imported("cross_lingual_emoji").main(["--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: npm") and complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_text_or_family_is_on_two_sides():
    """Each name is shared by two emoji, and each scientist comes as man, woman and person."""
    emoji = [Emoji(f"{0x1f400 + i:x}", "animal", {"en": f"beast {i // 2}, tag{i}" if i % 2 else f"beast {i // 2}",
                                                  "de": f"tier {i // 2}"}) for i in range(120)]
    emoji += [Emoji(f"{person}-{0x1f52c + i:x}", "person", {"en": f"{person} job {i}", "de": f"{person} beruf {i}"})
              for i in range(20) for person in ("1f468", "1f469", "1f9d1")]
    data = imported("cross_lingual_emoji").make_data(emoji, ["en", "de"], 500)
    assert sum(map(len, data.splits())) == len(emoji) and min(map(len, data.splits())) > 5
    by_code = {one.code: one for one in emoji}
    for key in (lambda one: one.family, lambda one: one.texts["de"]):
        sides = [{key(by_code[code]) for code in split.ids} for split in data.splits()]
        assert sum(map(len, sides)) == len(set.union(*sides))
    terms = json.loads(data.encoder1)["parts"][0]["terms"]
    texts = " ".join(data.train.caption1)
    assert all(term.strip() in texts for term in terms)


# -- sheet music and its sound ---------------------------------------------------------------------------------------

def test_a_recording_finds_its_score(tmp_path):
    for package in ("verovio", "resvg_py", "PIL", "music21", "pretty_midi", "tinysoundfont"):
        pytest.importorskip(package)
    found = check(run("audio_score", "--quick", "--out", str(tmp_path)), tmp_path)
    linear, towers = found["table"]["linear CCA"], found["table"]["towers, CCA layer"]
    for direction in ("V1_to_V2", "V2_to_V1"):
        chance = sum(1 / k for k in range(1, 81)) / 80
        assert linear[direction]["mrr"] > 2.5 * chance and towers[direction]["mrr"] > 3 * chance
    data = load_data(str(tmp_path / "pairs_520.h5"))
    assert [len(split) for split in data.splits()] == [400, 40, 80, 80]
    assert [one["item"] for one in found["answers"]] == data.test.ids[:4]
    assert sorted(one["place"] for one in found["answers"])[1] <= 15  # of 80
    for number in range(1, 5):
        rate, wave = wavfile.read(tmp_path / f"query_{number}.wav")
        assert rate == 22_050 and len(wave) == pytest.approx(2.1 * rate, abs=2) and np.abs(wave).max() > 0


# -- a CSV file of one's own -----------------------------------------------------------------------------------------

def test_halves_of_a_table_find_each_other(tmp_path):
    found = check(run("your_own_csv", "--quick", "--out", str(tmp_path)), tmp_path)
    for method in ("linear CCA", "kernel CCA", "CCA layer"):
        (row,) = found[method]
        for direction in ("V1_to_V2", "V2_to_V1"):
            assert row[f"{direction} mrr"] > 0.65 > 10 * found["chance"][0][f"{direction} mrr"]
            assert row[f"{direction} class"] > 80
            assert row[f"{direction} mrr"] > found["columns as they are"][0][f"{direction} mrr"]
    assert "csv_kcca" in (tmp_path / "table.md").read_text()


TABLE = """\
who,a,b,c,kind
ann,1,2.5,3,red
ann,1,2.5,4,red
bob,,2,5,blue
cid,2,1,,blue
"""


def small(tmp_path: Path, text: str = TABLE) -> Path:
    """The table, with thirty more people of two rows each."""
    rows = "".join(f"p{i},{i % 7},{i * i % 11},{i + 10 * visit},{'red' if i % 3 else 'blue'}\n"
                   for i in range(30) for visit in range(2))
    (tmp_path / "small.csv").write_text(text + rows)
    return tmp_path / "small.csv"


def rows_of(data: PairedData, item: str) -> list[str]:
    """The partners of an item, by their captions."""
    for split in data.splits():
        if item in split.ids:
            place = split.ids.index(item)
            return [split.caption2[two] for one, two in split.pair_table().tolist() if one == place]
    raise AssertionError(f"there is no {item}")


def test_rows_of_one_item_are_its_partners(tmp_path):
    loader = imported("csv_loader")
    data = loader.read_pairs(small(tmp_path), ["a", "b"], ["c"], "kind", "who")
    assert rows_of(data, "ann") == ["ann red", "ann red"] and len(rows_of(data, "p7")) == 2
    sides = [set(split.ids) | {text.split()[0] for text in split.caption2} for split in data.splits()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 33
    assert "64 rows, 1 lack view 1 and 1 lack view 2" in data.note
    assert rows_of(data, "cid") == []  # lacks view 2
    assert not any("bob" in split.ids for split in data.splits())  # lacks view 1, and its other half stays:
    assert [text for split in data.splits() for text in split.caption2 if text.startswith("bob")] == ["bob blue"]
    kinds = {name: int(label) for split in data.splits() for name, label in zip(split.ids, split.labels, strict=True)}
    assert (kinds["ann"], kinds["cid"]) == (1, 0)  # blue, red


def test_training_rows_alone_decide_on_the_scale(tmp_path):
    data = imported("csv_loader").read_pairs(small(tmp_path), ["a", "b"], ["c"])
    used = [view[torch.arange(len(view))] for view in (data.train.view1, data.train.view2)]
    for view in used:
        torch.testing.assert_close(view.mean(dim=0), torch.zeros(view.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(view.std(dim=0, correction=0), torch.ones(view.shape[1]), atol=1e-5, rtol=0)
    test = data.test.view2.flatten()
    assert not math.isclose(float(test.mean()), 0, abs_tol=1e-3)
    line = int(data.test.ids[0].removeprefix("line-"))
    cells = [row.split(",") for row in (tmp_path / "small.csv").read_text().splitlines()]
    raw = {int(name.removeprefix("line-")): cells[int(name.removeprefix("line-")) - 1] for name in data.train.ids}
    known = np.array([[float(row[1]), float(row[2])] for row in raw.values()])
    expected = (np.array([float(cell) for cell in cells[line - 1][1:3]]) - known.mean(axis=0)) / known.std(axis=0)
    np.testing.assert_allclose(data.test.view1[0], expected, atol=1e-5)


def test_scikit_learns_file_is_read_as_it_is(monkeypatch):
    monkeypatch.delenv("CSV_FILE", raising=False)
    data = load_data(str(EXAMPLES / "csv_loader.py"))
    assert [len(split) for split in data.splits()] == [341, 114, 114] and data.name == "breast_cancer"
    assert data.view1_shape == data.view2_shape == (10,)
    assert sum(int((split.labels == 1).sum()) for split in data.splits()) == 357  # benign


@pytest.mark.parametrize("text, message", [
    (TABLE.replace("a,b", "a,x", 1), r"small\.csv has no column 'b'; it has who, a, x, c, kind"),
    (TABLE.replace("2.5,3", "much,3"), r"small\.csv line 2: could not convert string to float: 'much'"),
    (TABLE.replace("bob,,2,5,blue", "bob,,2,5"), r"small\.csv line 4: expected 5 cells, got 4"),
    ("", r"small\.csv has no column 'a'"),
])
def test_what_is_wrong_in_a_table_is_told_with_its_line(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        imported("csv_loader").read_pairs(small(tmp_path, text), ["a", "b"], ["c"], "kind", "who")


def test_a_missing_file_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CSV_FILE", str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match=r"can't read .*none\.csv"):
        load_data(str(EXAMPLES / "csv_loader.py"))
