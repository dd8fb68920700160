"""When lists are rebuilt: which of them are due, and the keeper, a background thread in each worker."""

from __future__ import annotations

import _imp
import atexit
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from .. import events
from ..errors import RebuildBusyError
from ..host import threads
from ..host.threads import run_in_thread
from ..status.condition import ListStatus
from ..store.files import FileStore
from ..store.verify import Verifier
from .attempt import Attempt
from .children import Children
from .hand_over import Runner
from .rebuilder import Rebuilder

if TYPE_CHECKING:
    from ..rebuild.tools import Outcome

# How often the keeper examines the lists, in seconds.
TICK_EVERY = 0.2
# Workers that start together begin their background work within this many seconds, at different moments.
STAGGER = 0.3
JOIN_POLL = 0.02
WRITE_FOLLOWS_WITHIN = 2_000_000_000  # nanoseconds; a write is abandoned after one second


class Due:
    """Examines the lists of one app."""

    def __init__(self, by_name: Mapping[str, ListStatus], store: FileStore) -> None:
        self._by_name = by_name
        self._store = store
        self._verifiers = {name: Verifier(store.folder, name) for name in by_name}

    def is_due(self, status: ListStatus) -> bool:
        """Examine a list as thoroughly as only the keeper does, and return whether to rebuild it now."""
        self.note_stale(status)
        threads.apart(lambda: self._verify(status))
        source_list = status.declaration.source_list
        # While the source list is being rebuilt, a rebuild of this one would not get its lock.
        is_source_busy = source_list is not None and self._by_name[source_list].is_rebuilding
        return status.condition().due and not is_source_busy

    def note_stale(self, status: ListStatus) -> None:
        """Note whether the source list has a newer snapshot, or the list was invalidated while it was made.

        The latter is already noted in the snapshot, unless its builder died between the rename and that.
        """
        snapshot = status.reader.current()
        if snapshot is None or snapshot.is_cold:
            return
        if self._store.invalidation(status.name) != snapshot.header["invalidation"]:
            status.staleness.require_newer_than(snapshot.rebuilt)
        source_list = status.declaration.source_list
        if source_list is None:
            return
        source = self._by_name[source_list]
        upstream = source.reader.current()
        if upstream is None or upstream.is_cold or upstream.generation == snapshot.header["upstream"]:
            return
        # A write to the source list is passed on to a list with the same keys, which then needs no rebuild.
        is_written = upstream.generation != upstream.rebuilt and source.declaration.key == status.declaration.key
        if not is_written or time.time_ns() - upstream.generation > WRITE_FOLLOWS_WITHIN:
            status.staleness.require_successor_of(snapshot.generation)

    def _verify(self, status: ListStatus) -> None:
        """Verify the checksums of a new snapshot once; have a damaged one rebuilt from scratch."""
        snapshot = status.reader.current()
        if snapshot is not None and self._verifiers[status.name].is_damaged(snapshot):
            status.staleness.note_damage(snapshot)
            message = "the files of %(list)r fail their checksums; they are rebuilt"
            events.error("warmcache.snapshot_damaged", message, list=status.name)


