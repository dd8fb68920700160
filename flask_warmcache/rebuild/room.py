"""Whether memory has room for another process like this one, under the limit of its control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # the first version says "no limit" by a number of this size


def resident() -> int:
    """This process's memory, in bytes; 0 where that cannot be said."""
    try:
        return int((PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def free() -> int | None:
    """What the strictest limit on this process leaves, in bytes, or None without a limit."""
    rooms = []
    for group, limit_name, used_name, cache_name in _groups():
        try:
            limit = int((group / limit_name).read_text())
            used = int((group / used_name).read_text())
        except (OSError, ValueError):  # "max"
            continue
        if limit < UNLIMITED:
            rooms.append(limit - used + _droppable(group, cache_name))
    return min(rooms) if rooms else None


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """The control groups with a say in this process's memory, from its own to the outermost."""
    try:
        lines = (PROC / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, which is not there; its own group is then the root.
        for group in [inner, *inner.parents]:
            if group == root or root in group.parents:
                yield (group, *names)


def _droppable(group: Path, name: str) -> int:
    """Pages of files that are counted as used and that the kernel gives back when they are needed."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == name), 0)
    except (OSError, ValueError):
        return 0
