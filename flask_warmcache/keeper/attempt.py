"""One attempt to rebuild a list: the locks that it takes on its way, and how it releases them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from .. import events
from ..errors import RebuildError
from ..status.condition import ListStatus
from ..store.files import FileStore
from ..store.locks import HeldLock, holder_of
from .process import error_of_dead_child
from .reporter import Reporter

# Another process may hold the lock for a microsecond, to probe it, just as this one tries.
SECOND_TRY_AFTER = 0.02
TimeLimit = Callable[[float | None], AbstractContextManager[Any]]


class Locks:
    """Gives the locks of lists to this process's attempts."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self.after_fork()

    def after_fork(self) -> None:
        """Replace the guard: a thread of the parent may have held it."""
        self.guard = threading.Lock()  # guards the beginning of rebuilds, so that none begins twice
        self.is_stopped = False  # whether no further rebuild may begin

    def try_lock(self, status: ListStatus) -> HeldLock | None:
        """Lock a list, or return None if it is being rebuilt; never wait for that."""
        if status.progress is not None or self.is_stopped:
            return None
        lock = self._store.try_lock(status.name)
        if lock is None:
            time.sleep(SECOND_TRY_AFTER)
            lock = self._store.try_lock(status.name)
        if lock is not None:
            status.blockade.end()
        elif status.note_denied():
            message = "the lock of %(list)r is held by %(holder)s, and no rebuild is reported"
            holder = holder_of(self._store.lock_path(status.name))
            events.warning("warmcache.lock_held", message, list=status.name, holder=holder)
        return lock


@dataclass
class Attempt:
    """One rebuild of a list, with what it holds: the list's lock and, for a while, that of its source list."""

    target: ListStatus
    locks: Locks
    reporter: Reporter
    only_if_due: bool  # otherwise the list and its source list are rebuilt even if they are fresh
    inherited: dict[str, HeldLock] = field(default_factory=dict)  # from the parent process, and not yet taken
    deadline: float | None = None  # of a child process, on the wall clock
    time_limit: TimeLimit = lambda seconds: nullcontext()
    # Called between two small steps of the rebuild; may raise HandOver.
    checkpoint: Callable[[], None] = lambda: None
    held: dict[str, HeldLock] = field(default_factory=dict)
    working_on: ListStatus | None = None  # the list whose source or enrich runs
    child_deadline: float | None = None  # on the wall clock, once a child continues this attempt
    enrich_all: bool = False  # whether no item of the target is reused, though its fingerprint is unchanged

    def take(self, status: ListStatus, *, only_if_due: bool) -> bool:
        """Take a list's lock, if nobody has it and the list is still due; never wait for another's rebuild."""
        death: RebuildError | None = None
        with self.locks.guard, ExitStack() as unless_taken:
            lock = self.inherited.pop(status.name, None)
            is_inherited = lock is not None
            if lock is None:
                lock = self.locks.try_lock(status)
            if lock is None:
                return False
            unless_taken.callback(lock.close)  # also if anything here fails: nobody else could close it
            # A and B both find the list stale.  A locks, rebuilds, unlocks.  B locks.  If B did not ask again now,
            # it would build the same list once more.
            status.reread(holds_lock=True)
            if only_if_due and status.is_left_by_child and not is_inherited:
                # A child has died without reporting an end. The process that holds the lock counts this failure.
                death = error_of_dead_child(status.name, status.report.deadline if status.report else None)
                self.reporter.fail(status, death)
            is_taken = not only_if_due or status.condition().due
            if is_taken:
                progress = self.reporter.progress(status, lock, handed_over=is_inherited, deadline=self.deadline)
                status.begin(progress)
                self.held[status.name] = lock
                unless_taken.pop_all()
            elif is_inherited and status.report is not None and status.report.running:
                # The parent has left this report to us. No process may find it "running" with the lock free.
                self.reporter.progress(status, lock, handed_over=True, deadline=self.deadline).postpone()
        if death is not None:
            self.reporter.announce("rebuild_failed", status, error=death)
        return is_taken

    def can_be_handed_over(self) -> bool:
        """Whether a child could continue from here without repeating much of the work."""
        status = self.working_on
        if status is None or status.progress is None or status.declaration.kind != "list":
            return False
        return status.progress.report.phase in ("source", "enrich")

    def leave_to_child(self, status: ListStatus, deadline: float) -> None:
        """Note that a child continues this list's rebuild; the report is the child's from now on."""
        progress = status.progress
        assert progress is not None  # begun together with the lock
        progress.leave_to_child(deadline)
        status.left_to_child(progress.report)

    def resume(self, status: ListStatus) -> None:
        """Continue the rebuild of a list in this process, because no child does."""
        status.begin(self.reporter.progress(status, self.held[status.name], handed_over=True))

    def release(self, status: ListStatus) -> None:
        """Close the lock of a list whose rebuild has ended, after its report says that."""
        if status.progress is not None:
            if self.child_deadline is not None:
                self.leave_to_child(status, self.child_deadline)
            else:
                status.end(status.progress.report)
        lock = self.held.pop(status.name)
        try:
            if not lock.still_ours():
                status.distrust_report()
        except OSError:
            pass  # whose lock it is remains unknown
        lock.close()

    def close(self) -> None:
        """Close this process's copies of all locks; a child that has inherited them still holds them."""
        for locks in (self.held, self.inherited):
            while locks:
                locks.popitem()[1].close()
