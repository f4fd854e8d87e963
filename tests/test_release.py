"""What a release is made of: versions that agree, archives with what they should hold, the script that tries them."""
from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def release() -> ModuleType:
    """The script ``.ci/release``."""
    path = ROOT / ".ci" / "release"
    module = ModuleType("xmodal_release")
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git has or would take."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                                capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        pytest.skip("not a clone")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


# -- versions --------------------------------------------------------------------------------------------------------

def version() -> str:
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "xmodal/__init__.py").read_text(), re.MULTILINE)[1]


def test_the_version_is_semantic_and_the_same_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", version())
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version()
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1] == version()


def test_the_citation_names_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    assert citation["license"] == "MIT" and (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert [(one["authors"][0]["family-names"], one["year"]) for one in citation["references"]] == [
        ("Andrew", 2013), ("Dorfer", 2018), ("Chandar", 2016)]
    assert all(one["type"] and one["title"] for one in citation["references"])


def test_the_workflow_tries_every_python_that_is_supported():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    oldest = re.search(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text())[1]
    for job in workflow["jobs"].values():
        pythons = job["strategy"]["matrix"]["python"]
        assert pythons == [f"3.{minor}" for minor in range(int(oldest), int(oldest) + len(pythons))]
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands and all((ROOT / command.split()[0]).is_file() for command in commands)


def test_the_forms_are_whole():
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"):  # all but config.yml
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert form["name"] and form["description"] and form["body"], path
        assert all(field["type"] and field["attributes"] for field in form["body"]), path
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids), path
    assert "xmodal doctor" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8")


# -- archives --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def archives(release, tracked, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Copy, sdist and wheel, built with the setuptools that is here."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("archives")
    release.copy_repository(folder / "source")
    build = "from setuptools import build_meta as b; print(); print(b.build_sdist('..')); print(b.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "source", next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def test_the_archives_hold_what_they_should(release, archives):
    source, sdist, wheel = archives
    release.check_wheel(wheel, source / "xmodal")
    release.check_sdist(sdist)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "xmodal/py.typed" in names and "xmodal/cli/console.py" in names
    assert not [name for name in names if "test" in Path(name).name]
    assert wheel.stat().st_size < 2e6 and sdist.stat().st_size < 10e6


@pytest.mark.parametrize(("without", "more", "said"), [
    ("py.typed", "", r"lacks xmodal/py.typed"),
    ("linalg.py", "", r"lacks xmodal/linalg.py"),
    ("LICENSE", "", r"lacks LICENSE"),
    ("entry_points.txt", "", r"lacks the command xmodal"),
    ("", "tests/test_linalg.py", r"holds what is not the package: tests/test_linalg.py"),
])
def test_a_wheel_that_is_wrong_is_refused(without, more, said, release, archives, tmp_path):
    source, _, wheel = archives
    wrong = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as good, zipfile.ZipFile(wrong, "w") as bad:
        for name in good.namelist():
            if not (without and name.endswith(f"/{without}")):
                bad.writestr(name, good.read(name))
        if more:
            bad.writestr(more, "")
    with pytest.raises(release.ReleaseError, match=said):
        release.check_wheel(wrong, source / "xmodal")


def test_an_sdist_that_lacks_something_is_refused(release, archives):
    with pytest.raises(release.ReleaseError, match="lacks no_such_file"):
        release.check_sdist(archives[1], ["LICENSE", "no_such_file"])


# -- the script ------------------------------------------------------------------------------------------------------

def interpreter(folder: Path, name: str, answer: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


def test_only_pythons_that_can_be_used_are_found(release, tmp_path, monkeypatch):
    for name, answer in (("python3.10", "exit 127"), ("python3.12", "echo 3 12"), ("python3.14", "echo 3 14"),
                         ("python3.9", "echo 3 9"), ("mine", "echo 3 11")):
        interpreter(tmp_path, name, answer)
    (tmp_path / "versions/3.13.0/bin").mkdir(parents=True)
    interpreter(tmp_path / "versions/3.13.0/bin", "python", "echo 3 13")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "mine"))
    found = {release.asked_python(path) for path in release.candidates()}
    assert {python.version for python in found if python} >= {(3, 12), (3, 13), (3, 14)}
    assert release.asked_python(str(tmp_path / "python3.9")) is None
    own, second = release.chosen([], only=False)
    assert own.version == (3, 11) and second.version == min(python.version for python in found if python
                                                            and python.version != (3, 11))
    assert release.chosen([], only=True) == [own]
    with pytest.raises(release.ReleaseError, match=r"no_such is no Python from 3\.10 to 3\.14"):
        release.chosen([str(tmp_path / "python3.12"), "no_such"], only=False)


