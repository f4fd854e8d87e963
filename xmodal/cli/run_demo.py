"""A page on this machine to type, draw, record or pick a query and see its neighbours in the other view (extra demo).

  python run_demo.py --run runs/emoji_infonce
      open the address that it prints, in a browser
  python run_demo.py --run runs/mnist_halves_best --port 7861
  python run_demo.py --run runs/x --gallery runs/x/gallery_V1_to_V2
      searches a gallery that was built before

Only this machine can open the page, unless --host names an address that others reach.
"""
from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile

from xmodal.cli.common import command_parser, run_command
from xmodal.cli.page_items import Shelf
from xmodal.cli.run_search import add_search_options, gallery_line, open_gallery, open_lookup
from xmodal.data.readers import ItemReader
from xmodal.errors import DataError, XmodalError
from xmodal.features.packages import required
from xmodal.metrics import DIRECTIONS
from xmodal.report.html import Markup, element, escape, foreign, join
from xmodal.report.items import Item, item_html, shorten
from xmodal.search.lookup import Lookup, Query

#: What may be sent in one file; longer texts are refused, too.
MOST_BYTES, LONGEST_QUERY = 10 * 2**20, 2000
MOST_NEIGHBOURS, NEIGHBOURS = 50, 12
DRAWING = 360  # pixels of the longer side of a sketch
FONTS = ("system-ui", "sans-serif")
STYLE = """
.found ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .7rem; padding: 0;
            list-style: none; margin: .6rem 0 0 }
.found .item { display: flex; flex-direction: column; gap: .25rem; border: 1px solid var(--border-color-primary);
               border-radius: .5rem; padding: .5rem; font-size: .82rem; overflow-wrap: anywhere; margin: 0 }
.found .right { border: 2px solid #D55E00 }
.found .mark { color: #D55E00; font-weight: 600 }
.found img { image-rendering: pixelated; width: 100%; max-width: 6.5rem; height: auto; align-self: center;
             background: white }
.found svg { width: 100%; height: 3rem; color: #0072B2 }
.found .asked { max-width: 11rem }
.found p { margin: .3rem 0 }
footer { display: none !important }
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: demo(args), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_search_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    return parser


def demo(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    if not 0 < args.port < 65536:
        raise DataError(f"--port must be from 1 to 65535, got {args.port}")
    page = build_page(args)
    try:
        launch(page, args.host, args.port, wait=True)
    except OSError as error:
        raise DataError(f"can't listen on {args.host}:{args.port}: {error}; --port takes another") from error
    return 0


def launch(page: Any, host: str, port: int, wait: bool) -> str:
    """Serves a page and returns its address; ``wait`` until it is interrupted.

    Nothing is shared or reported elsewhere. Only files that were uploaded to the page are read, of 10 MB at most.
    """
    gradio = required("gradio")
    _, address, _ = page.launch(server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
                                max_file_size=MOST_BYTES, allowed_paths=[], show_error=True, footer_links=[],
                                css=STYLE, ssr_mode=False, theme=gradio.themes.Default(
                                    primary_hue="blue", font=FONTS, font_mono=("monospace",)))
    print(f"open {address} in a browser; Ctrl-C ends", flush=True)
    if wait:
        page.block_thread()
    return str(address)


def build_page(args: argparse.Namespace) -> Any:
    """The page of a run: a tab for each way to ask that one of its views understands."""
    uploads = tempfile.mkdtemp(prefix="xmodal-demo-")
    # Both are read when Gradio is imported; in the folder lies nothing but what was uploaded to this page.
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=uploads)
    gradio = required("gradio")
    desk = Desk(args)
    with gradio.Blocks(title=f"xmodal: {desk.lookup.run.name}", analytics_enabled=False) as page:
        gradio.Markdown(desk.heading())
        how_many = gradio.Slider(1, min(MOST_NEIGHBOURS, desk.smallest), value=min(NEIGHBOURS, desk.smallest), step=1,
                                 label="neighbours")
        for title, make, ask, button in desk.ways():
            with gradio.Tab(title):
                inputs = [_only_uploads(one, Path(uploads), gradio) for one in make(gradio)]
                go = gradio.Button(button, variant="primary")
                shown = gradio.HTML(elem_classes="found", container=False)
            asked = {"inputs": [how_many, *inputs], "outputs": shown, "show_progress": "minimal"}
            go.click(_told(gradio, ask), **asked)
            if hasattr(inputs[0], "submit"):
                inputs[0].submit(_told(gradio, ask), **asked)
    weakref.finalize(page, shutil.rmtree, uploads, ignore_errors=True)
    return page


def _only_uploads(component: Any, uploads: Path, gradio: Any) -> Any:
    """The component, reading no file but uploaded ones.

    A request can name any path in place of an upload, and Gradio (6.31) opens it if the request leaves out what marks
    it as a file. Addresses, from which it would download, are dropped.
    """
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        for file in _files_in(payload):
            if not Path(str(file.path)).resolve().is_relative_to(uploads.resolve()):
                raise gradio.Error("this is no file that was uploaded here", print_exception=False)
            file.url = None
        return read(payload)

    component.preprocess = preprocess
    return component


def _files_in(payload: Any) -> Iterator[Any]:
    """Everything in a component's input that has a path."""
    if hasattr(payload, "path"):
        yield payload
    elif hasattr(payload, "model_fields_set"):
        for name in type(payload).model_fields:
            yield from _files_in(getattr(payload, name))
    elif isinstance(payload, dict):
        yield from (found for one in payload.values() for found in _files_in(one))
    elif isinstance(payload, list | tuple):
        yield from (found for one in payload for found in _files_in(one))


