"""The page of run_eval.py --html: well formed, self-contained, escaped, with the numbers of metrics.json."""
from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import command, together

from xmodal.cli import page_items, run_eval, run_train
from xmodal.data import PairedData, PairSplit, write_h5
from xmodal.metrics import DIRECTIONS
from xmodal.metrics.views import make_view
from xmodal.pictures import ViewStyle, as_thumbnail
from xmodal.report.figures import bin_name, binned, draw, rank_ends, rank_histogram
from xmodal.report.html import document, element, escape, foreign
from xmodal.report.items import Item, bars, item_html, picture

MODEL = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")
CCA = '''"""Linear CCA for small data."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=4, r1=0.1, r2=0.1)

def build_model(view1_shape, view2_shape):
    return LinearCCA(min(CONFIG.dim_latent, *view1_shape, *view2_shape), r1=CONFIG.r1, r2=CONFIG.r2)

build_objective = None
'''
VOID = {"meta", "link", "img", "br"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}
EVIL = "<script>alert('x')</script> & \"quoted\" </style><img src=x onerror=alert(1)> \x00\ud800 $\\alpha$"


class Reader(HTMLParser):
    """Elements, attributes and the visible text of a page; complains about what isn't well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"h1", "h2", "h3"}.intersection(self.open):
            self.headings.append(data)


def check(text: str) -> Reader:
    """What holds for every page."""
    reader = Reader(text)
    tags = [tag for tag, _ in reader.seen]
    assert tags.count("h1") == 1 and "script" not in tags and "iframe" not in tags
    ids = [given["id"] for _, given in reader.seen if "id" in given]
    assert len(ids) == len(set(ids))
    for tag, given in reader.seen:
        for name, value in given.items():
            assert not name.startswith("on"), (tag, name)
            if name.removeprefix("xlink:") in LOADING:
                assert value.startswith(("data:", "#")), (tag, value[:60])
                assert value[0] != "#" or value[1:] in ids, value
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#") and target[1:] in ids, (tag, value)
        if tag == "img":
            assert given.get("alt")
        if tag == "svg":
            assert given.get("role") == "img" and given.get("aria-label")
    assert "@import" not in text and "url(" not in text[text.index("<style"):text.index("</style>")]
    assert ("html", {"lang": "en"}) in reader.seen
    policy = [given["content"] for tag, given in reader.seen if given.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")
    assert len(text.encode()) < 2_000_000
    return reader


# -- one run, looked at from many sides ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder with a run on digits, its page and its metrics.json."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("XMODAL_DATA", raising=False)
        assert run_train.main(["--model", MODEL, "--data", "digits", "--set", "max_epochs=2", "--seed", "4"]) == 0
        assert run_eval.main(["--model", MODEL, "--data", "digits", "--html", "report.html"]) == 0
    return folder


@pytest.fixture(scope="module")
def reader(evaluated) -> Reader:
    return check((evaluated / "report.html").read_text(encoding="utf-8"))


def test_all_sections_are_there(reader):
    for heading in ("Results", "Ranks", "Correlation per dimension", "Training", "Retrieved: view 1 → view 2",
                    "Retrieved: view 2 → view 1", "Embedding", "Hubs", "Configuration", "Data", "Doing it again"):
        assert heading in reader.headings
    assert reader.headings[0] == "digits_ccal_cont on digits"
    assert sum(tag == "figcaption" for tag, _ in reader.seen) == 9


def test_numbers_are_those_of_metrics_json(evaluated, reader):
    metrics = json.loads((evaluated / "runs/digits_ccal_cont/metrics.json").read_text())
    for key, name, digits in (("r1", "Recall at 1 (%)", 2), ("r25", "Recall at 25 (%)", 2), ("mrr", "MRR", 3),
                              ("median_rank", "Median rank", 2), ("mean_rank", "Mean rank", 2)):
        expected = ""
        for direction in DIRECTIONS:
            low, high = metrics[direction]["intervals"][key]
            expected += f"{metrics[direction][key]:.{digits}f}{low:.{digits}f} to {high:.{digits}f}"
        assert expected in reader.text, name
    for key, digits in (("map", 3), ("ndcg10", 3), ("mean_distance", 4)):
        assert all(f"{metrics[direction][key]:.{digits}f}" in reader.text for direction in DIRECTIONS)
    assert f"canonical dimensions{metrics['canonical_correlation']:.2f}{metrics['dim']}" in reader.text
    assert f"own dimensions{metrics['sum_correlation']:.2f}{metrics['dim']}" in reader.text
    assert "Recall at 10 (%)" in reader.text and "2.50" in reader.text     # chance: 10 of 400
    assert "200.50" in reader.text and "0.016" in reader.text


def test_intervals_do_not_change_the_metrics(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(evaluated)
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--ci", "--json"]) == 0
    kept = json.loads((evaluated / "runs/digits_ccal_cont/metrics.json").read_text())
    assert json.loads(capsys.readouterr().out) == kept


def test_the_same_run_gives_the_same_page(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(evaluated)
    before = Path("report.html").read_bytes()
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--html", "report.html", "--json"]) == 0
    assert Path("report.html").read_bytes() == before
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert "report in report.html" in captured.err


def test_how_to_do_it_again_names_what_was_set(reader):
    assert "cp runs/digits_ccal_cont/experiment.py digits_ccal_cont.py" in reader.text
    assert "xmodal train --model digits_ccal_cont.py --data digits --seed 4 --set max_epochs=2" in reader.text
    assert "xmodal eval --model digits_ccal_cont.py --data digits --html report.html" in reader.text
    assert "xmodal prepare" not in reader.text     # digits are built in


def test_other_options_are_in_the_commands(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(evaluated)
    monkeypatch.setattr("xmodal.cli.page.MAP_PAIRS", 10)
    options = ["--n_test", "50", "--split", "valid", "--html", "few.HTM", "--linear_cca", "--hubness", "--transfer"]
    assert run_eval.main(["--model", MODEL, "--data", "digits", *options]) == 0
    assert capsys.readouterr().out.endswith("report in few.HTM\n")
    text = check(Path("few.HTM").read_text(encoding="utf-8")).text
    assert "--split valid --n_test 50 --html few.HTM" in text
    assert "the first 50 valid pairs" in text and "Linear CCA of the raw views, V2_to_V1" in text
    assert "CSLS" in text and "linear SVMs" in text


@pytest.mark.parametrize(("option", "message"), [
    ("report.pdf", "expected a file that ends in .html or .htm, got .pdf"), ("report", "got no suffix"),
    ("nowhere/report.html", "there is no folder nowhere"), ("folder.html", "--html folder.html is a folder"),
    ("a\0.html", "--html can't hold a NUL character"),
])
def test_refused_in_one_line_before_data_are_read(tmp_path, monkeypatch, capsys, option, message):
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    assert run_eval.main(["--model", MODEL, "--data", "no_such_data", "--html", option]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_two_processes_write_one_page(evaluated, tmp_path):
    (tmp_path / "runs").symlink_to(evaluated / "runs")
    together(command, 2, "run_eval", str(tmp_path), ["--model", MODEL, "--data", "digits", "--html", "report.html"])
    check((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert (tmp_path / "out0.txt").read_text().count("report in report.html") == 1
    assert not (tmp_path / "out1.txt").read_text() and not (tmp_path / "err1.txt").read_text()


# -- other data ----------------------------------------------------------------------------------------------------

def page_of(data: PairedData, *options: str) -> tuple[Reader, dict]:
    """The page of linear CCA of ``data``, made in the working folder, and its metrics.json."""
    Path("small_cca.py").write_text(CCA)
    write_h5(dataclasses.replace(data, fingerprint="").with_fingerprint(), "small.h5")
    given = ["--model", "small_cca.py", "--data", "small.h5"]
    assert run_train.main(given) == 0
    assert run_eval.main([*given, "--html", "small.html", *options]) == 0
    return check(Path("small.html").read_text(encoding="utf-8")), json.loads(
        Path("runs/small_cca/metrics.json").read_text())


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    return tmp_path


def test_captions_are_text_whatever_they_say(own_folder, captioned_pictures):
    safe = EVIL.replace("\x00\ud800", "")     # a file can't hold those
    test = dataclasses.replace(captioned_pictures.test, caption2=[f"{i} {safe}" for i in range(64)],
                               ids=[safe] * 20)
    data = dataclasses.replace(captioned_pictures, test=test, source=safe, licence="<b>none</b>", name="a<b>",
                               note="</pre>", picture1=(3, 4))
    reader, metrics = page_of(data)
    assert safe in reader.text and "<b>none</b>" in reader.text and "a<b>" in reader.headings[0]
    assert metrics["V1_to_V2"]["n_gallery"] == 64 and metrics["V2_to_V1"]["n_queries"] == 60
    assert "Fitted in closed form" in reader.text
    assert sum(tag == "img" for tag, _ in reader.seen) > 50
    assert "5.00" in reader.text              # the other way one of 20 pictures matches


def test_labels_and_captions_may_be_missing(own_folder, correlated_pairs):
    reader, _ = page_of(correlated_pairs)
    assert "class" not in reader.text.replace("same class", "") and "mAP" not in reader.text
    assert sum(tag == "img" for tag, _ in reader.seen) == 0 and sum(tag == "svg" for tag, _ in reader.seen) > 50


def test_one_pair_is_enough(own_folder, correlated_pairs):
    one = PairSplit("test", correlated_pairs.test.view1[:1], correlated_pairs.test.view2[:1])
    reader, metrics = page_of(dataclasses.replace(correlated_pairs, test=one, synthetic=True))
    assert metrics["V1_to_V2"]["r1"] == 100.0 and "Rank 1" in reader.text and "Synthetic data." in reader.text


def test_a_collapsed_embedding_scores_chance_and_has_a_page(own_folder, correlated_pairs):
    test = correlated_pairs.test
    same = PairSplit("test", test.view1[:1].expand(60, -1).clone(), test.view2[:1].expand(60, -1).clone())
    reader, metrics = page_of(dataclasses.replace(correlated_pairs, test=same))
    assert metrics["V1_to_V2"]["mean_rank"] == 30.5 and "Rank 30.5" in reader.text


@pytest.mark.parametrize("log", [None, "", "{]\n{}\n", '{"epoch": 1000000000000, "mrr_va": 0.5}\n', '{"epoch": 1}\n',
                                 '{"epoch": 1, "mrr_va": null, "loss_tr": "x"}\n'])
def test_a_log_that_is_missing_or_torn_costs_the_curves_only(evaluated, monkeypatch, tmp_path, log):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits_ccal_cont").mkdir(parents=True)
    run = tmp_path / "runs" / "digits_ccal_cont"
    for file in (evaluated / "runs/digits_ccal_cont").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    (run / "log.jsonl").unlink()
    if log is not None:
        (run / "log.jsonl").write_text(log)
    monkeypatch.setattr("xmodal.cli.page.MAP_PAIRS", 5)
    assert run_eval.main(["--model", MODEL, "--data", "digits", "--n_test", "30", "--html", "r.html"]) == 0
    assert "no curves" in check(Path("r.html").read_text(encoding="utf-8")).text


# -- its parts -----------------------------------------------------------------------------------------------------

def test_everything_is_escaped_but_markup():
    made = element("p", EVIL, element("b", "bold"), title=EVIL)
    reader = Reader(str(made))
    assert [tag for tag, _ in reader.seen] == ["p", "b"]
    assert "\x00" not in made and "\ud800" not in made and made.encode()
    assert reader.seen[0][1]["title"] == EVIL.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert escape(made) is made and str(foreign("x")) == '<bdi dir="auto">x</bdi>'
    check(document(EVIL, element("h1", EVIL)))


def test_a_picture_is_kept_pixel_by_pixel():
    for pixels in (np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(36, dtype=np.uint8).reshape(3, 4, 3)):
        coded = re.search(r"base64,([^\"]+)", picture(pixels, "x"))[1]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(coded)))), pixels)
    large = picture(np.zeros((400, 100), dtype=np.uint8), "x")
    assert 'width="24" height="96"' in large


def test_thumbnails_are_on_one_scale_and_the_right_way_up():
    item = np.array([[0.0, 1.0], [2.0, 9.0]])
    assert as_thumbnail(item, ViewStyle(0.0, 2.0)).tolist() == [[0, 128], [255, 255]]
    assert as_thumbnail(item, ViewStyle(0.0, 2.0, rising=True)).tolist() == [[255, 255], [0, 128]]
    assert as_thumbnail(item.ravel(), ViewStyle(0.0, 2.0)) is None
    assert as_thumbnail(item.ravel(), ViewStyle(0.0, 2.0, (2, 2))).shape == (2, 2)


@pytest.mark.parametrize("n", [1, 64, 65, 5000])
def test_values_are_bars_or_a_line(n):
    drawn = bars(np.linspace(-1, 2, n), -1.0, 2.0, "x")
    assert ("fill=\"none\"" in drawn) == (n > 64) and len(drawn) < 5000
    assert Reader(str(drawn)).seen[0][1]["aria-label"] == "x"


def test_an_item_says_what_it_is():
    shown = item_html(Item("view 1, item 3", np.zeros((2, 2), dtype=np.uint8), said="a <dog>", notes=["class 3"]), "2.")
    reader = Reader(str(shown))
    assert reader.text == "2.a <dog>class 3"
    assert [given["alt"] for tag, given in reader.seen if tag == "img"] == ["view 1, item 3"]


def test_bins_hold_what_their_names_say():
    ends = rank_ends(300)
    assert ends == [1, 2, 5, 10, 25, 50, 100, 250, 500]
    assert [bin_name(ends, i, 1) for i in range(4)] == ["1", "2", "3–5", "6–10"]
    assert binned(np.array([1, 1.5, 2, 5, 300]), ends).tolist() == [20, 40, 20, 0, 0, 0, 0, 0, 20]
    assert rank_ends(1) == [1] and rank_ends(5) == [1, 2, 5] and rank_ends(10**6)[-1] == 10**6


def test_two_figures_share_no_ids():
    ranks = {direction: np.array([1.0, 2, 30]) for direction in DIRECTIONS}
    one, two = (draw(name, "x", rank_histogram, ranks, dict.fromkeys(DIRECTIONS, 30)) for name in ("one", "two"))
    found = [set(re.findall(r'id="([^"]+)"', figure)) for figure in (one, two)]
    assert not found[0] & found[1] and "http" not in one and "<style" not in one
    assert one == draw("one", "x", rank_histogram, ranks, dict.fromkeys(DIRECTIONS, 30))


def test_queries_are_chosen_by_rank_then_likeness():
    ranks = torch.tensor([5.0, 1, 1, 9, 2, 3, 9, 4, 7])
    scores = torch.tensor([0.1, 0.2, 0.9, 0.5, 0.1, 0.1, 0.4, 0.1, 0.1])
    assert page_items.choose(ranks, scores, each=2) == [[2, 1], [5, 7], [6, 3]]
    for n in range(1, 8):
        chosen = [place for places in page_items.choose(torch.arange(1.0, n + 1), torch.zeros(n)) for place in places]
        assert len(set(chosen)) == len(chosen) and chosen[0] == 0


def test_best_matches_and_neighbours_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(12, 4, generator=generator), torch.randn(9, 4, generator=generator)
    pairs = torch.tensor([[0, 3], [0, 4], [5, 3], [5, 8], [11, 0]])
    cosines = torch.nn.functional.normalize(z1.double(), dim=1) @ torch.nn.functional.normalize(z2.double(), dim=1).T
    scores = cosines[pairs[:, 0], pairs[:, 1]]
    best, partner = page_items.best_matches(pairs[:, 0], pairs[:, 1], scores, torch.tensor([0, 5, 11]))
    for query, score, item in zip((0, 5, 11), best, partner, strict=True):
        own = pairs[pairs[:, 0] == query, 1]
        assert score == cosines[query, own].max() and item == own[cosines[query, own].argmax()]
    near = page_items.nearest_items(make_view(z1, "1"), make_view(z2, "2"), torch.tensor([2, 7]), k=3)
    assert near.tolist() == cosines[[2, 7]].argsort(dim=1, descending=True)[:, :3].tolist()


def test_classes_of_view_2_come_from_its_partners():
    split = PairSplit("test", torch.zeros(3, 1), torch.zeros(4, 1), torch.tensor([[0, 1], [2, 0]]),
                      torch.tensor([7, 8, 9]))
    one, two = page_items.item_labels(split)
    assert one.tolist() == [7, 8, 9] and two.tolist() == [9, 7, 6, 6]
    assert page_items.item_labels(dataclasses.replace(split, labels=None)) is None
