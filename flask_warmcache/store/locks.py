"""Lock files: held by one process until it closes them or dies, and never by a child that it forked.

The lock order is ``NAME.lock``, then ``NAME.publish.lock``, never the reverse.  Lock files are never deleted: with
a new file under the same name, two processes could each hold "the" lock.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from pathlib import Path

from .. import events
from ..errors import RebuildBusyError, StoreError

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
# Seconds. A publication takes milliseconds; half a minute means a stopped process or a dead disk.
DEADLINE = 30.0
POLL = 0.002


class HeldLock:
    """A lock file that this process has opened, and then locked, until it closes the file or dies."""

    def __init__(self, path: Path) -> None:
        """Open the file, and create it if needed; it is not locked yet.

        :raises StoreError: when that fails.
        """
        self.path = path
        try:
            with no_fork:
                # Mode 0600: any account that can open a lock file can hold the lock for ever.
                self.descriptor = os.open(path, LOCK_FLAGS, 0o600)
                open_locks.add(self)
        except OSError as error:
            raise StoreError(
                f"The lock file {path} cannot be opened ({error.strerror}). Check the permissions of the "
                "cache folder, or set WARMCACHE_DIR to another one."
            ) from error

    def still_ours(self) -> bool:
        """Return whether the file under the lock's name is still the one that we locked."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release the lock, unless a child has inherited the descriptor and still holds it."""
        with no_fork:
            self._close()

    def _close(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                # The descriptor is closed all the same, and the lock released; nothing was written to the file.
                events.warning("warmcache.not_closed", "the lock file %(file)s", error=True, file=self.path.name)


class InheritedLock(HeldLock):
    """A lock that the parent process acquired; it passed the locked descriptor on to this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self.path = path
        self.descriptor = descriptor
        open_locks.add(self)


class PublishLock:
    """A list's publish lock, held for the milliseconds in which data is appended and an index published.

    A ``with`` block acquires it; the thread that holds it may acquire it again.
    """

    def __init__(self, path: Path, wait: float | None = None) -> None:
        self._path = path
        self._wait = wait  # seconds for another process; by default DEADLINE
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
        lock = HeldLock(self._path)
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


def load_lock_library() -> None:
    """Import filelock in the calling thread, before another thread needs it.

    filelock's fork hooks let no thread import it while another thread forks.  A keeper that imports it holds
    ``no_fork``, for which the forking thread waits after it has entered filelock's hook: both would wait for ever.
    An app that reads a list while gunicorn preloads it starts a keeper in a process that forks all workers next.
    """
    import filelock  # noqa: F401


def try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting, and return whether that succeeded: False when another process holds it.

    :raises OSError: where files cannot be locked.
    """
    # Imported here, so that a worker that only serves never loads it.  A child forked during an import
    # would wait for ever for the importing thread, which it does not have.
    with no_fork:
        from filelock import lock_descriptor

    return lock_descriptor(descriptor, blocking=False)


def holder_of(path: Path) -> str:
    """Describe the process that holds a lock file, as far as Linux tells, for the log and the doctor."""
    try:
        inode = f":{os.stat(path).st_ino}"
        lines = Path("/proc/locks").read_text(errors="replace").splitlines()
    except OSError:
        return "a process that is not known here"
    for line in lines:  # as in: 12: FLOCK ADVISORY WRITE 4711 fd:01:123456 0 EOF
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(inode):
            try:
                name = Path(f"/proc/{fields[4]}/comm").read_text(errors="replace").strip()
            except OSError:
                return f"a process that inherited it from process {fields[4]}, which has ended"
            return f"process {fields[4]} ({name})"
    return "a process that is not known here"


# A lock is held as long as any copy of its descriptor is open.  A forked child must close its copies, or it blocks
# every later rebuild: a worker forked while the app rebuilds, for example, or a child of multiprocessing.  Closing
# a copy does not release the parent's lock.  Without no_fork, a fork between opening a file and registering it
# would be frequent, because opening a file releases the interpreter lock to the thread that forks.
open_locks: weakref.WeakSet[HeldLock] = weakref.WeakSet()
no_fork = threading.Lock()  # held for the microseconds in which a lock file is opened, probed or closed


def _close_in_child() -> None:
    no_fork.release()  # acquired before the fork by the thread that forked, the only one in the child
    for lock in list(open_locks):
        lock._close()


os.register_at_fork(before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=_close_in_child)
