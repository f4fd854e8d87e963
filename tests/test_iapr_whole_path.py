"""IAPR TC-12 from a server to a printed evaluation, with the three published experiments, on a small file of the
published format: what can be tested where the real file can't be had."""
from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from loopback import Site, serving

from xmodal.cli import prepare_data, run_eval, run_train
from xmodal.data import fetch, iapr, load_data

MODELS = Path(__file__).parent.parent / "models"
N_ROWS, N_VALID, N_TEST = 600, 60, 100


def published_format() -> tuple[np.ndarray, np.ndarray, bytes]:
    """Images and texts that share factors; 7 more images than texts, as there are flipped ones in the real file."""
    generator = np.random.default_rng(0)
    factors = generator.normal(size=(N_ROWS + 7, 10))
    images = np.abs(factors @ generator.normal(size=(10, 40)) + 0.3 * generator.normal(size=(N_ROWS + 7, 40)))
    texts = np.abs(factors @ generator.normal(size=(10, 30)) + 0.3 * generator.normal(size=(N_ROWS + 7, 30)))[:N_ROWS]
    buffer = io.BytesIO()
    np.savez(buffer, images=images.astype(np.float32), tfidf=texts.astype(np.float32))
    return images, texts, buffer.getvalue()


@pytest.fixture
def prepared(tmp_path, monkeypatch, capsys) -> tuple[np.ndarray, np.ndarray]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(iapr, "PUBLISHED", iapr.Protocol(N_ROWS, 40, 30, N_VALID, N_TEST))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    images, texts, content = published_format()
    with serving(Site({"iapr.npz": content})) as site:
        assert prepare_data.main(["iapr", "--url", f"{site.url}/iapr.npz"]) == 0
    assert "SHA-256 of iapr.npz" in capsys.readouterr().out
    return images, texts


def test_the_published_protocol(prepared):
    """Oracle: the protocol written out in NumPy."""
    images, texts = (view.astype(np.float32) for view in prepared)
    order = np.random.RandomState(23).permutation(N_ROWS)
    images, texts = images[:N_ROWS][order], texts[order]
    train = slice(N_VALID + N_TEST, None)
    low = texts[train].min()
    expected1 = images / images[train].max()
    expected2 = (texts - low) / (texts[train].max() - low)
    data = load_data("iapr")
    for split, rows in ((data.valid, slice(0, N_VALID)), (data.test, slice(N_VALID, N_VALID + N_TEST)),
                        (data.train, train)):
        np.testing.assert_allclose(split.view1, expected1[rows], rtol=1e-5)
        np.testing.assert_allclose(split.view2, expected2[rows], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:CCALayer")
@pytest.mark.parametrize("experiment", ["iapr_ccal_tno", "iapr_learned_cont", "iapr_ccal_cont"])
def test_the_published_experiments_train_and_evaluate(prepared, experiment, capsys):
    arguments = ["--model", str(MODELS / f"{experiment}.py"), "--data", "iapr"]
    small = [part for field in ("max_epochs=6", "dim_latent=8", "batch_size=100") for part in ("--set", field)]
    assert run_train.main([*arguments, *small]) == 0
    assert run_eval.main(arguments) == 0 == run_eval.main([*arguments, "--V2_to_V1"])
    out = capsys.readouterr().out
    assert "Test : 100" in out and "synthetic" not in out
    metrics = json.loads(Path("runs", experiment, "metrics.json").read_text())
    chance = sum(1 / rank for rank in range(1, N_TEST + 1)) / N_TEST
    assert min(metrics[direction]["mrr"] for direction in ("V1_to_V2", "V2_to_V1")) > 4 * chance
