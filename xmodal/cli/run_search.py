"""Finds the items of the other view that lie nearest to a query, by a trained run.

  python run_search.py --run runs/emoji_infonce --query "smiling cat" --k 5
      a sentence, where the data store how texts became vectors
  python run_search.py --run runs/emoji_infonce --query cat.png
  python run_search.py --run runs/audio_score_best --query take.wav@12.5
      a picture; a recording, from 12.5 seconds on
  python run_search.py --run runs/digits_ccal_cont --query 17 --query row:18
      items of the split: an id or a row, row 18 for certain
  python run_search.py --run runs/x --query mine.npy --V2_to_V1 --json
      rows of numbers, of view 2, the answer as JSON
  python run_search.py --run runs/x --build --kind hnsw --split train
      keeps a fast gallery of training items in the run folder
  python run_search.py --run runs/x --build --from more.npy --gallery more
      a gallery of items from elsewhere
  python run_search.py --run runs/x --build --gallery http://localhost:19530
      a gallery in Milvus (extra: milvus)

A query is an id or a row of the split, a picture, a .wav, a .npy file, numbers, or else a sentence; row:, id: and text:
in front say which. FILE.h5:17 and FILE.npz:17 are rows of the file's test pairs. Scores are cosines: 1 is the same
direction. Without a gallery that was built before, the items of the test split are searched.
"""
from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.cli.common import command_parser, pick_device, run_command
from xmodal.data import load_data
from xmodal.data.readers import read_numbers
from xmodal.errors import DataError
from xmodal.metrics.hubness import CORRECTIONS
from xmodal.report.text import WIDTH
from xmodal.runs import load_run
from xmodal.search.codes import BEST, CODES
from xmodal.search.gallery import Gallery, Neighbours
from xmodal.search.indexes import KINDS
from xmodal.search.lookup import AnyGallery, Lookup, Query, as_json, run_galleries
from xmodal.search.milvus import COLLECTION, MilvusGallery, is_milvus
from xmodal.search.storage import DESCRIPTION

DEFAULT_K = 10


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: search(args), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_search_options(parser)
    parser.add_argument("--query", action="append", default=[], metavar="QUERY",
                        help="what to look up; may be repeated")
    parser.add_argument("--k", type=int, help="how many neighbours (default: 10, or all where there are fewer)")
    parser.add_argument("--V1_to_V2", action="store_true", help="the query is of view 1 (default where it can be)")
    parser.add_argument("--V2_to_V1", action="store_true", help="the query is of view 2")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    building = parser.add_argument_group("building a gallery")
    building.add_argument("--build", action="store_true", help="build the gallery before anything is looked up")
    building.add_argument("--kind", choices=KINDS,
                          help="exact (default), hnsw or ivfpq (extra search), or codes")
    building.add_argument("--from", dest="items", metavar="FILE",
                          help="items of the gallery's view: a .npy file, or a data file (its --split)")
    building.add_argument("--correction", choices=CORRECTIONS, help="score items without the favours of hubs")
    building.add_argument("--recall", type=float, help="recall@10 to reach if not exact (default: 0.95)")
    building.add_argument("--bits", type=int, help="of codes (default: 128)")
    building.add_argument("--codes", choices=(*CODES, BEST),
                          help="how codes are made (default: whichever finds most)")
    return parser


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is searched, by which run."""
    parser.add_argument("--run", required=True, metavar="DIR", help="the run folder, such as runs/digits_ccal_cont")
    parser.add_argument("--data", metavar="DATA", help="where its data lie now (default: where they lay at training)")
    parser.add_argument("--split", default="test", metavar="NAME", help="whose items are searched (default: test)")
    parser.add_argument("--gallery", metavar="PLACE", help="a gallery's folder, a Milvus Lite file x.db, or a Milvus "
                        "address (default: gallery_V1_to_V2 or gallery_V2_to_V1 in the run folder)")
    parser.add_argument("--collection", default=COLLECTION, help=f"of a Milvus (default: {COLLECTION})")
    parser.add_argument("--run_code", action="store_true",
                        help="allow an encoder that is a function named by the data file (MODULE:FUNCTION)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")


def search(args: argparse.Namespace) -> int:
    """One search, from options to tables; returns the exit code."""
    view = _query_view(args)
    if not args.query and not args.build:
        raise DataError("nothing to do: give --query or --build")
    _fill_in(args)
    lookup = open_lookup(args)
    if args.build:
        build(args, lookup, view or 1)
    queries = [query for text in args.query for query in lookup.read(text, view)]
    answers: list[dict[str, Any]] = []
    for query in queries:
        gallery = open_gallery(args, lookup, 3 - query.view)
        found = lookup.find(query, min(DEFAULT_K, len(gallery)) if args.k is None else args.k)
        partners = lookup.partner_rows(query)
        if args.json:
            answers.append(dict(as_json(query, found, lookup.direction(query), sorted(partners))))
        else:
            print(neighbour_table(query, found, lookup.direction(query), gallery.describe(), partners))
    if args.json and queries:
        print(json.dumps({"run": lookup.run.name, "queries": answers}, indent=2, ensure_ascii=False))
    return 0


#: Options of building, and what they are where they aren't given.
_BUILDING = {"kind": "exact", "items": None, "correction": None, "recall": 0.95, "bits": 128, "codes": BEST}


def _fill_in(args: argparse.Namespace) -> None:
    """Defaults of the options of building, which do nothing without ``--build``."""
    for name, default in _BUILDING.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif not args.build:
            raise DataError(f"--{'from' if name == 'items' else name} is for building: give --build, too")
    if not 0 < args.recall <= 1:
        raise DataError(f"--recall must be more than 0 and at most 1, got {args.recall:g}")


def open_lookup(args: argparse.Namespace) -> Lookup:
    """The run of ``--run`` and its data."""
    run = load_run(args.run, device=pick_device(args.device))
    return Lookup(run, run.data(args.data), args.split, args.run_code)


def _query_view(args: argparse.Namespace) -> int | None:
    if args.V1_to_V2 and args.V2_to_V1:
        raise DataError("--V1_to_V2 and --V2_to_V1 contradict each other: leave one out")
    return 1 if args.V1_to_V2 else 2 if args.V2_to_V1 else None


def open_gallery(args: argparse.Namespace, lookup: Lookup, view: int) -> AnyGallery:
    """The gallery of a view: the one of ``--gallery``, or the run's own, or else one of the split in memory."""
    own = run_galleries(lookup.run, view, args.split)
    place = args.gallery or (str(own) if (own / DESCRIPTION).is_file() else None)
    if place is not None and view not in lookup.opened:
        gallery = MilvusGallery.load(place, collection=args.collection) if is_milvus(place) else Gallery.load(place)
        lookup.use(gallery, view, place)
    return lookup.gallery(view)


