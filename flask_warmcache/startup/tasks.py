"""One-time tasks: run once in each deployment, by whichever process gets the task's lock.

Nothing says beforehand which process that is.  Each worker's keeper tries the lock of what is not done, without
waiting, and who gets it runs the task in a thread of its own, beside the requests.  The kernel frees the lock of
a process that dies, so the next who tries it takes the task over.  That a task is done stands in a file that its
holder puts in place by rename, before it frees the lock.

A thread cannot be stopped from outside.  So a task past its budget goes on, and is said to be late; a second copy
beside the stuck one is never started.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flask import Flask

from ..errors import DeclarationError
from ..host import threads
from ..settings import Settings
from ..status.pauses import pause_after
from ..store.files import FileStore
from ..store.locks import HeldLock
from .task import Task
from .task_status import Record, TaskStatus
from .unready import NotReadyError

log = logging.getLogger("flask_warmcache")
POLL = 0.05
# Seconds until a client may ask again. A late task may never end.
ASK_AGAIN = 2
ASK_AGAIN_LATE = 10
# Half of gunicorn's default timeout: past that a waiting request endangers its worker.
LONGEST_WAIT = 15.0


class TaskNotReadyError(NotReadyError):
    """A one-time task is not done yet; in a view it becomes a 503 with ``Retry-After`` and JSON."""

    def __init__(self, name: str, state: str, retry_after: int) -> None:
        message = (
            f"One-time task {name!r} is not done yet: it {'has failed' if state == 'failed' else f'is {state}'}."
        )
        super().__init__(message, retry_after, {"error": message, "task": name, "state": state})
        self.task = name
        self.state = state


class Tasks:
    """One app's one-time tasks, as this process runs and knows them."""

    def __init__(self, app: Flask, declared: Mapping[str, Task], store: FileStore, settings: Settings) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self._guard = threading.Lock()  # guards each status's is_here, and with it the start of a task
        self._by_name = {
            name: TaskStatus(task, task.deployment(settings.release), store) for name, task in declared.items()
        }
        self._to_do = list(self._by_name.values())  # of which the keeper does not know yet that they are done

    @property
    def names(self) -> list[str]:
        """The tasks, in the order of their declaration."""
        return list(self._by_name)

    def after_fork(self) -> None:
        """Forget the parent's threads and locks."""
        self._guard = threading.Lock()
        for status in self._by_name.values():
            status.after_fork()

    # What others are told

    def status(self, name: str) -> TaskStatus:
        """One task as it is now.

        :raises DeclarationError: when there is none of that name.
        """
        try:
            status = self._by_name[name]
        except KeyError:
            raise DeclarationError(
                f"No one-time task named {name!r}. Declared: {', '.join(self._by_name) or 'none'}."
            ) from None
        status.look()
        status.probe()
        return status

    def section(self) -> dict[str, Any]:
        """For the stats: every task by name."""
        return {name: self.status(name).section() for name in self._by_name}

    def progress(self) -> tuple[int, int]:
        """How many are done, of how many."""
        return sum(self.status(name).is_done for name in self._by_name), len(self._by_name)

    @property
    def is_degraded(self) -> bool:
        """Whether a task is late or has failed, as far as this process knows."""
        return any(status.is_degraded for status in self._by_name.values())

    def ensure(self, name: str, wait: float) -> None:
        """Return when the task is done; see that it is run, and wait for it no longer than ``wait`` seconds.

        :raises TaskNotReadyError: when it is not done by then, or would not be.
        :raises DeclarationError: for an unknown task, or a wait that would endanger the worker.
        """
        if not isinstance(wait, (int, float)) or not 0 <= wait <= LONGEST_WAIT:
            raise DeclarationError(
                f"ensure({name!r}, wait={wait!r}): a request may wait 0 to {LONGEST_WAIT:.0f} seconds; "
                "longer would endanger its worker."
            )
        status = self._by_name.get(name) or self.status(name)
        if status.is_done:
            return
        deadline = time.monotonic() + wait
        while True:
            self._try(status)
            status.look()
            if status.is_done:
                return
            left = deadline - time.monotonic()
            if left <= 0 or status.is_late or status.pause > left:
                break
            time.sleep(min(POLL, left))
        retry_after = ASK_AGAIN_LATE if status.is_late else max(ASK_AGAIN, math.ceil(status.pause))
        raise TaskNotReadyError(name, status.state, retry_after)

    # Running

    def look_after(self) -> None:
        """Start what is to be done and nobody does; called by the keeper at each of its looks."""
        for status in list(self._to_do):
            self._look_after(status)

    def _look_after(self, status: TaskStatus) -> None:
        status.look()
        status.probe()
        if status.is_done:
            self._tell_skipped(status)
            self._to_do.remove(status)
            return
        if status.is_here and status.is_late and not status.is_told_late:
            status.is_told_late = True
            log.warning(
                "warmcache.task_late: %r has run for more than %.1f s; it goes on, and the app without it",
                status.name,
                status.task.timeout,
                extra={"warmcache_task": status.name},
            )
        # One at a time, so that a single worker runs them in their order; but one that hangs holds up no other.
        if not any(other.is_here and not other.is_late for other in self._to_do):
            self._try(status)

    def _try(self, status: TaskStatus) -> None:
        """Start a task in a thread, if it is to be run now and nobody runs it."""
        if threads.in_child or status.is_here or status.pause:
            return
        try:
            self._start(status)
        except Exception as error:
            # An unusable folder, say. It must not keep the other tasks from running, nor become a view's 500.
            self._fail(status, error)

    def _start(self, status: TaskStatus) -> None:
        lock = self._take(status)
        if lock is None:
            return
        if not self._settings.enabled:
            self._run_quietly(status, lock)
            return
        # A daemon: measured, any other keeps a stopping worker alive for its whole graceful period.
        name = f"warmcache-task-{status.name}"
        thread = threading.Thread(target=self._run_quietly, args=(status, lock), name=name, daemon=True)
        try:
            thread.start()
        except BaseException:
            self._let_go(status, lock)
            raise

    def _take(self, status: TaskStatus, *, wanted: bool = False, again: bool = False) -> HeldLock | None:
        """Take the task's lock, if nobody has it and the task is still to be run; never waits for another.

        :param wanted: whether a pause after a failure is cut short.
        :param again: whether it is run even if it is done.
        """
        with self._guard:
            if status.is_here:
                return None
            lock = self._store.try_lock(status.lock_name)
            if lock is None:
                self._tell_skipped(status)
                return None
            # A and B both find the task undone.  A locks, runs it, unlocks.  B locks.  Without this second look B
            # would run it again.
            status.look()
            if (status.is_done and not again) or (status.pause and not wanted):
                lock.close()
                return None
            status.begin()
            return lock

    def _tell_skipped(self, status: TaskStatus) -> None:
        if not status.is_told:
            status.is_told = True
            log.info(
                "warmcache.task_skipped: %r %s",
                status.name,
                "is done already" if status.is_done else "is run by another process",
                extra={"warmcache_task": status.name},
            )

    def _let_go(self, status: TaskStatus, lock: HeldLock) -> None:
        status.is_here = False
        lock.close()

    def run_now(self, name: str, *, again: bool = False) -> bool | None:
        """Run a task in the calling thread, whatever its pause.

        :param again: whether it is run even if it is done.
        :returns: True when it was run, False when it was done already, None when another process is at it.
        :raises Exception: whatever ended it; it is logged and recorded.
        """
        status = self.status(name)
        lock = self._take(status, wanted=True, again=again)
        if lock is None:
            return False if status.is_done else None
        self._run(status, lock)
        return True

    def _run_quietly(self, status: TaskStatus, lock: HeldLock) -> None:
        try:
            self._run(status, lock)
        except BaseException:
            pass  # logged and recorded, even a sys.exit(); nothing may leave the thread

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
            log.info(
                "warmcache.task_started: %r, attempt %d",
                status.name,
                attempts,
                extra={"warmcache_task": status.name},
            )
            with threads.polite():
                threads.apart(lambda: self._call(status.task.function))
            self._finish(status, Record("done", attempts, started, time.time()))
        except BaseException as error:
            if not status.is_done:
                self._fail(status, error)
            raise
        finally:
            self._let_go(status, lock)

    def _call(self, function: Callable[[], Any]) -> None:
        with self._app.app_context():
            self._app.ensure_sync(function)()

    def _finish(self, status: TaskStatus, record: Record) -> None:
        try:
            status.write(record)
        except OSError:
            log.exception(
                "warmcache.task_unrecorded: %r is done, but no other process can know it, and will do it again",
                status.name,
                extra={"warmcache_task": status.name},
            )
            raise
        finally:
            status.is_done = True
        log.info(
            "warmcache.task_finished: %r took %.3f s",
            status.name,
            (record.ended or 0) - record.started,
            extra={"warmcache_task": status.name},
        )

    def _fail(self, status: TaskStatus, error: BaseException) -> None:
        """Log and record a failure, and say when the next attempt may be."""
        before, now = status.record, time.time()
        began = before is not None and before.state == "running" and status.is_here
        attempts = 1 if before is None else before.attempts + (0 if began else 1)
        started = before.started if began and before is not None else now
        pause = self._pause_after(attempts)
        log.error(
            "warmcache.task_failed: one-time task %r failed (attempt %d); the next attempt is in %.1f s",
            status.name,
            attempts,
            pause,
            exc_info=error,
            extra={"warmcache_task": status.name},
        )
        status.record = Record("failed", attempts, started, now, type(error).__name__, now + pause)
        if status.is_here:
            with suppress(OSError):  # the same trouble, most likely; this process keeps the pause all the same
                status.write(status.record)

    def _pause_after(self, attempts: int) -> float:
        return pause_after(attempts, self._settings.retry_min, self._settings.retry_max)
