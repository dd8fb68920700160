"""Running a one-time task: acquire its lock, call its function, record the result, release the lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Flask

from .. import events
from ..host import threads
from ..settings import Settings
from ..status.pauses import pause_after
from ..store.files import FileStore
from ..store.locks import HeldLock
from .task import Record, TaskStatus


class TaskRunner:
    """Runs the tasks of one app in this process."""

    def __init__(self, app: Flask, store: FileStore, settings: Settings) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self.after_fork()

    def after_fork(self) -> None:
        """Reset what belongs to the parent's threads."""
        self._guard = threading.Lock()  # guards is_here of every task, and so the start of a task

    def start(self, status: TaskStatus) -> None:
        """Start a task in a thread if it is due and no process runs it."""
        if threads.in_child or status.is_here or status.pause:
            return
        try:
            self._start(status)
        except Exception as error:
            # The folder is unusable, for example. This must not prevent other tasks, nor become a 500 of a view.
            self._fail(status, error)

    def _start(self, status: TaskStatus) -> None:
        lock = self._acquire(status)
        if lock is None:
            return
        if not self._settings.enabled:
            self._run_quietly(status, lock)
            return
        # A daemon: a non-daemon thread keeps a stopping worker alive for its whole graceful period (measured).
        name = f"warmcache-task-{status.name}"
        thread = threading.Thread(target=self._run_quietly, args=(status, lock), name=name, daemon=True)
        try:
            thread.start()
        except BaseException:
            self._release(status, lock)
            raise

    def _acquire(self, status: TaskStatus, *, ignore_pause: bool = False, again: bool = False) -> HeldLock | None:
        """Acquire the task's lock without waiting; return None if it is held or the task need not run.

        :param ignore_pause: whether the task may run before its pause after a failure has passed.
        :param again: whether the task may run although it is done.
        """
        with self._guard:
            if status.is_here:
                return None
            lock = self._store.try_lock(status.lock_name)
            if lock is None:
                self.log_skipped(status)
                return None
            # Processes A and B both find the task undone.  A acquires the lock, runs the task and releases it.  B
            # acquires the lock.  If B did not read the record again, it would run the task a second time.
            status.reread()
            if (status.is_done and not again) or (status.pause and not ignore_pause):
                lock.close()
                return None
            status.begin()
            return lock

    def log_skipped(self, status: TaskStatus) -> None:
        """Log once that this process need not run the task."""
        if not status.is_skip_logged:
            status.is_skip_logged = True
            events.info(
                "warmcache.task_skipped",
                "%(task)r %(reason)s",
                task=status.name,
                reason="is done already" if status.is_done else "is run by another process",
            )

    def _release(self, status: TaskStatus, lock: HeldLock) -> None:
        status.is_here = False
        lock.close()

    def run_now(self, status: TaskStatus, *, again: bool) -> bool | None:
        """Run a task in the calling thread; see ``Tasks.run_now``."""
        lock = self._acquire(status, ignore_pause=True, again=again)
        if lock is None:
            return False if status.is_done else None
        self._run(status, lock)
        return True

    def _run_quietly(self, status: TaskStatus, lock: HeldLock) -> None:
        try:
            self._run(status, lock)
        except BaseException:
            pass  # logged and recorded, even a sys.exit(); no exception may leave the thread

    def _run(self, status: TaskStatus, lock: HeldLock) -> None:
        before = status.record if not status.is_done else None
        status.is_done = False
        attempts = 1 if before is None else before.attempts + 1
        started = time.time()
        try:
            status.write(
                Record(
                    "running",
                    attempts,
                    started,
                    error=None if before is None else before.error,
                    next_attempt_at=started + self._pause_after(attempts - 1) if attempts > 1 else None,
                )
            )
            with suppress(OSError):
                status.tidy()
            events.info(
                "warmcache.task_started", "%(task)r, attempt %(attempts)d", task=status.name, attempts=attempts
            )
            with threads.polite():
                threads.apart(lambda: self._call(status.task.function))
            self._finish(status, Record("done", attempts, started, time.time()))
        except BaseException as error:
            if not status.is_done:
                self._fail(status, error)
            raise
        finally:
            self._release(status, lock)

    def _call(self, function: Callable[[], Any]) -> None:
        with self._app.app_context():
            self._app.ensure_sync(function)()

    def _finish(self, status: TaskStatus, record: Record) -> None:
        try:
            status.write(record)
        except OSError:
            events.error(
                "warmcache.task_unrecorded",
                "%(task)r is done, but this could not be recorded, so another process will run it again",
                error=True,
                task=status.name,
            )
            raise
        finally:
            status.is_done = True
        events.info(
            "warmcache.task_finished",
            "%(task)r took %(seconds).3f s",
            task=status.name,
            seconds=(record.ended or 0) - record.started,
        )

    def _fail(self, status: TaskStatus, error: BaseException) -> None:
        """Log and record a failure, and set the time of the next attempt."""
        before, now = status.record, time.time()
        began = before is not None and before.state == "running" and status.is_here
        attempts = 1 if before is None else before.attempts + (0 if began else 1)
        started = before.started if began and before is not None else now
        pause = self._pause_after(attempts)
        events.error(
            "warmcache.task_failed",
            "one-time task %(task)r failed (attempt %(attempts)d); the next attempt is in %(pause).1f s",
            error=error,
            task=status.name,
            attempts=attempts,
            pause=pause,
        )
        status.record = Record("failed", attempts, started, now, type(error).__name__, now + pause)
        if status.is_here:
            with suppress(OSError):  # most likely the same error; this process keeps the pause all the same
                status.write(status.record)

    def _pause_after(self, attempts: int) -> float:
        return pause_after(attempts, self._settings.retry_min, self._settings.retry_max)
