"""run_train.py --tensorboard: the events say what the log says, each epoch once, whatever happened in between."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from processes import command, finish, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xmodal.cli import run_train
from xmodal.cli.tensorboard import TensorBoardDisplay

MODELS = Path(__file__).parent.parent / "models"
MODEL = str(MODELS / "digits_ccal_cont.py")
RUN = Path("runs/digits_ccal_cont")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    return tmp_path


def train(*arguments: str, epochs: int = 2, model: str = MODEL) -> int:
    how = ["--set", f"max_epochs={epochs}"] if model == MODEL else []
    return run_train.main(["--model", model, "--data", "digits", "--tensorboard", *how, *arguments])


def events(run: Path = RUN) -> EventAccumulator:
    found = list((run / "tensorboard").iterdir())
    assert len(found) == 1  # one file: nothing is told twice
    return EventAccumulator(str(run / "tensorboard")).Reload()


def logged(run: Path = RUN) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def require_the_same(run: Path = RUN) -> None:
    """Oracle: the log. Every number in it is a scalar of that epoch, and there are no others."""
    said, lines = events(run), logged(run)
    numbers = {key for line in lines for key, value in line.items()
               if isinstance(value, int | float) and not isinstance(value, bool)} - {"epoch"}
    assert set(said.Tags()["scalars"]) == numbers and "mrr_va" in numbers
    for key in numbers:
        assert [event.step for event in said.Scalars(key)] == [line["epoch"] for line in lines if key in line]
        assert [event.value for event in said.Scalars(key)] == pytest.approx([line[key] for line in lines])


def test_the_events_are_the_log_and_the_settings():
    assert train() == 0
    require_the_same()
    settings = events().PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert all(text in settings for text in (b"learning_rate", b"seed", b"digits_ccal_cont", b"auto"))
    tags = events().Tags()
    assert not any(tags[kind] for kind in ("images", "audio", "histograms", "tensors", "graph"))


def test_a_resumed_run_has_each_epoch_once():
    assert train() == 0
    assert train("--resume", epochs=4) == 0
    require_the_same()
    assert len(logged()) == 4


def test_an_epoch_that_the_state_had_not_kept_is_told_once(monkeypatch):
    """A kill between writing the event and writing the resume state: the epoch is trained, and written, again."""
    monkeypatch.setattr("xmodal.trainer.loop.SAVE_COST_FACTOR", 1e9)  # the state is saved in the first epoch only
    before = TensorBoardDisplay.epoch

    def dying(self, line):
        before(self, line)
        if line["epoch"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardDisplay, "epoch", dying)
        assert train(epochs=4) == 130
    assert len(events().Scalars("mrr_va")) == 3
    assert train("--resume", epochs=4) == 0
    require_the_same()


def test_a_run_without_events_gets_all_of_them_later(capsys):
    run_train.main(["--model", MODEL, "--data", "digits", "--set", "max_epochs=2"])
    assert not (RUN / "tensorboard").exists()
    assert train("--resume") == 0  # finished: nothing is trained
    require_the_same()


def test_a_fit_in_closed_form_has_a_line_too():
    for how in ([], ["--resume"]):
        assert train(*how, model=str(MODELS / "digits_cca.py")) == 0
        require_the_same(Path("runs/digits_cca"))


def test_overwriting_removes_old_events_and_nothing_else():
    assert train(epochs=3) == 0
    (RUN / "tensorboard" / "notes.txt").write_text("mine")
    assert run_train.main(["--model", MODEL, "--data", "digits", "--set", "max_epochs=1", "--overwrite"]) == 0
    assert [path.name for path in (RUN / "tensorboard").iterdir()] == ["notes.txt"]


def test_it_changes_nothing_in_training():
    assert train("--tag", "a") == 0
    assert run_train.main(["--model", MODEL, "--data", "digits", "--set", "max_epochs=2", "--tag", "b"]) == 0
    a, b = (Path(f"runs/digits_ccal_cont-{tag}/weights.safetensors").read_bytes() for tag in "ab")
    assert a == b


def test_a_full_disk_is_one_line_and_costs_no_epoch(capsys, monkeypatch):
    """The system refuses the write itself, in the third epoch."""
    resource = pytest.importorskip("resource")
    none, before = resource.getrlimit(resource.RLIMIT_FSIZE), TensorBoardDisplay.epoch

    def on_a_full_disk(self, line):
        size = next((RUN / "tensorboard").iterdir()).stat().st_size if line["epoch"] == 3 else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100 if size else none[0], none[1]))
        try:
            before(self, line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, none)

    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardDisplay, "epoch", on_a_full_disk)
        assert train(epochs=4) == 2
    error = capsys.readouterr().err
    assert "File too large" in error and error.count("\n") == 1
    assert len(logged()) == 3
    assert train("--resume", epochs=4) == 0
    require_the_same()


def test_without_a_run_folder_it_is_one_line(capsys, tmp_path):
    assert train("--no_dump") == 2
    assert capsys.readouterr().err == "error: --no_dump and --tensorboard contradict each other: leave one out\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_before_data_are_read(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(run_train, "load_data", lambda *a, **k: pytest.fail("data were read"))
    assert train() == 2
    assert 'tensorboard is not installed: pip install "xmodal[tensorboard]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes")
def test_of_several_processes_the_first_one_writes(tmp_path):
    arguments = ["--model", MODEL, "--data", "digits", "--set", "max_epochs=2", "--tensorboard"]
    assert finish(start(command, 2, "run_train", str(tmp_path), arguments)) == [0, 0]
    require_the_same()