def test_that_there_is_no_second_python_is_said(release, monkeypatch, capsys):
    monkeypatch.setitem(release.__dict__, "candidates", list)
    assert len(release.chosen([], only=False)) == 1
    assert "SKIPPED a second Python: none from 3.10 to 3.14" in capsys.readouterr().out


def test_too_little_disk_is_said_and_is_no_success(release, tmp_path, monkeypatch, capsys):
    tried: list[str] = []
    for name, instead in (("copy_repository", lambda to: None), ("check_wheel", lambda *given: None),
                          ("check_sdist", lambda *given: None),
                          ("build", lambda *given: (tmp_path / "a.tar.gz", tmp_path / "a.whl")),
                          ("try_wheel", lambda wheel, python, *given: tried.append(python.path))):
        monkeypatch.setitem(release.__dict__, name, instead)
    usage = namedtuple("usage", "total used free")
    pythons = [release.Python("one", (3, 11)), release.Python("other", (3, 12))]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 7.9e9))
    assert release.release(tmp_path, pythons, None) == 1 and tried == []
    assert re.search(r"SKIPPED Python 3.11 \(one\): 7.9 GB are free in .*, and it may take 8", capsys.readouterr().out)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 8.1e9))
    assert release.release(tmp_path, pythons, None) == 0 and tried == ["one", "other"]


def test_the_witness_notes_what_is_read_of_the_repository_and_nothing_else(release, tmp_path):
    site, watched, notes = tmp_path / "site", tmp_path / "watched", tmp_path / "notes.txt"
    for folder in (site, watched, tmp_path / "watched-not"):
        folder.mkdir()
        (folder / "leaky.py").write_text("x = 1\n")
    (site / "sitecustomize.py").write_text(release.WITNESS)
    (site / "leaky.py").unlink()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "XMODAL_RELEASE_FOLDER": str(watched),
                   "XMODAL_RELEASE_NOTES": str(notes)}
    for folder, noted in (("watched-not", False), ("watched", True)):
        subprocess.run([sys.executable, "-c", "import leaky"], check=True, cwd=tmp_path,
                       env={**environment, "PYTHONPATH": f"{site}:{tmp_path / folder}"})
        assert notes.exists() == noted
    noted_files = notes.read_text().split()
    assert str(watched / "leaky.py") in noted_files and all(name.startswith(f"{watched}/") for name in noted_files)


def test_a_command_that_fails_says_the_end_of_its_output(release, tmp_path, monkeypatch):
    monkeypatch.setenv("XMODAL_DATA", "somewhere")
    assert release.run([sys.executable, "-c", "import os; print('XMODAL_DATA' in os.environ)"], tmp_path) == "False\n"
    with pytest.raises(release.ReleaseError, match="failed with code 3:\nwhy"):
        release.run([sys.executable, "-c", "import sys; print('why'); sys.exit(3)"], tmp_path)
    with pytest.raises(release.ReleaseError, match="can't be started"):
        release.run([tmp_path / "none"], tmp_path)


def test_the_model_of_the_script_is_a_model_file(release, tmp_path):
    from xmodal import load_experiment
    (tmp_path / "mine.py").write_text(release.MODEL)
    assert load_experiment(tmp_path / "mine.py").config.dim_latent == 16


# -- what is looked at before a commit -------------------------------------------------------------------------------

def hook(name: str) -> dict:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [one["repo"] for one in config["repos"]] == ["local"]
    return next(one for one in config["repos"][0]["hooks"] if one["id"] == name)


def test_no_file_names_a_path_of_somebodys_machine(tracked):
    one = hook("no-machine-paths")
    pattern = re.compile(one["entry"].encode())
    texts = {path.relative_to(ROOT).as_posix(): content for path in tracked
             if b"\0" not in (content := path.read_bytes())}
    assert pattern.search(b"see /" + b"home/me/x") and not pattern.search(b"a/" + b"home/me, ~/" + b"work/x")
    assert [name for name, content in texts.items() if pattern.search(content)] == []


def test_no_file_is_over_a_megabyte(tracked):
    assert [path.name for path in tracked if path.stat().st_size > 1e6] == []
    words = hook("small-files")["entry"]
    code = words[words.index('"') + 1:words.rindex('"')]
    ast.parse(code)
    assert "> 1e6" in code
