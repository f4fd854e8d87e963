"""Writing beside and renaming over: the old file or the new one, never half of one."""
from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal

import pytest

from xmodal.atomic import only_one, replacing


def test_the_new_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "folder" / "file"
    with replacing(target) as path:
        path.write_text("new")
        assert path.parent == target.parent and not target.exists()
    assert target.read_text() == "new" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("bug"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as path:
        path.write_text("half")
        raise error
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_the_file_is_on_disk_before_it_is_renamed(tmp_path, monkeypatch):
    order = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("sync"), real_sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *a: (order.append("rename"), real_replace(*a))[1])
    with replacing(tmp_path / "file") as path:
        path.write_text("x")
    assert order[:2] == ["sync", "rename"]


def test_a_name_with_a_nul_character_is_refused(tmp_path):
    with pytest.raises(OSError, match="NUL"), replacing(tmp_path / "a\0b"):
        pass


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path):
    target = tmp_path / "[1] file"
    old, new, others = (tmp_path / name for name in (".[1] file.12-ab.tmp", ".[1] file.13-ab.tmp", ".file.12-ab.tmp"))
    for leftover in (old, new, others):
        leftover.write_text("half")
    for leftover in (old, others):
        os.utime(leftover, (1, 1))
    with replacing(target) as path:
        path.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, new, others])


def test_only_one_is_let_in_until_it_leaves(tmp_path):
    lock = tmp_path / "folder" / ".lock"
    with only_one(lock) as first, only_one(lock) as second:
        assert first and not second
    with only_one(lock) as again:
        assert again


def _hold(path, ready):
    with only_one(path) as first:
        ready.send(first)
        signal.pause()


def test_a_killed_process_holds_nothing(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("forkserver").Process(target=_hold, args=(tmp_path / ".lock", theirs))
    holder.start()
    assert ours.recv()
    with only_one(tmp_path / ".lock") as allowed:
        assert not allowed
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with only_one(tmp_path / ".lock") as allowed:
        assert allowed


def test_file_systems_without_locks_let_everybody_in(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with only_one(tmp_path / ".lock") as first, only_one(tmp_path / ".lock") as second:
        assert first and second
