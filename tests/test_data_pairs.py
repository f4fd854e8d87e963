"""The data contract: what a split checks, takes and selects, and what its fingerprint depends on."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.hashing import ArrayHash
from xmodal.data.pairs import PairedData, PairSplit, fingerprint
from xmodal.data.splitting import split_table
from xmodal.errors import DataError


def split_of(name: str = "train", n: int = 6, width1: int = 3, width2: int = 2, **more) -> PairSplit:
    view1 = torch.arange(n * width1, dtype=torch.float32).reshape(n, width1)
    return PairSplit(name, view1, -torch.arange(n * width2, dtype=torch.float32).reshape(n, width2), **more)


def captioned(n_items: int = 4, per_item: int = 5) -> PairSplit:
    """One image with several captions each: 1:n."""
    n2 = n_items * per_item
    pairs = torch.stack([torch.arange(n2) // per_item, torch.arange(n2)], dim=1)
    return PairSplit("train", torch.arange(n_items, dtype=torch.float32)[:, None],
                     torch.arange(n2, dtype=torch.float32)[:, None] * 10, pairs, labels=torch.arange(n_items),
                     ids=[f"image {i}" for i in range(n_items)], caption2=[f"text {i}" for i in range(n2)])


def data_of(**changes) -> PairedData:
    data = PairedData("toy", split_of("train"), split_of("valid", 4), split_of("test", 5))
    return dataclasses.replace(data, **changes)


def test_a_split_knows_its_shapes_and_makes_the_identity_table():
    split = split_of(n=3)
    assert (split.view1_shape, split.view2_shape, split.n_pairs, len(split)) == ((3,), (2,), 3, 3)
    assert split.pair_table().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert split.pair_table().dtype == torch.int64
    assert not split.is_streamed


def test_all_items_are_there_with_or_without_a_partner():
    few, many = split_of(n=3).view1, -split_of(n=7).view1
    split = PairSplit("train", few, many, torch.tensor([[0, 4], [2, 4]]), labels=torch.arange(3), ids=["a", "b", "c"])
    everything = split.all_items()
    assert everything.pairs.tolist() == [[0, 0], [1, 1], [2, 2], [0, 3], [1, 4], [2, 5], [0, 6]]
    assert everything.view1 is few and everything.labels is split.labels and everything.ids == split.ids
    turned = PairSplit("train", many, few, torch.tensor([[4, 0]])).all_items()
    assert turned.pairs.tolist() == [[0, 0], [1, 1], [2, 2], [3, 0], [4, 1], [5, 2], [6, 0]]
    crossed = PairSplit("train", few, few, torch.tensor([[0, 2]])).all_items()
    assert crossed.pairs is None and len(crossed) == 3
    same = split_of()
    assert same.all_items() is same


def test_a_pair_table_counts_pairs_not_items():
    split = captioned(4, 5)
    assert split.n_pairs == len(split) == 20
    assert split.pair_table() is split.pairs


@pytest.mark.parametrize("kwargs, message", [
    ({"view2": torch.zeros(5, 2)}, r"^train: view1 has 6 items and view2 5; without a pair table"),
    ({"view1": torch.zeros(0, 3), "view2": torch.zeros(0, 2)}, r"^train is empty: view1 has no items"),
    ({"view1": torch.zeros(6)}, r"^train view1 must have shape \(items, features, \.\.\.\); got \(6,\)"),
    ({"view1": torch.zeros(6, 0)}, r"^train view1 must have shape"),
    ({"view1": torch.zeros(6, 3, dtype=torch.float64)}, r"^train view1 must be float32; got float64"),
    ({"view1": np.zeros((6, 3), np.float32)}, r"^train view1 must be a float32 tensor or a StreamedView; got ndarray"),
    ({"labels": torch.zeros(5, dtype=torch.int64)}, r"^train labels must be int64 of shape \(6,\).*got int64"),
    ({"labels": torch.zeros(6)}, r"^train labels must be int64 .* got float32"),
    ({"ids": ["a"]}, r"^train ids must have 6 entries.* got 1"),
    ({"caption2": ["a"] * 7}, r"^train caption2 must have 6 entries"),
    ({"pairs": torch.zeros(3, 3, dtype=torch.int64)}, r"^train pairs must be int64 of shape \(pairs, 2\); got int64"),
    ({"pairs": torch.zeros(3, 2)}, r"^train pairs must be int64 .* got float32"),
    ({"pairs": torch.zeros(0, 2, dtype=torch.int64)}, r"^train is empty: its pair table has no rows"),
    ({"pairs": torch.tensor([[0, 0], [1, 6]])}, r"^train pairs row 1 names view2 item 6, but .* 0 to 5 \(1 such"),
    ({"pairs": torch.tensor([[-1, 0], [7, 1]])}, r"^train pairs row 0 names view1 item -1, .*\(2 such rows\)"),
])
def test_what_a_split_refuses(kwargs, message):
    good = split_of()
    fields = {"view1": good.view1, "view2": good.view2} | kwargs
    with pytest.raises(DataError, match=message):
        PairSplit("train", **fields)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_values_are_named_with_view_split_and_rows(bad):
    view2 = torch.zeros(40, 3)
    view2[[4, 7, 9, 11, 30, 39], 1] = bad
    with pytest.raises(DataError, match=r"^valid view2 has NaN or infinite values in 6 rows of 40 "
                                        r"\(row 4, 7, 9, 11, 30, \.\.\.\)"):
        PairSplit("valid", torch.zeros(40, 2), view2)


def test_finite_values_that_overflow_when_summed_are_fine():
    PairSplit("train", torch.full((50, 4), 3e38), torch.zeros(50, 1))


def test_splits_must_have_one_shape():
    with pytest.raises(DataError, match=r"^test view2 has items of shape \(7,\), but train view2 \(2,\)"):
        data_of(test=split_of("test", width2=7))


def test_a_picture_has_as_many_values_as_an_item():
    data = data_of(picture1=(1, 3))
    assert (data.picture1, data.picture2) == ((1, 3), None)
    assert data.with_fingerprint().picture1 == (1, 3)
    assert data.with_fingerprint().fingerprint == data_of().with_fingerprint().fingerprint
    for bad in ((3,), (3, 1, 1), (1, 2), (-1, -3), (1.0, 3.0), (True, 3), [1, 3], "13", 3, (0, 0), np.ones((3, 1))):
        with pytest.raises(DataError, match=r"^picture1 must be \(height, width\) of the 3 values of a view1 item"):
            data_of(picture1=bad)
    with pytest.raises(DataError, match=r"^picture2 must be .* 2 values of a view2 item; got '\(2, 2\)'$"):
        data_of(picture2=(2, 2))


def test_of_converts_lists_and_any_real_dtype():
    split = PairSplit.of("train", [[1, 2], [3, 4]], np.array([[1.5], [2.5]], dtype=">f8"),
                         labels=np.array([3, 4], "u1"))
    assert split.view1.dtype == split.view2.dtype == torch.float32
    assert split.view2.tolist() == [[1.5], [2.5]]
    assert split.labels.tolist() == [3, 4] and split.labels.dtype == torch.int64
    assert PairSplit.of("train", torch.ones(2, 1, dtype=torch.bfloat16), torch.ones(2, 1)).view1.dtype == torch.float32


@pytest.mark.parametrize("values, message", [
    ([["a", "b"]], "must hold numbers; got dtype <U1"),
    (np.array([[None]]), "must hold numbers; got dtype object"),
    (np.zeros((2, 2), complex), "must hold numbers; got dtype complex128"),
    ([[1, 2], [3]], "is not a rectangular array"),
    (np.array([[1.0], [np.inf]]), "NaN or infinite values in 1 row of 2"),
])
def test_of_refuses_what_is_not_numbers(values, message):
    with pytest.raises(DataError, match=message):
        PairSplit.of("train", values, values)


@pytest.mark.parametrize("kind", [lambda array: array, torch.from_numpy, np.ndarray.tolist, np.ndarray.byteswap])
def test_finite_numbers_that_float32_cannot_hold_are_not_called_infinite(kind):
    values = np.ones((9, 2))
    values[[1, 2, 4, 5, 7, 8], 1] = 1e37, -2e39, 1e39, 1e39, 1e39, 1e39
    given = kind(values) if kind is not np.ndarray.byteswap else values.astype(">f8")
    with pytest.raises(DataError, match=r"^valid view2 has values up to 2e\+39 in 5 rows of 9 \(row 2, 4, 5, 7, 8\), "
                                        r"which float32 can't hold \(at most 3\.4e\+38\): scale these features$"):
        PairSplit.of("valid", np.zeros((9, 1)), given)
    assert PairSplit.of("valid", np.full((9, 2), 3e38), np.zeros((9, 1))).view1[0, 0] == np.float32(3e38)


def test_of_refuses_labels_that_are_not_whole_numbers():
    with pytest.raises(DataError, match="train labels must hold whole numbers; got dtype float64"):
        PairSplit.of("train", [[1.0]], [[1.0]], labels=[0.5])


def test_take_of_an_identity_split_slices_without_copying():
    split = split_of(labels=torch.arange(6), ids=list("abcdef"))
    taken = split.take(2)
    assert taken.pairs is None and taken.n_pairs == 2
    assert taken.view1.data_ptr() == split.view1.data_ptr()
    assert (taken.ids, taken.labels.tolist()) == (["a", "b"], [0, 1])
    assert split.take(6) is split and split.take(99) is split
    with pytest.raises(DataError, match="can't take 0 pairs of train"):
        split.take(0)


def test_take_of_a_pair_table_drops_items_and_reindexes():
    split = captioned(4, 5)
    taken = split.take(7)
    assert taken.n_pairs == 7
    assert taken.view1.flatten().tolist() == [0, 1] and taken.view2.flatten().tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert taken.pairs.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [1, 6]]
    assert taken.ids == ["image 0", "image 1"] and taken.caption2[-1] == "text 6" and len(taken.labels) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=20), st.integers(1, 20))
def test_take_keeps_exactly_the_first_pairs_and_no_other_item(table, n):
    view1, view2 = torch.arange(7.0)[:, None], torch.arange(9.0)[:, None]
    taken = PairSplit("train", view1, view2, torch.tensor(table)).take(n)
    values = [(int(taken.view1[i]), int(taken.view2[j])) for i, j in taken.pair_table().tolist()]
    assert values == table[:n]
    if n < len(table):
        assert len(taken.view1) == len({i for i, _ in table[:n]})
        assert len(taken.view2) == len({j for _, j in table[:n]})


# further test splits

def test_further_test_splits_have_names_and_an_order_of_their_own():
    data = data_of(further=(split_of("test_noisy", 3), split_of("test_a", 7)))
    assert data.split_names() == ("train", "valid", "test", "test_a", "test_noisy")
    assert [len(split) for split in data.splits()] == [6, 4, 5, 7, 3]
    assert data.split("test_noisy") is data.further[1] and data.split("valid") is data.valid
    assert data_of().split_names() == ("train", "valid", "test") and data_of().further == ()
    with pytest.raises(DataError, match=r"^toy has no split 'nope'; it has train, valid, test, test_a, test_noisy$"):
        data.split("nope")


def test_a_split_is_called_by_its_place_not_by_its_name():
    data = data_of(valid=split_of("anything", 4))
    assert data.split("valid") is data.valid
    with pytest.raises(DataError, match="no split 'anything'"):
        data.split("anything")


@pytest.mark.parametrize("further, message", [
    ((split_of("hard", 3),), "different names that begin with test_; got hard"),
    ((split_of("test", 3),), "different names that begin with test_; got test"),
    ((split_of("test_a", 3), split_of("test_a", 4)), "different names that begin with test_; got test_a, test_a"),
    ((split_of("test_a", 3, width1=4),), r"^test_a view1 has items of shape \(4,\), but train view1 \(3,\)"),
    ((split_of("test_a", 3, width2=4),), r"^test_a view2 has items of shape \(4,\), but train view2 \(2,\)"),
])
def test_further_test_splits_that_are_refused(further, message):
    with pytest.raises(DataError, match=message):
        data_of(further=further)


def test_further_test_splits_count_in_the_fingerprint_and_their_order_does_not():
    a, b = split_of("test_a", 3), split_of("test_b", 4)
    one = fingerprint(data_of(further=(a, b)))
    assert one == fingerprint(data_of(further=(b, a)))
    others = [data_of(), data_of(further=(a,)), data_of(further=(a, dataclasses.replace(b, name="test_c"))),
              data_of(further=(a, dataclasses.replace(b, view1=b.view1 + 1)))]
    assert len({one, *map(fingerprint, others)}) == 5


def test_data_are_printed_in_a_line():
    data = data_of(further=(split_of("test_hard", 3),), synthetic=True)
    assert repr(data) == ("PairedData('toy (synthetic)': train 6, valid 4, test 5, test_hard 3 pairs, items of shape "
                          "(3,) and (2,), fingerprint not computed)")
    assert repr(data.with_fingerprint()).endswith(f", fingerprint {fingerprint(data)[:12]})")
    assert repr(data.train) == "PairSplit('train': 6 pairs, views of shape (6, 3) and (6, 2))"
    assert repr(captioned()) == ("PairSplit('train': 20 pairs, views of shape (4, 1) and (20, 1), with pairs, labels, "
                                 "ids, caption2)")


def test_title_says_synthetic():
    assert data_of().title == "toy"
    assert data_of(synthetic=True).title == "toy (synthetic)"


def test_the_fingerprint_is_sha256_over_headers_and_bytes():
    import hashlib
    data = data_of()
    expected = hashlib.sha256()
    for split in data.splits():
        for key, view in (("view1", split.view1), ("view2", split.view2)):
            expected.update(f"{split.name}_{key} <f4 1.0 {view.shape[0]},{view.shape[1]}\n".encode())
            expected.update(view.numpy().tobytes())
    assert fingerprint(data) == expected.hexdigest()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["train", "valid", "test"]), st.sampled_from(["view1", "view2", "pairs", "labels"]),
       st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_changes_the_fingerprint(split_name, key, position, bit):
    def with_tables(split: PairSplit) -> PairSplit:
        return dataclasses.replace(split, pairs=torch.zeros(3, 2, dtype=torch.int64), labels=torch.zeros(
            len(split.view1), dtype=torch.int64))

    hashes = []
    for flip in (False, True):
        total = ArrayHash()
        data = data_of()
        for split in map(with_tables, data.splits()):
            for name in ("view1", "view2", "pairs", "labels"):
                array = getattr(split, name).numpy().copy()
                if flip and (split.name, name) == (split_name, key):
                    raw = array.reshape(-1).view(np.uint8)
                    raw[position % len(raw)] ^= 1 << bit
                total.add(f"{split.name}_{name}", array)
        hashes.append(total.hexdigest())
    assert hashes[0] != hashes[1]


def test_the_fingerprint_sees_shape_key_dtype_and_scale_but_not_layout():
    def digest(key, array, scale=1.0):
        total = ArrayHash()
        total.add(key, array, scale)
        return total.hexdigest()

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    variants = [digest("train_view1", array), digest("train_view2", array), digest("train_view1", array.reshape(3, 2)),
                digest("train_view1", array.view(np.int32)), digest("train_view1", array, 0.5)]
    assert len(set(variants)) == len(variants)
    assert digest("train_view1", np.asfortranarray(array)) == variants[0]
    assert digest("train_view1", array.astype(">f4")) == variants[0]
    assert digest("train_labels", np.array([1, 2], "u1")) == digest("train_labels", np.array([1, 2], "i8"))


def test_with_fingerprint_keeps_a_known_one():
    assert data_of(fingerprint="known").with_fingerprint().fingerprint == "known"
    assert len(data_of().with_fingerprint().fingerprint) == 64


def test_one_table_is_split_80_10_10_by_a_fixed_seed():
    table = split_of("toy", n=100)
    data, again = split_table(table, "toy"), split_table(table, "toy")
    assert [split.n_pairs for split in data.splits()] == [80, 10, 10]
    assert [split.name for split in data.splits()] == ["train", "valid", "test"]
    rows = torch.cat([split.view1[:, 0] for split in data.splits()])
    assert sorted(rows.tolist()) == table.view1[:, 0].tolist()
    assert all(torch.equal(a.view1, b.view1) for a, b in zip(data.splits(), again.splits(), strict=True))
    assert data.note == "split 80/10/10 with seed 23" and data.split_seed == 23


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(15, 60), st.floats(0.0, 0.5))
def test_no_item_crosses_a_split_of_a_pair_table(seed, n_items, extra):
    rng = np.random.default_rng(seed)
    pairs = [(int(i), int(j)) for i in range(n_items) for j in rng.integers(0, 3 * n_items, rng.integers(0, 4))
             ] + [(int(i), int(rng.integers(3 * n_items))) for i in range(int(extra * n_items))]
    if len(pairs) < 10:
        return
    table = PairSplit("toy", torch.arange(float(n_items))[:, None], torch.arange(3.0 * n_items)[:, None],
                      torch.tensor(pairs))
    try:
        data = split_table(table, "toy")
    except DataError as error:
        assert "groups that share no item" in str(error)
        return
    seen = [([*split.view1.flatten().tolist()], [*split.view2.flatten().tolist()]) for split in data.splits()]
    for side in (0, 1):
        items = [item for part in seen for item in part[side]]
        assert len(items) == len(set(items))
    values = [(int(split.view1[i]), int(split.view2[j])) for split in data.splits()
              for i, j in split.pair_table().tolist()]
    assert sorted(values) == sorted(pairs)


def test_captions_of_one_image_stay_together_and_lonely_items_are_counted():
    split = captioned(20, 5)
    table = dataclasses.replace(split, view2=torch.cat([split.view2, torch.zeros(3, 1)]), caption2=None)
    data = split_table(table, "toy")
    assert [part.n_pairs for part in data.splits()] == [80, 10, 10]
    assert [len(part.view1) for part in data.splits()] == [16, 2, 2]
    assert data.note.endswith("3 items without a partner dropped")


def test_tables_that_cannot_be_split():
    with pytest.raises(DataError, match="toy: 9 pairs are too few to split"):
        split_table(split_of(n=9), "toy")
    chain = torch.tensor([[i // 2, (i + 1) // 2] for i in range(40)])
    with pytest.raises(DataError, match="toy: its 40 pairs form only 1 groups"):
        split_table(PairSplit("toy", torch.zeros(21, 1), torch.zeros(21, 1), chain), "toy")
