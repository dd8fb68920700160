"""What the machine, and the control groups of a container, allow this process: cores and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")
# Files of a group: its limit, its use, and the line of memory.stat with what the kernel can reclaim.
FIRST_VERSION = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND_VERSION = ("memory.max", "memory.current", "inactive_file")
UNLIMITED = 1 << 60  # in the first version, a number of this size means no limit


def lines_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the lines of a file of the kernel, in which names may have any bytes.

    Read as text, a name that is not UTF-8 would be an error, and a form feed in a name would end a line.
    """
    return [line for line in os.fsdecode(Path(path).read_bytes()).split("\n") if line]


def resident() -> int:
    """Return this process's resident memory in bytes, or 0 if it is unknown."""
    try:
        return int((PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def free() -> int | None:
    """Return how many bytes the strictest memory limit leaves this process, or None without a limit."""
    return min((limit - used for limit, used in _memory_groups()), default=None)


def memory() -> int | None:
    """Return how many bytes of memory this process and its siblings may use together; None if unknown."""
    limits = [limit for limit, _ in _memory_groups()]
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def cores() -> int:
    """Return how many processors this process may use at a time; a group's share is rounded up."""
    try:
        usable = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not on macOS
        usable = float(os.cpu_count() or 1)
    for group, is_second in _groups("cpu"):
        try:
            if is_second:
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota = (group / "cpu.cfs_quota_us").read_text()
                period = (group / "cpu.cfs_period_us").read_text()
            share = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # "max"
            continue
        if share > 0:  # in the first version, -1 means no limit
            usable = min(usable, share)
    return max(1, math.ceil(usable))


def _memory_groups() -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of every group that limits this process, without reclaimable pages."""
    for group, is_second in _groups("memory"):
        names = SECOND_VERSION if is_second else FIRST_VERSION
        try:
            limit = int((group / names[0]).read_text())
            used = int((group / names[1]).read_text())
        except (OSError, ValueError):  # "max"
            continue
        if limit < UNLIMITED:
            yield limit, used - _reclaimable(group, names[2])


def _groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the groups that limit this process, its own first, and whether each is of the second version."""
    try:
        lines = lines_of(PROC / "cgroup")
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_second = controllers == ""
        if is_second:
            root = CGROUPS
        elif controller in controllers.split(","):
            root = CGROUPS / controller
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path may be the host's and missing here; the container's own group is then the root.
        for group in [inner, *inner.parents]:
            if group == root or root in group.parents:
                yield group, is_second


def _reclaimable(group: Path, name: str) -> int:
    """Return the bytes of file pages that count as used, but that the kernel frees when memory is needed."""
    try:
        lines = lines_of(group / "memory.stat")
        return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == name), 0)
    except (OSError, ValueError):
        return 0
