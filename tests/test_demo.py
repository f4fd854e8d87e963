"""The page of run_demo.py: answers in this process, then in a browser; no file of the machine is read through it."""
from __future__ import annotations

import argparse
import io
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import visiting

from xmodal.cli import run_demo, run_search, run_train
from xmodal.data import PairedData, PairSplit, load_data, write_h5
from xmodal.errors import DataError
from xmodal.features.images import ColourHog
from xmodal.features.texts import TfIdf
from xmodal.search import Gallery

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")  # Gradio's own, of pandas
gradio = pytest.importorskip("gradio", reason="needs the extra demo")
Image = pytest.importorskip("PIL.Image", reason="needs the extra demo")
MODELS = Path(__file__).parent.parent / "models"
CCA = '''"""Linear CCA."""
from xmodal import LinearCCA, TrainConfig
CONFIG = TrainConfig(dim_latent=4)
build_objective = None
def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=1e-1, r2=1e-1)
'''
NAMES = ("red", "green", "blue", "<b>grey</b>", "black & white")


def options(run: Path, *more: str) -> argparse.Namespace:
    """What main makes of a command line."""
    parser = argparse.ArgumentParser()
    run_search.add_search_options(parser)
    return parser.parse_args(["--run", str(run), *more])


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """A run on pictures of one colour and its name; some of it looks like HTML."""
    folder, draw = tmp_path_factory.mktemp("colours"), torch.Generator().manual_seed(0)
    images, texts, splits = ColourHog(16), TfIdf(32, 0), []
    texts.fit(NAMES)
    shades = torch.tensor([[220, 30, 30], [30, 200, 40], [40, 60, 230], [128, 128, 128], [10, 10, 10]])
    for name, copies in (("train", 12), ("valid", 2), ("test", 3)):
        rows = torch.arange(5).repeat(copies)
        noise = torch.randint(-9, 10, (len(rows), 3, 16, 16), generator=draw)
        pixels = (shades[rows][:, :, None, None] + noise).clamp(0, 255).byte()
        said = [NAMES[row] for row in rows.tolist()]
        splits.append(PairSplit(name, images(pixels), torch.from_numpy(texts(said)), caption2=said,
                                ids=[f"{name}-{row}" for row in range(len(rows))], thumbnails1=pixels.float() / 255))
    write_h5(PairedData("colours", *splits, encoder1=json.dumps(images.state()), encoder2=json.dumps(texts.state())),
             folder / "colours.h5")
    (folder / "cca.py").write_text(CCA)
    assert run_train.main(["--model", str(folder / "cca.py"), "--data", str(folder / "colours.h5"), "--runs",
                           str(folder)]) == 0
    return folder / "cca"


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Where the page of a run is served."""
    page = run_demo.build_page(options(run))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield run_demo.launch(page, "127.0.0.1", port, wait=False)
    page.close()


@pytest.fixture(scope="module")
def address(colours) -> Iterator[str]:
    with served(colours) as found:
        yield found


def test_a_text_finds_pictures_and_says_so_in_escaped_html(colours):
    desk = run_demo.Desk(options(colours))
    titles = [title for title, *_ in desk.ways()]
    assert titles == ["Picture", "Type", "Pick"]
    answer = desk.ways()[1][2](4, "<b>grey</b> & red")
    assert answer.count('<li class="item') == 4 and answer.count("data:image/png;base64,") == 4
    assert "&lt;b&gt;grey&lt;/b&gt; &amp; red" in answer and "<b>" not in answer


def test_a_picture_finds_its_name(colours):
    desk = run_demo.Desk(options(colours))
    green = np.zeros((40, 40, 3), dtype=np.uint8) + np.array([30, 200, 40], dtype=np.uint8)
    answer = desk.ways()[0][2](1, green)
    assert "green" in answer and "(V1_to_V2)" in answer


def test_an_item_is_picked_and_its_partner_framed(colours):
    desk = run_demo.Desk(options(colours))
    pick = desk.ways()[2][2]
    for asked in ("test-7", "7"):
        answer = pick(15, asked, "view 1")
        assert answer.count("item right") == 1 and "its partner" in answer and "test-7" in answer
    assert "(V2_to_V1)" in pick(3, "", "view 2")
    for path in ("/etc/hostname", "row.npy", "../colours.h5:3"):
        with pytest.raises(DataError, match="expected a whole number"):
            pick(3, path, "view 1")


def test_a_changed_gallery_shows_its_items_as_they_are(colours, tmp_path):
    place = str(tmp_path / "g")
    assert run_search.main(["--run", str(colours), "--build", "--gallery", place, "--V2_to_V1"]) == 0
    gallery = Gallery.load(place)
    gallery.remove(["test-0", "test-1"])
    gallery.add(torch.ones(3, 4), ["new-0", "new-1", "new-2"], ["one", "two", "three"])
    gallery.save(place)
    answer = run_demo.Desk(options(colours, "--gallery", place)).ways()[1][2](16, "7", "view 2")
    cells = [cell.partition("</li>")[0] for cell in answer.split("<li")[1:]]
    shown = [next(name for name in gallery.ids if f">{name}<" in cell) for cell in cells]
    assert sorted(shown) == sorted(gallery.ids)
    for name, cell in zip(shown, cells, strict=True):
        assert ("data:image/png" in cell) == name.startswith("test") and ("its partner" in cell) == (name == "test-7")


@pytest.mark.parametrize(("way", "values", "said"), [
    (0, (None,), "give a picture first"), (1, ("",), "type a text"), (1, ("a" * 2001,), "type a text"),
    (1, ("  ",), "the query is empty"), (2, ("99", "view 1"), "has items 0 to 14, got 99"),
])
def test_mistakes_are_told(colours, way, values, said):
    with pytest.raises(DataError, match=said):
        run_demo.Desk(options(colours)).ways()[way][2](3, *values)


def test_a_half_digit_can_be_drawn_for_either_view(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_train.main(["--model", str(MODELS / "digits_cca.py"), "--data", "digits"]) == 0
    desk = run_demo.Desk(options(Path("runs/digits_cca")))
    ways = {title: ask for title, _, ask, _ in desk.ways()}
    assert list(ways) == ["Picture (view 1)", "Draw (view 1)", "Picture (view 2)", "Draw (view 2)", "Pick"]
    half = load_data("digits").test.view1[5].reshape(8, 4).repeat_interleave(35, 0).repeat_interleave(35, 1)
    drawn = (255 - half / half.max() * 255).byte().numpy()[:, :, None].repeat(3, axis=2)
    found = ways["Draw (view 1)"](5, {"composite": drawn})
    assert found.count('<li class="item') == 5
    with pytest.raises(DataError, match="draw something first"):
        ways["Draw (view 1)"](5, {"composite": np.full((280, 140, 3), 255, dtype=np.uint8)})


def test_a_recording_in_any_form_that_gradio_gives(tmp_path, monkeypatch):
    from xmodal.features.sounds import Spectrograms

    monkeypatch.chdir(tmp_path)
    draw, encoder = torch.Generator().manual_seed(0), Spectrograms(4)
    splits = [PairSplit(name, torch.randn(n, 6, generator=draw), torch.rand(n, 1, 92, 4, generator=draw))
              for name, n in (("train", 120), ("valid", 10), ("test", 10))]
    write_h5(PairedData("sounds", *splits, encoder2=json.dumps(encoder.state()), rising2=True), "sounds.h5")
    Path("cca.py").write_text(CCA)
    assert run_train.main(["--model", "cca.py", "--data", "sounds.h5"]) == 0
    ways = {title: ask for title, _, ask, _ in run_demo.Desk(options(Path("runs/cca"))).ways()}
    wave = (np.sin(np.arange(48_000) * 0.05) * 20_000).astype(np.int16)
    assert ways["Record"](3, (48_000, np.stack([wave, wave], axis=1)), None) == ways["Record"](3, (48_000, wave), 0.5)
    with pytest.raises(DataError, match="there is nothing at 9"):
        ways["Record"](3, (48_000, wave), 9)
    with pytest.raises(DataError, match="record or upload"):
        ways["Record"](3, None, None)


def test_mistakes_of_the_command_are_one_line(colours, capsys, monkeypatch):
    for arguments, said in ((["--port", "0"], "--port must be from 1"), (["--split", "x"], "has no split 'x'"),
                            (["--gallery", "nowhere"], "there is no gallery in nowhere")):
        assert run_demo.main(["--run", str(colours), *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert run_demo.main(["--run", str(colours)]) == 2
    assert "gradio" in capsys.readouterr().err


# -- the page that is served -----------------------------------------------------------------------------------------

def posted(url: str, content: dict[str, Any]) -> str:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def result_of(address: str, function: str, data: list[Any]) -> str:
    """What the page's server answers to a call made by hand."""
    event = json.loads(posted(f"{address}gradio_api/call/{function}", {"data": data}))["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/{function}/{event}", timeout=20) as answer:
        return answer.read().decode()


