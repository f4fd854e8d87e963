"""The console command: verbs are the scripts, help and errors speak as the user does, the shell completes."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xmodal.checkpoint import RunFolder
from xmodal.cli import completion, run_train
from xmodal.cli.console import main
from xmodal.cli.program import VERBS, as_typed, called_as

ROOT = Path(__file__).parent.parent


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, to either stream; checks its exit code."""
    try:
        left = main(words)
    except SystemExit as end:
        left = end.code
    captured = capsys.readouterr()
    assert left == code, captured
    return captured.out + captured.err


def test_every_script_is_a_verb():
    scripts = {path.stem for path in ROOT.glob("*.py")} - {"setup"}
    assert scripts <= {module for module, _ in VERBS.values()}
    assert {module for module, _ in VERBS.values()} - scripts == {"doctor", "completion"}


def test_without_a_verb_it_teaches(capsys):
    help_text = said(capsys)
    assert help_text == said(capsys, "--help")
    assert all(f"    {verb} " in help_text or f"    {verb}\n" in help_text for verb in VERBS)
    assert max(map(len, help_text.splitlines())) <= 80


def test_version(capsys):
    import xmodal
    assert said(capsys, "--version").strip() == f"xmodal {xmodal.__version__}"


@pytest.mark.parametrize(("words", "expected"), [
    (["trian"], "error: xmodal has no verb 'trian'; did you mean train"),
    (["--modle"], "error: unrecognized arguments: --modle; see --help"),
    (["train", "--modle", "x.py"], "error: unrecognized arguments: --modle; did you mean --model?"),
    (["train"], "error: the following arguments are required: --model, --data"),
    (["eval", "--model", "models/digits_cca.py", "--data", "digits", "--runs", "nowhere"],
     "train it first with xmodal train"),
    (["search", "--run", "nowhere/x", "--query", "1"], "train it first with xmodal train"),
])
def test_mistakes_are_one_line(words, expected, capsys):
    text = said(capsys, *words, code=2)
    assert expected in text and text.count("\n") == 1


def test_the_scripts_keep_their_own_words(capsys):
    with pytest.raises(SystemExit):
        run_train.main(["--help"])
    assert "python run_train.py --model" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    text = said(capsys, verb, "--help")
    assert text.startswith(f"usage: xmodal {verb} ") and f"  xmodal {verb}" in text  # an example at least
    assert "python " not in text
    with called_as(f"xmodal {verb}"):
        assert as_typed(text) == text  # no script is named
    assert max(map(len, text.splitlines())) <= 80


def test_scripts_become_verbs_only_when_called_so():
    text = "run python prepare_data.py emoji, then run_train.py; torchrun --nproc_per_node=4 run_train.py --seed 1"
    assert as_typed(text) == text
    with called_as("xmodal eval"):
        assert as_typed(text) == ("run xmodal prepare emoji, then xmodal train; torchrun --nproc_per_node=4 -m xmodal "
                                  "train --seed 1")
    assert as_typed(text) == text


def test_train_evaluate_and_search_by_verbs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = str(ROOT / "models" / "digits_cca.py")
    assert "fitted in closed form" in said(capsys, "train", "--model", model, "--data", "digits")
    assert "MRR" in said(capsys, "eval", "--model", model, "--data", "digits")
    assert RunFolder("runs/digits_cca").metrics() is not None
    assert "V1_to_V2" in said(capsys, "search", "--run", "runs/digits_cca", "--query", "17")


def test_it_is_a_module_too():
    answer = subprocess.run([sys.executable, "-m", "xmodal", "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("xmodal ")


# -- completion -------------------------------------------------------------------------------------------------------


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    typed = " ".join(words)
    ask = (f"{script}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; COMP_LINE='{typed}'\n"
           "COMP_POINT=${#COMP_LINE}\n"
           "_shtab_xmodal; printf '%s\\n' \"${COMPREPLY[@]}\"")
    return subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()


@pytest.fixture(scope="module")
def bash_script() -> str:
    shtab = pytest.importorskip("shtab")
    return str(shtab.complete(completion.whole_parser(shtab), "bash"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("words", "offered"), [
    (["xmodal", "tr"], "train"),
    (["xmodal", "train", "--mod"], "--model"),
    (["xmodal", "prepare", "mnist_h"], "mnist_halves"),
    (["xmodal", "train", "--precision", "b"], "bf16"),
    (["xmodal", "train", "--model", "models/digits_cc"], "models/digits_cca.py"),
])
def test_bash_completes(words, offered, bash_script):
    assert offered in completed(bash_script, *words)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_for_every_shell(shell, capsys):
    pytest.importorskip("shtab")
    script = said(capsys, "completion", shell)
    assert "xmodal" in script and all(verb in script for verb in VERBS)


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "xmodal[completion]" in said(capsys, "completion", "bash", code=2)
