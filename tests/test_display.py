"""What a training shows: plain lines in pipes, a bar and colours on a terminal, never more than 80 columns."""
from __future__ import annotations

import io
import re

from rich.console import Console

from xmodal.cli.display import PlainDisplay, TerminalDisplay, display_for

LINE = {"epoch": 3, "loss_tr": -44.1, "loss_va": -43.0, "mrr_tr": 0.91, "mrr_va": 0.66, "median_rank_tr": 1.0,
        "median_rank_va": 2.5, "lr": 1e-3, "seconds": 2.5, "refit_pairs": 50_000, "best": True, "patience_left": 15}


def show(display) -> None:
    for done in range(1, 4):
        display.batch(1, done, 3, 0.5)
    display.epoch(LINE)
    display.note("refining")
    display.epoch({**LINE, "epoch": 4, "best": False})


def test_plain_lines_are_a_header_then_one_line_per_epoch():
    stream = io.StringIO()
    show(PlainDisplay(stream))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and "mrr_va" in lines[0] and lines[2] == "refining"
    assert "0.6600" in lines[1] and lines[1].endswith("*") and not lines[3].endswith("*")
    assert all(len(line) <= 80 for line in lines) and "\x1b" not in stream.getvalue()


def test_a_terminal_shows_the_same_table_and_a_bar():
    stream = io.StringIO()
    show(TerminalDisplay(Console(file=stream, force_terminal=True, width=80)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert text.count("mrr_va") == 1 and "0.6600" in text and "epoch 1" in text and "loss 0.5000" in text


def test_a_pipe_gets_plain_lines_and_a_terminal_the_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(display_for(io.StringIO()), PlainDisplay)
    assert isinstance(display_for(Terminal()), TerminalDisplay)
