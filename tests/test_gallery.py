"""Galleries against the sorted cosines; files come back as they were; every mistake is one line."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from xmodal.atomic import only_one
from xmodal.errors import CheckpointError, DataError, NumericalError, XmodalError
from xmodal.layers.binary import imbalance, sign_through
from xmodal.metrics import favour
from xmodal.search import Gallery, storage
from xmodal.search.codes import make_codes, nearest_codes, pack, unpack

KINDS = ("exact", "hnsw", "ivfpq", "codes")


def two_views(n: int = 1500, d: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Items in clusters, as embeddings are, and queries near them."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, d, generator=draw)
    items = centres[torch.randint(30, (n,), generator=draw)] + 0.7 * torch.randn(n, d, generator=draw)
    return items, items + 0.3 * torch.randn(n, d, generator=draw)


def sorted_cosines(queries: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    scores = normalize(queries) @ normalize(items).T
    top, rows = scores.sort(dim=1, descending=True, stable=True)
    return top[:, :k], rows[:, :k]


def built(kind: str, **options) -> tuple[Gallery, Tensor, Tensor]:
    pytest.importorskip("faiss", reason="needs the extra search") if kind in ("hnsw", "ivfpq") else None
    items, queries = two_views()
    return Gallery.build(items, [f"i{row}" for row in range(len(items))], kind=kind, queries=queries, bits=64,
                         codes="rotated", **options), items, queries


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_what_sorting_finds(kind):
    gallery, items, queries = built(kind)
    top, rows = sorted_cosines(queries[:200], items, 10)
    found = gallery.query(queries[:200], 10)
    share = float((found.rows[:, :, None] == rows[:, None, :]).any(dim=2).double().mean())
    assert share == 1.0 if kind == "exact" else share >= 0.93
    assert gallery.recall == 1.0 if kind == "exact" else gallery.recall >= 0.95
    same = found.rows == rows
    torch.testing.assert_close(found.scores[same], top[same])  # scores are exact, whoever proposed
    assert found.ids[0][0] == f"i{int(found.rows[0, 0])}"
    exact = gallery.query(queries[:200], 10, exact=True)
    assert torch.equal(exact.rows, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_its_folder(kind, tmp_path):
    gallery, _, queries = built(kind, captions=[f"caption {row}" for row in range(1500)],
                                about={"run": "a", "view": 2}, path=tmp_path / "g")
    again = Gallery.load(tmp_path / "g")
    one, other = gallery.query(queries[:50], 7), again.query(queries[:50], 7)
    assert torch.equal(one.scores, other.scores) and torch.equal(one.rows, other.rows) and one.ids == other.ids
    assert again.caption(3) == "caption 3" and again.about == {"run": "a", "view": 2}
    assert again.describe() == gallery.describe()
    assert {p.name.partition("-")[0] for p in (tmp_path / "g").iterdir()} == \
        {".lock", "gallery.json", "vectors", "texts", *(["index"] if kind != "exact" else [])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("correction", [None, "csls"])
def test_adding_and_removing_is_building_anew(kind, correction, tmp_path):
    pytest.importorskip("faiss") if kind in ("hnsw", "ivfpq") else None
    items, queries = two_views()
    names = [f"i{row}" for row in range(1500)]
    changed = Gallery.build(items[:1400], names[:1400], kind=kind, queries=queries, correction=correction, bits=64,
                            codes="rotated")
    changed.add(items[1400:], names[1400:])
    changed.remove(names[:100])
    whole = Gallery.build(items[100:], names[100:], queries=queries, correction=correction)
    assert len(changed) == len(whole) == 1400
    one, other = changed.query(queries[:100], 5, exact=True), whole.query(queries[:100], 5)
    assert one.ids == other.ids
    torch.testing.assert_close(one.scores, other.scores)
    removed = set(names[:100])
    assert not any(removed & set(found) for found in changed.query(queries[:100], 5).ids)
    changed.save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g")
    assert len(again) == 1400 and again.query(queries[:100], 5, exact=True).ids == other.ids
    with pytest.raises(DataError, match="there is no item 'i5'"):
        again.remove(["i200", "i5"])
    assert len(again) == 1400


def test_a_gallery_is_written_block_by_block_and_stays_on_disk(tmp_path):
    items, queries = two_views()
    in_memory = Gallery.build(items)
    gallery = Gallery.build((block.numpy() for block in items.split(400)), path=tmp_path / "g")
    files = {p.name for p in (tmp_path / "g").iterdir()}
    assert torch.equal(gallery.query(queries, 3).scores, in_memory.query(queries, 3).scores)
    gallery.about["more"] = 1
    gallery.save(tmp_path / "g")  # the vectors are there already
    assert {p.name for p in (tmp_path / "g").iterdir()} == files
    gallery.add(items[:3])
    gallery.save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 1503 and len(list((tmp_path / "g").iterdir())) == len(files)
    kept = np.load(next((tmp_path / "g").glob("vectors-*")))
    np.testing.assert_allclose(kept, normalize(torch.cat([items, items[:3]])), atol=1e-6)


def test_a_handle_that_is_older_than_the_files_saves_all_it_has(tmp_path):
    items, _ = two_views(50)
    Gallery.build(items, path=tmp_path / "g")
    older, newer = Gallery.load(tmp_path / "g"), Gallery.load(tmp_path / "g")
    newer.add(items[:5])
    newer.save(tmp_path / "g")
    older.save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g")
    assert len(again) == 50 and torch.equal(again.query(items, 50).scores, older.query(items, 50).scores)
    assert len(list((tmp_path / "g").iterdir())) == 3


def test_saves_wait_for_each_other_and_tell_that_they_did(tmp_path, monkeypatch):
    Gallery.build(torch.eye(3), path=tmp_path / "g")
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    with only_one(tmp_path / "g" / ".lock"), pytest.raises(DataError, match="another process is writing to"):
        Gallery.build(torch.eye(4)).save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 3
    monkeypatch.setattr(storage, "PATIENCE", 10.0)
    lock = only_one(tmp_path / "g" / ".lock")
    assert lock.__enter__()
    monkeypatch.setattr("time.sleep", lambda seconds: lock.__exit__(None, None, None))
    Gallery.build(torch.eye(4)).save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 4


def test_what_is_replaced_while_it_is_loaded_is_loaded_anew(tmp_path, monkeypatch):
    Gallery.build(torch.eye(3), path=tmp_path / "g")
    mapped = storage.map_array

    def replaced_before(path: Path) -> Tensor:
        monkeypatch.setattr(storage, "map_array", mapped)
        Gallery.build(torch.eye(4)).save(tmp_path / "g")
        return mapped(path)

    monkeypatch.setattr(storage, "map_array", replaced_before)
    assert len(Gallery.load(tmp_path / "g")) == 4


def test_saving_removes_its_own_old_files_alone(tmp_path):
    mine = ["vectors-2024.npy", "vectors-20240131.npy", "index-old.html", "texts-notes.md", "bank-12345678.json"]
    left, fresh = f"vectors-{'0a' * 8}.npy", f"index-{'0b' * 8}.bin"
    for name in (*mine, left, fresh):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0)) if name != fresh else None
    Gallery.build(torch.eye(3), ["a", "b", "c"]).save(tmp_path)
    said = json.loads((tmp_path / "gallery.json").read_text())
    earlier = {"vectors": "vectors-0123abcd.npy", "texts": "texts-0123abcd.json"}  # as earlier versions named them
    for part, name in earlier.items():
        (tmp_path / said["files"][part]).rename(tmp_path / name)
    (tmp_path / "gallery.json").write_text(json.dumps({**said, "files": earlier}))
    assert len(Gallery.load(tmp_path)) == 3
    Gallery.build(torch.eye(4)).save(tmp_path)
    new = json.loads((tmp_path / "gallery.json").read_text())["files"].values()
    assert {path.name for path in tmp_path.iterdir()} == {*mine, fresh, *new, ".lock", "gallery.json"}


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq", "codes"])
def test_a_save_that_fails_changes_nothing(kind, tmp_path, monkeypatch):
    gallery, _, queries = built(kind)
    gallery.remove([f"i{row}" for row in range(0, 1500, 2)])
    before = gallery.query(queries[:50], 5)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(type(gallery._index), "anew", lambda *_: (_ for _ in ()).throw(MemoryError))
        gallery.save(tmp_path / "g")
    after = gallery.query(queries[:50], 5)
    assert len(gallery) == 750 and torch.equal(after.rows, before.rows) and after.ids == before.ids
    gallery.save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 750


def test_lists_stay_where_too_few_items_are_left_to_fit_new_ones(tmp_path):
    gallery, _, queries = built("ivfpq")
    gallery.remove([f"i{row}" for row in range(100, 1500)])
    before = gallery.query(queries[:100], 5)
    gallery.save(tmp_path / "g")
    for one in (gallery, Gallery.load(tmp_path / "g")):
        found = one.query(queries[:100], 5)
        assert len(one) == 100 and found.ids == before.ids and torch.equal(found.scores, before.scores)


def test_rows_know_which_item_they_were_built_from(tmp_path):
    gallery = Gallery.build(torch.eye(6), path=tmp_path / "g")
    assert gallery.origins(6).tolist() == [0, 1, 2, 3, 4, 5] and gallery.origins(5).tolist() == []
    gallery.remove(["0", "3"])
    gallery.add(torch.eye(6)[:2])
    assert gallery.origins(6).tolist() == [0, 1, 2, 3, 4, 5]
    gallery.save(tmp_path / "g")
    gallery = Gallery.load(tmp_path / "g")
    assert gallery.origins(6).tolist() == [1, 2, 4, 5] and len(gallery) == 6
    gallery.remove(["1", "5"])  # the second, and one that was added
    gallery.save(tmp_path / "g")
    assert Gallery.load(tmp_path / "g").origins(6).tolist() == gallery.origins(6).tolist() == [1, 4, 5]
    texts = next((tmp_path / "g").glob("texts-*"))
    for dropped in (None, [0, 2, 6], [0, 2, 2], [0, True, 3], [0]):
        texts.write_text(json.dumps({"dropped": dropped}))
        with pytest.raises(CheckpointError, match="is damaged: build the gallery again"):
            Gallery.load(tmp_path / "g")


def test_rows_of_a_gallery_of_an_earlier_version_are_known_where_none_can_be_missing(tmp_path):
    Gallery.build(torch.eye(6), path=tmp_path / "g")
    said = json.loads((tmp_path / "g" / "gallery.json").read_text())
    del said["built_from"]
    (tmp_path / "g" / "gallery.json").write_text(json.dumps(said))
    gallery = Gallery.load(tmp_path / "g")
    assert gallery.origins(6).tolist() == [0, 1, 2, 3, 4, 5] and gallery.origins(7).tolist() == []
    gallery.add(torch.eye(6)[:1])
    gallery.save(tmp_path / "g")
    assert Gallery.load(tmp_path / "g").origins(7).tolist() == []


@pytest.mark.parametrize("how", ["csls", "inverted_softmax"])
def test_hubs_are_corrected_by_the_queries_given(how, tmp_path):
    items, queries = two_views()
    gallery = Gallery.build(items, queries=queries[:500], correction=how, path=tmp_path / "g")
    expected = normalize(queries[500:600]) @ normalize(items).T - favour(items, queries[:500], how)
    top, _ = expected.sort(dim=1, descending=True)
    for one in (gallery, Gallery.load(tmp_path / "g")):
        torch.testing.assert_close(one.query(queries[500:600], 4).scores, top[:, :4], atol=1e-5, rtol=0)


def test_codes_are_small_and_their_shortlist_is_scored_exactly():
    gallery, _, _ = built("codes")
    said = gallery.describe()
    assert said["index_bytes"] == 1500 * 8 and said["vector_bytes"] == 1500 * 64 and said["shortlist"] < 1500


@pytest.mark.parametrize("with_faiss", [False, True])
@given(n_bytes=st.integers(1, 4), n=st.integers(1, 30), q=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_nearest_codes_by_counting_bits(with_faiss, n_bytes, n, q, seed):
    if with_faiss:
        pytest.importorskip("faiss")
    rng = np.random.default_rng(seed)
    codes, asked = (torch.from_numpy(rng.integers(0, 256, (m, n_bytes), dtype=np.uint8)) for m in (n, q))
    distance = np.unpackbits(asked.numpy()[:, None] ^ codes.numpy()[None], axis=2).sum(axis=2)
    allowed = torch.from_numpy(rng.random(n) < 0.7)
    with pytest.MonkeyPatch.context() as patch:
        if not with_faiss:
            patch.setitem(sys.modules, "faiss", None)
        found, some = nearest_codes(asked, codes, n), nearest_codes(asked, codes, n, allowed)
    order = np.argsort(distance, axis=1, kind="stable")
    by_bits = (8 * n_bytes - found.scores.long()) // 2
    assert by_bits.tolist() == np.take_along_axis(distance, order, 1).tolist()
    assert by_bits.tolist() == np.take_along_axis(distance, found.rows.numpy(), 1).tolist()
    assert with_faiss or found.rows.tolist() == order.tolist()
    kept = int(allowed.sum())
    assert [set(row[:kept]) for row in some.rows.tolist()] == [set(allowed.nonzero().flatten().tolist())] * q
    assert (some.rows[:, kept:] == -1).all() and (some.scores[:, kept:] == -torch.inf).all()


def test_packing_is_undone():
    bits = torch.rand(50, 24) > 0.5
    assert torch.equal(unpack(pack(bits)) > 0, bits) and pack(bits).shape == (50, 3)


def test_learned_codes_keep_more_than_rotated_ones_and_these_more_than_signs():
    items, queries = (normalize(z) for z in two_views(3000, 32))
    wanted = sorted_cosines(queries, items, 10)[1]
    made = {how: make_codes(items, 32, how, queries) for how in ("sign", "rotated", "learned", "best")}

    def kept(how: str) -> float:
        codes = made[how]
        rows = nearest_codes(codes.of_queries(queries), codes.of_items(items), 50).rows
        balance = unpack(codes.of_items(items)).mean(dim=0).abs().max()
        assert balance < 0.02  # medians
        return float((wanted[:, :, None] == rows[:, None, :]).any(dim=2).double().mean())

    sign, rotated, learned = kept("sign"), kept("rotated"), kept("learned")
    assert sign < rotated < learned
    assert torch.equal(made["best"].projection, made["learned"].projection)


def test_the_best_codes_are_chosen_by_items_and_queries_from_first_to_last(monkeypatch):
    items, queries = (normalize(z) for z in two_views(300, 8))
    tried = []
    monkeypatch.setattr("xmodal.search.codes._TRIED", 50)
    monkeypatch.setattr("xmodal.search.codes._TRIED_QUERIES", 20)
    monkeypatch.setattr("xmodal.search.codes._STEPS", 2)
    monkeypatch.setattr("xmodal.search.codes._kept", lambda made, *some: tried.append(some) or 0.0)
    make_codes(items, 8, "best", queries)
    assert [len(some) for some in tried[0]] == [50, 20]
    for some, whole in zip(tried[0], (items, queries), strict=True):
        assert torch.equal(some[0], whole[0]) and torch.equal(some[-1], whole[-1])


def test_the_sign_passes_gradients_within_reach():
    u = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    codes = sign_through(u)
    assert codes.tolist() == [-1, -1, -1, 1, 1]
    (codes * torch.arange(1.0, 6.0)).sum().backward()
    assert u.grad is not None and u.grad.tolist() == [0, 2, 3, 4, 0]
    assert imbalance(torch.tensor([[1.0, 1], [1, -1]])) == 0.5


def test_equal_items_come_in_their_order_and_zeros_are_far_from_everything():
    gallery = Gallery.build(torch.tensor([[0.0, 0], [1, 1], [1, 1], [2, 2], [-1, 0]]))
    found = gallery.query([1.0, 1.0], 5)
    assert found.rows.tolist() == [[1, 2, 3, 0, 4]] and found.scores[0, 3] == 0


@pytest.mark.parametrize(("ask", "said"), [
    (lambda g: g.query(torch.ones(2, 5)), "holds embeddings of 16 values, a query has 5"),
    (lambda g: g.query(torch.ones(16), 1501), r"k must be from 1 to 1,500 \(the items of the gallery\), got 1,501"),
    (lambda g: g.query(torch.ones(16), 0), "k must be from 1"),
    (lambda g: g.query(torch.full((16,), torch.nan)), "query: 1 of 1"),
    (lambda g: g.remove(["i7", "i15000"]), "there is no item 'i15000' in the gallery; did you mean"),
    (lambda g: g.add(torch.ones(1, 16)), "give ids for new ones"),
    (lambda g: g.add(torch.ones(1, 16), ["i3"]), "'i3' is in the gallery already"),
    (lambda g: g.add(torch.ones(2, 16), ["x", "x"]), "ids must be different"),
    (lambda g: g.add(torch.ones(1, 3), ["x"]), "of 16 values, these have 3"),
])
def test_mistakes_are_one_line(ask, said):
    gallery = built("exact")[0]
    with pytest.raises(XmodalError, match=said) as failure:
        ask(gallery)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(("options", "error", "said"), [
    ({"embeddings": torch.empty(0, 4)}, DataError, "nothing to search in"),
    ({"embeddings": []}, DataError, "nothing to search in"),
    ({"embeddings": torch.ones(3)}, DataError, "shape"),
    ({"embeddings": torch.ones(3, 4), "ids": ["a", "b"]}, DataError, "one for each of 3 items, got 2"),
    ({"embeddings": torch.ones(3, 4), "ids": ["a", "b", "a"]}, DataError, "'a' comes twice"),
    ({"embeddings": torch.ones(3, 4), "kind": "hsnw"}, DataError, "did you mean hnsw"),
    ({"embeddings": torch.ones(3, 4), "kind": "ivfpq"}, DataError, "needs 256 items"),
    ({"embeddings": torch.ones(3, 4), "kind": "codes", "bits": 0}, DataError, "at least 1 bit"),
    ({"embeddings": torch.ones(3, 4), "kind": "codes", "codes": "sign"}, DataError, "at most 4 bits"),
    ({"embeddings": torch.ones(3, 4), "correction": "csls"}, DataError, "needs queries"),
    ({"embeddings": torch.ones(3, 4), "queries": torch.ones(3, 5)}, DataError, "have 4 values, queries 5"),
    ({"embeddings": torch.ones(3, 4), "recall": 1.5}, DataError, "recall"),
    ({"embeddings": [torch.ones(3, 4), torch.ones(3, 5)]}, DataError, "different widths"),
    ({"embeddings": [torch.ones(3, 4), torch.full((3, 4), torch.inf)]}, NumericalError, "rows 3, 4, 5"),
])
def test_what_cannot_be_built_is_told(options, error, said):
    if options.get("kind") == "ivfpq":
        pytest.importorskip("faiss")
    with pytest.raises(error, match=said):
        Gallery.build(**options)


def test_an_emptied_gallery_is_told():
    gallery = Gallery.build(torch.eye(3))
    gallery.remove(["0", "1", "2"])
    with pytest.raises(DataError, match="the gallery is empty"):
        gallery.query(torch.ones(3), 1)


def test_an_index_that_was_changed_never_reaches_faiss(tmp_path, monkeypatch):
    built("hnsw", path=tmp_path / "g")
    index = next((tmp_path / "g").glob("index-*"))
    content = bytearray(index.read_bytes())
    content[1000] ^= 1
    index.write_bytes(content)
    pytest.importorskip("faiss")
    monkeypatch.setattr("faiss.deserialize_index", None)
    with pytest.raises(CheckpointError, match="is damaged: build the gallery again"):
        Gallery.load(tmp_path / "g")


@pytest.mark.parametrize("kind", KINDS)
def test_without_faiss_the_extra_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    if kind in ("exact", "codes"):
        assert built(kind)[0].query(torch.ones(16)).rows.shape == (1, 10)
    else:
        items, _ = two_views()
        with pytest.raises(DataError, match=r"xmodal\[search\]|can't be imported"):
            Gallery.build(items, kind=kind)


@pytest.mark.parametrize("kind", ["hnsw", "codes"])
def test_damage_is_told_and_nothing_is_unpickled(kind, tmp_path):
    built(kind, path=tmp_path / "g")
    folder = tmp_path / "g"
    whole = {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    for path, content in whole.items():
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1:]
        for damaged in (b"", content[:40], content[:-9], b"\x80\x04" + content[2:], flipped):
            path.write_bytes(damaged)
            try:
                Gallery.load(folder)
            except CheckpointError as error:
                assert "\n" not in str(error)
            path.write_bytes(content)
    said = json.loads((folder / "gallery.json").read_text())
    for change in ({"items": 7}, {"kind": "exact"}, {"format": 2}, {"files": {"vectors": "../../x"}}, {"effort": None},
                   {"correction": "csls"}, {"built_from": None}, {"built_from": 1501}):
        (folder / "gallery.json").write_text(json.dumps({**said, **change}))
        with pytest.raises(CheckpointError):
            Gallery.load(folder)
    with pytest.raises(CheckpointError, match="there is no gallery in"):
        Gallery.load(Path("nowhere"))


@pytest.mark.parametrize("bits", [20, 64])
def test_codes_that_are_bits_already_stay_as_they_are(bits, tmp_path):
    """Whatever the share of items that have a bit set; a gallery of them finds what their cosines find."""
    draw = torch.Generator().manual_seed(0)
    share = torch.linspace(0.1, 0.9, bits)
    codes = torch.where(torch.rand(700, bits, generator=draw) < share, 1.0, -1.0)
    made = make_codes(normalize(codes), bits, "sign")
    packed = made.of_items(normalize(codes))
    assert torch.equal(packed, pack(codes > 0)) and packed.shape[1] == -(-bits // 8)
    assert torch.equal(unpack(packed)[:, :bits], codes)
    gallery = Gallery.build(codes, kind="codes", bits=bits, codes="sign", recall=0.99)
    gallery.save(tmp_path / "g")
    exact = codes @ codes.T
    for found in (gallery, Gallery.load(tmp_path / "g")):
        rows = found.query(codes[:50], 10).rows
        got = exact[:50].gather(1, rows).sort(dim=1, descending=True).values
        assert (got == exact[:50].topk(10, dim=1).values).float().mean() > 0.99
