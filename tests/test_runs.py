"""A run opened again embeds what it embedded before; what doesn't belong to it is refused."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xmodal.cli import run_train
from xmodal.data import load_data
from xmodal.errors import CheckpointError, DataError
from xmodal.evaluator import embed
from xmodal.runs import load_run

MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training."""
    runs = tmp_path_factory.mktemp("runs")
    assert run_train.main(["--model", str(MODELS / "digits_ccal_cont.py"), "--data", "digits", "--runs", str(runs),
                           "--set", "max_epochs=2"]) == 0
    return runs / "digits_ccal_cont"


def test_it_embeds_as_the_evaluator_does(run):
    opened, test = load_run(run), load_data("digits").test
    both = embed(opened.model, test)
    assert opened.name == "digits_ccal_cont" and opened.precision == "float32"
    assert torch.equal(opened.embed(1, test.view1), both[0]) and torch.equal(opened.embed(2, test.view2), both[1])


def test_items_of_another_width_are_refused(run):
    with pytest.raises(DataError, match=r"embeds view-2 items of shape \(32,\), got \(31,\)"):
        load_run(run).embed(2, torch.zeros(3, 31))


def test_it_knows_its_data_and_refuses_others(run, tmp_path):
    assert load_run(run).data().fingerprint == load_data("digits").fingerprint
    other = tmp_path / "other.py"
    other.write_text("import numpy as np\ndef load():\n    a = np.arange(640.0).reshape(20, 32)\n"
                     "    return {f'{s}_view{v}': a for s in ('train', 'valid', 'test') for v in (1, 2)}\n")
    with pytest.raises(CheckpointError, match="was trained on digits"):
        load_run(run).data(str(other))


@pytest.mark.parametrize("damage", [{"view1_shape": None}, {"view1_shape": [0]}, {"view2_shape": ["a"]}])
def test_a_damaged_configuration_is_told(run, tmp_path, damage):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("experiment.py", "weights.safetensors"):
        (copy / name).write_bytes((run / name).read_bytes())
    about = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**about, "data": {**about["data"], **damage}}))
    with pytest.raises(CheckpointError, match="lacks data"):
        load_run(copy)
