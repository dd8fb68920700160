"""When a list that is built for the first time is shown in part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# A list that is built for the first time is shown in part: at most once in so many seconds, and so that at most
# one part in so many of the time goes into it.
PARTIAL_EVERY = 0.5
PARTIAL_COST = 20


class Schedule:
    """When a list that was never there is shown in part: its first page at once, then as often as it is cheap."""

    def __init__(self, first_page: int, shown: int) -> None:
        """:param shown: how many items an interrupted build has shown; never are there fewer."""
        self._first_page = first_page
        self._next = 0.0
        self._shown = shown

    def is_due(self, count: int) -> bool:
        """Whether so many items should be shown now."""
        return count >= self._first_page and count > self._shown and time.monotonic() >= self._next

    @contextmanager
    def publishing(self, count: int) -> Iterator[None]:
        """Around a publication; the next one waits until a twentieth of the time goes into publishing."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._shown = count
        self._next = ended + max(PARTIAL_EVERY, PARTIAL_COST * (ended - began))
