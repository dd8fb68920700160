"""One child process that rebuilds, as its worker sees it: what it answers, and how it ends."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from .time_limits import KILL_AFTER_DEADLINE

if TYPE_CHECKING:
    import subprocess

ANSWER_MAX = 4096


class Child:
    """A child process that has inherited locks."""

    def __init__(self, process: subprocess.Popen[bytes], answers: int, timeout: float) -> None:
        """
        :param answers: the descriptor from which its answer can be read.
        :param timeout: seconds until its deadline.
        """
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
        """Tell it to go on with the list; the end of this process would tell it the same."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(b"go\n")
        except (OSError, ValueError):
            pass  # it has died; the process that finds its report will notice
        pipe.close()

    def kill(self) -> None:
        """End it; its locks are free at once."""
        self._process.kill()

    def has_ended(self) -> bool:
        """Whether it has ended; kill it if it is long past its deadline."""
        if self._process.poll() is None:
            if time.monotonic() > self._deadline + KILL_AFTER_DEADLINE:
                self.kill()
            return False
        return True

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
