"""Whether a list is cold, fresh or stale, and whether a newer one is being made, as one process knows it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from ..declaration import Declaration
from ..store.compaction import is_heavy
from ..store.files import FileStore
from ..store.mapping import Stamp, stamp_of
from ..store.snapshot import Snapshot
from .pauses import pause_left
from .progress import Progress, Report

UNREAD: Stamp = (0, 0, 0, 0)  # neither a file nor a missing file has this stamp
# A snapshot published that far in the future comes from a clock that has been set back since. Without this rule
# it would stay fresh until the clock has caught up.
FROM_THE_FUTURE = -60.0
# For a child process: the generation of the rebuild to take for stale, and of the one whose items are damaged.
Findings = tuple[int | None, int | None]


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
        self,
        declaration: Declaration,
        store: FileStore,
        ttl: float,
        problem: str | None,
        code_started: int,
    ) -> None:
        """
        :param ttl: seconds after which a snapshot is stale.
        :param problem: why the list can never be rebuilt, as found when the declarations closed.
        :param code_started: when this server started, in nanoseconds.
        """
        self.declaration = declaration
        self.code_started = code_started
        self._digest = declaration.digest
        self._is_value = declaration.kind == "value"
        self.name = declaration.name
        self.store = store
        self.ttl = ttl
        self.problem = problem
        self.reader = store.reader(self.name)
        self.report: Report | None = None
        self.progress: Progress | None = None  # of the rebuild that runs in this process
        self.is_rebuilt_elsewhere = False  # runner external: this process starts no rebuild of the list
        self.runner: Callable[[], dict[str, str]] = dict  # for the stats: where this process's rebuilds run
        self._is_locked_elsewhere = False  # another process was rebuilding when the lock was last probed
        self._stale_rebuild: int | None = None
        self._stale_generation: int | None = None
        self._damaged_rebuild: int | None = None
        self._examined: Snapshot | None = None
        self._newest = 0  # the highest generation seen
        self._is_examined_stale = False  # what _examine found about that snapshot
        self._is_serving = False
        self._is_from_newer_code = False
        self._progress_path = os.fspath(store.folder / f"{self.name}.progress")
        self._progress_stamp: Stamp | None = None

    # For every read

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
        if snapshot is not self._examined:
            self._examine(snapshot)
        age = time.time() - snapshot.published_at
        stale = (
            age > self.ttl
            or age < FROM_THE_FUTURE
            or self._is_examined_stale
            or snapshot.rebuilt == self._stale_rebuild
            or snapshot.generation == self._stale_generation
            or self.reader.is_unusable
        )
        failed = self._has_failed()
        if not (stale or failed or self._is_locked_elsewhere or self.progress is not None):
            return Condition(snapshot, "fresh", False, age if age > 0 else 0.0, False)
        may_start = not (self.is_rebuilt_elsewhere or self._is_from_newer_code or (failed and self.pause > 0))
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

    def _examine(self, snapshot: Snapshot) -> None:
        """Find out, when this process first sees a snapshot, what will always be true of it."""
        mismatch = snapshot.header["declaration"] != self._digest
        # Somebody may have restored a backup of the folder.
        is_older = snapshot.generation < self._newest
        self._newest = max(self._newest, snapshot.generation)
        is_passing = snapshot.is_invalidated or snapshot.is_unsettled or not snapshot.complete
        # A child of the previous server may publish long after that server's end.  What this server's own code has
        # made is never too old, even if the clock was set back since: the list would be rebuilt for ever.
        header = snapshot.header
        is_of_before = self._is_serving and max(header["started"], header["code_started"]) < self.code_started
        self._is_examined_stale = mismatch or is_passing or is_older or is_of_before or is_heavy(snapshot)
        # Without this, old and new workers of a rolling deploy would replace each other's snapshots for ever.
        self._is_from_newer_code = mismatch and snapshot.header["code_started"] > self.code_started
        self._examined = snapshot

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

    def serve(self) -> None:
        """Call a snapshot stale from now on if its rebuild began before this server started."""
        self._is_serving = True
        self._examined = None

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
        """Note that a child process goes on, which holds the list's lock and writes its own reports.

        The list counts as being rebuilt without a gap, until ``reread`` probes the lock.
        """
        self._is_locked_elsewhere = True
        self.end(report)

    def after_fork(self) -> None:
        """Note, in a forked child, that the parent's threads do not exist here: no rebuild runs."""
        self.progress = None
        self.reader.after_fork()

    # What makes a snapshot stale besides its age

    def require_newer_than(self, rebuilt: int) -> None:
        """Call what the rebuild of this generation has published stale, with all later writes to it.

        Only a newer rebuild ends this; a write does not, since it changes single items.
        """
        self._stale_rebuild = rebuilt

    def require_successor_of(self, generation: int) -> None:
        """Call the snapshot of exactly this generation stale; a rebuild ends this, and so does a write."""
        self._stale_generation = generation

    def note_damage(self, snapshot: Snapshot) -> None:
        """Call a snapshot stale whose files are not what was written; no rebuild may reuse its items."""
        self._stale_rebuild = self._damaged_rebuild = snapshot.rebuilt

    def may_reuse(self, snapshot: Snapshot) -> bool:
        """Whether a rebuild may take unchanged items over from this snapshot."""
        return not snapshot.is_cold and (
            snapshot.is_value == self._is_value and snapshot.rebuilt != self._damaged_rebuild
        )

    def findings(self) -> Findings:
        """Return what a child process must know: it has not seen why a snapshot is due, or that it is damaged."""
        condition = self.condition()
        if condition.due and condition.snapshot is not None:
            return condition.snapshot.rebuilt, self._damaged_rebuild
        return self._stale_rebuild, self._damaged_rebuild

    def adopt(self, findings: Findings) -> None:
        """Take over, in a child process, the findings of its parent: the same snapshots are stale and damaged."""
        self._stale_rebuild, self._damaged_rebuild = findings

    # The report and the lock

    def reread(self, *, holds_lock: bool = False) -> None:
        """Read the builder's report if it has changed, and find out whether the builder is alive.

        :param holds_lock: whether the caller holds the list's lock, so that no other builder can be alive.
        """
        self.reader.expire()
        stamp = self._stat_report()
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
        if self._stat_report() != self._progress_stamp:
            self.reread()

    def distrust_report(self) -> None:
        """Note that this process had lost its lock, so others see another report; ``reread`` will read theirs."""
        self._progress_stamp = UNREAD

    def _stat_report(self) -> Stamp | None:
        try:
            return stamp_of(os.stat(self._progress_path))
        except OSError:
            return None
