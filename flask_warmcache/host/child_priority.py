"""How a rebuilding child yields to requests: at nice 10, and in the idle class if it gets enough time there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self/task")
NICE = 10
# A child that has waited for "go" first measures this many seconds after its work began.
MEASURE_AFTER = 0.2
# Nanoseconds, running or waiting for a processor, that are enough to decide.
ENOUGH = 20_000_000
# The share of them that it may have waited.
MOST_WAITED = 0.5


def lower() -> None:
    """Make this process nicer, if the system allows it."""
    with suppress(OSError):
        os.nice(NICE)


class Priority:
    """Measures the processor time that the kernel gives this process, and chooses its scheduling class.

    A current kernel lets a process that it has just put on a processor finish its slice of some milliseconds, even
    a nice one, while a request wakes up.  It stops a process of the idle class at once.  Measured on one core at
    20 requests/s: of a hundred requests, 2 to 4 took more than 5 ms beside a nice child, 0.8 beside an idle one,
    and 0.4 to 1 beside none.

    But if all processors stay busy, an idle-class process may get almost no time, and without privileges it cannot
    return to the normal class.  So its class depends on how long this process had to wait at its beginning, and is
    chosen once.
    """

    def __init__(self, before: dict[str, tuple[int, int]] | None = None) -> None:
        """:param before: how long each thread had run and waited when counting began; by default until now."""
        self._before = _measure() if before is None else before

    def decide(self) -> bool:
        """Move all threads, and so those that they start, to the idle class if they had to wait little.

        :returns: whether they have run and waited long enough to decide.
        """
        ran = waited = 0
        for task, (has_run, has_waited) in _measure().items():
            before = self._before.get(task, (0, 0))
            ran, waited = ran + has_run - before[0], waited + has_waited - before[1]
        if ran + waited < ENOUGH:
            return False
        if waited <= MOST_WAITED * (ran + waited):
            _go_idle()
        return True


def _measure() -> dict[str, tuple[int, int]]:
    """Return how long each thread has run, and has waited for a processor; nothing if the system does not tell."""
    measured = {}
    with suppress(OSError):
        for task in PROC.iterdir():
            with suppress(OSError, ValueError, IndexError):  # the thread has ended meanwhile
                times = (task / "schedstat").read_text().split()
                measured[task.name] = int(times[0]), int(times[1])
    return measured


def _go_idle() -> None:
    """Move every thread to the idle class, if the system has one and allows it."""
    seen: set[int] = set()
    with suppress(OSError, AttributeError):
        # Repeat until there is no new thread: one may have started others before it was moved.
        while new := {int(task.name) for task in PROC.iterdir()} - seen:
            for task in new:
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(task, os.SCHED_IDLE, os.sched_param(0))
            seen |= new
