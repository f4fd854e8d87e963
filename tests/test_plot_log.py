"""plot_log.py in-process: files it writes, names of curves, watching, and what it says to bad input."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xmodal.checkpoint import read_log
from xmodal.cli import plot_log
from xmodal.cli.plot_log import main, name_runs
from xmodal.errors import DataError


def write_log(folder: Path, n: int = 5, tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.jsonl"
    lines = [{"epoch": e, "mrr_tr": e / 10, "mrr_va": e / 20, "loss_va": 1 / e} for e in range(1, n + 1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs in the working directory, and no display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "agg")
    write_log(tmp_path / "runs" / "a")
    write_log(tmp_path / "runs" / "b", 9)
    return tmp_path / "runs"


@pytest.mark.parametrize(("name", "start"), [("x.png", b"\x89PNG"), ("x.SVG", b"<?xml"), ("x.pdf", b"%PDF")])
def test_writes_what_the_suffix_says(runs: Path, name: str, start: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs / "a" / "log.jsonl"), str(runs / "b"), "--key", "mrr_%s", "--high_is_better",
                 "--out", name]) == 0
    assert Path(name).read_bytes().startswith(start)
    assert capsys.readouterr().out == f"wrote {name}\n"
    assert [path.name for path in Path().iterdir() if path.is_file()] == [name]


def test_without_a_display_writes_model_evolution(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs / "a"), "--max_epoch", "3", "--ymin", "0", "--ymax", "1"]) == 0
    assert Path("model_evolution.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote model_evolution.png" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "expected"), [
    ([], ("mrr_%s", None)), (["--high_is_better"], ("mrr_%s", True)), (["--key", "loss_va"], ("loss_va", None))])
def test_options_reach_the_plot(runs: Path, options: list[str], expected: tuple[Any, ...],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def plot_curves(logs: Any, key: str, high_is_better: bool | None, *rest: Any) -> Any:
        seen.append((list(logs), key, high_is_better))
        raise DataError("enough")
    monkeypatch.setattr(plot_log, "plot_curves", plot_curves)
    assert main([str(runs / "b"), str(runs / "a"), *options]) == 2
    assert seen == [(["b", "a"], *expected)]


def test_curves_are_named_by_their_folder(runs: Path) -> None:
    a, b = runs / "a" / "log.jsonl", runs / "b" / "log.jsonl"
    other = write_log(runs.parent / "old" / "a")
    kept = runs / "kept.jsonl"
    assert name_runs([a]) == {"a": a}
    assert name_runs([a, runs / "b", a]) == {"a": a, "b": b}
    assert name_runs([a, other, kept]) == {"runs/a": a, "old/a": other, "runs/kept": kept}
    assert list(name_runs(["log.jsonl"])) == [runs.parent.name]


# -- reading -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tail", ['{"epoch": 6, "mrr', "{", "17", '{"epoch": 6}'])
def test_a_torn_last_line_is_tolerated(tmp_path: Path, tail: str) -> None:
    records = read_log(write_log(tmp_path, 5, tail))
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5] + [6] * (tail == '{"epoch": 6}')


@pytest.mark.parametrize("line", ["{", "[1]", '{"epoch": "one"}', "\x00\x01", "[" * 100_000])
def test_a_corrupt_line_is_told_with_its_number(runs: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(runs / "a", 2, f'\n{line}\n{{"epoch": 4}}\n')
    assert main([str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}, line 4 is corrupt") and message.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere/log.jsonl"], "there is no log nowhere/log.jsonl"),
    (["runs"], "there is no log runs/log.jsonl: expected a log.jsonl or the folder of a run"),
    (["runs/a", "--key", "mrr_vo"], "did you mean mrr_va"),
    (["runs/a", "--out", "x.jpeg"], "expected a file that ends in .png, .svg, .pdf, got .jpeg"),
    (["runs/a", "--out", "x"], "got no suffix"),
    (["runs/a", "--out", "no/x.png"], "there is no folder no"),
    (["runs/a", "--watch", "0"], "positive number of seconds"),
    (["runs/a", "--watch", "nan"], "positive number of seconds"),
    (["runs/a", "--max_epoch", "0"], "--max_epoch: expected at least 1"),
    (["runs/a", "--max_epoch", "9" * 20], "--max_epoch: expected at least 1 and less than 1,000,000,000, got 999"),
    (["runs/a", "--out", "a\0.png"], "--out can't hold a NUL character"),
    (["runs/a\0b"], "there is no log runs/a"),
    (["circle"], "there is no log circle"),
    (["runs/a", "--ymin", "2", "--ymax", "1"], "ymin must be below ymax"),
    (["runs/empty"], "no epoch to draw"),
])
def test_bad_input_is_one_line_and_code_2(runs: Path, arguments: list[str], message: str,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    write_log(runs / "empty", 0)
    Path("circle").symlink_to("circle")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not [path for path in Path().iterdir() if path.is_file()]


def test_debug_shows_the_traceback(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


# -- watching ----------------------------------------------------------------------------------------------------

def test_watch_redraws_when_a_log_has_changed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes, pauses = [], []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        sizes.append(Path("x.svg").stat().st_ino)
        if len(pauses) == 2:
            write_log(runs / "a", 8)

    assert main([str(runs / "a"), "--watch", "0.5", "--out", "x.svg"], pause=pause, max_polls=4) == 0
    assert pauses == [0.5] * 4
    assert sizes[0] == sizes[1] != sizes[2] == sizes[3]     # another file each time it was drawn
    assert capsys.readouterr().out.count("drawn at") == 2


def test_watch_waits_for_what_can_t_be_drawn_yet(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_log(runs / "new", 0)
    steps = iter([lambda: path.write_text("\n"), path.unlink, lambda: write_log(runs / "new", 1), lambda: None])
    assert main([str(runs / "new"), "--watch"], pause=lambda _: next(steps)(), max_polls=4) == 0
    captured = capsys.readouterr()
    assert captured.err.count("waiting: no epoch to draw") == 1 and captured.err.count("waiting") == 2
    assert captured.out.count("drawn at") == 1 and Path("model_evolution.png").is_file()


def test_ctrl_c_ends_watching_with_0(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt
    assert main([str(runs / "a"), "--watch", "--out", "x.png"], pause=interrupt) == 0
    assert "the last drawing is in x.png" in capsys.readouterr().out


def test_window(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window's path, with the backend that shows nothing."""
    import matplotlib.pyplot as plt
    shown = []
    monkeypatch.setattr(plot_log, "window_available", lambda: True)
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gcf().axes)))
    monkeypatch.setattr(plt, "pause", shown.append)
    assert main([str(runs / "a")]) == 0
    assert shown == [1]
    plt.close("all")
    assert main([str(runs / "a"), "--watch", "2"], max_polls=2) == 0
    assert shown == [1, 2.0, 2.0]
    plt.close("all")
    monkeypatch.setattr(plt, "pause", lambda _: plt.close("all"))
    assert main([str(runs / "a"), "--watch", "2"]) == 0
    assert not Path("model_evolution.png").exists()


def test_no_display_no_window(runs: Path) -> None:
    assert not plot_log.window_available()


def test_the_door_and_its_help(runs: Path) -> None:
    door = Path(__file__).parents[1] / "plot_log.py"
    done = subprocess.run([sys.executable, door, "--help"], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(door.parent)})
    assert "--high_is_better" in done.stdout and "mrr_%s" in done.stdout
