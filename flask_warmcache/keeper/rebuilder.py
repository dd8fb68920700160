"""One process's rebuilds: the lock, the list it is made of, the job, and what is said of how it ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import RebuildBusyError, RebuildError
from ..host import threads
from ..settings import Settings
from ..status.condition import Findings, ListStatus
from ..status.pauses import pause_after
from ..status.progress import Progress, Report
from ..store.files import FileStore
from ..store.locks import HeldLock, no_fork
from ..store.snapshot import Snapshot
from .children import Child
from .relay import HandOver, Relay
from .time_limits import error_of_dead_child

if TYPE_CHECKING:
    from ..rebuild.outcome import Outcome

log = logging.getLogger("flask_warmcache")
# A probe of another process may hold the lock for a microsecond just as we try.
SECOND_TRY_AFTER = 0.02
# Tells the app what happens to a list: an event of signals.py, and its facts. It never raises.
Announce = Callable[[str, dict[str, Any]], None]
TimeLimit = Callable[[float | None], AbstractContextManager[Any]]


@dataclass
class Attempt:
    """One rebuild with what it holds on its way: its list's lock and, for a while, that of its source list."""

    target: ListStatus
    wanted: bool  # the target and its source list are rebuilt even if they are not due
    locks: dict[str, HeldLock] = field(default_factory=dict)
    inherited: dict[str, HeldLock] = field(default_factory=dict)  # from the process before, not yet looked at
    working_on: ListStatus | None = None
    relay: Relay | None = None
    child: Child | None = None  # it holds the same locks, and waits to go on

    def may_stop(self) -> bool:
        """Whether a child could take up the rebuild here without doing much of it again."""
        status = self.working_on
        progress = status.progress if status is not None else None
        if status is None or progress is None or status.declaration.kind != "list":
            return False
        return progress.report.phase in ("source", "enrich")

    def let_go(self) -> None:
        """Close this process's copies of the locks."""
        for held in (self.locks, self.inherited):
            while held:
                held.popitem()[1].close()


