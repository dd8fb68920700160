"""What is said about this process's rebuilds: in the lists' reports, in the log, and to the app."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .. import events
from ..host import threads
from ..settings import Settings
from ..status.condition import ListStatus
from ..status.pauses import pause_after
from ..status.progress import Progress
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import Snapshot

# Tells the app's receivers what happens to a list: an event of signals.py, and its facts. It never raises.
Announce = Callable[[str, dict[str, Any]], None]


class Reporter:
    """Reports, logs and announces what happens to the lists that this process rebuilds."""

    def __init__(self, store: FileStore, settings: Settings, announce: Announce) -> None:
        self._store = store
        self._settings = settings
        self._announce = announce

    def announce(self, event: str, status: ListStatus, **facts: Any) -> None:
        """Tell the app's receivers; they may take their time, and may rebuild the list."""
        self._announce(event, {"name": status.name, **facts})

    def progress(
        self,
        status: ListStatus,
        lock: HeldLock | None = None,
        *,
        handed_over: bool = False,
        deadline: float | None = None,
    ) -> Progress:
        """Return what keeps the report of a rebuild up to date.

        :param lock: the list's lock; if somebody has taken it away, the report is no longer written.
        :param handed_over: whether the builder before has left the rebuild to this process.
        :param deadline: of this process, on the wall clock.
        """

        def write(report: dict[str, Any]) -> None:
            # Somebody has removed A's lock file, so B rebuilds, too, and finishes first.  If A's failure then
            # replaced B's report, a fresh list would be shown as failed until its next rebuild.
            if lock is None or lock.still_ours():
                self._store.write_progress(status.name, report)

        runner = "process" if threads.in_child else "thread"
        return Progress(write, status.report, runner=runner, deadline=deadline, handed_over=handed_over)

    def fail(self, status: ListStatus, error: BaseException, progress: Progress | None = None) -> None:
        """Log, report and count a failure, and note when the next attempt may begin."""
        if progress is None:
            progress = self.progress(status)
        snapshot = status.reader.current()
        report_failure(status.name, error, progress, self._settings.retry_min, self._settings.retry_max, snapshot)
        status.end(progress.report)


def report_failure(
    name: str,
    error: BaseException,
    progress: Progress,
    retry_min: float,
    retry_max: float,
    published: Snapshot | None,
) -> None:
    """Log, report and count a failure, and note when the next attempt may begin."""
    failures = progress.report.failures + 1
    pause = pause_after(failures, retry_min, retry_max)
    events.error(
        "warmcache.rebuild_failed",
        "the rebuild of %(list)r failed (%(failures)d in a row); %(shown)s, the next attempt is in %(pause).1f s",
        error=error,
        list=name,
        failures=failures,
        pause=pause,
        shown="there is no snapshot yet" if published is None or published.is_cold else "the old snapshot stays",
    )
    progress.end(error, next_attempt_at=time.time() + pause)