def build(args: argparse.Namespace, lookup: Lookup, query_view: int) -> None:
    """Builds the gallery that queries of a view are looked up in."""
    view = 3 - query_view
    embeddings, ids, captions = _items(args, lookup, view)
    about = {**lookup.about(view), **({"from": args.items, "split": None} if args.items else {})}
    queries = lookup.likely_queries(query_view) if args.kind != "exact" or args.correction else None
    place = args.gallery or str(run_galleries(lookup.run, view, args.split))
    gallery: AnyGallery
    if is_milvus(place):
        if args.kind != "exact":
            raise DataError(f"Milvus has indexes of its own: leave out --kind {args.kind}")
        gallery = MilvusGallery.build(embeddings, ids, uri=place, captions=captions, collection=args.collection,
                                      queries=lookup.likely_queries(query_view), correction=args.correction,
                                      about=about)
    else:
        gallery = Gallery.build(embeddings, ids, captions=captions, kind=args.kind, queries=queries,
                                correction=args.correction, recall=args.recall, bits=args.bits, codes=args.codes,
                                about=about, path=place)
    lookup.use(gallery, view, place)
    if not args.json:
        print(*textwrap.wrap(f"built {place}: {gallery_line(gallery.describe())}", WIDTH), sep="\n")
        if gallery.recall < args.recall:
            print(f"its recall is below the {args.recall:g} that was asked for: the index can't do better")


def _items(args: argparse.Namespace, lookup: Lookup, view: int) -> tuple[Tensor, list[str] | None, list[str] | None]:
    """Embeddings, ids and captions of the items to be searched."""
    if args.items is None:
        return lookup.embedded(view), lookup.names(view), lookup.captions(view)
    path = Path(args.items)
    if path.suffix.lower() == ".npy":
        return lookup.run.embed(view, lookup.readers[view].numbers(read_numbers(path))), None, None
    views = lookup.run.about["data"].get("views") if path.suffix.lower() in (".h5", ".hdf5") else None
    other = Lookup(lookup.run, load_data(args.items, views=views), args.split)
    return other.embedded(view), other.names(view), other.captions(view)


# -- what is printed -------------------------------------------------------------------------------------------------

def gallery_line(said: dict[str, Any]) -> str:
    """A gallery's kind, size, recall and memory."""
    parts = [f"{said['items']:,} items of {said['dim']} values, {said['kind']}"]
    if said.get("correction"):
        parts.append(f"corrected by {said['correction']}")
    if said["kind"] not in ("exact",):
        parts.append(f"recall@10 {said['recall_at_10']:.3f} (measured with {said['recall_measured_with']})")
    if "index_bytes" in said:
        parts.append(f"index {said['index_bytes'] / 2**20:,.1f} MB, vectors {said['vector_bytes'] / 2**20:,.1f} MB")
    return ", ".join(parts)


def neighbour_table(query: Query, found: Neighbours, direction: str, gallery: dict[str, Any], partners: set[int]
                    ) -> str:
    """A query's neighbours, a line each of at most 80 columns; its partners have a ``*``."""
    places = [(score, row, name, caption) for score, row, name, caption in
              zip(found.scores[0].tolist(), found.rows[0].tolist(), found.ids[0], found.captions[0], strict=True)
              if row >= 0]
    width = min(32, max([len("id"), *(len(_printable(name)) for _, _, name, _ in places)]))
    lines = [*textwrap.wrap(f"{_printable(query.shown)} ({direction}, {gallery_line(gallery)})", WIDTH),
             f"{'':>5}  {'score':>6}  id"]
    for place, (score, row, name, caption) in enumerate(places, start=1):
        line = f"{place:>3} {'*' if row in partners else ' '}  {score:6.3f}  {_cut(_printable(name), width):<{width}}  "
        lines.append((line + _cut(_printable(caption), WIDTH - len(line))).rstrip())
    if partners:
        lines.append("* its partner" if any(row in partners for _, row, _, _ in places) else
                     f"its partner is not among the first {len(places)}")
    return "\n".join([*lines, ""])


def _printable(text: str) -> str:
    """Without what would move the cursor or end a line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[:max(0, width - 1)] + "…"


