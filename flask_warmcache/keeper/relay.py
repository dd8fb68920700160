"""How a rebuild moves from a worker's thread to a child process.

A rebuild that turns out long and computing moves: a child is started while the thread works on, and when the
child has imported the app, the thread stops between two items and the child goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .children import Child

# A rebuild is long after so many seconds, and computing when the processor was its own for more than this share.
LONG = 1.0
COMPUTING = 0.5
ANSWER_POLL = 0.01


class HandOver(BaseException):
    """Raised by ``breathe`` to end a rebuild between two items; a child, which holds the lock, goes on."""


class Relay:
    """Watches a rebuild in its own thread; starts a child when it is long and computing, and stops for it."""

    def __init__(self, start: Callable[[], Child | None], may_stop: Callable[[], bool]) -> None:
        """
        :param start: gives a child that waits for ``go``, or None when there is none to be had.
        :param may_stop: whether the rebuild is where another can take it up.
        """
        self._start = start
        self._may_stop = may_stop
        self._thread = threading.get_ident()
        self._child: Child | None = None
        self.answer: str | None = None  # what the child has said
        self._is_over = False
        self._open_window()

    def _open_window(self) -> None:
        self._began, self._computed = time.perf_counter(), time.thread_time()

    def look(self) -> None:
        """Take the next step, if it is time for one.

        :raises HandOver: when the child is ready, in the thread that made this object and no other.
        """
        if self._is_over or threading.get_ident() != self._thread:
            return
        elapsed = time.perf_counter() - self._began
        if self._child is None:
            if elapsed >= LONG:
                if (time.thread_time() - self._computed) > COMPUTING * elapsed and self._may_stop():
                    self._child = self._start()
                    self._is_over = self._child is None
                self._open_window()
        elif elapsed >= ANSWER_POLL and self._may_stop():
            self._began += elapsed
            self.answer = self._child.heard()
            if self.answer == "ready":
                raise HandOver
            self._is_over = self.answer is not None  # it did not find the app, or died: the thread works on
