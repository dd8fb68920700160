"""How far a rebuild is (done, total, rate, eta), and how the last one ended."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from traceback import format_exception_only
from typing import Any

from ..errors import StoreError

# The report is rewritten at most ten times a second, and at least once, which is its heartbeat.
WRITE_EVERY = 0.1
HEARTBEAT = 1.0
# The rate is that of the last seconds.
RATE_WINDOW = 10.0
MESSAGE_MAX = 1000  # characters of an error's message
RUNNING = ("import", "source", "enrich", "views", "publish")


@dataclass
class Report:
    """What a builder writes into the cache folder, for every process to read."""

    phase: str = "source"  # one of RUNNING, else "finished" or "failed"
    done: int = 0
    total: int | None = None
    rate: float | None = None  # items a second, during the last seconds
    pid: int = 0
    started: float = 0.0  # wall clock
    ended: float | None = None
    error: str | None = None  # the class name of the exception that ended it
    message: str | None = None  # the beginning of its text, which is not public; the log has the traceback
    failures: int = 0  # how many rebuilds have failed in a row
    next_attempt_at: float | None = None  # wall clock; no rebuild begins before
    runner: str = "thread"  # where it runs or ran: thread or process
    deadline: float | None = None  # wall clock; a child process is killed then
    interruptions: int = 0  # how many builders died during this rebuild, or the last one
    worked: float = 0.0  # seconds that another process had worked before it handed the rebuild over

    @property
    def running(self) -> bool:
        """Whether the builder was at work when it wrote this; the lock tells whether it still is."""
        return self.phase in RUNNING

    @property
    def has_failed(self) -> bool:
        """Whether the last rebuild that ended has failed."""
        return self.failures > 0

    @property
    def eta(self) -> float | None:
        """Seconds until the items are done, or None while that is unknown."""
        if not self.rate or self.total is None:
            return None
        return max(0.0, (self.total - self.done) / self.rate)

    @classmethod
    def read(cls, raw: dict[str, Any] | None) -> Report | None:
        """Return the report in a file's JSON, or None if it is none, such as one of another version."""
        if raw is None:
            return None
        try:
            report = cls(**raw)
        except TypeError:
            return None
        needed = (report.started, report.done, report.failures, report.interruptions, report.worked)
        optional = (report.total, report.rate, report.ended, report.next_attempt_at, report.deadline)
        if not all(isinstance(number, (int, float)) for number in needed):
            return None
        if not all(number is None or isinstance(number, (int, float)) for number in optional):
            return None
        return report if isinstance(report.phase, str) and isinstance(report.runner, str) else None


class Progress:
    """Keeps the report of a running rebuild up to date: its thread counts, and the keeper adds heartbeats."""

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        before: Report | None,
        *,
        runner: str = "thread",
        deadline: float | None = None,
        handed_over: bool = False,
    ) -> None:
        """
        :param before: the last report; its failure stays in the new one until this rebuild has ended.  If it says
            "running", its builder is dead, since the caller holds the lock.
        :param deadline: of the process, on the wall clock.
        :param handed_over: the builder before is not dead, but has left the rebuild to this process.
        """
        self._write = write
        self._guard = threading.Lock()  # guards the order of writes, since the keeper writes, too
        self._written_at = 0.0
        self._began = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()  # how many items were done at which moment
        self._announce: Callable[[dict[str, Any]], None] | None = None  # called by the builder's thread alone
        self.report = Report(pid=os.getpid(), started=time.time(), runner=runner, deadline=deadline)
        self._is_closed = False
        if before is not None and before.has_failed:
            self.report.failures, self.report.error = before.failures, before.error
            self.report.message = before.message
        if before is not None and before.running:
            self.report.interruptions = before.interruptions + (0 if handed_over else 1)
            self.report.worked = before.worked if handed_over else 0.0

    def announce_to(self, announce: Callable[[dict[str, Any]], None]) -> None:
        """Call this from now on with what the app may know, each time the builder has written its report."""
        self._announce = announce

    def begin(self, phase: str, total: int | None = None) -> None:
        """Enter a phase, and report it at once."""
        self._marks = deque([(time.monotonic(), 0)])
        self.report.phase, self.report.done, self.report.total, self.report.rate = phase, 0, total, None
        self._tell()

    def advance(self, done: int) -> None:
        """Note how many items are done, at the cost of reading a clock; report it ten times a second."""
        self.report.done = done
        if time.monotonic() - self._written_at >= WRITE_EVERY:
            self._tell()

    def beat(self) -> None:
        """Write a heartbeat, if none was written lately: the builder may be busy with one item for long."""
        if time.monotonic() - self._written_at >= HEARTBEAT / 2:
            self._save()

    def end(self, error: BaseException | None, next_attempt_at: float | None = None) -> None:
        """Report how the rebuild ended."""
        report = self.report
        report.phase = "failed" if error else "finished"
        report.ended = time.time()
        report.error = type(error).__name__ if error else None
        # str() would not do: an app's exception may fail in its own __str__.
        report.message = "".join(format_exception_only(error)).strip()[:MESSAGE_MAX] if error else None
        report.failures = report.failures + 1 if error else 0
        report.next_attempt_at = next_attempt_at
        self._save()

    def leave_to_child(self, deadline: float) -> None:
        """Report that a child process continues the rebuild. It writes its own reports; this one stays as it is.

        :param deadline: on the wall clock.
        """
        self.report.runner, self.report.deadline = "process", deadline
        self.report.worked += time.monotonic() - self._began
        self.begin("import")
        with self._guard:
            self._is_closed = True

    def postpone(self) -> None:
        """Report that this rebuild ended without a result and without a failure; it is tried again soon."""
        self.report.phase = "finished"
        self._save()

    def _tell(self) -> None:
        self._save()
        if self._announce is not None:
            facts = ("done", "total", "phase", "rate", "eta")
            self._announce({fact: getattr(self.report, fact) for fact in facts})

    def _save(self) -> None:
        with self._guard:
            if self._is_closed:
                return
            self._written_at = time.monotonic()
            self._measure_rate(self._written_at)
            try:
                self._write(asdict(self.report))
            except (OSError, StoreError):
                pass  # a report must not end a rebuild; on a full disk, publishing will

    def _measure_rate(self, now: float) -> None:
        """Measure over the last seconds, not since the start: reused items take no time, enriched ones do."""
        report, marks = self.report, self._marks
        if report.phase != "enrich":
            return
        while len(marks) > 1 and now - marks[1][0] > RATE_WINDOW:
            marks.popleft()
        elapsed, done = now - marks[0][0], report.done - marks[0][1]
        if elapsed > 0 and done > 0:
            report.rate = round(done / elapsed, 3)
        marks.append((now, report.done))
