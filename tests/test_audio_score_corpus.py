"""Pieces of music in files, whose rights are whose, and which of them are one work."""
from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_scores import abc_tune, musicxml

from xmodal.data.audio_score import packages
from xmodal.data.audio_score.corpus import Piece, RightsReservedError, find_pieces, read_piece
from xmodal.data.audio_score.works import LENGTH, SAME, group_works, melody_grams
from xmodal.errors import DataError

SCALE = musicxml([[[(step, 4, 1.0) for step in "CDEF"]]])


def only_piece(path: Path) -> Piece:
    piece, = find_pieces([str(path.parent)])
    return piece


def test_a_folder_gives_its_scores_sorted_by_name(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.xml", "deep/er/a.MEI", "deep/c.musicxml"):
        (tmp_path / name).write_text(SCALE)
    (tmp_path / "notes.txt").write_text("no music")
    (tmp_path / "two.abc").write_text(abc_tune("C", [0, 1]) + "\n" + abc_tune("D", [0, 1], number=2))
    assert [piece.name for piece in find_pieces([str(tmp_path)])] == ["b", "deep/c", "deep/er/a", "two#0", "two#1"]
    assert find_pieces([str(tmp_path), str(tmp_path)]) == find_pieces([str(tmp_path)])


def test_names_are_unique_where_files_share_one(tmp_path):
    """Two encodings side by side, and one name in two folders: each is a piece, all are one work."""
    for name in ("a/song.xml", "a/song.mei", "b/song.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SCALE)
    pieces = find_pieces([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [piece.name for piece in pieces] == ["song", "song~2", "song~3"] and len({one.path for one in pieces}) == 3
    assert {piece.work for piece in pieces} == {"song"}


@pytest.mark.parametrize("name, work", [
    ("bach/bwv10.7", "bach/bwv10"), ("bach/bwv1.6", "bach/bwv1"), ("bach/BWV227.11", "bach/bwv227"),
    ("mozart/k545/movement1", "mozart/k545"), ("haydn/opus74no1/movement3", "haydn/opus74"),
    ("airdsAirs/book1#12", "airdsairs/book1#12"), ("monteverdi/madrigal.3.1", "monteverdi/madrigal.3.1")])
def test_the_work_is_the_catalogue_number_or_the_piece(name, work):
    assert Piece(name, Path()).work == work


def test_an_unknown_corpus_has_a_suggestion_and_an_empty_folder_says_what_is_read(tmp_path):
    pytest.importorskip("music21")
    with pytest.raises(DataError, match=r"unknown corpus 'bache': no such folder, and did you mean .*bach"):
        find_pieces(["bache"])
    with pytest.raises(DataError, match=r"no music in .*: expected files \.mxl, \.xml"):
        find_pieces([str(tmp_path)])


def test_names_of_music21s_corpus():
    pytest.importorskip("music21")
    bach, scores = find_pieces(["bach"]), find_pieces(["scores"])
    assert len(bach) > 300 and all(re.match(r"bach/", piece.name) for piece in bach) and set(bach) < set(scores)
    assert not [piece.name for piece in scores if re.search("palestrina|essen|demos", piece.name)]
    assert len({piece.name for piece in scores}) == len(scores)
    assert find_pieces(["bach", "scores"]) == scores


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom", "latin-1"])
def test_all_encodings_give_the_same_text(encoding, tmp_path):
    text = SCALE.replace("part 0", "für")
    raw = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding)
    (tmp_path / "a.xml").write_bytes(raw)
    assert read_piece(only_piece(tmp_path / "a.xml")) == text.replace(' encoding="UTF-8"', "")


def test_mxl_holds_the_score_beside_its_table_of_contents(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.mxl", "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("score.xml", SCALE)
    assert "<step>C</step>" in read_piece(only_piece(tmp_path / "a.mxl"))
    with zipfile.ZipFile(tmp_path / "a.mxl", "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
    with pytest.raises(DataError, match="holds no score"):
        read_piece(only_piece(tmp_path / "a.mxl"))


def test_abc_is_cut_at_each_tunes_number(tmp_path):
    tunes = [abc_tune("C", [0, 1, 2], "first"), abc_tune("D", [2, 1, 0], "second X: no start", number=2)]
    (tmp_path / "a.abc").write_text("% a heading\n\n" + "\n\n".join(tunes))
    pieces = find_pieces([str(tmp_path)])
    assert [read_piece(piece) for piece in pieces] == tunes


@pytest.mark.parametrize("line, free", [
    ("All rights reserved", False), ("Copyright 2003 Ut Orpheus Edizioni", False), ("CC-BY-NC 4.0", False),
    ("CC BY-ND", False), ("cc by nc sa", False), ("CC BY–NC", False), ("CC-BY, non-commercial use only", False),
    ("music in the public domain; this edition © 2010 A. Man, all rights reserved", False),
    ("This is not in the public domain", False),
    ("Public Domain", True), ("Copyright 1884 by A. Queen (now public domain)", True), ("CC0", True),
    ("released under CC-BY 4.0", True), ("freely distributed under a CC-BY-SA 3.0 license", True), ("CC BY", True),
    ("Copyright ©", True), ("", True)])
def test_rights(line, free, tmp_path):
    (tmp_path / "a.xml").write_text(musicxml([[[("C", 4, 1.0)]]], rights=line or " "))
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "b.abc").write_text(f"%%copyright {line}\n" + abc_tune("C", [0, 1]))
    (tmp_path / "c.mei").write_text(f"<mei><availability><useRestrict>{line}</useRestrict></availability></mei>")
    for piece in find_pieces([str(tmp_path)]):
        if free:
            read_piece(piece)
        else:
            with pytest.raises(RightsReservedError):
                read_piece(piece)


# works

melodies = st.lists(st.integers(48, 72), max_size=40)


@given(melodies, st.integers(-12, 12))
def test_a_transposed_melody_has_the_same_runs(melody, by):
    assert melody_grams([note + by for note in melody]) == melody_grams(melody)


@given(melodies)
def test_runs_are_eight_intervals_long(melody):
    expected = set()
    for start in range(len(melody)):
        run = melody[start:start + LENGTH + 1]
        if len(run) == LENGTH + 1:
            expected.add(tuple(run[i + 1] - run[i] for i in range(LENGTH)))
    assert melody_grams(melody) == expected


def slow_groups(works: list[str], grams: list[frozenset]) -> list[list[int]]:
    """Passes over all pairs until nothing changes any more."""
    group = list(range(len(works)))
    changed = True
    while changed:
        changed = False
        for i in range(len(works)):
            for j in range(len(works)):
                shorter = min(len(grams[i]), len(grams[j]))
                common = len(grams[i] & grams[j])
                same = works[i] == works[j] or (common > 0 and common >= min(shorter, max(3, SAME * shorter)))
                if same and group[i] != group[j]:
                    group[i] = group[j] = min(group[i], group[j])
                    changed = True
    return [[i for i, one in enumerate(group) if one == first] for first in sorted(set(group))]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sets(st.integers(0, 40), max_size=30)), max_size=9))
def test_groups_are_what_is_one_by_name_or_melody_and_so_on(pieces):
    works, grams = [work for work, _ in pieces], [frozenset((gram,) for gram in held) for _, held in pieces]
    assert group_works(works, grams) == slow_groups(works, grams)


def test_twins_in_other_keys_are_one_and_strangers_are_not():
    rng = np.random.default_rng(0)
    tunes = [np.cumsum(rng.integers(-4, 5, 60)) + 60 for _ in range(4)]
    melodies = [*tunes, tunes[2] + 5, tunes[0][:30] - 3]
    assert group_works([str(i) for i in range(6)], [melody_grams(one) for one in melodies]) == [
        [0, 5], [1], [2, 4], [3]]


# packages

def without(monkeypatch, *missing: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in missing else real(name, *more))
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)


def test_missing_packages_are_named_with_the_extra_that_brings_them(monkeypatch):
    without(monkeypatch, *packages._NEEDED)
    with pytest.raises(DataError) as error:
        packages.check_installed()
    assert str(error.value) == (
        "audio_score needs verovio, resvg-py, Pillow, music21, pretty_midi, tinysoundfont: pip install "
        '"xmodal[audio]" (here: pip install -e ".[audio]") and pip install --no-deps tinysoundfont')


def test_tinysoundfont_alone_is_installed_without_its_dependencies(monkeypatch):
    without(monkeypatch, "tinysoundfont")
    expected = r"^audio_score needs tinysoundfont: pip install --no-deps tinysoundfont$"
    with pytest.raises(DataError, match=expected):
        packages.required("tinysoundfont")


@pytest.mark.parametrize("call", [packages.required, packages.folder_of])
def test_one_missing_package_is_named_where_it_is_needed(call, monkeypatch):
    without(monkeypatch, "resvg_py")
    with pytest.raises(DataError, match=r'^audio_score needs resvg-py: pip install "xmodal\[audio\]"'):
        call("resvg_py")