class Keeper:
    """Examines every list five times a second, and rebuilds what is due unless another process does."""

    def __init__(
        self, rebuilder: Rebuilder, children: Children, chores: Callable[[], None] = lambda: None
    ) -> None:
        """:param chores: what else a worker's background thread does at each turn."""
        self._rebuilder = rebuilder
        self._children = children
        self._chores = chores
        self._lists = rebuilder.lists
        self._runner = Runner(rebuilder, children)
        self.due = Due(rebuilder.by_name, rebuilder.store)
        settings = rebuilder.settings
        is_external = settings.runner == "external" and settings.enabled
        for status in self._lists:
            status.kept_by(self._runner.describe, is_external=is_external)
        self._reset()

    def _reset(self) -> None:
        self._guard = threading.Lock()  # guards _thread
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """Begin without the parent's threads and locks; a forked process starts its own at its first request."""
        self._reset()
        self._rebuilder.locks.after_fork()
        self._children.after_fork()
        for status in self._lists:
            status.after_fork()

    # For requests

    def ensure(self) -> None:
        """Start the thread unless it is running; that costs a fraction of a microsecond."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._guard:
            if threads.in_child or (self._thread is not None and self._thread.is_alive()):
                return
            if self._thread is not None:
                events.error("warmcache.keeper_died", "the keeper thread had ended; a new one starts")
            elif (problem := threads.uwsgi_problem()) is not None:
                events.error("warmcache.no_threads", "%(problem)s", problem=problem)
            thread = threading.Thread(
                target=_keep, args=(weakref.ref(self), self._wake), name="warmcache-keeper", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # this request must not fail
                message = "no thread could be started; the next request tries again"
                events.error("warmcache.keeper_not_started", message, error=True)
                return
            self._thread = thread

    def wake(self) -> None:
        """Have the thread take its turn at once, since a read found a list due."""
        if not self._wake.is_set():
            self._wake.set()

    def stop(self) -> None:
        """End the thread at its next turn, and begin no further rebuild; for an app whose folder is removed."""
        self._rebuilder.locks.is_stopped = True
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """After ``stop``, wait for the end of the thread and this process's rebuilds; return whether it came."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            is_alive = self._thread is not None and self._thread.is_alive()
            if not is_alive and not any(status.progress for status in self._lists):
                return True
            time.sleep(JOIN_POLL)
        return False

    # The thread

    def _take_turn(self) -> bool:
        """Do what is due; return False if there is to be no further turn."""
        if self._rebuilder.locks.is_stopped:
            self._children.abandon()
            return False
        for work in (self._chores, self.tick):
            try:
                work()
            except Exception:
                events.error("warmcache.keeper_error", "the keeper continues", error=True)
        return True

    def tick(self, run: Callable[[Callable[[], None], str], None] = run_in_thread) -> None:
        """Examine every list once, and start to rebuild what is due.

        :param run: runs a rebuild; the second argument is the list's name.
        """
        self._children.watch()
        for status in self._lists:
            try:
                self._keep_up(status, run)
            except Exception as error:
                # Trouble with one list, such as an unusable folder, must not starve the others.
                self._rebuilder.reporter.fail(status, error)
                self._rebuilder.reporter.announce("rebuild_failed", status, error=error)

    def rebuild_now(self, status: ListStatus, *, enrich_all: bool, waits: bool) -> Outcome:
        """Rebuild a list in the calling thread.

        :param waits: whether to wait for the end of rebuilds in the way that this process has begun.
        :raises RebuildBusyError: if the list is being rebuilt elsewhere.
        :raises Exception: whatever ended the rebuild; it is logged and counted.
        """
        while True:
            is_own = waits and self._is_rebuilding(status)
            try:
                return self._rebuilder.rebuild_now(status.name, enrich_all=enrich_all)
            except RebuildBusyError:
                if not is_own and not (waits and self._is_rebuilding(status)):
                    raise
            time.sleep(JOIN_POLL)

    def _is_rebuilding(self, status: ListStatus) -> bool:
        """Whether this process or a child of it rebuilds a list, or one of its source lists."""
        wanted = {one.name for one in self._chain(status)}
        return any(
            one.progress is not None or self._children.is_rebuilding(one.name)
            for one in self._lists
            if wanted & {above.name for above in self._chain(one)}
        )

    def _chain(self, status: ListStatus) -> Iterator[ListStatus]:
        """Yield a list and its source lists."""
        yield status
        while status.declaration.source_list is not None:
            status = self._rebuilder.by_name[status.declaration.source_list]
            yield status

    def rebuild_due(self) -> None:
        """Examine every list once, and rebuild in this thread what is due, whatever the runner is."""
        for status in self._lists:
            status.rebuild_here()
        self.tick(lambda work, name: work())

    def beat(self) -> None:
        """Show in the reports of this process's rebuilds that they are alive."""
        for status in self._lists:
            if (progress := status.progress) is not None:
                progress.beat()

    def _keep_up(self, status: ListStatus, run: Callable[[Callable[[], None], str], None]) -> None:
        if (progress := status.progress) is not None:
            progress.beat()
            return
        status.reread()
        has_child_died = status.is_left_by_child and not status.is_rebuilding
        if not (self.due.is_due(status) or has_child_died):
            return
        # The process that gets the lock counts a dead child as a failure, whether or not the list is due.
        attempt = self._rebuilder.begin(status, only_if_due=True)
        if attempt is None:
            return
        try:
            run(lambda: self._rebuild(attempt), status.name)
        except BaseException:  # no thread could be started
            attempt.release(status)
            raise

    def _rebuild(self, attempt: Attempt) -> None:
        try:
            self._runner.run(attempt)
        except BaseException as error:
            # The error is reported already, even a sys.exit(), and must not leave the thread. If only the source
            # list is busy, the next tick tries again.
            if attempt.target.name in attempt.held:  # the rebuild has not even begun
                self._rebuilder.reporter.fail(attempt.target, error, attempt.target.progress)
                attempt.close()
            return
        self.wake()  # lists made of this one are due now


# At exit only the main thread may import. Ours are daemon threads: they end wherever they are when the interpreter
# ends. If one was importing, it never released the import lock, and the worker waited for that lock,
# only to show a warning, until gunicorn killed it (Python 3.11).
atexit.register(_imp.acquire_lock)


def _keep(reference: weakref.ref[Keeper], wake: threading.Event) -> None:
    """Run the thread: it holds the keeper, and so the app, only during its turns, and ends when they are gone."""
    seconds = random.uniform(0, STAGGER)  # a request that finds its list cold cuts this short
    while True:
        wake.wait(seconds)
        wake.clear()
        keeper = reference()
        if keeper is None or not keeper._take_turn():
            return
        del keeper
        seconds = TICK_EVERY
