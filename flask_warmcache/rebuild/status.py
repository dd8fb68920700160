"""Is this list cold, fresh or stale, and is a newer one being made?  One process's answer, without waiting."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from ..declare import Declaration
from ..store.files import FileStore
from ..store.snapshot import Snapshot, Stamp, stamp_of
from .progress import Progress, Report

# A builder's report is believed for this long when its lock could not be looked at meanwhile.
LOOK_EVERY = 0.2


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
        self.name = declaration.name
        self.store = store
        self.ttl = ttl
        self.problem = problem  # why it can never be rebuilt, as found when declarations closed
        self.reader = store.reader(self.name)
        self.report: Report | None = None
        self.progress: Progress | None = None  # of the rebuild that runs in this process
        self.locked = False  # another process was rebuilding at the last look
        self.upstream_changed = False
        self.damaged_generation: int | None = None  # its sections failed their checksums
        self.outdated_generation: int | None = None  # published before this server started
        self._invalidated_path = os.fspath(store.folder / f"{self.name}.invalidated")
        self._invalidated_stamp: Stamp | None = None
        self._token = ""
        self._progress_path = os.fspath(store.folder / f"{self.name}.progress")
        self._progress_stamp: Stamp | None = None

    def condition(self) -> Condition:
        """How the list is now: three or four system calls, none of which waits."""
        snapshot = self.reader.current()
        now = time.time()
        if snapshot is not None and snapshot.is_cold:
            snapshot = None
        report = self.report
        failed = self.problem is not None or (report is not None and report.phase == "failed")
        if snapshot is None:
            age, stale = 0.0, True
        else:
            age = max(0.0, now - snapshot.published_at)
            stale = age > self.ttl or self._is_outdated(snapshot)
        due = stale and self.problem is None and not self._is_newer_code(snapshot)
        if due and failed and report is not None and report.next_attempt_at is not None:
            # A time far ahead is from before the clock was set back; it would pause for ever.
            due = not 0 < report.next_attempt_at - now < 3600
        if snapshot is None:
            state = "failed" if failed else "cold"
            # A first list is owed: even between two attempts an empty answer must not pass for the truth.
            rebuilding = self.problem is None
        else:
            if failed:
                state = "failed"
            elif not snapshot.complete:
                state = "partial"
            else:
                state = "stale" if stale else "fresh"
            rebuilding = due or self.is_rebuilding
        return Condition(snapshot, state, rebuilding, age, due)

    def _is_outdated(self, snapshot: Snapshot) -> bool:
        """Whether something other than age makes the snapshot stale."""
        return (
            self.token() != snapshot.invalidation
            or self.upstream_changed
            or self.reader.missing
            or self.reader.damaged
            or snapshot.generation in (self.damaged_generation, self.outdated_generation)
            or not snapshot.complete
            or snapshot.header["declaration"] != self._digest
        )

    def _is_newer_code(self, snapshot: Snapshot | None) -> bool:
        """Whether a later deploy with other declarations made the snapshot; its own workers keep it warm.

        Without this, old and new workers of a rolling deploy would replace each other's snapshots for ever.
        """
        return (
            snapshot is not None
            and snapshot.header["declaration"] != self._digest
            and snapshot.header["code_started"] > self.code_started
        )

    def token(self) -> str:
        """The token of the last ``invalidate`` in any process; costs one ``stat`` while it is the same."""
        try:
            stamp = stamp_of(os.stat(self._invalidated_path))
        except OSError:
            stamp = None
        if stamp != self._invalidated_stamp:
            self._token = self.store.invalidation(self.name)
            self._invalidated_stamp = stamp
        return self._token

    @property
    def is_rebuilding(self) -> bool:
        """Whether a rebuild runs, in this process or, at the last look, in another."""
        return self.progress is not None or self.locked

    def look(self) -> None:
        """Read the builder's report if there is a new one, and see whether a builder is alive."""
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
