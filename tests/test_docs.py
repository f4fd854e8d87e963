"""Every block and every command of the documentation runs, in a small world; every link leads somewhere.

Pages are found, not listed: README.md, CONTRIBUTING.md, ARCHITECTURE.md, those of data/, benchmarks/ and examples/,
and everything in docs/. ``docs_pages`` reads them, ``docs_standins`` makes the small world and says what is smaller in
it, ``docs_commands`` runs them, ``docs_sentences`` looks at commands within sentences. Below are first the pages, then
tests of these: what they don't report, nobody would notice.
"""
from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest

for package in ("PIL", "resvg_py", "verovio", "music21", "pretty_midi", "tinysoundfont", "efficientnet_lite_pytorch"):
    pytest.importorskip(package, reason="needs the extras audio and images")

from docs_commands import Runner  # noqa: E402 (they ask for the packages above)
from docs_pages import (  # noqa: E402
    ROOT,
    WALKED,
    Command,
    Failure,
    Fence,
    Page,
    all_pages,
    commands,
    mistakes,
    read_page,
)
from docs_sentences import FOREIGN, all_benchmarks, wrong_codes  # noqa: E402
from docs_standins import World, small_world  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # those of users are shown by commands, and are no errors there

PAGES = {read_page(path).name: path for path in all_pages()}
RUN = [name for name, path in PAGES.items() if any(fence.language != "text" for fence in read_page(path).fences)]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Made once, whatever the number of test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "docs-world"
    folder.mkdir(exist_ok=True)
    return World(folder)


def run(page: Page, world: World, folder: Path) -> list[str]:
    """Runs a page in a scratch folder; what fails, each with page and line."""
    with small_world(world, world.scratch(folder)) as patch:
        found = Runner(page, world, patch).run()
    shutil.rmtree(folder, ignore_errors=True)
    gc.collect()  # what a page leaves open (Gradio's loops) is closed here, and not in a test of something else
    return found


# -- the pages -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PAGES)
def test_fences_have_languages_and_links_lead_somewhere(name):
    assert mistakes(read_page(PAGES[name])) == []


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_options_in_sentences_exist(name):
    assert wrong_codes(read_page(PAGES[name])) == []


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs(name, world, tmp_path):
    assert run(read_page(PAGES[name]), world, tmp_path / "clone") == []


def test_pages_and_benchmarks_are_found():
    """Were the discovery broken, nothing would fail."""
    assert {"README.md", "data/README.md", "benchmarks/README.md", "docs/search.md"} <= set(PAGES)
    assert {"README.md", "docs/search.md"} <= set(RUN)
    assert {"benchmarks.study", "benchmarks.speed", "benchmarks.speed.search_disk"} <= set(all_benchmarks())


def test_exceptions_are_still_needed():
    for page, test in WALKED.items():
        assert page in PAGES and page in (ROOT / test).read_text(encoding="utf-8")
    named = " ".join(text for path in PAGES.values() for _, text in read_page(path).codes)
    assert [option for option in FOREIGN if option not in named] == []


# -- reading ---------------------------------------------------------------------------------------------------------

