"""What becomes of servers when the test run that started them is killed? A watchdog kills them.

Everything that a run starts inherits its mark, a variable in the environment, in whatever session it lives. A run
within a run adds its mark to the other's. The watchdog has a session of its own, so neither Ctrl-C nor a signal to
the run's process group reaches it.

As a script, ``python orphans.py MARK PID`` returns at once. It kills the processes with that mark after the
process PID has ended.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "TEST_RUN_MARK"
HAS_PROC = Path("/proc/self/environ").exists()


def guard() -> None:
    """Have everything that this process starts from now on killed after this process has ended."""
    mark = f"{os.getpid()}-{time.time_ns()}"
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    command = [sys.executable, "-I", "-S", __file__, mark, str(os.getpid())]
    subprocess.run(command, env=unmarked, stdin=-3, stdout=-3, stderr=-3, check=True)
    os.environ[MARK] = f"{os.environ.get(MARK, '')}:{mark}"


def marked(mark: str, variable: str = MARK) -> list[int]:
    """Return the processes that have inherited this mark."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(one.partition(b"=")[::2] for one in environ.read_bytes().split(b"\0"))
            if mark.encode() in variables.get(variable.encode(), b"").split(b":"):
                found.append(int(environ.parent.name))
        except OSError:  # it has ended, or it is another account's
            pass
    return found


def watch(mark: str, pid: int) -> None:
    """Wait for the end of that process, then kill what it has left, and what that may still have started."""
    try:
        select.select([os.pidfd_open(pid)], [], [])
    except ProcessLookupError:
        pass
    deadline = time.monotonic() + 30
    while (left := marked(mark)) and time.monotonic() < deadline:
        for one in left:
            try:
                os.kill(one, signal.SIGKILL)
            except OSError:
                pass
        time.sleep(0.02)  # the kernel's time to end them


if __name__ == "__main__" and HAS_PROC and os.fork() == 0:
    os.setsid()
    watch(sys.argv[1], int(sys.argv[2]))
