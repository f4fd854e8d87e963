"""How much memory there is to use."""
from __future__ import annotations

import os
import sys
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")


def available_memory() -> int | None:
    """Bytes that this process can use without swapping, as the system, its control groups and its own limits say;
    None where unknown."""
    free = [amount for amount in (_system(), *_groups(), *_limits()) if amount is not None]
    if not free and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(0, min(free)) if free else None


def _system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):  # not Linux
        return None


def _groups() -> list[int]:
    """What is left in the control groups of this process, of both versions, and in those around them."""
    try:
        memberships = [line.split(":", 2) for line in (PROCESS / "cgroup").read_text().splitlines()]
    except (OSError, ValueError):
        return []
    left = []
    for number, controllers, place in memberships:
        if number == "0":
            root, names = GROUPS, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = root / place.strip("/")
        for folder in (root, inner, *inner.parents):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                left.append(limit - used)
            except (OSError, ValueError):  # not there, or "max"
                continue
    return left


def _limits() -> list[int]:
    """What the limits of this process leave of its address space and of its data."""
    if sys.platform == "win32":
        return []
    import resource

    try:
        status = (PROCESS / "status").read_text().splitlines()
        used = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status
                if line.startswith(("VmSize", "VmData"))}
    except (OSError, ValueError, IndexError):
        return []
    limits = {"VmSize": resource.getrlimit(resource.RLIMIT_AS)[0],
              "VmData": resource.getrlimit(resource.RLIMIT_DATA)[0]}
    return [limit - used.get(name, 0) for name, limit in limits.items() if limit != resource.RLIM_INFINITY]
