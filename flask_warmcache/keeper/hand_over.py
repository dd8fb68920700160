"""Where a rebuild runs: in the worker's thread, in a child process, or handed over from the one to the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .. import events
from ..host import threads
from .attempt import Attempt
from .children import Children
from .process import Child
from .rebuilder import Rebuilder

# A rebuild is long after this many seconds. It computes if it does so in more than this share of them. Seconds in
# which it waits for a processor or for the interpreter do not count (threads.Stopwatch).
LONG = 1.0
COMPUTING = 0.5
ANSWER_POLL = 0.01


class Relay:
    """Watches a rebuild from its own thread, starts a child if it is long and computing, and waits for its answer.

    The thread works on meanwhile.
    """

    def __init__(self, start: Callable[[], Child | None], can_stop: Callable[[], bool]) -> None:
        """
        :param start: starts a child that waits for ``go``; returns None if that is not possible.
        :param can_stop: tells whether a child could continue from where the rebuild is.
        """
        self._start = start
        self._can_stop = can_stop
        self._thread = threading.get_ident()
        self.child: Child | None = None
        self.answer: str | None = None  # the child's
        self._is_over = False
        self._open_window()

    def _open_window(self) -> None:
        self._stopwatch = threads.Stopwatch()
        self._next_look = time.perf_counter() + LONG

    def is_child_ready(self) -> bool:
        """Take the next step if it is time for one; only the thread that made this object ever takes any."""
        now = time.perf_counter()
        if now < self._next_look or self._is_over or threading.get_ident() != self._thread:
            return False
        if self.child is not None:
            if self._can_stop():
                self._next_look = now + ANSWER_POLL
                self.answer = self.child.answer()
                self._is_over = self.answer is not None  # unless ready, it did not find the app, or died
            return self.answer == "ready"
        computed, elapsed = self._stopwatch.elapsed()
        if elapsed < LONG:
            self._next_look = now + LONG - elapsed
            return False
        self._open_window()
        if computed > COMPUTING * elapsed and self._can_stop():
            self.child = self._start()
            self._is_over = self.child is None
            self._next_look = time.perf_counter() + ANSWER_POLL
        return False


class HandOver(BaseException):
    """Ends a rebuild in this process between two items; a child, which holds the same locks, continues."""


class Runner:
    """Runs a rebuild where its list and the settings want it to run."""

    def __init__(self, rebuilder: Rebuilder, children: Children) -> None:
        self._rebuilder = rebuilder
        self._reporter = rebuilder.reporter
        self._settings = rebuilder.settings
        self._children = children

    def describe(self) -> dict[str, str]:
        """Return, for the stats, where this process's rebuilds run, and what stands in the way."""
        facts = {"mode": self._settings.runner}
        if self._settings.runner in ("process", "auto"):
            problem = self._children.problem()
            facts["child"] = "available" if problem is None else f"unavailable: {problem}"
        if (problem := threads.uwsgi_problem()) is not None:
            facts["problem"] = problem
        return facts

    def run(self, attempt: Attempt) -> None:
        """Rebuild the attempt's list, or have a child do it.

        :raises RebuildBusyError: if its source list is being rebuilt elsewhere.
        :raises Exception: whatever ended the rebuild; it is logged, reported and counted.
        """
        if not (self._belongs_in_child(attempt) and self._send_to_child(attempt)):
            threads.apart(lambda: self._rebuild_here(attempt))

    def _belongs_in_child(self, attempt: Attempt) -> bool:
        """Whether a rebuild that begins now should run in a child from its beginning."""
        can_be_in_child = self._settings.runner in ("process", "auto") and not threads.in_child
        if not can_be_in_child or self._children.problem() is not None:
            return False
        if self._settings.runner == "process" or threads.is_green():
            return True
        progress, snapshot = attempt.target.progress, attempt.target.reader.current()
        if progress is not None and progress.report.interruptions:
            return True  # a worker did not live long enough for it
        if snapshot is None or snapshot.is_cold:
            return False
        return snapshot.header["duration"] > LONG and (snapshot.header.get("cpu_share") or 0) > COMPUTING

    def _send_to_child(self, attempt: Attempt) -> bool:
        """Have a child rebuild from the beginning; return False if there is none, so this thread is to do it."""
        status = attempt.target
        deadline = self._deadline()
        attempt.leave_to_child(status, deadline)  # before the child may write its own report
        is_child_required, answer = self._settings.runner == "process", None
        try:
            child = self._start(attempt, wait=False)
            while (answer := child.answer()) is None:
                time.sleep(ANSWER_POLL)
            if answer != "ready":
                raise child.error_before_ready(deadline)
        except Exception as error:
            if not is_child_required:
                message = "%(list)r is rebuilt in a thread: %(reason)s"
                events.warning("warmcache.no_child", message, list=status.name, reason=error)
                self._note_refusal(attempt, answer)
                attempt.resume(status)
                return False
            self._reporter.fail(status, error)
            self._reporter.announce("rebuild_failed", status, error=error)
        attempt.close()
        return True

    def _rebuild_here(self, attempt: Attempt) -> None:
        """Rebuild in this thread; on the way it may turn out that a child should continue."""
        if self._settings.runner != "auto" or threads.in_child or threads.is_green():
            self._rebuilder.rebuild(attempt.target, attempt)
            return
        relay = Relay(lambda: self._start_waiting(attempt), attempt.can_be_handed_over)

        def checkpoint() -> None:
            if relay.is_child_ready():
                attempt.child_deadline = self._deadline()
                raise HandOver

        attempt.checkpoint = checkpoint
        try:
            self._rebuilder.rebuild(attempt.target, attempt)
        except HandOver:
            pass
        finally:
            if relay.child is not None and attempt.child_deadline is not None:
                relay.child.go()
            elif relay.child is not None:
                if relay.answer == "gone":
                    reason = relay.child.error_before_ready(time.time() + self._settings.build_timeout)
                    message = "%(list)r went on in its thread: %(reason)s"
                    events.warning("warmcache.no_child", message, list=attempt.target.name, reason=reason)
                relay.child.kill()  # it holds the locks, too
                self._note_refusal(attempt, relay.answer)

    def _deadline(self) -> float:
        return time.time() + self._settings.build_timeout

    def _start(self, attempt: Attempt, *, wait: bool) -> Child:
        findings = {status.name: status.findings() for status in self._rebuilder.lists}
        return self._children.start(
            attempt.target.declaration, attempt.held, findings, only_if_due=attempt.only_if_due, wait=wait
        )

    def _start_waiting(self, attempt: Attempt) -> Child | None:
        """Start a child that gets ready to continue, or return None: the rebuild does not depend on it."""
        if self._children.problem() is not None:
            return None
        try:
            return self._start(attempt, wait=True)
        except Exception:
            message = "%(list)r continues in its thread"
            events.warning("warmcache.no_child", message, error=True, list=attempt.target.name)
            return None

    def _note_refusal(self, attempt: Attempt, answer: str | None) -> None:
        """Start no other child if this one has not found the app: the next one would not find it either."""
        if answer is not None and answer.startswith("refused"):
            message = "%(list)r stays in its thread: %(answer)s"
            events.error("warmcache.child_refused", message, list=attempt.target.name, answer=answer)
            self._children.refuse("it does not find the app; the log says why")
