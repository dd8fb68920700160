"""Whether a rebuild in a worker's thread is long and computing, so that a child process should go on with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .process import Child

# A rebuild is long after this many seconds. It computes if it had the processor for more than this share of them.
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
        :param can_stop: tells whether a child could go on from where the rebuild is.
        """
        self._start = start
        self._can_stop = can_stop
        self._thread = threading.get_ident()
        self.child: Child | None = None
        self.answer: str | None = None  # the child's
        self._is_over = False
        self._open_window()

    def _open_window(self) -> None:
        self._began, self._computed = time.perf_counter(), time.thread_time()

    def is_child_ready(self) -> bool:
        """Take the next step if it is time for one; only the thread that made this object ever takes any."""
        if self._is_over or threading.get_ident() != self._thread:
            return False
        elapsed = time.perf_counter() - self._began
        if self.child is None:
            if elapsed >= LONG:
                if (time.thread_time() - self._computed) > COMPUTING * elapsed and self._can_stop():
                    self.child = self._start()
                    self._is_over = self.child is None
                self._open_window()
        elif elapsed >= ANSWER_POLL and self._can_stop():
            self._began += elapsed
            self.answer = self.child.answer()
            self._is_over = self.answer is not None  # unless ready, it did not find the app, or died
        return self.answer == "ready"