class Rebuilder:
    """Rebuilds lists of one app in this process, whoever says when."""

    def __init__(
        self,
        lists: Iterable[ListStatus],
        store: FileStore,
        settings: Settings,
        encode: Callable[[Any], bytes],
        context: Callable[[], AbstractContextManager[Any]],
        announce: Announce,
    ) -> None:
        # Lists made of others come first: their rebuild brings the others up to date on its way.
        self._lists = sorted(lists, key=lambda one: one.declaration.source_list is None)
        self._by_name = {status.name: status for status in self._lists}
        self._store = store
        self._settings = settings
        self._encode = encode
        self._context = context
        self._announce = announce
        self._time_limit: TimeLimit | None = None  # given in a child process, where items can be stopped
        self._deadline: float | None = None  # of a child process, on the wall clock
        self._guard = threading.Lock()  # guards each status's progress, and the keeper's thread
        self._stopped = False

    def rebuild_now(self, name: str, *, wanted: bool = True) -> Outcome:
        """Rebuild a list here and now, in the calling thread.

        :param wanted: whether it, and the list it is made of, are rebuilt even if they are not due.
        :raises RebuildBusyError: when another thread or process is rebuilding it, or it is no longer due.
        :raises Exception: whatever ended the rebuild; it is logged and counted like any other.
        """
        status = self._by_name[name]
        if status.problem is not None:
            raise RebuildError(f"Warm list {name!r} cannot be rebuilt: {status.problem}.")
        attempt = Attempt(status, wanted)
        if not self._take_lock(status, attempt, wanted=wanted):
            raise RebuildBusyError(f"Warm list {name!r} is being rebuilt already.")
        return self._rebuild(status, attempt)

    def rebuild_inherited(
        self,
        name: str,
        locks: Mapping[str, HeldLock],
        findings: Mapping[str, Findings],
        *,
        wanted: bool,
        deadline: float,
        time_limit: TimeLimit,
    ) -> Outcome | None:
        """In a child process: rebuild a list whose lock this process has inherited, if it is still due.

        :param findings: by list, what the parent process had found out about its snapshots.
        :raises Exception: whatever ended the rebuild; it is logged and counted.
        """
        self._deadline, self._time_limit = deadline, time_limit
        for one, found in findings.items():
            if one in self._by_name:
                self._by_name[one].adopt(found)
        status = self._by_name[name]
        status.rebuild_here()
        attempt = Attempt(status, wanted, inherited=dict(locks))
        try:
            if self._take_lock(status, attempt, wanted=wanted):
                return self._rebuild(status, attempt)
            if status.report is not None and status.report.running:
                self._new_progress(status, attempt.inherited.get(name), handed_over=True).give_up()
            return None
        finally:
            attempt.let_go()

    # Locks and reports

    def _take_lock(self, status: ListStatus, attempt: Attempt, *, wanted: bool = False) -> bool:
        """Take the list's lock, if nobody has it and the list is still due; never waits for another's rebuild."""
        with self._guard:
            lock = attempt.inherited.pop(status.name, None)
            inherited = lock is not None
            if lock is None:
                lock = self._try_lock(status)
            if lock is None:
                return False
            # A and B both find the list stale.  A locks, rebuilds, unlocks.  B locks.  Without this second
            # look B would build the same list again.
            status.reread(holds_lock=True)
            if status.is_left_by_child and not inherited and not wanted:
                self._fail_for_child(status)  # the child has died this very moment
            if not wanted and not status.condition().due:
                if not inherited:
                    lock.close()
                else:
                    attempt.inherited[status.name] = lock  # its report is to be ended before it is free
                return False
            status.begin(self._new_progress(status, lock, handed_over=inherited))
            attempt.locks[status.name] = lock
        return True

    def _try_lock(self, status: ListStatus) -> HeldLock | None:
        if status.progress is not None or self._stopped:
            return None
        lock = self._store.try_lock(status.name)
        if lock is None:
            time.sleep(SECOND_TRY_AFTER)
            lock = self._store.try_lock(status.name)
        if lock is None:
            status.reread()
        return lock

    def _new_progress(
        self, status: ListStatus, lock: HeldLock | None = None, *, handed_over: bool = False
    ) -> Progress:
        def write(report: dict[str, Any]) -> None:
            # Somebody has removed A's lock file, so B rebuilds, too, and is done first.  If A's failure then
            # replaced B's report, a fresh list would be shown as failed until its next rebuild.
            if lock is None or lock.still_ours():
                self._store.write_progress(status.name, report)

        return Progress(
            write,
            status.report,
            runner="process" if threads.in_child else "thread",
            deadline=self._deadline,
            handed_over=handed_over,
        )

    def _let_go(self, status: ListStatus, attempt: Attempt) -> None:
        lock = attempt.locks.pop(status.name)
        try:
            if not lock.still_ours():
                status.distrust_report()
        except OSError:
            pass  # nobody can say whose it is
        lock.close()

    def _leave_to_child(self, status: ListStatus) -> None:
        """Say so in the report, which is the child's from now on."""
        progress = status.progress
        assert progress is not None
        progress.leave_to_child(time.time() + self._settings.build_timeout)
        status.left_to_child(progress.report)

    # Rebuilding

    def _rebuild(self, status: ListStatus, attempt: Attempt) -> Outcome:
        """Rebuild, let go of the lock, and only then announce the end: who listens may take its time."""
        try:
            outcome = self._rebuild_locked(status, attempt)
        except (RebuildBusyError, HandOver):
            raise
        except BaseException as error:
            self._announce("rebuild_failed", {"name": status.name, "error": error})
            raise
        self._announce("rebuild_finished", {"name": status.name, "outcome": outcome})
        return outcome

    def _rebuild_locked(self, status: ListStatus, attempt: Attempt) -> Outcome:
        # Here, so that a worker that only serves never loads it.  A process that is forked in the middle of this
        # would wait at each rebuild, and for ever, for the thread that imports.
        with no_fork:
            from ..rebuild.job import Job
            from ..rebuild.tools import Tools

        progress = status.progress
        assert progress is not None  # set together with the lock
        try:
            with self._breathing(attempt) as breathe:
                tools = Tools(self._encode, self._context, breathe, first_page=self._settings.per_page)
                if self._time_limit is not None:
                    tools = replace(tools, time_limit=self._time_limit)
                attempt.working_on = None
                progress.begin("source")
                old = status.reader.current()
                upstream = self._upstream(status, old, attempt)
                if old is not None and not status.may_reuse(old):
                    old = None
                self._announce("rebuild_started", {"name": status.name})
                progress.announce = lambda report: self._announce_progress(status.name, report)
                attempt.working_on = status
                outcome = Job(
                    status.declaration, self._store, attempt.locks[status.name], old, upstream, tools, progress,
                    status.code_started,
                ).run()  # fmt: skip
        except RebuildBusyError:
            progress.give_up()
            raise
        except HandOver:
            self._leave_to_child(status)
            raise
        except BaseException as error:
            # Whatever it is: a sys.exit() in the app's code, unreported, would be started again for ever.
            self._fail(status, error, progress)
            raise
        else:
            progress.end(None)
            log.info(
                "warmcache.rebuild_finished: %r has %d items, %d enriched, %d reused, %d failed, %d dropped, "
                "in %.3f s",
                status.name,
                outcome.count,
                outcome.enriched,
                outcome.reused,
                outcome.failed,
                outcome.dropped,
                outcome.duration,
                extra={"warmcache_list": status.name},
            )
            return outcome
        finally:
            status.end(progress.report)
            self._let_go(status, attempt)

    def _breathing(self, attempt: Attempt) -> AbstractContextManager[Callable[[], None]]:
        if threads.in_child:
            return nullcontext(lambda: None)  # nobody else wants this interpreter
        return threads.polite(attempt.relay.look) if attempt.relay is not None else threads.polite()

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

    def _upstream(self, status: ListStatus, old: Snapshot | None, attempt: Attempt) -> Snapshot | None:
        """The snapshot of a list's source list, brought up to date first."""
        source_list = status.declaration.source_list
        if source_list is None:
            return None
        upstream = self._by_name[source_list]
        if upstream.problem is not None:
            raise RebuildError(f"the source list {source_list!r} cannot be rebuilt: {upstream.problem}")
        invalidated = old.is_invalidated if old else bool(self._store.invalidation(status.name))
        taken = self._take_lock(upstream, attempt, wanted=attempt.wanted or invalidated)
        if taken:
            self._rebuild(upstream, attempt)
        elif source_list in attempt.inherited:
            attempt.inherited.pop(source_list).close()  # the process before has brought it up to date
        condition = upstream.condition()
        if not taken and (condition.due or upstream.is_rebuilding):
            raise RebuildBusyError(f"The source list {source_list!r} is being rebuilt elsewhere.")
        if condition.snapshot is None:
            raise RebuildError(f"the source list {source_list!r} has failed and has nothing to show")
        return condition.snapshot

    def _fail_for_child(self, status: ListStatus) -> None:
        """A child died without an end in its report; the caller, who holds the lock, is the one to count it."""
        error = error_of_dead_child(status.name, status.report.deadline if status.report is not None else None)
        self._fail(status, error, None)
        self._announce("rebuild_failed", {"name": status.name, "error": error})

    def _fail(self, status: ListStatus, error: BaseException, progress: Progress | None) -> None:
        """Log, report and count a failure, and say when the next attempt may be."""
        if progress is None:
            progress = self._new_progress(status)
        report_failure(status.name, error, progress, self._settings.retry_min, self._settings.retry_max)
        status.end(progress.report)


def report_failure(
    name: str, error: BaseException, progress: Progress, retry_min: float, retry_max: float
) -> None:
    """Log, report and count a failure, and say when the next attempt may be."""
    failures = progress.report.failures
    pause = pause_after(failures + 1, retry_min, retry_max)
    log.error(
        "warmcache.rebuild_failed: the rebuild of %r failed (%d in a row); the old snapshot stays, the next "
        "attempt is in %.1f s",
        name,
        failures + 1,
        pause,
        exc_info=error,
        extra={"warmcache_list": name},
    )
    progress.end(error, next_attempt_at=time.time() + pause)
