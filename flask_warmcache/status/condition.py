"""Is this list cold, fresh or stale, and is a newer one being made?  One process's answer, without waiting."""

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

# How often the keeper looks at each list's report and lock, in seconds.
LOOK_EVERY = 0.2
UNREAD: Stamp = (0, 0, 0, 0)  # of no file, and of no missing one
# Published so long after now, it was published by a clock that has been set back since; without this rule it
# would stay fresh until the clock has caught up.
FROM_THE_FUTURE = -60.0


class Condition(NamedTuple):
    """What one read is told about its list."""

    snapshot: Snapshot | None  # None: nothing to serve
    state: str  # cold, partial, fresh, stale or failed
    rebuilding: bool  # a newer list is being made, or is about to be
    age: float  # seconds since publication, never negative
    due: bool  # somebody should start a rebuild now


class ListStatus:
    """What one process knows about one list; the keeper keeps it up to date, requests read it."""

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
        :param code_started: when this server started, in nanoseconds.
        """
        self.declaration = declaration
        self.code_started = code_started
        self._digest = declaration.digest
        self._is_value = declaration.kind == "value"
        self.name = declaration.name
        self.store = store
        self.ttl = ttl
        self.problem = problem  # why it can never be rebuilt, as found when declarations closed
        self.reader = store.reader(self.name)
        self.report: Report | None = None
        self.progress: Progress | None = None  # of the rebuild that runs in this process
        self.is_rebuilt_elsewhere = False  # runner external: nothing that this process finds due is started here
        self.runner: Callable[[], dict[str, str]] = dict  # for the stats: where this process's rebuilds run
        self.locked = False  # another process was rebuilding at the last look
        # By the last rebuild's generation, since a write makes nothing older or whole.
        self.outdated_generation: int | None = None  # found to need replacing for another reason than its age
        self.behind_generation: int | None = None  # made of an older one of its source list; a write may mend it
        self.damaged_generation: int | None = None  # nor may its items be reused
        self._examined: Snapshot | None = None
        self._newest = 0  # generation that was seen
        self._outdated = False  # what _examine found of that snapshot
        self._is_serving = False
        self._from_newer_code = False
        self._progress_path = os.fspath(store.folder / f"{self.name}.progress")
        self._progress_stamp: Stamp | None = None

    def condition(self) -> Condition:
        """How the list is now: one system call and a few comparisons."""
        snapshot = self.reader.current()
        if snapshot is None or snapshot.is_cold or snapshot.is_value != self._is_value:
            return self._condition_without_snapshot()
        if snapshot is not self._examined:
            self._examine(snapshot)
        age = time.time() - snapshot.published_at
        stale = (
            age > self.ttl
            or age < FROM_THE_FUTURE
            or self._outdated
            or snapshot.rebuilt == self.outdated_generation
            or snapshot.generation == self.behind_generation
            or self.reader.is_unusable
        )
        failed = self._has_failed()
        if not (stale or failed or self.locked or self.progress is not None):
            return Condition(snapshot, "fresh", False, age if age > 0 else 0.0, False)
        may_start = not (self.is_rebuilt_elsewhere or self._from_newer_code or (failed and self.pause > 0))
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
        """Whether the rebuild that runs will replace this snapshot; it may be the one that just published it."""
        progress = self.progress
        report = self.report if progress is None else progress.report
        return report is None or report.started >= snapshot.published_at

    def _condition_without_snapshot(self) -> Condition:
        failed = self._has_failed()
        # A first list is owed: even between two attempts an empty answer must not pass for the truth.
        owed = self.problem is None
        due = owed and not self.is_rebuilt_elsewhere and self.pause <= 0
        return Condition(None, "failed" if failed else "cold", owed, 0.0, due)

    def serve(self) -> None:
        """From now on, what was begun before this server started is served as stale, and rebuilt."""
        self._is_serving = True
        self._examined = None

    def _examine(self, snapshot: Snapshot) -> None:
        """What can be said of a snapshot once and for all, when this process first sees it."""
        mismatch = snapshot.header["declaration"] != self._digest
        # A backup put back under us is no news.
        is_older = snapshot.generation < self._newest
        self._newest = max(self._newest, snapshot.generation)
        is_passing = snapshot.is_invalidated or snapshot.is_unsettled or not snapshot.complete
        # An old server's child may publish long after its end.  What this server's own code made is never too old,
        # whatever a clock that is set back says of its beginning; without that, it would be made again for ever.
        header = snapshot.header
        is_of_before = self._is_serving and max(header["started"], header["code_started"]) < self.code_started
        self._outdated = mismatch or is_passing or is_older or is_of_before or is_heavy(snapshot)
        # Without this, old and new workers of a rolling deploy would replace each other's snapshots for ever.
        self._from_newer_code = mismatch and snapshot.header["code_started"] > self.code_started
        self._examined = snapshot

    def may_reuse(self, snapshot: Snapshot) -> bool:
        """Whether a rebuild may take unchanged items over from this snapshot."""
        return not snapshot.is_cold and (
            snapshot.is_value == self._is_value and snapshot.rebuilt != self.damaged_generation
        )

    def note_damage(self, snapshot: Snapshot) -> None:
        """The snapshot's files are not what was written: it is to be replaced, from nothing."""
        self.outdated_generation = self.damaged_generation = snapshot.rebuilt

    def _has_failed(self) -> bool:
        return self.problem is not None or (self.report is not None and self.report.has_failed)

    @property
    def pause(self) -> float:
        """Seconds that the pause after a failure still lasts, else 0; without end where no rebuild is possible."""
        if self.problem is not None:
            return math.inf
        return pause_left(None if self.report is None else self.report.next_attempt_at)

    @property
    def is_rebuilding(self) -> bool:
        """Whether a rebuild runs, in this process or, at the last look, in another."""
        return self.progress is not None or self.locked

    @property
    def is_left_by_child(self) -> bool:
        """Whether the last report is that of a child process at work, which is dead if the lock is free.

        A thread that died with its worker is no failure; nor is a child of an earlier server, which may have been
        ended together with it.
        """
        report = self.report
        if report is None or not report.running or report.runner != "process":
            return False
        return report.started * 1e9 >= self.code_started

    def reread_report(self) -> None:
        """Forget the report of a rebuild that had lost its lock; the next look reads what the others see."""
        self._progress_stamp = UNREAD

    def look(self) -> None:
        """Read the builder's report if there is a new one, and see whether a builder is alive."""
        self.reader.look_again()
        try:
            stamp = stamp_of(os.stat(self._progress_path))
        except OSError:
            stamp = None
        if stamp != self._progress_stamp:
            self._progress_stamp = stamp
            if self.progress is None:
                self.report = Report.read(self.store.read_progress(self.name))
        if self.progress is not None:
            self.report = self.progress.report
        running = self.progress is None and self.report is not None and self.report.running
        # The report is never the lock: a builder that was killed leaves "enrich, 40 of 100" behind.
        self.locked = running and self.store.is_locked(self.name)

    def look_if_changed(self) -> None:
        """For the stats: as ``look``, when the builder has said something since."""
        try:
            stamp = stamp_of(os.stat(self._progress_path))
        except OSError:
            stamp = None
        if stamp != self._progress_stamp:
            self.look()
