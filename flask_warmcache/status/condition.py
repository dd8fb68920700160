"""Whether a list is cold, fresh or stale, and whether a newer one is being made, as one process knows it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from ..declaration import Declaration
from ..store.file_access import Stamp, current_stamp
from ..store.files import FileStore
from ..store.snapshot import Snapshot
from .blockade import SILENT_AFTER, Blockade
from .pauses import pause_left
from .progress import Progress, Report
from .staleness import Findings, Staleness

UNREAD: Stamp = (0, 0, 0, 0)  # neither a file nor a missing file has this stamp
# A snapshot published that far in the future comes from a clock that has been set back since. Without this rule
# it would stay fresh until the clock has caught up.
FROM_THE_FUTURE = -60.0


class Condition(NamedTuple):
    """What one read learns about its list."""

    snapshot: Snapshot | None  # None: there is nothing to serve
    state: str  # cold, partial, fresh, stale or failed
    rebuilding: bool  # a newer list is being made, or is about to be
    age: float  # seconds since publication, never negative
    due: bool  # this process should start a rebuild now


class ListStatus:
    """What one process knows about one list. The keeper keeps it up to date, and requests read it.

    Only the methods of this class assign its attributes; each of them says what holds afterwards.
    """

    def __init__(
        self, declaration: Declaration, store: FileStore, ttl: float, problem: str | None, code_started: int
    ) -> None:
        """
        :param ttl: seconds after which a snapshot is stale.
        :param problem: why the list can never be rebuilt, as found when the declarations closed.
        :param code_started: when this server started, in nanoseconds.
        """
        self.declaration = declaration
        self.code_started = code_started
        self._is_value = declaration.kind == "value"
        self.name = declaration.name
        self.store = store
        self.ttl = ttl
        self.problem = problem
        self.reader = store.reader(self.name)
        self.staleness = Staleness(declaration, code_started)
        self.report: Report | None = None
        self.progress: Progress | None = None  # of the rebuild that runs in this process
        self.is_rebuilt_elsewhere = False  # runner external: this process starts no rebuild of the list
        self.runner: Callable[[], dict[str, str]] = dict  # for the stats: where this process's rebuilds run
        self._is_locked_elsewhere = False  # another process was rebuilding when the lock was last probed
        self._progress_path = os.fspath(store.folder / f"{self.name}.progress")
        self._progress_stamp: Stamp | None = None
        self.blockade = Blockade()

    def condition(self) -> Condition:
        """Return the list's condition now, at the cost of one system call and a few comparisons.

        ============  ===================  ===========  =======  ================================
        snapshot      last rebuild failed  stale        state    due
        ============  ===================  ===========  =======  ================================
        none          no                   --           cold     yes
        none          yes                  --           failed   after the pause
        any           yes                  no           failed   no
        any           yes                  yes          failed   after the pause
        partial       no                   yes, always  partial  yes
        complete      no                   yes          stale    yes
        complete      no                   no           fresh    no
        ============  ===================  ===========  =======  ================================

        A list with a ``problem`` counts as failed, with a pause that never ends.  Nothing is due if the list is
        rebuilt elsewhere, and no snapshot is due that newer code than ours has made.

        ``rebuilding`` is true if the list is due, or if a rebuild runs that will replace the snapshot.  Without a
        snapshot it is always true, unless there is a problem.
        """
        snapshot = self.reader.current()
        if snapshot is None or snapshot.is_cold or snapshot.is_value != self._is_value:
            return self._condition_without_snapshot()
        age = time.time() - snapshot.published_at
        stale = (
            self.staleness.applies_to(snapshot)  # first, since it examines a new snapshot
            or age > self.ttl
            or age < FROM_THE_FUTURE
            or self.reader.is_unusable
        )
        failed = self._has_failed()
        if not (stale or failed or self._is_locked_elsewhere or self.progress is not None):
            return Condition(snapshot, "fresh", False, age if age > 0 else 0.0, False)
        may_start = not (
            self.is_rebuilt_elsewhere or self.staleness.is_from_newer_code or (failed and self.pause > 0)
        )
        due = stale and may_start
        if failed:
            state = "failed"
        elif not snapshot.complete:
            state = "partial"
        else:
            state = "stale" if stale else "fresh"
        rebuilding = due or (self.is_rebuilding and self._began_after(snapshot))
        return Condition(snapshot, state, rebuilding, max(0.0, age), due)

    def _began_after(self, snapshot: Snapshot) -> bool:
        """Whether the running rebuild will replace this snapshot; it may be the one that has just published it."""
        progress = self.progress
        report = self.report if progress is None else progress.report
        return report is None or report.started >= snapshot.published_at

    def _condition_without_snapshot(self) -> Condition:
        failed = self._has_failed()
        # The list is still to come, even between two attempts: an empty answer must not be taken for the truth.
        is_to_come = self.problem is None
        due = is_to_come and not self.is_rebuilt_elsewhere and self.pause <= 0
        return Condition(None, "failed" if failed else "cold", is_to_come, 0.0, due)

    def damaged(self, condition: Condition, *, is_readable: bool) -> Condition:
        """Note that a snapshot's files are not what was written, and return the condition to answer with.

        A rebuild is to come, even if this process is not the one that begins it.

        :param is_readable: whether parts of the snapshot are shown all the same.
        """
        if condition.snapshot is not None:
            self.staleness.note_damage(condition.snapshot)
        if not is_readable:
            return self._condition_without_snapshot()
        state = "stale" if condition.state == "fresh" else condition.state
        return condition._replace(state=state, rebuilding=self.problem is None)

    def _has_failed(self) -> bool:
        return self.problem is not None or (self.report is not None and self.report.has_failed)

    @property
    def pause(self) -> float:
        """Seconds left of the pause after a failure, else 0; infinite if no rebuild is possible."""
        if self.problem is not None:
            return math.inf
        return pause_left(None if self.report is None else self.report.next_attempt_at)

    @property
    def is_rebuilding(self) -> bool:
        """Whether a rebuild runs: in this process, or in another when its lock was last probed."""
        return self.progress is not None or self._is_locked_elsewhere

    @property
    def is_left_by_child(self) -> bool:
        """Whether the last report is that of a child process at work; the child is dead if the lock is free.

        A thread that died with its worker is no failure.  Nor is a child of an earlier server, which may have been
        ended together with it.
        """
        report = self.report
        if report is None or not report.running or report.runner != "process":
            return False
        return report.started * 1e9 >= self.code_started

    # Who rebuilds

    def kept_by(self, describe_runner: Callable[[], dict[str, str]], *, is_external: bool) -> None:
        """Note how this process's keeper rebuilds the list; if it is ``is_external``, nothing is due here."""
        self.runner = describe_runner
        self.is_rebuilt_elsewhere = is_external

    def rebuild_here(self) -> None:
        """Let the list be due in this process, whatever the workers' runner is."""
        self.is_rebuilt_elsewhere = False

    def begin(self, progress: Progress) -> None:
        """Note that a rebuild begins in this process; the caller holds the list's lock.

        Until ``end`` or ``left_to_child``, its progress is what this process knows: no report file is read, since
        that may be an older one, and no second rebuild begins here.
        """
        self.progress = progress

    def end(self, report: Report) -> None:
        """Note the report that this process has written about a rebuild: its own, or that of a dead builder.

        No rebuild runs in this process afterwards.  The caller releases the lock later: a thread that finds the
        lock free never finds a report that says "running".
        """
        if self.progress is not None and self.progress.report is not report:
            return  # a rebuild has begun here meanwhile, which makes an earlier builder's end old news
        self.report = report
        self.progress = None

    def left_to_child(self, report: Report) -> None:
        """Note that a child process continues the rebuild: it holds the list's lock and writes its own reports.

        The list counts as being rebuilt without a gap, until ``reread`` probes the lock.
        """
        self._is_locked_elsewhere = True
        self.end(report)

    def note_denied(self) -> bool:
        """Read what the holder of the lock reports; return whether to log that it does not seem to rebuild."""
        self.reread()
        return not self._is_importing and self.blockade.note_denied(self._progress_stamp)

    def is_silent(self) -> bool:
        """Return whether no builder has written a report for long."""
        stamp = current_stamp(self._progress_path)
        return stamp is None or (time.time() - stamp[2] / 1e9 > SILENT_AFTER and not self._is_importing)

    @property
    def _is_importing(self) -> bool:
        """Whether a child imports the app; it reports nothing meanwhile, and has a deadline."""
        return self.report is not None and self.report.phase == "import"

    def after_fork(self) -> None:
        """Note, in a forked child, that the parent's threads do not exist here: no rebuild runs."""
        self.progress = None
        self.reader.after_fork()

    def findings(self) -> Findings:
        """Return what a child process must know about this list's snapshots."""
        condition = self.condition()
        return self.staleness.findings(condition.snapshot if condition.due else None)

    # The report and the lock

    def reread(self, *, holds_lock: bool = False) -> None:
        """Read the builder's report if it has changed, and find out whether the builder is alive.

        :param holds_lock: whether the caller holds the list's lock, so that no other builder can be alive.
        """
        self.reader.expire()
        stamp = current_stamp(self._progress_path)
        if stamp != self._progress_stamp:
            self._progress_stamp = stamp
            if self.progress is None:
                self.report = Report.read(self.store.read_progress(self.name))
        if self.progress is not None:
            self.report = self.progress.report
        may_be_locked = (
            self.progress is None and self.report is not None and self.report.running and not holds_lock
        )
        # A report alone proves nothing: a killed builder leaves "enrich, 40 of 100" behind.
        self._is_locked_elsewhere = may_be_locked and self.store.is_locked(self.name)

    def reread_if_changed(self) -> None:
        """Do the same if the builder has written a report since; for the stats."""
        if current_stamp(self._progress_path) != self._progress_stamp:
            self.reread()

    def distrust_report(self) -> None:
        """Note that this process had lost its lock, so others see another report; ``reread`` will read theirs."""
        self._progress_stamp = UNREAD
