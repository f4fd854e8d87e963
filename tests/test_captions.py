"""Tables of captions: what spreadsheets, scripts and old data sets write; and how problems are told."""
from __future__ import annotations

import codecs
import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.captions import Caption, read_captions, storable
from xmodal.data.problems import Problems
from xmodal.errors import DataError


def read(folder: Path, name: str, content: str | bytes) -> tuple[list[Caption], list[str]]:
    """Captions, and the lines of the file of problems."""
    file, problems = folder / name, Problems()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    captions = read_captions(file, problems)
    told = folder / "problems.tsv"
    problems.tell(lambda line: None, told)
    return captions, told.read_text(encoding="utf-8").splitlines() if told.exists() else []


def pairs(captions: list[Caption]) -> list[tuple[str, str]]:
    return [(one.picture, one.text) for one in captions]


@pytest.mark.parametrize(("content", "expected"), [
    ('a.jpg,one; two; three\nb.jpg,four\n', [("a.jpg", "one; two; three"), ("b.jpg", "four")]),
    ('a.jpg,"one; two; three"\n', [("a.jpg", "one; two; three")]),
    ('"a;b.jpg",one | two\n', [("a;b.jpg", "one | two")]),
    ("a.jpg|one, two, three\n", [("a.jpg", "one, two, three")]),
    ("\n\na.jpg;one, two\n", [("a.jpg", "one, two")]),
    ("id, no.;image;caption\n1;a.jpg;one\n", [("a.jpg", "one")]),
    ('"image";"caption"\n"a.jpg";"one, two"\n', [("a.jpg", "one, two")]),
    ('image,caption\na.jpg,"one\ntwo"\n', [("a.jpg", "one two")]),
    ("image,caption\ra.jpg,one\rb.jpg,two\r", [("a.jpg", "one"), ("b.jpg", "two")]),
    ('a.jpg,say "hi" there\n', [("a.jpg", 'say "hi" there')])])
def test_the_separator_of_a_csv_file_is_not_one_of_its_captions(content, expected, tmp_path):
    captions, problems = read(tmp_path, "c.csv", content)
    assert pairs(captions) == expected and not problems


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("header", ["", "FileName\tText\n"])
def test_line_ends_byte_order_marks_and_headers_make_no_difference(ending, mark, header, tmp_path):
    content = (header + "a.jpg\tone\n\nb.jpg\tzwei Ä\n").replace("\n", ending)
    captions, problems = read(tmp_path, "c.tsv", mark + content.encode())
    assert pairs(captions) == [("a.jpg", "one"), ("b.jpg", "zwei Ä")] and not problems
    assert [one.line for one in captions] == [1 + bool(header), 3 + bool(header)]


def test_a_mark_goes_even_if_the_first_line_is_not_utf_8(tmp_path):
    captions, problems = read(tmp_path, "c.tsv", codecs.BOM_UTF8 + b"a.jpg\tcaf\xe9\n")
    assert pairs(captions) == [("a.jpg", "café")]
    assert problems == ["lines that are not UTF-8, read as Latin-1\tline 1"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding, tmp_path):
    with pytest.raises(DataError, match="is in UTF-16; save it as UTF-8"):
        read(tmp_path, "c.tsv", "\ufeffa.jpg\tone\n".encode(encoding))


def test_numbers_of_captions_are_cut_off_names(tmp_path):
    captions, _ = read(tmp_path, "c.txt", "a.jpg#0\tone\na.jpg#12\ttwo\nb#1.jpg\tthree #1\n")
    assert pairs(captions) == [("a.jpg", "one"), ("a.jpg", "two"), ("b#1.jpg", "three #1")]


def test_an_open_quote_does_not_swallow_the_lines_after_it_in_silence(tmp_path):
    captions, problems = read(tmp_path, "c.csv", 'a.jpg,one\nb.jpg,"two\nc.jpg,three\nd.jpg,four\n')
    assert pairs(captions) == [("a.jpg", "one")]
    assert len(problems) == 1 and "lines 2 to 4: unexpected end of data" in problems[0]
    captions, problems = read(tmp_path, "c.csv", 'a.jpg,one\nb.jpg,"two" three\nc.jpg,four\n')
    assert pairs(captions) == [("a.jpg", "one"), ("c.jpg", "four")] and "line 2: " in problems[0]


@pytest.mark.parametrize(("name", "content"), [
    ("c.tsv", "a.jpg\tone\0two\n"), ("c.csv", "a.jpg,one\0two\n"),
    ("c.jsonl", '{"image": "a.jpg", "text": "one\\u0000two"}')])