def _told(gradio: Any, ask: Callable[..., str]) -> Callable[..., str]:
    """A mistake of the user is shown on the page, in one line; what else goes wrong shows no more than that."""
    def answer(k: float, *values: Any) -> str:
        try:
            return ask(int(k), *values)
        except XmodalError as error:
            raise gradio.Error(escape(shorten(str(error), 300)), print_exception=False, duration=None) from error

    return answer


Way = tuple[str, Callable[..., list[Any]], Callable[..., str], str]


class Desk:
    """Takes what users ask on the page and answers with what they see.

    Args:
        args: the options of the command.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.lookup: Lookup = open_lookup(args)
        self.shelf = Shelf(self.lookup.data, self.lookup.split)
        views = (1, 2) if args.gallery is None else (self._view_of_gallery(),)
        self.galleries = {view: open_gallery(args, self.lookup, view) for view in views}
        self.smallest = min(len(gallery) for gallery in self.galleries.values())

    def _view_of_gallery(self) -> int:
        """The view that the gallery of ``--gallery`` is of."""
        failures = []
        for view in (1, 2):
            try:
                open_gallery(self.args, self.lookup, view)
            except XmodalError as error:
                failures.append(error)
                continue
            return view
        raise failures[0]

    def heading(self) -> str:
        """What is searched, as Markdown."""
        lines = [f"# {_plain(self.lookup.run.name)}",
                 f"{_plain(self.lookup.data.title)}, {self.lookup.split.name} items"]
        lines += [f"* {DIRECTIONS[2 - view]}: {_plain(gallery_line(gallery.describe()))}"
                  for view, gallery in self.galleries.items()]
        return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])

    def ways(self) -> list[Way]:
        """Title, inputs, answer and button of each way to ask."""
        found = [(view, what) for view in sorted(3 - gallery for gallery in self.galleries) for what in _WAYS
                 if self._can(view, what)]
        ways: list[Way] = []
        for view, what in found:
            title, inputs = _WAYS[what]
            both = (3 - view, what) in found
            ways.append((f"{title} (view {view})" if both else title,
                         partial(inputs, reader=self.lookup.readers[view]), self._asking(view, what), "Find"))
        return [*ways, ("Pick", self._pick_inputs, self._picked, "Show")]

    def _can(self, view: int, what: str) -> bool:
        reader = self.lookup.readers[view]
        return reader.drawn is not None if what == "drawing" else what in reader.reads

    def _pick_inputs(self, gradio: Any) -> list[Any]:
        views = [f"view {view}" for view in sorted(3 - gallery for gallery in self.galleries)]
        return [gradio.Textbox(label=f"an id or a row of the {self.lookup.split.name} split; empty: any",
                               max_length=LONGEST_QUERY, lines=1, max_lines=1),
                gradio.Radio(views, value=views[0], label="an item of")]

    # -- answers -----------------------------------------------------------------------------------------------------

    def _asking(self, view: int, what: str) -> Callable[..., str]:
        return lambda k, *values: self.answer(getattr(self, f"_{what}")(view, *values), k)

    def _text(self, view: int, text: str | None) -> Query:
        if not text or len(text) > LONGEST_QUERY:
            raise DataError(f"type a text of 1 to {LONGEST_QUERY:,} letters")
        return Query(text, view, self.lookup.readers[view].text(text))

    def _picture(self, view: int, pixels: np.ndarray | None) -> Query:
        if pixels is None:
            raise DataError("give a picture first")
        return Query("your picture", view, self.lookup.readers[view].picture(_png(pixels)))

    def _drawing(self, view: int, drawn: dict[str, Any] | None) -> Query:
        pixels = None if drawn is None else drawn.get("composite")
        if not isinstance(pixels, np.ndarray) or pixels.min() == pixels.max():
            raise DataError("draw something first")
        return Query("your drawing", view, self.lookup.readers[view].picture(_png(pixels)))

    def _sound(self, view: int, sound: tuple[int, np.ndarray] | None, at: float | None) -> Query:
        if sound is None:
            raise DataError("record or upload something first")
        content = io.BytesIO()
        wavfile.write(content, *sound)
        return Query("your recording", view, self.lookup.readers[view].sound(content.getvalue(), at))

    def _picked(self, k: int, text: str | None, which: str) -> str:
        view = 2 if which == "view 2" else 1
        text = (text or "").strip()
        ids = self.lookup.split.ids
        if not text:
            count = len(self.lookup.split.view1 if view == 1 else self.lookup.split.view2)
            query = self.lookup.item(int(torch.randint(count, ())), view)
        elif ids is not None and text in ids:
            query = self.lookup.read(f"id:{text}", view)[0]
        else:
            query = self.lookup.read(f"row:{text}", view)[0]  # never a file
        return self.answer(query, k)

    def answer(self, query: Query, k: int) -> str:
        """What a query finds, as HTML: the query itself where it is an item, its neighbours, its partners framed."""
        found = self.lookup.find(query, k)
        partners, origins = self.lookup.partner_rows(query), self.lookup.origins(3 - query.view).tolist()
        said = element("p", "asked: ", foreign(shorten(query.shown)), f" ({self.lookup.direction(query)})")
        asked = [] if query.row is None else \
            [element("div", item_html(self.shelf.items(query.view - 1, [query.row])[0], tag="div"), class_="asked")]
        cells = []
        columns = found.scores[0].tolist(), found.rows[0].tolist(), found.ids[0], found.captions[0]
        for place, (score, row, name, caption) in enumerate(zip(*columns, strict=True), start=1):
            if row >= 0:
                right = row in partners
                item = self._item(3 - query.view, row, name, caption, origins)
                cells.append(item_html(item, f"{place}. · {score:.3f}" + (" · its partner" if right else ""),
                                       right=right))
        return join([said, *asked, element("ol", *cells)])

    def _item(self, view: int, row: int, name: str, caption: str, origins: Sequence[int]) -> Item:
        """An item of a gallery: as the split shows it, or by what the gallery knows where it is none of the split."""
        if row >= len(origins):
            return Item(f"item {row}", caption or name, notes=[name] if caption else [])
        item = self.shelf.items(view - 1, [origins[row]])[0]
        if item.is_text or item.said or not caption:
            return item
        return Item(item.name, item.content, item.low, item.high, caption, item.notes)


# -- inputs ----------------------------------------------------------------------------------------------------------

def _named(reader: ItemReader) -> str:
    return f"view {reader.view}" if reader.name == f"view {reader.view}" else f"view {reader.view}, {reader.name}"


def _text_inputs(gradio: Any, reader: ItemReader) -> list[Any]:
    return [gradio.Textbox(label=f"a text for {_named(reader)}", lines=1, max_lines=4, max_length=LONGEST_QUERY)]


def _picture_inputs(gradio: Any, reader: ItemReader) -> list[Any]:
    return [gradio.Image(label=f"a picture for {_named(reader)}", type="numpy", image_mode="RGB", format="png",
                         sources=["upload", "clipboard"], height=DRAWING, buttons=[])]


def _drawing_inputs(gradio: Any, reader: ItemReader) -> list[Any]:
    _, height, width = reader.drawn or (1, 1, 1)
    scale = DRAWING / max(height, width)
    return [gradio.Sketchpad(label=f"drawn for {_named(reader)}", type="numpy", image_mode="RGB", format="png",
                             canvas_size=(round(width * scale), round(height * scale)), fixed_canvas=True, layers=False,
                             transforms=(), buttons=[],
                             brush=gradio.Brush(default_size=DRAWING // 14, colors=["#000000"], color_mode="fixed"))]


def _sound_inputs(gradio: Any, reader: ItemReader) -> list[Any]:
    return [gradio.Audio(label=f"sound for {_named(reader)}", type="numpy", sources=["microphone", "upload"],
                         format="wav", editable=False, buttons=[]),
            gradio.Number(label="seconds at which to look (empty: the middle)", value=None, minimum=0)]


_WAYS: Mapping[str, tuple[str, Callable[..., list[Any]]]] = {
    "text": ("Type", _text_inputs), "picture": ("Picture", _picture_inputs), "drawing": ("Draw", _drawing_inputs),
    "sound": ("Record", _sound_inputs)}


def _png(pixels: np.ndarray) -> bytes:
    image = required("PIL.Image").fromarray(pixels)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _plain(text: str) -> Markup:
    """A text that Markdown shows as it is."""
    return Markup("".join(f"&#{ord(letter)};" if not letter.isalnum() and letter != " " else letter for letter in text))
