"""When a list is rebuilt: the background thread that each worker has one of."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from ..errors import RebuildBusyError, RebuildError
from ..settings import Settings
from ..store.files import FileStore, HeldLock
from ..store.snapshot import Snapshot, Verifier
from .job import Job, Outcome
from .progress import Progress, Report
from .runners import polite, run_in_thread
from .source import Tools
from .status import LOOK_EVERY, ListStatus

log = logging.getLogger("flask_warmcache")
# A probe of another process may hold the lock for a microsecond just as we try.
SECOND_TRY_AFTER = 0.02
# Tells the app what happens to a list: an event of signals.py, and its facts. It never raises.
Announce = Callable[[str, dict[str, Any]], None]


class Keeper:
    """Looks at every list five times a second, and rebuilds what is due and nobody else rebuilds."""

    def __init__(
        self,
        lists: Iterable[ListStatus],
        store: FileStore,
        settings: Settings,
        encode: Callable[[Any], bytes],
        context: Callable[[], AbstractContextManager[Any]],
        announce: Announce = lambda event, facts: None,
    ) -> None:
        # Lists made of others come first: their rebuild brings the others up to date on its way.
        self._lists = sorted(lists, key=lambda one: one.declaration.source_list is None)
        self._by_name = {status.name: status for status in self._lists}
        self._store = store
        self._settings = settings
        self._encode = encode
        self._context = context
        self._announce = announce
        self._verifiers = {name: Verifier(store.folder, name) for name in self._by_name}
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the parent's threads and locks; the child starts its own at its first request."""
        self._guard = threading.Lock()  # guards _thread and each status's progress
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        for status in self._lists:
            status.progress = None
            status.reader.after_fork()

    # Called by requests

    def ensure(self) -> None:
        """See to it that the thread runs; costs a fraction of a microsecond when it does."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._guard:
            if self._thread is not None and self._thread.is_alive():
                return
            if self._thread is not None:
                log.error("warmcache.keeper_died: the keeper thread had ended; a new one starts")
            thread = threading.Thread(target=self._keep, name="warmcache-keeper", daemon=True)
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
        """Wait, after ``stop``, for the thread and this process's rebuilds to end; say whether they did."""
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

    def _keep(self) -> None:
        while not self._stopped:
            try:
                self.tick()
            except Exception:
                log.exception("warmcache.keeper_error: the keeper goes on")
            self._wake.wait(LOOK_EVERY)
            self._wake.clear()

    def tick(self) -> None:
        """Look at every list once and start what is due."""
        for status in self._lists:
            try:
                self._look_after(status)
            except Exception as error:
                # One list's trouble, an unusable folder for instance, must not starve the others.
                self._fail(status, error, None)
                self._announce("rebuild_failed", {"name": status.name, "error": error})

    def _look_after(self, status: ListStatus) -> None:
        progress = status.progress
        if progress is not None:
            progress.beat()
            return
        status.look()
        self.note_outdated(status)
        self._verify(status)
        if not status.condition().due or self._is_upstream_busy(status):
            return
        lock = self._take_lock(status)
        if lock is None:
            return
        try:
            run_in_thread(lambda: self._rebuild_quietly(status, lock), status.name)
        except BaseException:
            self._let_go(status, lock)
            raise

    def _take_lock(self, status: ListStatus, *, wanted: bool = False) -> HeldLock | None:
        """The list's lock, if nobody has it and the list is still due; never waits for another's rebuild."""
        with self._guard:
            if status.progress is not None or self._stopped:
                return None
            lock = self._store.try_lock(status.name)
            if lock is None:
                time.sleep(SECOND_TRY_AFTER)
                lock = self._store.try_lock(status.name)
            if lock is None:
                status.look()
                return None
            # A and B both find the list stale.  A locks, rebuilds, unlocks.  B locks.  Without this second
            # look B would build the same list again.
            status.look()
            if not wanted and not status.condition().due:
                lock.close()
                return None
            status.progress = self._new_progress(status)
        return lock

    def _new_progress(self, status: ListStatus) -> Progress:
        return Progress(lambda report: self._store.write_progress(status.name, report), status.report)

    def _let_go(self, status: ListStatus, lock: HeldLock) -> None:
        # The report first: who sees the lock free must not find it "running".
        status.progress = None
        lock.close()

    # Rebuilding

    def rebuild_now(self, name: str, *, wanted: bool = True) -> Outcome:
        """Rebuild a list here and now, in the calling thread.

        :param wanted: whether it, and the list it is made of, are rebuilt even if they are not due.
        :raises RebuildBusyError: when another thread or process is rebuilding it, or it is no longer due.
        :raises Exception: whatever ended the rebuild; it is logged and counted like any other.
        """
        status = self._by_name[name]
        if status.problem is not None:
            raise RebuildError(f"Warm list {name!r} cannot be rebuilt: {status.problem}.")
        lock = self._take_lock(status, wanted=wanted)
        if lock is None:
            raise RebuildBusyError(f"Warm list {name!r} is being rebuilt already.")
        return self._rebuild(status, lock, wanted=wanted)

    def _rebuild_quietly(self, status: ListStatus, lock: HeldLock) -> None:
        try:
            self._rebuild(status, lock, wanted=False)
        except RebuildBusyError:
            return  # its source list is being rebuilt elsewhere; the next tick tries again, not this moment
        except BaseException:
            return  # logged, reported and counted by _rebuild, even a sys.exit(); nothing may leave the thread
        self.wake()  # what is made of this list is due now

    def _rebuild(self, status: ListStatus, lock: HeldLock, *, wanted: bool) -> Outcome:
        """Rebuild, let go of the lock, and only then announce the end: who listens may take its time."""
        try:
            outcome = self._rebuild_locked(status, lock, wanted=wanted)
        except RebuildBusyError:
            raise
        except BaseException as error:
            self._announce("rebuild_failed", {"name": status.name, "error": error})
            raise
        self._announce("rebuild_finished", {"name": status.name, "outcome": outcome})
        return outcome

    def _rebuild_locked(self, status: ListStatus, lock: HeldLock, *, wanted: bool) -> Outcome:
        progress = status.progress
        assert progress is not None  # set together with the lock
        try:
            with polite() as breathe:
                tools = Tools(self._encode, self._context, breathe)
                progress.begin("source")
                old = status.reader.current()
                upstream = self._upstream(status, old, wanted)
                if old is not None and not status.may_reuse(old):
                    old = None
                self._announce("rebuild_started", {"name": status.name})
                progress.announce = lambda report: self._announce_progress(status.name, report)
                outcome = Job(
                    status.declaration, self._store, lock, old, upstream, tools, progress, status.code_started
                ).run()
        except RebuildBusyError:
            progress.give_up()
            raise
        except BaseException as error:
            # Whatever it is: a sys.exit() in the app's code, unreported, would be started again for ever.
            self._fail(status, error, progress)
            raise
        else:
            progress.end(None)
            log.info(
                "warmcache.rebuild_finished: %r has %d items, %d enriched, %d reused, %d failed, in %.3f s",
                status.name,
                outcome.count,
                outcome.enriched,
                outcome.reused,
                outcome.failed,
                outcome.duration,
                extra={"warmcache_list": status.name},
            )
            return outcome
        finally:
            status.report = progress.report
            self._let_go(status, lock)

    def _announce_progress(self, name: str, report: Report) -> None:
        self._announce(
            "rebuild_progressed",
            {
                "name": name,
                "done": report.done,
                "total": report.total,
                "phase": report.phase,
                "rate": report.rate,
                "eta": report.eta,
            },
        )

    def _upstream(self, status: ListStatus, old: Snapshot | None, wanted: bool) -> Snapshot | None:
        """The snapshot of a list's source list, brought up to date first."""
        source_list = status.declaration.source_list
        if source_list is None:
            return None
        upstream = self._by_name[source_list]
        if upstream.problem is not None:
            raise RebuildError(f"the source list {source_list!r} cannot be rebuilt: {upstream.problem}")
        invalidated = old.is_invalidated if old else bool(self._store.invalidation(status.name))
        lock = self._take_lock(upstream, wanted=wanted or invalidated)
        if lock is not None:
            self._rebuild(upstream, lock, wanted=wanted)
        condition = upstream.condition()
        if lock is None and (condition.due or upstream.is_rebuilding):
            raise RebuildBusyError(f"The source list {source_list!r} is being rebuilt elsewhere.")
        if condition.snapshot is None:
            raise RebuildError(f"the source list {source_list!r} has failed and has nothing to show")
        return condition.snapshot

    def _fail(self, status: ListStatus, error: BaseException, progress: Progress | None) -> None:
        """Log, report and count a failure, and say when the next attempt may be."""
        if progress is None:
            progress = self._new_progress(status)
        failures = progress.report.failures
        pause = min(self._settings.retry_max, self._settings.retry_min * 2 ** min(failures, 30))
        # Jitter, so that lists that failed together do not try again together.
        pause *= random.uniform(0.75, 1.25)
        log.error(
            "warmcache.rebuild_failed: the rebuild of %r failed (%d in a row); the old snapshot stays, the next "
            "attempt is in %.1f s",
            status.name,
            failures + 1,
            pause,
            exc_info=error,
            extra={"warmcache_list": status.name},
        )
        progress.end(error, next_attempt_at=time.time() + pause)
        status.report = progress.report

    # Looking after what is published

    def _is_upstream_busy(self, status: ListStatus) -> bool:
        """Whether the source list is being rebuilt, so that a rebuild of this one had to give up."""
        source_list = status.declaration.source_list
        return source_list is not None and self._by_name[source_list].is_rebuilding

    def note_outdated(self, status: ListStatus) -> None:
        """What only a second file tells: the source list has a newer snapshot; or somebody invalidated the list
        while it was made, and its builder died behind the rename, before it could mark it.
        """
        snapshot = status.reader.current()
        if snapshot is None or snapshot.is_cold:
            return
        if self._store.invalidation(status.name) != snapshot.header["invalidation"]:
            status.outdated_generation = snapshot.generation
        source_list = status.declaration.source_list
        if source_list is None:
            return
        upstream = self._by_name[source_list].reader.current()
        if upstream is not None and not upstream.is_cold and upstream.generation != snapshot.header["upstream"]:
            status.outdated_generation = snapshot.generation

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
