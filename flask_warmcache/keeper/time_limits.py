"""How long a child process may take: for its whole rebuild, and for one item."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BuildTimeoutError, ChildKilledError, ItemTimeoutError, RebuildError

# The kernel ends a child at its deadline; other processes notice that a moment before or after it.
DEADLINE_NEAR = 0.5
# An app may use the timer of the process for itself. Its worker kills such a child this many seconds later.
KILL_AFTER_DEADLINE = 1.0
# How often the watching thread compares a running item with its limit, in seconds.
WATCH_EVERY = 0.05
# Sent to the main thread when an item takes too long. Hardly any app uses this signal.
ITEM_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 2) - 2


def limit_build(seconds: float) -> None:
    """End this process after that time, whatever it is doing."""
    # The default action is taken by the kernel. A Python handler would not run during a long C call.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def error_of_dead_child(name: str, deadline: float | None) -> RebuildError:
    """Return the error to report for a child that ended without reporting anything itself.

    :param name: the list's.
    :param deadline: the child's, on the wall clock.
    """
    if deadline is not None and time.time() > deadline - DEADLINE_NEAR:
        return BuildTimeoutError(f"The rebuild of {name!r} took too long for a child process.")
    return ChildKilledError(f"The child process that rebuilt {name!r} was killed.")


class ItemTimeLimit:
    """Ends items that take too long, by an exception in the main thread."""

    def __init__(self) -> None:
        self._end: float | None = None
        self._is_closed = threading.Event()
        signal.signal(ITEM_SIGNAL, self._raise)
        threading.Thread(target=self._watch, name="warmcache-time-limit", daemon=True).start()

    @contextmanager
    def limit(self, seconds: float | None) -> Iterator[None]:
        """Raise ItemTimeoutError in the block if it takes longer; do nothing outside the main thread."""
        if seconds is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._end = time.monotonic() + seconds
        try:
            yield
        finally:
            self._end = None

    def close(self) -> None:
        """End the watching thread."""
        self._is_closed.set()

    def _watch(self) -> None:
        while not self._is_closed.wait(WATCH_EVERY):  # polling, so that setting a limit costs an item nothing
            end = self._end
            if end is not None and time.monotonic() > end:
                signal.pthread_kill(threading.main_thread().ident or 0, ITEM_SIGNAL)

    def _raise(self, *_: object) -> None:
        # The signal may arrive after its item is done and the next one has begun.
        if self._end is not None and time.monotonic() > self._end:
            self._end = None
            raise ItemTimeoutError("the item took longer than it may")
