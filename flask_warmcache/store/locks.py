"""Lock files: held by one process until it closes them or dies, and never by a child that it forked.

Lock order is ``NAME.lock``, then ``NAME.publish.lock``, never the reverse.  Lock files are never deleted: with a
new file under the same name, two processes could each hold "the" lock.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from pathlib import Path

log = logging.getLogger("flask_warmcache")
LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class HeldLock:
    """A lock file opened, and locked, by this process until closed (or until it dies)."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is not there; it is not locked yet.

        :raises OSError: when that cannot be done.
        """
        self.path = path
        with no_fork:
            # Mode 0600: whoever can open a lock file can hold the lock for ever.
            self.descriptor = os.open(path, LOCK_FLAGS, 0o600)
            open_locks.add(self)

    def still_ours(self) -> bool:
        """Whether the file under the lock's name is still the one that is locked."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Free the lock, unless a child has inherited the descriptor and goes on holding it."""
        with no_fork:
            self._close()

    def _close(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                # The descriptor is gone all the same, and with it the lock; nothing was written to the file.
                log.warning("warmcache.not_closed: the lock file %s", self.path.name, exc_info=True)


class InheritedLock(HeldLock):
    """A lock that the parent process took; it passed the locked descriptor on to this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self.path = path
        self.descriptor = descriptor
        open_locks.add(self)


def try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting; False when another process has it locked.

    :raises OSError: where files cannot be locked.
    """
    # Here, so that a worker that only serves never loads it; see rebuilder.py for why no fork may come between.
    with no_fork:
        from filelock import lock_descriptor

    return lock_descriptor(descriptor, blocking=False)


# A lock lives as long as any copy of its descriptor, so a forked child must not keep one: a worker forked from
# an app that builds already, or the child of one that uses multiprocessing, would hold up every later rebuild.
# (Closing a copy frees nothing here.)  And no fork may fall between a file's opening and its registration, as it
# would often do: opening gives the interpreter away, and the thread that forks takes it.
open_locks: weakref.WeakSet[HeldLock] = weakref.WeakSet()
no_fork = threading.Lock()  # held for the microseconds in which a lock file is opened, probed or closed


def _close_in_child() -> None:
    no_fork.release()  # taken before the fork by the one thread that lives on
    for lock in list(open_locks):
        lock._close()


os.register_at_fork(before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=_close_in_child)
