"""Prepares a data set: gets it, checks it, splits it, and writes it to data/NAME.h5.

  python prepare_data.py --list
      what there is, and what is prepared
  python prepare_data.py mnist_halves
      from the network; with --source DIR from files that are here
  python prepare_data.py from_folder --images DIR --captions FILE.tsv --name mine
      pictures and captions of your own (extra: images)
  python prepare_data.py emoji --show pairs.png
      draws twelve pairs of data that are prepared
  python prepare_data.py icons --image_features efficientnet hog
      with further views of the pictures (extra: images)
  python prepare_data.py audio_score --pairs 2600
      scores engraved and played here (extra: audio)
  python prepare_data.py audio_score --wav "bach/bwv10.7@8.166" query.wav
      writes the sound of one item
  python prepare_data.py iapr --images DIR --annotations DIR
      features of the public release, made here
  python prepare_data.py iapr --synthetic
      made-up values of the full shape, to try commands with

Arrays of your own need no preparing: --data mine.npz, mine.h5 or mine.py.
"""
from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from xmodal.cli.common import command_parser, run_command, seed_number
from xmodal.cli.drawing import shown_items, shown_styles
from xmodal.cli.program import as_typed
from xmodal.data.files import read_h5, write_h5
from xmodal.data.pairs import PairedData
from xmodal.data.sets import DATA_SETS, DataSet, default_data_dir, load_data
from xmodal.errors import DataError, did_you_mean
from xmodal.nearest import spread_rows
from xmodal.pictures import pair_sheet, write_png

_OPTIONS = ("source", "url", "synthetic", "legacy_normalisation", "pairs", "seed", "corpus", "images", "captions",
            "annotations", "image_features", "text_features", "keep_unpaired", "zero_shot")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 after an error."""
    args = make_parser().parse_args(argv)
    return run_command(lambda: _run(args), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"data set: {', '.join(DATA_SETS)}")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the data sets and which are prepared")
    instead.add_argument("--show", type=Path, metavar="FILE", help="draw twelve pairs of prepared data to FILE, a .png")
    instead.add_argument("--wav", nargs=2, metavar=("ID", "FILE"),
                         help="write the sound of an item of prepared data, by its id, to FILE (audio_score)")
    parser.add_argument("--source", type=Path, metavar="PATH", help="take the raw data from this file or folder")
    parser.add_argument("--url", help="download the raw data from here")
    parser.add_argument("--synthetic", action="store_true", help="write made-up data of the same shape (iapr)")
    parser.add_argument("--legacy_normalisation", action="store_true",
                        help="scale by all rows, not only the training rows, as published (iapr)")
    parser.add_argument("--pairs", type=int, metavar="N", help="of all splits together (audio_score; default 13,000)")
    parser.add_argument("--seed", type=seed_number, help="of what is drawn (audio_score; default 23)")
    parser.add_argument("--corpus", nargs="+", metavar="NAME",
                        help="scores (default), tunes, all, composers, or folders of your own scores (audio_score)")
    own = parser.add_argument_group("pictures and texts (from_folder, iapr, emoji, icons)")
    own.add_argument("--images", type=Path, metavar="DIR", help="folder of pictures: PNG, JPEG, WebP (from_folder, "
                     "iapr)")
    own.add_argument("--captions", type=Path, metavar="FILE", help="table of pictures and captions: .tsv, .csv, .jsonl "
                     "(from_folder)")
    own.add_argument("--annotations", type=Path, metavar="DIR", help="folder of .eng files (iapr)")
    own.add_argument("--name", dest="called", metavar="NAME", help="of your own data: NAME.h5 (from_folder)")
    own.add_argument("--image_features", nargs="+", metavar="HOW", help="efficientnet (default), hog, timm:NAME, "
                     "torchvision:NAME, MODULE:FUNCTION; the first is the default view")
    own.add_argument("--text_features", nargs="+", metavar="HOW", help="tfidf (default), sentences, MODULE:FUNCTION")
    own.add_argument("--keep_unpaired", action="store_true", help="keep pictures without captions and captions without "
                     "pictures (from_folder)")
    own.add_argument("--zero_shot", action="store_true", help="hold out whole classes; writes "
                     "NAME_zero_shot.h5 (emoji, icons)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to this .h5 file")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="write to DIR/NAME.h5 ($XMODAL_DATA or data)")
    return parser


def _run(args: argparse.Namespace) -> int:
    data_dir = args.data_dir or default_data_dir()
    if args.list:
        _list(data_dir)
        return 0
    if args.name is None:
        raise DataError(f"which data set? known: {', '.join(DATA_SETS)}")
    if args.name not in DATA_SETS:
        raise DataError(f"unknown data set {args.name!r}; {did_you_mean(args.name, DATA_SETS)}")
    known = DATA_SETS[args.name]
    given = {option: getattr(args, option) for option in _OPTIONS}
    chosen = {option: value for option, value in given.items() if value is not None and value is not False}
    for option in chosen:
        if option not in known.options:
            raise DataError(f"{args.name} takes no --{option}")
    if args.out is not None and args.out.suffix.lower() not in (".h5", ".hdf5"):
        raise DataError(f"--out must name a .h5 file; got {args.out}")
    if args.show is not None or args.wav is not None:
        if useless := [f"--{option}" for option in chosen if option not in ("corpus", "zero_shot")]:
            raise DataError(f"--show and --wav look at data that are prepared; leave out {' and '.join(useless)}")
        name = args.called or (f"{args.name}_zero_shot" if args.zero_shot else args.name)
        data = load_data(str(args.out or name), data_dir=data_dir)
        return _show(data, args.show) if args.show is not None else _play(known, data, args)
    useless = [f"--{option}" for option in ("pairs", "seed", "corpus") if option in chosen]
    if "source" in chosen and useless:
        raise DataError(f"--source reads pairs that are there; leave out {' and '.join(useless)}")
    if known.prepare is None:
        return _built_in(args.name, args.out)
    out = args.out or data_dir / f"{_file_name(args, known)}.h5"
    known.prepare(out, say=_say, **chosen)
    _report(read_h5(out), out)
    return 0


def _file_name(args: argparse.Namespace, known: DataSet) -> str:
    """What the prepared data are called: by the user where the data are the user's."""
    if "captions" not in known.options:
        if args.called is not None:
            raise DataError(f"{args.name} takes no --name; --out FILE writes elsewhere")
        return f"{args.name}_zero_shot" if args.zero_shot else str(args.name)
    missing = [option for option, value in (("--images DIR", args.images), ("--captions FILE", args.captions),
                                            ("--name NAME", args.called or args.out)) if value is None]
    if missing:
        raise DataError(f"{args.name} needs {' '.join(missing)}")
    name = args.called or args.out.stem
    if name in DATA_SETS:
        raise DataError(f"--name {name} is the name of a data set that comes with xmodal; take another")
    if Path(name).name != name or name in (".", "..") or "." in name or "\0" in name:
        raise DataError(f"--name becomes the name of a file and can't be {name!r}")
    return str(name)


