"""How a rebuilding child stands back for requests: niced first, and idle if it gets time enough even so."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self/task")
NICE = 10
# A child that has waited for its turn first looks so many seconds after its work began.
LOOK_AFTER = 0.2
# Nanoseconds on a processor, or waiting for one, that tell enough.
ENOUGH = 20_000_000
# The share of them that it may have waited.
MOST_WAITED = 0.5


def lower() -> None:
    """Make this process nicer, if the system allows it."""
    with suppress(OSError):
        os.nice(NICE)


class Priority:
    """What the kernel gives this process, from now on.

    A kernel of our days lets a process that it has just put on a processor finish its slice of some milliseconds,
    even a niced one, while a request wakes up; one of the idle class it stops at once.  Measured on one core at 20
    requests/s: of a hundred, 2 to 4 took more than 5 ms beside a niced child, 0.8 beside an idle one, and 0.4 to 1
    beside none.

    But beside processes that never rest an idle one gets next to nothing, and without privileges nothing leads
    back.  So it is decided by how long this process had to wait at its beginning, and never later.
    """

    def __init__(self, before: dict[str, tuple[int, int]] | None = None) -> None:
        """:param before: how long each thread had run and waited when it began to count; by default until now."""
        self._before = _spent() if before is None else before

    def look(self) -> bool:
        """Let all threads, and those that they start, become idle ones, if they had to wait little.

        :returns: whether enough was seen to tell.
        """
        ran = waited = 0
        for task, (has_run, has_waited) in _spent().items():
            before = self._before.get(task, (0, 0))
            ran, waited = ran + has_run - before[0], waited + has_waited - before[1]
        if ran + waited < ENOUGH:
            return False
        if waited <= MOST_WAITED * (ran + waited):
            _go_idle()
        return True


def _spent() -> dict[str, tuple[int, int]]:
    """How long each thread has run, and has waited for a processor; nothing where the system does not say."""
    spent = {}
    with suppress(OSError):
        for task in PROC.iterdir():
            with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                times = (task / "schedstat").read_text().split()
                spent[task.name] = int(times[0]), int(times[1])
    return spent


def _go_idle() -> None:
    """Put every thread into the idle class, if the system has one and allows it."""
    seen: set[int] = set()
    with suppress(OSError, AttributeError):
        # Until there is no new one: a thread may have started others before it was its turn.
        while new := {int(task.name) for task in PROC.iterdir()} - seen:
            for task in new:
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(task, os.SCHED_IDLE, os.sched_param(0))
            seen |= new