def functions(address: str) -> dict[str, list[str]]:
    """The server's functions and the kinds of their inputs."""
    with urllib.request.urlopen(f"{address}gradio_api/info", timeout=20) as answer:
        described = json.loads(answer.read())["named_endpoints"]
    return {name.strip("/"): [one["component"] for one in about["parameters"]] for name, about in described.items()}


def test_no_file_of_the_machine_is_opened_by_a_request(address, tmp_path):
    secret = tmp_path / "secret.png"
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (30, 200, 40)).save(content, "PNG")
    secret.write_bytes(content.getvalue())
    upload_folder = os.environ["GRADIO_TEMP_DIR"]
    link = tmp_path / "link.png"
    link.symlink_to(secret)
    asked = {name for name, kinds in functions(address).items() if "Image" in kinds}
    assert asked
    for name in asked:
        for sent in ({"path": str(secret), "meta": {"_type": "gradio.FileData"}}, {"path": str(secret)},
                     {"path": f"file={secret}", "meta": {"_type": "gradio.FileData"}},
                     {"path": "x.png", "url": secret.as_uri(), "meta": {"_type": "gradio.FileData"}},
                     {"path": "x.png", "url": secret.as_uri()}, {"url": secret.as_uri()},
                     {"path": f"{upload_folder}/../{secret.relative_to('/')}"}, {"path": str(link)}):
            try:
                answer = result_of(address, name, [3, sent])
            except urllib.error.HTTPError as error:
                answer = f"event: error {error}"
            assert "event: error" in answer and "green" not in answer, (name, sent, answer)
    for path in (secret, Path("/etc/hostname")):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}gradio_api/file={path}", timeout=20)


