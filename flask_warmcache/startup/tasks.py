"""One-time tasks: each runs once per deployment, in the process that acquires the task's lock first.

The keeper of every worker tries the locks of unfinished tasks without waiting.  The process that acquires a lock
runs the task in a thread, beside the requests.  When a process dies, the kernel releases its lock, and the next
process that tries the lock runs the task.  The result is a file that the holder of the lock publishes by rename,
before it releases the lock.

A thread cannot be stopped from outside.  A task that exceeds its timeout therefore runs on and is reported as
late; a second copy is never started beside it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flask import Flask

from .. import events
from ..errors import DeclarationError
from ..host import threads
from ..settings import Settings
from ..status.pauses import pause_after
from ..store.files import FileStore
from ..store.locks import HeldLock
from .task import Task
from .task_status import Record, TaskStatus
from .unready import NotReadyError

POLL = 0.05
# Seconds until a client may retry; more for a late task, which may never end.
RETRY_AFTER = 2
RETRY_AFTER_LATE = 10
# Seconds; half of gunicorn's default timeout, after which gunicorn kills the worker of a waiting request.
LONGEST_WAIT = 15.0


class TaskNotReadyError(NotReadyError):
    """A one-time task is not done yet; raised in a view it becomes a 503 with ``Retry-After`` and JSON."""

    def __init__(self, name: str, state: str, retry_after: int) -> None:
        message = (
            f"One-time task {name!r} is not done yet: it {'has failed' if state == 'failed' else f'is {state}'}."
        )
        super().__init__(message, retry_after, {"error": message, "task": name, "state": state})
        self.task = name
        self.state = state


class Tasks:
    """One app's one-time tasks in this process."""

    def __init__(self, app: Flask, declared: Mapping[str, Task], store: FileStore, settings: Settings) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self._guard = threading.Lock()  # guards is_here of every task, and so the start of a task
        self._by_name = {
            name: TaskStatus(task, task.deployment(settings.release), store) for name, task in declared.items()
        }
        self._unfinished = list(self._by_name.values())  # as far as the keeper knows

    @property
    def names(self) -> list[str]:
        """The names of the tasks, in the order of declaration."""
        return list(self._by_name)

    def after_fork(self) -> None:
        """Reset what belongs to the parent's threads."""
        self._guard = threading.Lock()
        for status in self._by_name.values():
            status.after_fork()

    # Reading

    def status(self, name: str) -> TaskStatus:
        """Return one task's current state.

        :raises DeclarationError: when there is no task of that name.
        """
        try:
            status = self._by_name[name]
        except KeyError:
            raise DeclarationError(
                f"No one-time task named {name!r}. Declared: {', '.join(self._by_name) or 'none'}."
            ) from None
        status.reread()
        status.probe()
        return status

    def section(self) -> dict[str, Any]:
        """Return the section of the stats: every task by name."""
        return {name: self.status(name).section() for name in self._by_name}

    def progress(self) -> tuple[int, int]:
        """Return how many tasks are done, and how many there are."""
        return sum(self.status(name).is_done for name in self._by_name), len(self._by_name)

    @property
    def is_degraded(self) -> bool:
        """Whether a task is late or has failed, as far as this process knows."""
        return any(status.is_degraded for status in self._by_name.values())

    def ensure(self, name: str, wait: float) -> None:
        """Return once the task is done; start it if necessary, and wait at most ``wait`` seconds.

        :raises TaskNotReadyError: when it is not done by then, or cannot be done by then.
        :raises DeclarationError: for an unknown task, or a wait that would endanger the worker.
        """
        if not isinstance(wait, (int, float)) or not 0 <= wait <= LONGEST_WAIT:
            raise DeclarationError(
                f"ensure({name!r}, wait={wait!r}): a request may wait 0 to {LONGEST_WAIT:.0f} seconds; "
                "a longer wait would endanger its worker."
            )
        status = self._by_name.get(name) or self.status(name)
        if status.is_done:
            return
        deadline = time.monotonic() + wait
        while True:
            self._try(status)
            status.reread()
            if status.is_done:
                return
            left = deadline - time.monotonic()
            if left <= 0 or status.is_late or status.pause > left:
                break
            time.sleep(min(POLL, left))
        retry_after = RETRY_AFTER_LATE if status.is_late else max(RETRY_AFTER, math.ceil(status.pause))
        raise TaskNotReadyError(name, status.state, retry_after)

    # Running

    def tick(self) -> None:
        """Start the tasks that are due and that no process runs; the keeper calls this at each of its ticks."""
        for status in list(self._unfinished):
            self._tick(status)

    def _tick(self, status: TaskStatus) -> None:
        status.reread()
        status.probe()
        if status.is_done:
            self._log_skipped(status)
            self._unfinished.remove(status)
            return
        if status.is_here and status.is_late and not status.is_late_logged:
            status.is_late_logged = True
            events.warning(
                "warmcache.task_late",
                "%(task)r has run for more than %(timeout).1f s; it runs on, and the app serves "
                "without its result",
                task=status.name,
                timeout=status.task.timeout,
            )
        # One at a time, so that a single worker runs them in order; but a task that is late delays no other.
        if not any(other.is_here and not other.is_late for other in self._unfinished):
            self._try(status)

    def _try(self, status: TaskStatus) -> None:
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
                self._log_skipped(status)
                return None
            # Processes A and B both find the task undone.  A acquires the lock, runs the task and releases it.  B
            # acquires the lock.  If B did not read the record again, it would run the task a second time.
            status.reread()
            if (status.is_done and not again) or (status.pause and not ignore_pause):
                lock.close()
                return None
            status.begin()
            return lock

    def _log_skipped(self, status: TaskStatus) -> None:
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

    def run_now(self, name: str, *, again: bool = False) -> bool | None:
        """Run a task in the calling thread, without regard to its pause.

        :param again: whether the task runs although it is done.
        :returns: True if it ran, False if it was done already, None if another process is running it.
        :raises Exception: whatever the task raised; it is logged and recorded.
        """
        status = self.status(name)
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
