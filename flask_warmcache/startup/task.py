"""One one-time task: its declaration, its record on disk, and what this process knows of it."""

from __future__ import annotations

import inspect
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..bytecode import digest_of
from ..declaration import NAME, is_positive
from ..errors import DeclarationError
from ..status.pauses import pause_left
from ..status.stats import iso
from ..store.file_access import Stamp, current_stamp, read_small, write_small
from ..store.files import FileStore

# Records of so many deployments are kept. More than one, because old workers may run beside new ones.
KEPT = 20


@dataclass(frozen=True)
class Task:
    """A function that one process runs once in each deployment."""

    name: str
    timeout: float  # seconds after which the task is late
    version: str
    function: Callable[[], Any]

    def __post_init__(self) -> None:
        if not is_positive(self.timeout):
            self._refuse(f"has timeout={self.timeout!r}; timeout is a number of seconds above 0")
        if not callable(self.function):
            self._refuse(f"must be a function, not {self.function!r}")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            self._refuse("is a generator, whose body does not run when it is called; use return instead of yield")
        try:
            inspect.signature(self.function).bind()
        except TypeError:
            self._refuse("has required parameters, but tasks are called without arguments")
        except ValueError:
            pass  # written in C, without a signature to inspect

    def _refuse(self, why: str) -> None:
        raise DeclarationError(f"One-time task {self.name!r} {why}.")

    def deployment(self, release: object) -> str:
        """Return a digest that all processes of one deployment share and the next deployment changes.

        :param release: the name of the deployment, or None if the function's own code identifies it.
        """
        if release is not None:
            return digest_of([], self.version, "release", str(release))
        return digest_of([self.function], self.version, "code")


@dataclass(frozen=True)
class Record:
    """What the process that runs a task writes for all others, atomically, by rename."""

    state: str  # running, failed or done
    attempts: int
    started: float  # wall clock
    ended: float | None = None
    error: str | None = None  # class name of the last attempt's exception; the log has the traceback
    # Wall clock; no process starts the task earlier. A running task has it from its third attempt on, so that a
    # task whose process keeps dying is retried with pauses.
    next_attempt_at: float | None = None

    @classmethod
    def read(cls, raw: bytes) -> Record | None:
        """Return the record that a file contains, or None if it contains none."""
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
    """What one process knows of one task.

    The record is a report and never the lock: only the task's lock says that a process is running it.
    """

    def __init__(self, task: Task, deployment: str, store: FileStore) -> None:
        self.task = task
        self.name = task.name
        self.deployment = deployment
        self.lock_name = f"{task.name}.once"  # one for all deployments, so old and new code never run it at once
        self.record: Record | None = None
        self.is_done = False
        self.is_here = False  # this process runs the task
        self.is_locked = False  # another process was running it at the last probe
        self.is_skip_logged = False
        self.is_late_logged = False
        self._guard = threading.Lock()  # guards the change of is_here to True, and record and _stamp before it
        self._store = store
        self._file = f"{task.name}.{deployment}.once"
        self._path = os.fspath(store.folder / self._file)
        self._stamp: Stamp | None = None

    @property
    def state(self) -> str:
        """Return "pending", "running", "late", "done" or "failed"."""
        if self.is_done:
            return "done"
        if self.is_here or self.is_locked:
            return "late" if self.is_late else "running"
        return "failed" if self.record is not None and self.record.state == "failed" else "pending"

    @property
    def is_late(self) -> bool:
        """Whether the task is running and has run for longer than its timeout."""
        record = self.record
        if record is None or record.state != "running" or not (self.is_here or self.is_locked):
            return False
        return time.time() - record.started > self.task.timeout

    @property
    def is_degraded(self) -> bool:
        """Whether the app runs without a result that it should have by now."""
        return not self.is_done and (self.is_late or (self.record is not None and self.record.error is not None))

    @property
    def pause(self) -> float:
        """Seconds until the next attempt may begin."""
        return pause_left(None if self.record is None else self.record.next_attempt_at)

    def reread(self) -> None:
        """Read the record if it has changed: one system call if it has not, none once the task is done."""
        if self.is_done or self.is_here:
            return
        with self._guard:
            # Thread A reads the record.  Thread B begins the task, which writes a new record.  If A did not check
            # is_here again, it would overwrite B's record with the old one.
            if self.is_here:
                return
            stamp = current_stamp(self._path)
            if stamp != self._stamp:
                self.record = Record.read(read_small(self._store.folder, self._file))
                self._stamp = stamp
            self.is_done = self.record is not None and self.record.state == "done"

    def begin(self) -> None:
        """Note that this process runs the task now and owns its record; the caller holds the task's lock."""
        with self._guard:
            self.is_here = self.is_skip_logged = True

    def after_fork(self) -> None:
        """Reset what belongs to the parent's threads."""
        self._guard = threading.Lock()
        self.is_here = False

    def probe(self) -> None:
        """Check by the lock whether the process that wrote the record is alive."""
        is_running = self.record is not None and self.record.state == "running"
        self.is_locked = is_running and not self.is_here and self._store.is_locked(self.lock_name)

    def write(self, record: Record) -> None:
        """Publish a record to all processes; the caller holds the task's lock and has called ``begin``.

        :raises OSError: when it cannot be written; this process uses the new record all the same.
        """
        self.record = record
        try:
            write_small(self._store.folder, self._file, json.dumps(asdict(record)).encode(), sync=True)
        finally:
            self._stamp = current_stamp(self._path)

    def tidy(self) -> None:
        """Remove drafts of dead processes and records of old deployments; the caller holds the lock."""
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
        """Return the task's section of the stats: no paths, pids or tracebacks."""
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


def check_name(name: object) -> None:
    """Refuse a name that cannot be part of a file name and a key of the stats.

    :raises DeclarationError: when the name is malformed.
    """
    if not isinstance(name, str) or not NAME.match(name):
        raise DeclarationError(
            f"{name!r} cannot name a one-time task: use 1 to 64 of the characters a-z, 0-9, '_' and '-', as in "
            "@warmcache.once('create-tables')."
        )
