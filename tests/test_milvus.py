"""Milvus Lite finds what the exact gallery finds; a Milvus that isn't there is one line."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from xmodal.errors import CheckpointError, DataError
from xmodal.nearest import spread_rows
from xmodal.search import Gallery
from xmodal.search.milvus import MilvusGallery, is_milvus

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    items = torch.randn(300, 8, generator=draw)
    return items, items + 0.3 * torch.randn(300, 8, generator=draw)


@pytest.mark.parametrize("correction", [None, "csls"])
def test_it_finds_what_the_exact_gallery_finds(views, tmp_path, correction):
    items, queries = views
    names, shown = [f"n{row}" for row in range(300)], [f"text {row} ü" for row in range(300)]
    options = {"queries": queries, "correction": correction}
    uri = str(tmp_path / "g.db")
    built = MilvusGallery.build(items[:280], names[:280], uri=uri, captions=shown[:280], about={"run": "a"}, **options)
    assert built.recall >= 0.99 and built.describe()["items"] == 280
    gallery = MilvusGallery.load(uri)
    gallery.add(items[280:], names[280:], shown[280:])
    gallery.remove(names[:20])
    exact = Gallery.build(items, names, captions=shown, **options)
    exact.remove(names[:20])
    one, other = gallery.query(queries, 5), exact.query(queries, 5)
    assert one.ids == other.ids and one.captions == other.captions and torch.equal(one.rows, other.rows)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    assert len(gallery) == 280 and gallery.about == {"run": "a"}
    assert torch.equal(gallery.origins(280), torch.arange(280))


def test_mistakes_are_one_line(views, tmp_path, capfd):
    items, queries = views
    uri = str(tmp_path / "g.db")
    with pytest.raises(CheckpointError, match="has no gallery 'xmodal': build one first"):
        MilvusGallery.load(uri)
    gallery = MilvusGallery.build(items, uri=uri)
    with pytest.raises(CheckpointError, match="did you mean xmodal"):
        MilvusGallery.load(uri, collection="xmodl")
    for ask, said in ((lambda: gallery.query(queries[:, :3]), "of 8 values, a query has 3"),
                      (lambda: gallery.query(queries, 301), "k must be from 1 to 300, got 301"),
                      (lambda: gallery.remove(["5", "x"]), "there is no item 'x'"),
                      (lambda: gallery.add(items[:1], ["5"]), "'5' is in the gallery already"),
                      (lambda: gallery.add(items[:1], ["a" * 600]), "ids of 1 to 512 bytes"),
                      (lambda: MilvusGallery.build(items, ["a"] * 300, uri=uri), "must be different"),
                      (lambda: MilvusGallery.build(items, uri=uri, collection="a b!"), "letters, digits")):
        with pytest.raises(DataError, match=said) as failure:
            ask()
        assert "\n" not in str(failure.value)
    assert len(gallery) == 300
    assert capfd.readouterr().err == ""


def test_what_cannot_be_built_leaves_the_old_collection(views, tmp_path):
    items, queries = views
    uri = str(tmp_path / "g.db")
    names = [f"n{row}" for row in range(300)]
    MilvusGallery.build(items, names, uri=uri, about={"run": "old"})
    for options, said in (({"ids": [*names[:-1], "a" * 600]}, "ids of 1 to 512 bytes"),
                          ({"ids": [*names[:-1], ""]}, "ids of 1 to 512 bytes"),
                          ({"ids": [*names[:-1], "\ud800"]}, "bytes of UTF-8"),
                          ({"captions": ["a"]}, "captions: expected one for each of 300 items, got 1"),
                          ({"queries": queries[:, :5]}, "embeddings have 8 values, queries 5")):
        with pytest.raises(DataError, match=said):
            MilvusGallery.build(items, uri=uri, **options)
        kept = MilvusGallery.load(uri)
        assert len(kept) == 300 and kept.about == {"run": "old"} and kept.query(items[7], 1).ids == [["n7"]]


def test_the_bank_is_spread_over_all_queries_and_ids_are_looked_up_at_once(tmp_path, monkeypatch):
    queries = torch.randn(1500, 4, generator=torch.Generator().manual_seed(0))
    uri = str(tmp_path / "g.db")
    gallery = MilvusGallery.build(queries[:60], uri=uri, queries=queries, correction="csls")
    assert gallery._bank is not None and len(gallery._bank) == 1000
    torch.testing.assert_close(gallery._bank, normalize(queries)[spread_rows(1500, 1000)])
    asked, known = [], MilvusGallery._known
    monkeypatch.setattr(MilvusGallery, "_known", lambda self, names: asked.append(names) or known(self, names))
    gallery.remove(str(row) for row in range(50))
    assert len(asked) == 1 and len(gallery) == 10


def test_an_address_that_does_not_answer_is_told():
    with pytest.raises(DataError, match=r"Milvus at http://127\.0\.0\.1:1 does not answer: ") as failure:
        MilvusGallery.load("http://127.0.0.1:1", timeout=2)
    assert "\n" not in str(failure.value)


def test_places():
    assert is_milvus("x.db") and is_milvus("http://host:19530") and not is_milvus("runs/x/gallery")
    with pytest.raises(DataError, match=r"expected a file that ends in \.db"):
        MilvusGallery.load(str(Path("runs")))
