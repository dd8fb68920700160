"""How far one task is in one deployment: what its holder wrote, and what this process knows of it."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..status.pauses import pause_left
from ..status.stats import iso
from ..store.files import FileStore
from ..store.mapping import Stamp, stamp_of
from ..store.small import read_small, write_small
from .task import Task

# Of so many deployments it is known that a task is done. More than one, since old workers may run beside new ones.
KEPT = 20


@dataclass(frozen=True)
class Record:
    """What the process that runs a task writes, for all to read; whole or not at all, by rename."""

    state: str  # running, failed or done
    attempts: int
    started: float  # wall clock
    ended: float | None = None
    error: str | None = None  # the class name of what ended the last attempt; details are in the log
    # Wall clock; nobody starts before. Of a running one: should its process die, which is no reason to hurry once
    # it has happened twice.
    next_attempt_at: float | None = None

    @classmethod
    def read(cls, raw: bytes) -> Record | None:
        """A record from a file's content, or None when it is not one."""
        try:
            record = cls(**json.loads(raw))
        except (ValueError, TypeError, RecursionError):
            return None
        optional = (record.ended, record.next_attempt_at)
        is_sound = (
            record.state in ("running", "failed", "done")
            and isinstance(record.attempts, int)
            and isinstance(record.started, (int, float))
            and all(number is None or isinstance(number, (int, float)) for number in optional)
            and isinstance(record.error, (str, type(None)))
        )
        return record if is_sound else None


class TaskStatus:
    """What one process knows of one task."""

    def __init__(self, task: Task, deployment: str, store: FileStore) -> None:
        self.task = task
        self.name = task.name
        self.deployment = deployment
        self.lock_name = f"{task.name}.once"  # of the task and not the deployment: old and new code take turns
        self.record: Record | None = None
        self.is_done = False
        self.is_here = False  # this process runs it
        self.is_locked = False  # another process was running it at the last look
        self.is_told = False  # the log says who runs it
        self.is_told_late = False
        self._guard = threading.Lock()  # guards the step to is_here, and record and _stamp until then
        self._store = store
        self._file = f"{task.name}.{deployment}.once"
        self._path = os.fspath(store.folder / self._file)
        self._stamp: Stamp | None = None

    @property
    def state(self) -> str:
        """pending, running, late, done or failed."""
        if self.is_done:
            return "done"
        if self.is_here or self.is_locked:
            return "late" if self.is_late else "running"
        return "failed" if self.record is not None and self.record.state == "failed" else "pending"

    @property
    def is_late(self) -> bool:
        """Whether it runs, and has run for longer than its budget."""
        record = self.record
        if record is None or record.state != "running" or not (self.is_here or self.is_locked):
            return False
        return time.time() - record.started > self.task.timeout

    @property
    def is_degraded(self) -> bool:
        """Whether the app runs without what it should have by now."""
        return not self.is_done and (self.is_late or (self.record is not None and self.record.error is not None))

    @property
    def pause(self) -> float:
        """Seconds until the next attempt may begin."""
        return pause_left(None if self.record is None else self.record.next_attempt_at)

    def look(self) -> None:
        """Read the record if there is a new one; one system call if there is not, and none once it is done."""
        if self.is_done or self.is_here:
            return
        with self._guard:
            # A reads the record.  B begins the task, which writes another.  Without this look at is_here, A would
            # put what it has read in its place.
            if self.is_here:
                return
            stamp = self._current_stamp()
            if stamp != self._stamp:
                self.record = Record.read(read_small(self._store.folder, self._file))
                self._stamp = stamp
            self.is_done = self.record is not None and self.record.state == "done"

    def begin(self) -> None:
        """From now on this process runs it, and knows its record best; the caller holds the task's lock."""
        with self._guard:
            self.is_here = self.is_told = True

    def after_fork(self) -> None:
        """Forget the parent's run and locks."""
        self._guard = threading.Lock()
        self.is_here = False

    def _current_stamp(self) -> Stamp | None:
        try:
            return stamp_of(os.stat(self._path))
        except OSError:
            return None

    def probe(self) -> None:
        """See whether the process that wrote the record is alive: the record is never the lock."""
        is_running = self.record is not None and self.record.state == "running"
        self.is_locked = is_running and not self.is_here and self._store.is_locked(self.lock_name)

    def write(self, record: Record) -> None:
        """Tell all processes; the caller holds the task's lock and has begun it.

        :raises OSError: when it cannot be written; this process knows it all the same.
        """
        self.record = record
        try:
            write_small(self._store.folder, self._file, json.dumps(asdict(record)).encode(), sync=True)
        finally:
            self._stamp = self._current_stamp()

    def tidy(self) -> None:
        """Remove what dead holders left and what is known of old deployments; the caller holds the lock."""
        draft = re.compile(rf"{self.name}\.[0-9a-f]+\.once\.\d+-[0-9a-f]+\.tmp")
        record = re.compile(rf"{self.name}\.[0-9a-f]+\.once")
        records: list[tuple[float, str]] = []
        for entry in os.scandir(self._store.folder):
            if draft.fullmatch(entry.name):
                os.unlink(entry.path)
            elif record.fullmatch(entry.name):
                records.append((entry.stat().st_mtime, entry.path))
        for _, path in sorted(records)[:-KEPT]:
            os.unlink(path)

    def section(self) -> dict[str, Any]:
        """For the stats: facts without paths, pids or tracebacks."""
        record = self.record
        if record is None:
            duration = None
        elif record.ended is not None:
            duration = record.ended - record.started
        else:
            duration = time.time() - record.started if self.state in ("running", "late") else None
        return {
            "state": self.state,
            "attempts": 0 if record is None else record.attempts,
            "last_error": None if record is None else record.error,
            "next_attempt_at": iso(time.time() + self.pause) if self.pause else None,
            "duration_seconds": None if duration is None else round(max(0.0, duration), 3),
            "timeout_seconds": self.task.timeout,
            "deployment": self.deployment,
        }
