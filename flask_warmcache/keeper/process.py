"""A child process that rebuilds: what it answers, how it ends, and how long it and one item of its may take."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import BuildTimeoutError, ChildError, ChildKilledError, ItemTimeoutError, RebuildError

if TYPE_CHECKING:
    import subprocess

# The kernel ends a child at its deadline; other processes notice that a moment before or after it.
DEADLINE_NEAR = 0.5
# An app may use the timer of the process for itself. Its worker kills such a child this many seconds later.
KILL_AFTER_DEADLINE = 1.0
# How often the watching thread compares a running item with its limit, in seconds.
WATCH_EVERY = 0.05
# Sent to the main thread when an item takes too long. Hardly any app uses this signal.
ITEM_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 2) - 2
ANSWER_MAX = 4096


class Child:
    """A child process that has inherited locks."""

    def __init__(self, list_name: str, process: subprocess.Popen[bytes], answers: int, timeout: float) -> None:
        """:param answers: the descriptor from which its answer can be read."""
        self.list_name = list_name
        self._process = process
        self._guard = threading.Lock()  # guards _answers and _read: a builder asks while the keeper reaps
        self._answers = answers
        self._read = b""
        self._deadline = time.monotonic() + timeout
        os.set_blocking(answers, False)

    def answer(self) -> str | None:
        """Return "ready", "refused: " and a reason, "gone" if it died before it answered, or None so far."""
        with self._guard:
            if self._answers >= 0:
                try:
                    chunk = os.read(self._answers, ANSWER_MAX)
                except BlockingIOError:
                    return None
                self._read += chunk
                if chunk and not self._read.endswith(b"\n"):
                    return None
            return self._read.decode(errors="replace").strip() or "gone"

    def go(self) -> None:
        """Tell it to continue the rebuild; the end of this process would tell it the same."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(b"go\n")
        except (OSError, ValueError):
            pass  # it has died; the process that finds its report will notice
        pipe.close()

    def error_before_ready(self, deadline: float) -> RebuildError:
        """Return why it is not ready, after any other answer; if it is gone, wait for its end.

        :param deadline: on the wall clock.
        """
        answer, name = self.answer(), self.list_name
        if answer != "gone":
            return ChildError(f"The child process for {name!r} is not ready: {answer}.")
        self.kill()  # otherwise a child that has only closed its pipe could make this wait
        while not self.has_ended():
            time.sleep(WATCH_EVERY)
        if (self._process.returncode or 0) < 0:
            return error_of_dead_child(name, deadline)
        return ChildError(
            f"The child process for {name!r} ended with {self.how_it_ended} before it had imported the app; its "
            "output may say why."
        )

    def kill(self) -> None:
        """End it; its locks are free at once."""
        self._process.kill()

    def has_ended(self) -> bool:
        """Whether it has ended; kill it if it is long past its deadline."""
        has_ended = self._process.poll() is not None
        if not has_ended and time.monotonic() > self._deadline + KILL_AFTER_DEADLINE:
            self.kill()
        return has_ended

    def abandon(self) -> None:
        """Close what connects this process with it, and let it live on: it may outlive this process."""
        self.answer()  # kept for a builder that may still ask
        with self._guard:
            self.close()

    def close(self) -> None:
        """Close this process's ends of the pipes.

        After a fork this is all to do: the child is the parent's, and its guard may be held here for ever.
        """
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # otherwise Popen warns when it is collected

    @property
    def how_it_ended(self) -> str:
        """Its exit status for the log, as far as it is known."""
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def limit_build(seconds: float) -> None:
    """End this process after that time, whatever it is doing."""
    # The default action is taken by the kernel. A Python handler would not run during a long C call.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def error_of_dead_child(name: str, deadline: float | None) -> RebuildError:
    """Return the error to report for a child that ended without reporting anything itself.

    :param deadline: the child's, on the wall clock.
    """
    if deadline is not None and time.time() > deadline - DEADLINE_NEAR:
        return BuildTimeoutError(f"The rebuild of {name!r} took too long for a child process.")
    return ChildKilledError(
        f"The child process that rebuilt {name!r} ended without a report: it was killed, or the app ended it."
    )


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