def _show(data: PairedData, file: Path) -> int:
    if file.suffix.lower() != ".png":
        raise DataError(f"--show {file}: expected a file that ends in .png")
    rows = spread_rows(len(data.train), min(12, len(data.train) // 4 * 4 or len(data.train)))
    chosen = data.train.select(rows)
    pairs = chosen.pair_table()
    sheet = pair_sheet(shown_items(data, chosen, 0, pairs[:, 0]), shown_items(data, chosen, 1, pairs[:, 1]),
                       shown_styles(data, chosen))
    write_png(sheet, file)
    print(f"wrote {file}")
    return 0


def _play(known: DataSet, data: PairedData, args: argparse.Namespace) -> int:
    item, file = args.wav[0], Path(args.wav[1])
    if known.play is None:
        raise DataError(f"{args.name} has no sound")
    if file.suffix.lower() != ".wav":
        raise DataError(f"--wav {file}: expected a file that ends in .wav")
    if not any(item in (split.ids or ()) for split in data.splits()):
        raise DataError(f"{data.title} has no item {item!r}; its ids are such as {(data.test.ids or ['none'])[0]}")
    if data.split_seed is None:
        raise DataError(f"{data.title} was not made here, so it can't be played")
    known.play(item, file, seed=data.split_seed, corpus=args.corpus or ("all",))
    print(f"wrote {file}")
    return 0


def _built_in(name: str, out: Path | None) -> int:
    """A data set that is made in memory has nothing to prepare; it is written only on demand."""
    load = DATA_SETS[name].load
    if load is None:
        raise DataError(f"{name} can be neither prepared nor loaded")
    data = load()
    if out is not None:
        write_h5(data, out)
    _report(data, out)
    if out is None:
        print(f"{name} is built in: there is nothing to prepare.")
    return 0


def _list(data_dir: Path) -> None:
    for name, known in DATA_SETS.items():
        print(f"{name:<16}{known.summary}")
        if "captions" in known.options:
            state = f"python prepare_data.py {name} --help"
        elif known.load is not None or (data_dir / f"{name}.h5").is_file():
            state = "ready"
        else:
            state = f"not prepared: python prepare_data.py {name}"
        print(f"{'':<16}{as_typed(state)}")


def _report(data: PairedData, out: Path | None) -> None:
    print(data.title)
    for split in data.splits():
        views = " + ".join("x".join(str(n) for n in shape) for shape in (split.view1_shape, split.view2_shape))
        _say(f"  {split.name:<12}{split.n_pairs:>7,} pair{'s'[:split.n_pairs != 1]}, values {views}")
    facts = {"note": data.note, "source": data.source, "licence": data.licence, "fingerprint": data.fingerprint[:12],
             "file": f"{out} ({out.stat().st_size / 1e6:,.1f} MB)" if out is not None else ""}
    for key, value in facts.items():
        if value:
            print(textwrap.fill(value, 79, initial_indent=f"  {key:<12}", subsequent_indent=" " * 14,
                                break_long_words=False, break_on_hyphens=False))


def _say(line: str) -> None:
    """One line of progress, folded at 79 columns."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    print(textwrap.fill(line, 79, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
                        drop_whitespace=True, replace_whitespace=False), flush=True)