def page_of(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return read_page(path)


@pytest.mark.parametrize(("text", "expected"), [
    ("# A\n\n```\nx\n```\n", ["page.md:3: the fence has no language"]),
    ("1. a\n\n   ```bash\n   x\n   ```\n", ["page.md:3: the fence's language 'bash' is unknown"]),
    ("```text\nx\n", ["page.md:1: the fence is never closed"]),
    ("```text\nx\n$ make demo\n```\n", ["page.md:3: a command in a text fence is not run"]),
    ("a\n\n    python run_train.py\n", ["page.md:3: a block is code by its indentation alone"]),
    ("# A\n\nx\n[b](none.md) and\n![c](none.png)", ["page.md:4: the link none.md leads to no file",
                                                    "page.md:5: the link none.png leads to no file"]),
    ("# A b\n\n[x](#a-c)", ["page.md:3: the link #a-c: page.md has no heading for it; it has a-b"]),
    ('# A\n\n<img src="none.svg" alt="x">', ["page.md:3: the link none.svg leads to no file"]),
    ("[x]: none.md\n\n[here][x]", ["page.md:3: the link none.md leads to no file"]),
    ("# A, `b`!\n# A b\n\n[x](#a-b) [y](page.md#a-b-1) [z](https://example.org/none) `[q](none)`\n\n"
     "```text\n[q](none)\n```\n", [])])
def test_what_is_wrong_with_a_page_is_told_with_its_line(text, expected, tmp_path):
    found = mistakes(page_of(tmp_path, text))
    assert len(found) == len(expected) and all(map(str.startswith, found, expected)), found


def test_commands_are_read_as_a_shell_reads_them():
    fence = Fence(10, "sh", "\n# all of it\nA=1 python a.py --key \"x # y\" \\\n    --more   # said\n"
                            "make demo && make test | head -3\npython b.py > out.txt; pip install '.[x]'\n")
    assert list(commands(fence)) == [
        Command(13, ("A=1", "python", "a.py", "--key", "x # y", "--more")), Command(15, ("make", "demo")),
        Command(15, ("make", "test"), readers=("head",)), Command(16, ("python", "b.py"), output="out.txt"),
        Command(16, ("pip", "install", ".[x]"))]
    fence = Fence(1, "console", "$ python a.py \\\n>     --b\nsaid\nerror: no such thing\n$ python c.py\n$5\n")
    assert list(commands(fence)) == [Command(2, ("python", "a.py", "--b"), error="error: no such thing"),
                                     Command(6, ("python", "c.py"))]
    with pytest.raises(ValueError, match="3: a console block begins with a command after"):
        list(commands(Fence(1, "console", "\npython a.py\n")))
    with pytest.raises(ValueError, match="2: No closing quotation"):
        list(commands(Fence(1, "sh", "python 'a.py\n")))


# -- running ---------------------------------------------------------------------------------------------------------

WRONG = '''# All wrong

```python
x = 1
y = x + nothing
```

```python
def (
```

```sh
python run_train.py --model models/digits_ca.py --data digits
frobnicate --all                    # comment
python run_trein.py
xmodal trane --data digits
make nothing
pip install ".[nothing]"
python -m benchmarks.study digits_hats
python -m benchmarks.nothing
python run_eval.py --model models/digits_cca.py --data digits --nothing | frob
```

```console
$ python run_train.py --model models/digits_cca.py --data digits
error: this one works
$ python run_train.py --model models/digits_ca.py --data digits
error: something else
```

```json
{"a": 1,}
```

```csv
a,b
1
```
'''


def test_what_fails_is_told_with_page_and_line(world, tmp_path):
    expected = {
        3: "the Python block failed in line 5: NameError: name 'nothing' is not defined",
        8: "the Python block failed in line 9: SyntaxError",
        13: "python run_train.py --model models/digits_ca.py --data digits ended with exit code 2: error: cannot read",
        14: "unknown program 'frobnicate'", 15: "there is no program run_trein.py",
        16: "xmodal trane --data digits ended with exit code 2", 17: "the Makefile has no target 'nothing'",
        18: "setup.py has no extra 'nothing'", 19: "python -m benchmarks.study digits_hats: ",
        20: "there is no benchmarks.nothing", 21: "unknown program 'frob'",
        25: "python run_train.py --model models/digits_cca.py --data digits should end with exit code 2",
        27: "python run_train.py --model models/digits_ca.py --data digits should say 'error: something else'",
        31: "this is no json", 35: "rows of 2, 1 columns"}
    found = run(page_of(tmp_path, WRONG), world, tmp_path / "clone")
    assert len(found) == len(expected), found
    for message, (line, beginning) in zip(found, expected.items(), strict=True):
        assert message.startswith(f"page.md:{line}: {beginning}"), message


RIGHT = '''# All right

```python
# models/mine.py
"""Linear CCA."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=4)
build_objective = None


def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent)
```

```sh
export FOLDER=runs
python run_train.py --model models/mine.py --data mine.h5 --runs $FOLDER   # twice, as on pages that repeat themselves
python run_train.py --model models/mine.py --data mine.h5
xmodal eval --model models/mine.py --data mine.h5 --json > found.json
cp models/mine.py models/copy.py && python run_eval.py --model models/digits_cca.py --data digits --tag a
python plot_log.py runs/digits_ccal_*/log.jsonl --watch --out curves.png
```

```python
import json
from pathlib import Path

from xmodal import load_run

assert json.loads(Path("found.json").read_text())["V1_to_V2"]["mrr"] > 0.5 and Path("curves.png").is_file()
assert load_run("runs/digits_kcca").name == "digits_kcca" and Path("models/copy.py").is_file()
assert CONFIG.dim_latent == 4
```

```console
$ python run_train.py --model models/digits_ca.py --data digits
error: cannot read the model file models/digits_ca.py: No such …
```
'''


def test_what_is_right_runs_in_one_namespace_and_one_folder(world, tmp_path):
    assert run(page_of(tmp_path, RIGHT), world, tmp_path / "clone") == []


@pytest.mark.parametrize(("text", "expected"), [
    ("`run_eval.py --transfre` and", "page.md:2: there is no option --transfre in run_eval.py --transfre"),
    ("`--nothing N`", "page.md:2: there is no option --nothing in --nothing N"),
    ("`xmodal evil`", "page.md:2: xmodal has no verb 'evil' in xmodal evil"),
    ("`python -m benchmarks.study`", "page.md:2: python -m benchmarks.study: "),
    ("`python -m benchmarks.study {mnist_heads} [--sed 0]`", "page.md:2: there is no option --sed in "),
    ("`make nothing`", "page.md:2: the Makefile has no target 'nothing'"),
    ("`python examples/nothing.py --quick`", "page.md:2: there is no examples/nothing.py"),
    ("`python run_eval.py … --ci [--V2_to_V1]`, `--n_train`, `--help`, `make demo`, `xmodal eval …`", None)])
def test_commands_in_sentences_that_do_not_exist_are_told(text, expected, tmp_path):
    found = wrong_codes(page_of(tmp_path, f"Some\n{text} more"))
    assert len(found) == (expected is not None) and all(one.startswith(str(expected)) for one in found), found


def test_a_run_that_cannot_be_made_is_a_failure(world, tmp_path):
    folder = world.scratch(tmp_path / "clone")
    with small_world(world, folder), pytest.raises(Failure, match="is needed here, and failed"):
        world.ensure_run("digits_cca-broken", "nothing.npz")


def test_the_repository_is_left_alone(world, tmp_path):
    """Pages write into their scratch folder: no link of it leads back into the repository."""
    links = [path for path in world.scratch(tmp_path / "clone").rglob("*") if path.is_symlink()]
    assert links and not any(path.resolve().is_relative_to(ROOT) for path in links)
