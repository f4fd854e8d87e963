"""The recipes of CONTRIBUTING.md, followed in a copy of the repository; ARCHITECTURE.md against the code."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_imports import ORDER

from xmodal.data.sets import DATA_SETS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
RECIPES = ("A model", "An objective", "A data set", "A metric")
COPIED = ("xmodal", "models", "DATA_LICENCES.md", "pyproject.toml", "tests/conftest.py", "tests/browser.py",
          "tests/test_config.py", "tests/test_imports.py", *(path.name for path in ROOT.glob("*.py")))

#: Runs in the copy: commands one after the other, in one process, since each start costs seconds.
DRIVER = '''
import contextlib, io, json, runpy, shlex, sys, time, traceback

import pytest
import xmodal

results = []
for section, command in json.load(open("commands.json")):
    words, said, code = shlex.split(command)[1:], io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if words[:2] == ["-m", "pytest"]:
                code = int(pytest.main([*words[2:], "-rA", "--capture=sys", "-p", "no:cacheprovider"]))
            else:
                sys.argv = words
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc(file=said)
            code = 1
    results.append([section, command, code, said.getvalue()])
    print(f"{time.process_time():6.1f} s", command)
json.dump({"from": xmodal.__file__, "results": results}, open("results.json", "w"))
'''


# -- the page, read --------------------------------------------------------------------------------------------------

@dataclass
class Recipe:
    """What a section of the page asks for, in its order."""

    steps: list[int] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    edits: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def read_recipes(text: str) -> dict[str, Recipe]:
    """The sections of the page that are recipes; every fence in them must be a file, an edit or commands."""
    recipes = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if title not in RECIPES:
            continue
        recipe = recipes[title] = Recipe()
        fences = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
        recipe.steps = [int(number) for number in re.findall(r"^(\d)\. ", fences.sub("", body), re.MULTILINE)]
        for language, content in fences.findall(body):
            first = content.partition("\n")[0]
            if language == "python" and (found := re.fullmatch(r"# ([\w/]+\.py)", first)):
                recipe.files[found[1]] = content
            elif language == "text" and first.startswith("$ "):
                recipe.commands += [line[2:] for line in content.splitlines() if line.startswith("$ ")]
            elif language == "text" and re.fullmatch(r"[\w/]+\.(py|md)", first):
                recipe.edits.append((first, content.partition("\n")[2]))
            else:
                raise AssertionError(f"{title}: a fence is neither a file, nor an edit, nor commands: {first}")
    return recipes


def edited(text: str, edit: str) -> str:
    """``text`` with the lines behind ``+`` added below those before them, which must be there once."""
    lines = edit.splitlines()
    context = [line[1:] for line in lines if line.startswith(" ")]
    added = [line[1:] for line in lines if line.startswith("+")]
    if len(context) + len(added) != len(lines) or not context or not added:
        raise ValueError("an edit is lines that are there, each behind a space, and lines to add, each behind +")
    if lines[len(context):] != [f"+{line}" for line in added]:  # between lines that are there
        before = next(i for i, line in enumerate(lines) if line.startswith("+"))
        context, after = context[:before], context[before:]
    else:
        after = []
    there = "\n".join([*context, *after]) + "\n"
    if f"\n{text}".count(f"\n{there}") != 1:
        raise ValueError(f"this must be there once, and is not: {there}")
    return f"\n{text}".replace(f"\n{there}", "\n" + "\n".join([*context, *added, *after]) + "\n")[1:]


PARTS = read_recipes(PAGE.read_text(encoding="utf-8"))


# -- the recipes, followed -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository in which all recipes were followed, and their commands run."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "tests").mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    for recipe in PARTS.values():
        for name, content in recipe.files.items():
            assert not (folder / name).exists(), f"{name} is there already"
            (folder / name).write_text(content, encoding="utf-8")
        for name, edit in recipe.edits:
            (folder / name).write_text(edited((folder / name).read_text(encoding="utf-8"), edit), encoding="utf-8")
    commands = [(title, in_an_epoch(command)) for title, recipe in PARTS.items() for command in recipe.commands]
    commands.append(("all", "python -m pytest tests/test_imports.py"))
    (folder / "commands.json").write_text(json.dumps(commands))
    (folder / "driver.py").write_text(DRIVER)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XMODAL_", "PYTEST_"))}
    done = subprocess.run([sys.executable, "driver.py"], cwd=folder, capture_output=True, text=True, timeout=300,
                          env=environment | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    return folder


def in_an_epoch(command: str) -> str:
    """What the page trains to its end, an epoch long."""
    return command if "run_train" not in command or "max_epochs" in command else f"{command} --set max_epochs=1"


def said(copy: Path, section: str) -> dict[str, str]:
    """What the commands of a recipe printed; all must have succeeded, in the copy's own xmodal."""
    content = json.loads((copy / "results.json").read_text())
    assert Path(content["from"]).is_relative_to(copy)
    own = [(command, code, text) for title, command, code, text in content["results"] if title == section]
    assert own
    for command, code, text in own:
        assert code == 0, f"{command} ended with {code}:\n{text[-3000:]}"
    return {command: text for command, _, text in own}