def test_large_uploads_are_refused(address):
    boundary, body = "b0", io.BytesIO()
    body.write(b'--b0\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n')
    body.write(bytes(run_demo.MOST_BYTES + 1000))
    body.write(b"\r\n--b0--\r\n")
    request = urllib.request.Request(f"{address}gradio_api/upload", body.getvalue(),
                                     {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code == 413


@pytest.mark.parametrize("width", [400, 1400])
def test_a_query_is_typed_and_answered(chromium, address, width):
    with visiting(chromium, address, width) as visit:
        page = visit.page
        page.get_by_role("tab", name="Type").click()
        page.locator("textarea:visible, input[type=text]:visible").first.fill("blue")
        page.locator("button.primary:visible").click()
        page.locator(".found li").first.wait_for(timeout=20_000)
        assert page.locator(".found li").count() == 12 and "blue" in page.locator(".found li").all_inner_texts()[0]
        page.get_by_role("tab", name="Pick").click()
        page.locator("textarea:visible, input[type=text]:visible").first.fill("no such item")
        page.locator("button.primary:visible").click()
        page.get_by_text("expected a whole number").first.wait_for(timeout=20_000)
        assert visit.overflow <= 0
        assert [url for url in visit.requests if not url.startswith((address, "data:", "blob:"))] == []
        assert visit.complaints == []


def test_a_picture_is_uploaded_and_answered(chromium, address, tmp_path):
    Image.new("RGB", (40, 40), (40, 60, 230)).save(tmp_path / "any.png")
    with visiting(chromium, address) as visit:
        page = visit.page
        page.locator("input[type=file]").first.set_input_files(str(tmp_path / "any.png"))
        page.locator(".image-container img, img[alt]").first.wait_for(timeout=20_000)
        page.locator("button.primary:visible").click()
        page.locator(".found li").first.wait_for(timeout=20_000)
        assert "blue" in page.locator(".found li").all_inner_texts()[0]


def test_a_half_digit_is_drawn_and_answered(chromium, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_train.main(["--model", str(MODELS / "digits_cca.py"), "--data", "digits"]) == 0
    with served(Path("runs/digits_cca")) as address, visiting(chromium, address) as visit:
        page = visit.page
        page.get_by_role("tab", name="Draw (view 1)").click()
        page.get_by_role("button", name="Brush").click()
        canvas = page.locator("canvas:visible").first.bounding_box()
        middle, top = canvas["x"] + canvas["width"] / 2, canvas["y"] + 0.2 * canvas["height"]
        page.mouse.move(middle, top)
        page.mouse.down()
        for step in range(10):
            page.mouse.move(middle - 3 * step, top + 0.05 * step * canvas["height"])
        page.mouse.up()
        page.locator("button.primary:visible").click()
        page.locator(".found li").first.wait_for(timeout=20_000)
        assert "asked: your drawing (V1_to_V2)" in page.locator(".found p").all_inner_texts()
