"""Writing beside and renaming over: the old file or the new one, never half of one."""
from __future__ import annotations

import os

import pytest

from xmodal.atomic import replacing


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
