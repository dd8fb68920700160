"""How a rebuilding child stands back for requests: niced first, and idle where it gets time enough even so."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self/task")
NICE = 10
# A child that has waited for its turn first looks so many seconds after its work began.
LOOK_AFTER = 0.2
# Of the time that it could have computed, the share that it may have waited for a processor.
MOST_WAITED = 0.5


def lower(pid: int = 0) -> None:
    """Make a process nicer than this one, or this one nicer, if it still lives and the system allows it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)


class Priority:
    """What the kernel gives this process, from now on.

    A kernel of our days lets a process that it has just put on a processor finish its slice of some milliseconds,
    even a niced one, while a request wakes up; one of the idle class it stops at once.  Measured on one core at 20
    requests/s: of a hundred, 2 to 4 took more than 5 ms beside a niced child, 0.8 beside an idle one, and 0.4 to 1
    beside none.

    But beside processes that never rest an idle one would never end, and without privileges nothing leads back.
    So it steps back only when it has seen that it will still get its time, and may have to wait for that.
    """

    def __init__(self) -> None:
        self._before = _spent()
        self._has_decided = False

    def look(self) -> None:
        """Step back to the idle class if little has been waited for since the last look.

        The calling thread keeps its priority, so it can say in time that the rebuild is alive.
        """
        if self._has_decided:
            return
        before, self._before = self._before, _spent()
        if before is None or self._before is None:
            return
        ran, waited = (now - then for now, then in zip(self._before, before, strict=True))
        if waited <= MOST_WAITED * (ran + waited):
            self._has_decided = _go_idle()


def _spent() -> tuple[int, int] | None:
    """How long the threads of this process have run, and have waited for a processor; None if nobody says."""
    ran = waited = 0
    try:
        for task in PROC.iterdir():
            times = (task / "schedstat").read_text().split()
            ran, waited = ran + int(times[0]), waited + int(times[1])
    except (OSError, ValueError, IndexError):  # another system, or a thread that ends meanwhile
        return None
    return ran, waited


def _go_idle() -> bool:
    """Whether every other thread is of the idle class now; those that they start will be."""
    own = threading.get_native_id()
    try:
        for task in PROC.iterdir():
            if int(task.name) != own:
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    except ProcessLookupError:
        return False  # one has ended meanwhile; the next look goes on
    except OSError:
        return True  # it is not allowed here, and will not be
    return True
