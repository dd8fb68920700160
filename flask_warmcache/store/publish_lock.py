"""The publish lock of a list, held for the milliseconds in which data is appended and an index published."""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import RebuildBusyError
from .locks import HeldLock, open_lock, try_lock

# Seconds. A publication takes milliseconds; half a minute means a stopped process or a dead disk.
DEADLINE = 30.0
POLL = 0.002


class PublishLock:
    """Acquires a list's publish lock for a block; the thread that holds it may acquire it again."""

    def __init__(self, path: Path, wait: float | None = None) -> None:
        """:param wait: seconds to wait for another process; by default half a minute."""
        self._path = path
        self._wait = wait
        self._lock: HeldLock | None = None
        self._depth = 0

    def __enter__(self) -> None:
        """Acquire the lock.

        :raises RebuildBusyError: when another process holds it for longer than we wait.
        """
        if self._lock is None:
            self._lock = self._acquired()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._lock is not None:
            lock, self._lock = self._lock, None
            lock.close()

    def _acquired(self) -> HeldLock:
        lock = open_lock(self._path)
        try:
            deadline = time.monotonic() + (DEADLINE if self._wait is None else self._wait)
            while not try_lock(lock.descriptor):
                if time.monotonic() > deadline:
                    raise RebuildBusyError("another process has held the publish lock for too long")
                time.sleep(POLL)
        except BaseException:
            lock.close()
            raise
        return lock
