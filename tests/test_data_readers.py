"""What users have becomes items of a view, or is refused in one line; no code runs that nobody allowed."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xmodal.data import PairedData, PairSplit
from xmodal.data.readers import ItemReader, code_of
from xmodal.errors import DataError
from xmodal.features.images import ColourHog
from xmodal.features.texts import TfIdf

WORDS = ["red cat", "blue cat", "red tree", "old blue sea"]


@pytest.fixture(scope="module")
def data() -> PairedData:
    """Pictures and captions, with what encoded them."""
    encoder = TfIdf(words=20, characters=0).fit(WORDS)
    view1 = ColourHog(32)(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    split = PairSplit("train", view1, torch.from_numpy(encoder(WORDS)))
    return PairedData("own", split, split, split, encoder1=json.dumps(ColourHog(32).state()),
                      encoder2=json.dumps(encoder.state()))


def test_a_text_of_unknown_words_is_told(data):
    reader = ItemReader(data, 2)
    assert reader.texts(["a red zebra"]).any()
    for texts in (["zebra"], ["red cat", "the zebra, the zebra"]):
        with pytest.raises(DataError, match=f"nothing of '{texts[-1]}' was in the texts that the encoder of view 2"):
            reader.read(texts)


def test_strings_are_paths_where_no_text_is_read(data, tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(path)
    reader = ItemReader(data, 1)
    assert torch.equal(reader.read([str(path)]), reader.read([path])) and reader.read(str(path)).shape[0] == 1
    with pytest.raises(DataError, match=r"no file .*b\.png"):
        reader.read([str(tmp_path / "b.png")])
    with pytest.raises(DataError, match="view 2 reads numbers and text, no picture"):
        ItemReader(data, 2).read([path])


@pytest.mark.parametrize("name", ["efficientnet_evil:main", "timm_evil:main", "torchvision.evil:main", "evil:main",
                                  "timm:hf-hub:somebody/weights", "timm:local-dir:/tmp/weights", "timm:a/b", "timm:"])
def test_a_network_that_the_data_name_is_not_made_unasked(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = name.partition(":")[0]
    if module not in ("timm",):
        Path(f"{module}.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef main(): return None\n")
    state = {"kind": "network", "name": name, "size": 32, "precision": "float32"}
    assert code_of(state) == name == code_of({"kind": "joined", "parts": [state]})
    reader = ItemReader(PairedData("own", *data.splits(), encoder1=json.dumps(state)), 1)
    with pytest.raises(DataError, match="--run_code allows it"):
        reader._made("picture", lambda state: None)
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["efficientnet", "efficientnet_layers", "timm:resnet18.a1_in1k", "torchvision:vgg11"])
def test_networks_of_libraries_are_no_code_of_the_data(name):
    assert code_of({"kind": "network", "name": name}) == ""
