"""The least of what the system, the control groups and the limits of a process leave."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xmodal.data import memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's files")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Nothing but the control groups that a test writes."""
    monkeypatch.setattr(memory, "_system", lambda: None)
    monkeypatch.setattr(memory, "_limits", list)
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "PROCESS", tmp_path)

    def write(membership: str, **files: dict[str, object]) -> None:
        (tmp_path / "cgroup").write_text(membership)
        for folder, values in files.items():
            for name, value in values.items():
                path = tmp_path / "groups" / folder.replace("__", "/") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{value}\n")

    return write


def test_version_2_counts_the_groups_around_too(groups):
    groups("0::/outer/inner", outer={"memory.max": 1000, "memory.current": 400},
           outer__inner={"memory.max": "max", "memory.current": 100})
    assert memory.available_memory() == 600


def test_version_1(groups):
    groups("5:cpu:/x\n4:memory:/job\n0::/", memory__job={"memory.limit_in_bytes": 900, "memory.usage_in_bytes": 100},
           memory={"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": 5000})
    assert memory.available_memory() == 800


def test_a_group_that_is_full_leaves_nothing(groups):
    groups("0::/", **{"": {"memory.max": 100, "memory.current": 120}})
    assert memory.available_memory() == 0


def test_without_any_limit_half_of_the_memory_is_taken(groups):
    groups("0::/")
    assert memory.available_memory() > 1 << 20


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(kind):
    code = ("import resource\nfrom xmodal.data.memory import available_memory\n"
            f"resource.setrlimit(resource.{kind}, (1 << 50, 1 << 50))\nfree = available_memory()\n"
            f"resource.setrlimit(resource.{kind}, (8 << 30, 8 << 30))\nprint(free, available_memory())")
    free, limited = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                            check=True).stdout.split())
    assert limited <= min(free, 8 << 30) and limited > 1 << 30
