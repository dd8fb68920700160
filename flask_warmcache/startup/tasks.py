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
import time
from collections.abc import Mapping
from typing import Any

from flask import Flask

from .. import events
from ..errors import DeclarationError
from ..settings import Settings
from ..store.files import FileStore
from .later import NotReadyError
from .task import Task, TaskStatus
from .task_run import TaskRunner

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
        self._runner = TaskRunner(app, store, settings)
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
        self._runner.after_fork()
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
            self._runner.start(status)
            status.reread()
            if status.is_done:
                return
            status.probe()  # else a task that another process has just begun would pass for a pending one
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
            status.reread()
            status.probe()
            if status.is_done:
                self._runner.log_skipped(status)
                self._unfinished.remove(status)
                continue
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
                self._runner.start(status)

    def run_now(self, name: str, *, again: bool = False) -> bool | None:
        """Run a task in the calling thread, without regard to its pause.

        :param again: whether the task runs although it is done.
        :returns: True if it ran, False if it was done already, None if another process is running it.
        :raises Exception: whatever the task raised; it is logged and recorded.
        """
        return self._runner.run_now(self.status(name), again=again)
