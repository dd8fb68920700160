"""When a list is rebuilt, and where: the background thread that each worker has one of."""

from __future__ import annotations

import _imp
import atexit
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from ..errors import ChildError, RebuildBusyError
from ..host import threads
from ..host.threads import run_in_thread
from ..settings import Settings
from ..status.condition import ListStatus
from ..store.files import FileStore
from ..store.verify import Verifier
from .children import Child, Children
from .rebuilder import SECOND_TRY_AFTER, Announce, Attempt, Rebuilder
from .relay import COMPUTING, LONG, HandOver, Relay

log = logging.getLogger("flask_warmcache")
WRITE_FOLLOWS_WITHIN = 2_000_000_000  # nanoseconds; a write gives up after one second
CHILD_POLL = 0.01
# Workers that start together begin their background work within so many seconds, and not in the same instant.
STAGGER = 0.3
# How often the keeper compares each list with what is due, in seconds.
TICK_EVERY = 0.2


class Keeper(Rebuilder):
    """Looks at every list five times a second, and rebuilds what is due and nobody else rebuilds."""

    def __init__(
        self,
        lists: Iterable[ListStatus],
        store: FileStore,
        settings: Settings,
        encode: Callable[[Any], bytes],
        context: Callable[[], AbstractContextManager[Any]],
        children: Children,
        announce: Announce = lambda event, facts: None,
        chores: Callable[[], None] = lambda: None,
    ) -> None:
        """:param chores: what else a worker's background thread looks after, at each of its looks."""
        super().__init__(lists, store, settings, encode, context, announce)
        self._chores = chores
        self._children = children
        self._verifiers = {name: Verifier(store.folder, name) for name in self._by_name}
        for status in self._lists:
            is_external = settings.runner == "external" and settings.enabled
            status.kept_by(self._describe_runner, is_external=is_external)
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the parent's threads and locks; the child starts its own at its first request."""
        self._guard = threading.Lock()  # guards _thread and each status's progress
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._children.after_fork()
        for status in self._lists:
            status.after_fork()

    # Called by requests

    def ensure(self) -> None:
        """See to it that the thread runs; costs a fraction of a microsecond when it does."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._guard:
            if threads.in_child or (self._thread is not None and self._thread.is_alive()):
                return
            if self._thread is not None:
                log.error("warmcache.keeper_died: the keeper thread had ended; a new one starts")
            elif threads.uwsgi_problem() is not None:
                log.error("warmcache.no_threads: %s", threads.uwsgi_problem())
            thread = threading.Thread(
                target=_keep, args=(weakref.ref(self), self._wake), name="warmcache-keeper", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # No thread to be had now; the next request tries again, this one must not fail.
                log.exception("warmcache.keeper_not_started")
                return
            self._thread = thread

    def stop(self) -> None:
        """End the thread at its next look, and start no further rebuild; for an app whose folder goes away."""
        self._stopped = True
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait, after ``stop``, for the end of the thread and of this process's rebuilds; say whether it came."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not (self._thread and self._thread.is_alive()) and not any(one.progress for one in self._lists):
                return True
            time.sleep(SECOND_TRY_AFTER)
        return False

    def wake(self) -> None:
        """A read found a list due: look at once instead of at the next tick."""
        if not self._wake.is_set():
            self._wake.set()

    # The thread

    def _look(self) -> bool:
        """Do what is due; False when there is to be no further look."""
        if self._stopped:
            self._children.forget()
            return False
        for look in (self._chores, self.tick):
            try:
                look()
            except Exception:
                log.exception("warmcache.keeper_error: the keeper goes on")
        return True

    def tick(self, run: Callable[[Callable[[], None], str], None] = run_in_thread) -> None:
        """Look at every list once and start what is due.

        :param run: runs a rebuild; the second argument is the list's name.
        """
        self._children.watch()
        for status in self._lists:
            try:
                self._look_after(status, run)
            except Exception as error:
                # One list's trouble, an unusable folder for instance, must not starve the others.
                self._fail(status, error, None)
                self._announce("rebuild_failed", {"name": status.name, "error": error})

    def rebuild_due(self) -> None:
        """Look at every list once and rebuild, in this thread, what is due, whatever the runner is."""
        for status in self._lists:
            status.rebuild_here()
        self.tick(lambda work, name: work())

    def beat(self) -> None:
        """Say in the reports of this process's rebuilds that they go on."""
        for status in self._lists:
            progress = status.progress
            if progress is not None:
                progress.beat()

    def _look_after(self, status: ListStatus, run: Callable[[Callable[[], None], str], None]) -> None:
        progress = status.progress
        if progress is not None:
            progress.beat()
            return
        status.reread()
        if status.is_left_by_child and not status.is_rebuilding:
            self._note_dead_child(status)
        self.note_stale(status)
        threads.apart(lambda: self._verify(status))
        if not status.condition().due or self._is_upstream_busy(status):
            return
        attempt = Attempt(status, wanted=False)
        if not self._take_lock(status, attempt):
            return
        try:
            run(lambda: self._rebuild_quietly(status, attempt), status.name)
        except RuntimeError as error:  # no thread to be had
            self._fail(status, error, status.progress)
            self._let_go(status, attempt)
            self._announce("rebuild_failed", {"name": status.name, "error": error})

    def _rebuild_quietly(self, status: ListStatus, attempt: Attempt) -> None:
        try:
            if self._belongs_in_child(status) and self._send_to_child(status, attempt):
                return
            threads.apart(lambda: self._rebuild_here(status, attempt))
        except RebuildBusyError:
            return  # its source list is being rebuilt elsewhere; the next tick tries again, not this moment
        except BaseException:
            return  # logged, reported and counted by _rebuild, even a sys.exit(); nothing may leave the thread
        self.wake()  # what is made of this list is due now

    def _rebuild_here(self, status: ListStatus, attempt: Attempt) -> None:
        """Rebuild in this thread; it may turn out on the way that a child had better go on."""
        relay: Relay | None = None
        if self._settings.runner == "auto" and not threads.in_child and not threads.is_green():
            relay = attempt.relay = Relay(lambda: self._start_heir(attempt), attempt.may_stop)
        heir: Child | None = None
        try:
            self._rebuild(status, attempt)
        except HandOver:
            heir = attempt.child
            assert heir is not None
            heir.go()
        finally:
            if attempt.child is not None and heir is None:
                attempt.child.kill()  # it holds the lock, too
                self._note_refusal(status, relay.answer if relay is not None else None)

    # Children

    def _belongs_in_child(self, status: ListStatus) -> bool:
        """Whether a rebuild that begins now had better run in a child from its beginning."""
        if self._settings.runner not in ("process", "auto") or threads.in_child:
            return False
        if self._children.problem() is not None:
            return False
        if self._settings.runner == "process" or threads.is_green():
            return True
        progress, snapshot = status.progress, status.reader.current()
        if progress is not None and progress.report.interruptions:
            return True  # a worker's life was too short for it
        if snapshot is None or snapshot.is_cold:
            return False
        return snapshot.header["duration"] > LONG and (snapshot.header.get("cpu_share") or 0) > COMPUTING

    def _start_child(self, attempt: Attempt, *, wait: bool) -> Child:
        status = attempt.target
        findings = {one.name: one.findings() for one in self._lists}
        return self._children.start(status.declaration, attempt.locks, findings, wanted=attempt.wanted, wait=wait)

    def _start_heir(self, attempt: Attempt) -> Child | None:
        """A child that gets ready to go on with this rebuild, or None; the rebuild does not depend on it."""
        if self._children.problem() is not None:
            return None
        try:
            attempt.child = self._start_child(attempt, wait=True)
        except Exception:
            log.warning(
                "warmcache.no_child: %r goes on in its thread",
                attempt.target.name,
                exc_info=True,
                extra={"warmcache_list": attempt.target.name},
            )
        return attempt.child

    def _send_to_child(self, status: ListStatus, attempt: Attempt) -> bool:
        """Have a child do it from the beginning; False when there is none, and the thread is to do it."""
        interruptions = status.progress.report.interruptions if status.progress is not None else 0
        self._leave_to_child(status)  # before the child may write its own report
        answer: str | None = None
        error: Exception
        try:
            child = self._start_child(attempt, wait=False)
            while (answer := child.heard()) is None:
                time.sleep(CHILD_POLL)
            if answer == "ready" or (answer == "gone" and self._settings.runner == "process"):
                attempt.let_go()  # of our copies; what became of a child that is gone is seen at the next look
                return True
            error = ChildError(f"The child process for {status.name!r} is not ready: {answer}.")
        except Exception as failure:
            error = failure
        if self._settings.runner == "process":
            self._fail(status, error, None)
            self._announce("rebuild_failed", {"name": status.name, "error": error})
            attempt.let_go()
            return True
        log.warning("warmcache.no_child: %r is rebuilt in a thread: %s", status.name, error)
        self._note_refusal(status, answer)
        progress = self._new_progress(status, attempt.locks.get(status.name), handed_over=True)
        progress.report.interruptions = interruptions
        status.begin(progress)
        return False

    def _note_refusal(self, status: ListStatus, answer: str | None) -> None:
        """A child that does not find the app once will not find it the next time."""
        if answer is not None and answer.startswith("refused"):
            log.error("warmcache.child_refused: %r stays in its thread: %s", status.name, answer)
            self._children.refuse("it does not find the app; the log says why")

    def _note_dead_child(self, status: ListStatus) -> None:
        """Count a failure that nobody else has counted; a list need not be due for that."""
        with self._guard:
            lock = self._try_lock(status)
            if lock is None:
                return
            try:
                status.reread(holds_lock=True)
                if status.is_left_by_child:
                    self._fail_for_child(status)
            finally:
                lock.close()

    def _describe_runner(self) -> dict[str, str]:
        """For the stats: where this process's rebuilds run, and what stands in the way."""
        said = {"mode": self._settings.runner}
        if self._settings.runner in ("process", "auto"):
            problem = self._children.problem()
            said["child"] = "available" if problem is None else f"unavailable: {problem}"
        problem = threads.uwsgi_problem()
        if problem is not None:
            said["problem"] = problem
        return said

    # Looking after what is published

    def _is_upstream_busy(self, status: ListStatus) -> bool:
        """Whether the source list is being rebuilt, so that a rebuild of this one had to give up."""
        source_list = status.declaration.source_list
        return source_list is not None and self._by_name[source_list].is_rebuilding

    def note_stale(self, status: ListStatus) -> None:
        """What only a second file tells: the source list has a newer snapshot; or somebody invalidated the list
        while it was made, and its builder died behind the rename, before it could mark it.
        """
        snapshot = status.reader.current()
        if snapshot is None or snapshot.is_cold:
            return
        if self._store.invalidation(status.name) != snapshot.header["invalidation"]:
            status.require_newer_than(snapshot.rebuilt)
        source_list = status.declaration.source_list
        if source_list is None:
            return
        source = self._by_name[source_list]
        upstream = source.reader.current()
        if upstream is None or upstream.is_cold or upstream.generation == snapshot.header["upstream"]:
            return
        # A write is on its way to a list of the same keys, too, which needs no rebuild for that.
        written = upstream.generation != upstream.rebuilt and source.declaration.key == status.declaration.key
        if not written or time.time_ns() - upstream.generation > WRITE_FOLLOWS_WITHIN:
            status.require_successor_of(snapshot.generation)

    def _verify(self, status: ListStatus) -> None:
        """Look once at what is newly published, off the request path; damage is rebuilt from nothing."""
        snapshot = status.reader.current()
        if snapshot is not None and self._verifiers[status.name].is_damaged(snapshot):
            status.note_damage(snapshot)
            log.error(
                "warmcache.snapshot_damaged: the files of %r fail their checksums; they are rebuilt",
                status.name,
                extra={"warmcache_list": status.name},
            )


# From here on, nobody but the thread that leaves imports anything.  Ours are daemon threads, which end at whatever
# they are doing when the interpreter does: one that was looking for a module took the import lock with it, and
# the worker waited for that lock, only to show a warning, until gunicorn killed it (Python 3.10 and 3.11).
atexit.register(_imp.acquire_lock)


def _keep(reference: weakref.ref[Keeper], wake: threading.Event) -> None:
    """The thread: it holds the keeper, and with it the app, only while it looks, and ends when they are gone."""
    seconds = random.uniform(0, STAGGER)  # cut short by a request that finds its list cold
    while True:
        wake.wait(seconds)
        wake.clear()
        keeper = reference()
        if keeper is None or not keeper._look():
            return
        del keeper
        seconds = TICK_EVERY
