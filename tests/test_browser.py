"""The page of run_eval.py --html in a browser: nothing is loaded, nothing overflows, nothing is complained about."""
from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from browser import visiting
from conftest import correlated_views

from xmodal.cli import run_eval, run_train
from xmodal.data import PairedData, PairSplit, write_h5

LONG = "a/very/long/name/without/any/place/to/break/it/" * 3
MODEL = f'''"""A small network."""
from torch import nn
from xmodal import CCALayer, TraceNorm, TrainConfig, TwoTower

CONFIG = TrainConfig(dim_latent=4, max_epochs=2, batch_size=50)

def build_model(view1_shape, view2_shape):
    return TwoTower(nn.Linear(*view1_shape, 4), nn.Linear(*view2_shape, 4), CCALayer(4))

def build_objective():
    return TraceNorm()  # {LONG}
'''


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page with long ids and captions, labels and hostile text."""
    folder = tmp_path_factory.mktemp("browser")
    generator = torch.Generator().manual_seed(0)
    splits = []
    for name, n in (("train", 200), ("valid", 40), ("test", 40)):
        split = PairSplit(name, *correlated_views(n, 12, 9, 6, 0.5, generator), labels=torch.arange(n) % 13,
                          ids=[f"{LONG}{i}" for i in range(n)],
                          caption2=[f"{i} <script>alert(1)</script> {LONG}" for i in range(n)])
        splits.append(split)
    data = PairedData("hostile", *splits, source=f"https://example.org/{LONG}", picture1=(4, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("XMODAL_DATA", raising=False)
        write_h5(dataclasses.replace(data, fingerprint="").with_fingerprint(), "hostile.h5")
        Path("small.py").write_text(MODEL)
        assert run_train.main(["--model", "small.py", "--data", "hostile.h5"]) == 0
        assert run_eval.main(["--model", "small.py", "--data", "hostile.h5", "--html", "report.html", "--hubness"]) == 0
    return folder / "report.html"


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_loads_nothing_and_fits(chromium, page, width, scheme):
    with visiting(chromium, page.as_uri(), width, color_scheme=scheme) as visit:
        assert visit.overflow <= 0
        headings = visit.page.locator("h2").all_inner_texts()
        assert len(headings) == 11 and headings[0] == "Results" and headings[-1] == "Doing it again"
        widths = visit.page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert widths and all(widths)
        visit.page.locator("summary").click()
        assert visit.overflow <= 0
        assert [url for url in visit.requests if not url.startswith("data:")] == [page.as_uri()]
        assert not visit.complaints


def test_links_of_the_contents_lead_somewhere(chromium, page):
    with visiting(chromium, page.as_uri(), 400) as visit:
        for link in visit.page.locator("nav a").all():
            assert visit.page.locator(link.get_attribute("href")).count() == 1


def test_figures_have_a_size_and_text_in_the_ink_of_the_page(chromium, page):
    with visiting(chromium, page.as_uri(), 400, color_scheme="dark") as visit:
        boxes = [figure.bounding_box() for figure in visit.page.locator("figure svg").all()]
        assert len(boxes) >= 8 and all(box["width"] > 300 and box["height"] > 120 for box in boxes)
        ink = visit.page.evaluate("getComputedStyle(document.body).color")
        assert ink == visit.page.locator("figure svg text").first.evaluate("text => getComputedStyle(text).fill")


def test_it_prints_without_cut_figures(chromium, page):
    with visiting(chromium, page.as_uri()) as visit:
        visit.page.emulate_media(media="print")
        kept = visit.page.locator("figure, .query").evaluate_all(
            "parts => parts.map(part => getComputedStyle(part).breakInside)")
        assert set(kept) == {"avoid"}
        assert visit.page.locator("nav").is_hidden()
        assert visit.page.pdf(format="A4").startswith(b"%PDF")
