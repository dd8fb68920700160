"""Whether a list's lock is held by a process that does not rebuild, such as a fork of a dead builder."""

from __future__ import annotations

import math
import time

from ..store.file_access import Stamp

# Seconds after which a builder counts as silent. It rewrites its report at least once a second.
SILENT_AFTER = 60.0
# The keeper tries to lock a list that is due five times a second. After this long without a try, nothing is known.
FORGOTTEN_AFTER = 5.0


class Blockade:
    """How long one process has been denied a list's lock while nobody reported a rebuild."""

    def __init__(self) -> None:
        self._report: Stamp | None = None  # the report file, as it was at the first of these denials
        self._since = self._last = -math.inf
        self._is_told = False

    def note_denied(self, report: Stamp | None) -> bool:
        """Note that the lock is held elsewhere; return whether it is time to say that nobody seems to rebuild."""
        now = time.monotonic()
        if report != self._report or now - self._last > FORGOTTEN_AFTER:
            self._report, self._since, self._is_told = report, now, False
        self._last = now
        is_news = self.is_on() and not self._is_told
        self._is_told = self._is_told or is_news
        return is_news

    def end(self) -> None:
        """Note that this process has the lock."""
        self._last = -math.inf

    def is_on(self) -> bool:
        """Return whether the lock seems to be held by a process that does not rebuild."""
        now = time.monotonic()
        return now - self._last <= FORGOTTEN_AFTER and self._last - self._since >= SILENT_AFTER
