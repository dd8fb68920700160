"""How one process rebuilds a list: the source list first, then the job; the end is reported after the release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import events
from ..errors import RebuildBusyError, RebuildError
from ..host import threads
from ..settings import Settings
from ..status.condition import ListStatus
from ..status.progress import Progress
from ..status.staleness import Findings
from ..store.files import FileStore
from ..store.locks import HeldLock, no_fork
from ..store.snapshot import Snapshot
from .attempt import Attempt, Locks, TimeLimit
from .reporter import Announce, Reporter

if TYPE_CHECKING:
    from ..rebuild.tools import Outcome


class Rebuilder:
    """Rebuilds the lists of one app in this process, whoever decides when."""

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
        self.lists = sorted(lists, key=lambda status: status.declaration.source_list is None)
        self.by_name = {status.name: status for status in self.lists}
        self.store = store
        self.settings = settings
        self._encode = encode
        self._context = context
        self.locks = Locks(store)
        self.reporter = Reporter(store, settings, announce)

    def rebuild_now(self, name: str, *, only_if_due: bool = False, enrich_all: bool = False) -> Outcome:
        """Rebuild a list here and now, in the calling thread.

        :param only_if_due: otherwise the list and its source list are rebuilt even if they are fresh.
        :param enrich_all: enrich the unchanged items of the list, too.
        :raises RebuildBusyError: if another thread or process is rebuilding it, or it is no longer due.
        :raises Exception: whatever ended the rebuild; it is logged and counted like any other failure.
        """
        status = self.by_name[name]
        if status.problem is not None:
            raise RebuildError(f"Warm list {name!r} cannot be rebuilt: {status.problem}.")
        attempt = self.begin(status, only_if_due=only_if_due)
        if attempt is None:
            raise RebuildBusyError(f"Warm list {name!r} is being rebuilt already.")
        attempt.enrich_all = enrich_all
        return self.rebuild(status, attempt)

    def begin(self, status: ListStatus, *, only_if_due: bool) -> Attempt | None:
        """Take a list's lock for a new attempt, or return None if it is held elsewhere or the list is not due."""
        attempt = Attempt(status, self.locks, self.reporter, only_if_due)
        return attempt if attempt.take(status, only_if_due=only_if_due) else None

    def rebuild_inherited(
        self,
        name: str,
        locks: Mapping[str, HeldLock],
        findings: Mapping[str, Findings],
        *,
        only_if_due: bool,
        deadline: float,
        time_limit: TimeLimit,
    ) -> Outcome | None:
        """Rebuild, in a child process, a list whose lock this process has inherited, if it is still due.

        :param findings: by list, what the parent process has found out about its snapshots.
        :param deadline: of this process, on the wall clock.
        :raises Exception: whatever ended the rebuild; it is logged and counted.
        """
        for other, found in findings.items():
            if other in self.by_name:
                self.by_name[other].staleness.adopt(found)
        status = self.by_name[name]
        status.rebuild_here()
        attempt = Attempt(status, self.locks, self.reporter, only_if_due, dict(locks), deadline, time_limit)
        try:
            return self.rebuild(status, attempt) if attempt.take(status, only_if_due=only_if_due) else None
        finally:
            attempt.close()

    def rebuild(self, status: ListStatus, attempt: Attempt) -> Outcome:
        """Rebuild a list that the attempt holds; announce the end only after the lock is released.

        :raises RebuildBusyError: if its source list is being rebuilt elsewhere; it can be tried again soon.
        :raises HandOver: if a child continues.
        :raises Exception: whatever ended the rebuild; it is logged and counted.
        """
        try:
            outcome = self._rebuild_locked(status, attempt)
        except BaseException as error:
            if attempt.child_deadline is None and not isinstance(error, RebuildBusyError):
                self.reporter.announce("rebuild_failed", status, error=error)
            raise
        self.reporter.announce("rebuild_finished", status, outcome=outcome)
        return outcome

    def _rebuild_locked(self, status: ListStatus, attempt: Attempt) -> Outcome:
        progress = status.progress
        assert progress is not None  # begun together with the lock
        try:
            outcome = self._run_job(status, attempt, progress)
        except RebuildBusyError:
            progress.postpone()
            raise
        except BaseException as error:
            # Whatever it is: a sys.exit() in the app's code, unreported, would be started again for ever.
            if attempt.child_deadline is None:
                self.reporter.fail(status, error, progress)
            raise
        else:
            progress.end(None)
            events.info(
                "warmcache.rebuild_finished",
                "%(list)r has %(count)d items, %(enriched)d enriched, %(reused)d reused, %(failed)d failed, "
                "%(dropped)d dropped, in %(duration).3f s",
                list=status.name,
                **asdict(outcome),
            )
            return outcome
        finally:
            attempt.release(status)

    def _run_job(self, status: ListStatus, attempt: Attempt, progress: Progress) -> Outcome:
        # Imported here, so that a worker that only serves never loads it. A process forked in the middle of this
        # import would wait for ever, at each of its rebuilds, for the thread that imports.
        with no_fork:
            from ..rebuild.job import Job
            from ..rebuild.tools import Tools

        # A child process shares its interpreter with no requests.
        polite = nullcontext(lambda: None) if threads.in_child else threads.polite(attempt.checkpoint)
        with polite as breathe:
            attempt.working_on = None
            progress.begin("source")
            old = status.reader.current()
            upstream = self._upstream(status, old, attempt)
            if old is not None and not status.staleness.may_reuse(old):
                old = None
            message = "the rebuild of %(list)r begins in %(where)s"
            where = "a child process" if threads.in_child else "a thread"
            events.info("warmcache.rebuild_started", message, list=status.name, where=where)
            self.reporter.announce("rebuild_started", status)
            progress.announce_to(lambda facts: self.reporter.announce("rebuild_progressed", status, **facts))
            attempt.working_on = status
            tools = Tools(self._encode, self._context, breathe, self.settings.per_page, attempt.time_limit)
            lock, enrich_all = attempt.held[status.name], attempt.enrich_all and status is attempt.target
            return Job(
                status.declaration,
                self.store,
                lock,
                old,
                upstream,
                tools,
                progress,
                status.code_started,
                enrich_all,
            ).run()

    def _upstream(self, status: ListStatus, old: Snapshot | None, attempt: Attempt) -> Snapshot | None:
        """Bring a list's source list up to date, if it has one, and return that list's snapshot."""
        source_list = status.declaration.source_list
        if source_list is None:
            return None
        upstream = self.by_name[source_list]
        if upstream.problem is not None:
            raise RebuildError(f"the source list {source_list!r} cannot be rebuilt: {upstream.problem}")
        is_invalidated = old.is_invalidated if old else bool(self.store.invalidation(status.name))
        is_taken = attempt.take(upstream, only_if_due=attempt.only_if_due and not is_invalidated)
        if is_taken:
            self.rebuild(upstream, attempt)
        condition = upstream.condition()
        if not is_taken and (condition.due or upstream.is_rebuilding):
            raise RebuildBusyError(f"The source list {source_list!r} is being rebuilt elsewhere.")
        if condition.snapshot is None:
            raise RebuildError(f"the source list {source_list!r} has failed and has nothing to show")
        return condition.snapshot