def test_nul_becomes_a_space(name, content, tmp_path):
    captions, problems = read(tmp_path, name, content)
    assert pairs(captions) == [("a.jpg", "one two")]
    assert problems == ["captions with NUL characters or halves of others, replaced\ta.jpg (line 1)"]


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    captions, problems = read(tmp_path, "c.jsonl", '{"image": "a.jpg", "text": "one \\ud83d"}\n'
                                                   '{"image": "a.jpg", "text": "two \\ud83d\\ude00"}')
    assert pairs(captions) == [("a.jpg", "one ?"), ("a.jpg", "two \N{GRINNING FACE}")] and len(problems) == 1


@pytest.mark.parametrize("line", ["[]", "3", "null", "{", '{"image": "a.jpg"}', '{"caption": "x"}',
                                  '{"image": ["a.jpg"], "caption": "x"}', '{"image": "a.jpg", "caption": null}',
                                  '{"image": "a.jpg", "captions": ["x", 3]}', '{"image": "a.jpg", "captions": {}}',
                                  "[" * 100_000, "1" * 5000])
def test_json_lines_of_another_form_are_listed(line, tmp_path):
    captions, problems = read(tmp_path, "c.jsonl", '{"image": "b.jpg", "caption": "good"}\n' + line)
    assert pairs(captions) == [("b.jpg", "good")]
    assert len(problems) == 1 and problems[0].startswith("lines that can't be read\tline 2: ")


def test_json_lines_may_name_splits_too(tmp_path):
    captions, problems = read(tmp_path, "c.jsonl", "\n".join(
        json.dumps({"image": "a.jpg", "captions": ["one", "more"], "split": split})
        for split in ("train", "VAL", "dev", "test", "", None, "best", {"x": 1})))
    assert [one.split for one in captions] == [split for split in ("train", "valid", "valid", "test", "", "")
                                               for _ in range(2)]
    assert len(problems) == 2 and "line 7: best" in problems[0]


def test_rows_that_are_too_short_are_listed(tmp_path):
    captions, problems = read(tmp_path, "c.tsv", "split\timage\tcaption\ntrain\ta.jpg\tone\ntrain\tb.jpg\ntest\n")
    assert captions == [Caption("a.jpg", "one", 2, "train")]
    assert [line.partition("\t")[2] for line in problems] == ["line 3: 2 field(s)", "line 4: 1 field(s)"]


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl"])
@given(rows=st.lists(st.tuples(st.text("abc/._-", min_size=1), st.text(st.characters(exclude_categories=["Cs", "Cc"]),
                                                                       min_size=1)), min_size=1, max_size=5))
def test_what_a_program_writes_is_read_back(name, rows):
    rows = [(picture, " ".join(text.split())) for picture, text in rows if text.strip()]
    out = io.StringIO()
    if name == "c.jsonl":
        out.write("\n".join(json.dumps({"image": picture, "caption": text}) for picture, text in rows))
    elif name == "c.csv":
        csv.writer(out).writerows([("image", "caption"), *rows])
    else:
        out.write("\n".join(f"{picture}\t{text}" for picture, text in [("image", "caption"), *rows]))
    with tempfile.TemporaryDirectory() as folder:
        if rows:
            assert pairs(read(Path(folder), name, out.getvalue())[0]) == rows


ODD = st.text(st.sampled_from('a\t\n\r\0",;|#0{}[]:\ufeff\u2028é \\'), max_size=40)


@given(content=st.one_of(ODD.map(str.encode), ODD.map(lambda text: b"image,caption,split\n" + text.encode()),
                         ODD.map(lambda text: text.encode("utf-16"))),
       name=st.sampled_from(["c.tsv", "c.txt", "c.csv", "c.jsonl"]))
def test_odd_tables_give_captions_that_can_be_stored_or_an_error_of_ours(content, name):
    with tempfile.TemporaryDirectory() as folder:
        try:
            captions, problems = read(Path(folder), name, content)
        except DataError as error:
            assert "\n" not in str(error)
            return
    assert all(one.text == storable(one.text).strip() != "" and one.picture for one in captions)
    assert all(line.count("\t") == 1 for line in problems)


def test_problems_are_one_line_each_whatever_they_hold(tmp_path):
    problems, said, file = Problems(), [], tmp_path / "deep" / "p.tsv"
    assert not problems and problems.count("names") == 0
    for item in ("two\nlines", "a\ttab", "\x1b[31mred", "half \ud800", "naïve"):
        problems.add("names", item)
    problems.tell(said.append, file)
    assert problems and problems.count("names") == 5
    assert file.read_text(encoding="utf-8") == ("names\ttwo\\nlines\nnames\ta\\ttab\nnames\t\\x1b[31mred\n"
                                                "names\thalf \\ud800\nnames\tnaïve\n")
    assert said == [r"  names: 5 (two\nlines; a\ttab; \x1b[31mred and 2 more)", f"  all of them: {file}"]
    Problems().tell(pytest.fail, file)
    assert not file.exists()
