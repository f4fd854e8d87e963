"""``xmodal doctor`` reports what is here, and ends with 2 where something is missing that everything needs."""
from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
import torch

from xmodal.cli import doctor
from xmodal.data import write_h5
from xmodal.data.sets import DATA_SETS

ROOT = Path(__file__).parent.parent


def examined(capsys, *words: str, code: int = 0) -> dict:
    assert doctor.main(["--json", *words]) == code
    return json.loads(capsys.readouterr().out)


def test_the_report_fits_a_terminal_and_names_everything(capsys, tmp_path):
    assert doctor.main(["--data_dir", str(tmp_path), "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if str(ROOT) not in line) <= 80
    assert torch.__version__ in text and "All that is needed is here." in text
    assert "not prepared: python prepare_data.py mnist_halves" in text
    assert re.search(r"^  cuda +\S", text, re.M) or "cuda:0" in text


def test_every_extra_of_the_package_is_reported_with_its_purpose(capsys):
    found = examined(capsys)
    assert set(found["extras"]) == set(doctor.EXTRAS) == set(metadata.metadata("xmodal").get_all("Provides-Extra"))


def test_data_are_listed_with_their_state(capsys, correlated_pairs, tmp_path):
    write_h5(correlated_pairs, tmp_path / "mine.h5")
    write_h5(correlated_pairs, tmp_path / "icons.h5")
    (tmp_path / "emoji.h5").write_bytes(b"no HDF5")
    data = examined(capsys, "--data_dir", str(tmp_path))["data"]
    assert set(data) == {*DATA_SETS, "mine"} - {"from_folder"}
    assert data["digits"] == "built in"
    assert data["mine"].startswith("200 / 60 / 60 pairs") and data["icons"] == data["mine"]
    assert data["emoji"].startswith("can't be used: ")


def test_runs_are_counted(capsys, tmp_path):
    for name, file in (("a", "config.json"), ("b", "config.json"), ("b", "metrics.json"), ("c", "metrics.json")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text("{}")
    assert examined(capsys, "--runs", str(tmp_path))["runs"] == {"runs": 2, "evaluated": 1}


@pytest.mark.parametrize(("requirement", "said"), [
    ("torch>=99", "torch 2"), ("no-such-package>=1", "no-such-package not installed"),
])
def test_what_everything_needs_and_is_not_here_fails(requirement, said, capsys, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: [requirement])
    found = examined(capsys, code=2)
    assert len(found["missing"]) == 1 and found["missing"][0].startswith(said)
    assert doctor.main([]) == 2
    assert "Missing: " in capsys.readouterr().out


def test_a_missing_extra_is_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ['torch>=1', 'no-such-package>=1; extra == "text"'])
    assert examined(capsys)["extras"] == {"text": ["no-such-package>=1"]}
    assert doctor.main([]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert 'not here: sentence vectors of texts; pip install "xmodal[text]" brings no-such-package>=1' in text


def test_not_installed_at_all_is_said(capsys, monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert "not installed as a package" in examined(capsys, code=2)["missing"][0]


def test_a_layer_that_breaks_is_noticed(capsys, monkeypatch):
    class Broken(doctor.CCALayer):
        def forward(self, x, y):
            made = super().forward(x, y)
            return made._replace(view1=made.view1 / 0)

    monkeypatch.setattr(doctor, "CCALayer", Broken)
    assert examined(capsys, code=2)["missing"] == ["a step of the CCA layer is not finite"]

    def raises(dim):
        raise RuntimeError("no LAPACK")

    monkeypatch.setattr(doctor, "CCALayer", raises)
    assert "no LAPACK" in examined(capsys, code=2)["missing"][0]


def test_without_linux_files_it_still_reports(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_cpu", lambda field: "")
    assert examined(capsys)["devices"][0].startswith("cpu: ")


def test_the_processor_is_read(monkeypatch):
    about = "processor\t: 0\nmodel name\t: A Chip\nflags\t\t: x amx_bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **how: about)
    assert "A Chip" in doctor._devices()[0] and "bfloat16 by AMX" in doctor._devices()[0]