def metrics(copy: Path, run: str) -> dict:
    return json.loads((copy / "runs" / run / "metrics.json").read_text())


def test_every_recipe_has_five_steps():
    assert set(PARTS) == set(RECIPES)
    assert all(recipe.steps == [1, 2, 3, 4, 5] for recipe in PARTS.values()), PARTS


def test_the_model_trains_and_evaluates(copy):
    text = said(copy, "A model")
    assert re.search(r"^[1-9] passed", text["python -m pytest tests/test_config.py -k digits_gated"], re.MULTILINE)
    assert any("GLU(dim=1)" in out for command, out in text.items() if "--show_architecture" in command)
    assert (copy / "runs/digits_gated/weights.safetensors").is_file()
    assert metrics(copy, "digits_gated")["V1_to_V2"]["mrr"] > 0.016  # chance among 400


def test_the_objective_passes_its_oracle_and_trains(copy):
    text = said(copy, "An objective")
    assert "5 passed" in text["python -m pytest tests/test_soft_margin.py"]
    assert metrics(copy, "digits_soft_margin")["V1_to_V2"]["mrr"] > 0.016


def test_the_data_set_is_listed_prepared_and_trained_on(copy):
    text = said(copy, "A data set")
    assert re.search(r"^known_cca +made-up .*\n +not prepared", text["python prepare_data.py --list"], re.MULTILINE)
    assert re.search(r"train +3,000 pairs, values 40 \+ 30", text["python prepare_data.py known_cca"])
    assert "2 passed" in text["python -m pytest tests/test_known_cca.py"]
    assert (copy / "data/known_cca.h5").is_file()
    assert metrics(copy, "digits_ccal_cont")["data"] == "known_cca"
    assert "| `known_cca` |" in (copy / "DATA_LICENCES.md").read_text(encoding="utf-8")


def test_the_metric_is_computed_and_printed(copy):
    text = said(copy, "A metric")
    assert "2 passed" in text["python -m pytest tests/test_gap.py"]
    gap = metrics(copy, "digits_learned_cont")["modality_gap"]
    assert 0 < gap < 2
    assert f"Modality gap: {gap:.3f}" in text["python run_eval.py --model models/digits_learned_cont.py --data digits"]


def test_what_was_added_keeps_the_rules_of_the_house(copy):
    assert said(copy, "all")
    pytest.importorskip("ruff")
    files = [name for recipe in PARTS.values() for name in (*recipe.files, *(edit[0] for edit in recipe.edits))]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache",
                           *sorted({name for name in files if name.endswith(".py")})],
                          cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("text", "edit", "result"), [
    ("a\nb\n", " a\n+x\n", "a\nx\nb\n"),
    ("a\nb\n", " a\n+x\n+y\n b\n", "a\nx\ny\nb\n"),
    ("a\nb\na\n", " a\n+x\n", None),
    ("aa\nb\n", " a\n+x\n", None),
    ("a\n", "+x\n", None),
])
def test_edits_go_where_they_belong_or_fail(text, edit, result):
    if result is None:
        with pytest.raises(ValueError):
            edited(text, edit)
    else:
        assert edited(text, edit) == result


def test_a_fence_of_no_kind_is_refused():
    with pytest.raises(AssertionError, match="neither a file"):
        read_recipes("## A model\n```python\nprint(1)\n```\n")


# -- ARCHITECTURE.md and DATA_LICENCES.md ------------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_room_is_described_in_the_order_of_imports():
    section = ARCHITECTURE.partition("## Rooms")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w]+)(?:\.py|/)?` \|", section, re.MULTILINE) == ORDER


def test_every_path_that_is_named_exists():
    """Paths from the root; in the table of rooms and for commands, names of files in ``xmodal/`` and of scripts."""
    places = (ROOT, ROOT / "xmodal")
    named = set(re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|md|toml|txt))`", ARCHITECTURE))
    named -= {"config.json", "experiment.py", "card.md"}  # of a run
    assert len(named) > 60
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []


def test_every_function_that_is_named_exists():
    """``file.py``'s ``name()`` in the table of the way: what is named there stands in that file."""
    section = ARCHITECTURE.partition("## From file to metric")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \d+ \|.*$", section, re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        file, names = re.search(r"`(\S+\.py)`", row), re.findall(r"`([\w.]+)\(\)`", row)
        assert file and names, row
        source = (ROOT / file[1]).read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf"(def|class) {name.rpartition('.')[2]}\b", source), f"{file[1]} has no {name}"


def test_every_data_set_has_its_licence_said():
    text = (ROOT / "DATA_LICENCES.md").read_text(encoding="utf-8")
    assert [name for name in DATA_SETS if f"`{name}`" not in text] == []


def test_every_picture_of_the_documentation_says_what_it_shows():
    text = (ROOT / "DATA_LICENCES.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted((ROOT / "docs").glob("*.png")) if f"`{path.name}`" not in text] == []
