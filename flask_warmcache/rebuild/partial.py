"""When a first build publishes the items it has so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds between two partial publications.
PARTIAL_EVERY = 0.5
# A partial publication may take one part in this many of the time.
PARTIAL_COST = 20


class Schedule:
    """Says when to publish a partial list: the first page at once, and then as often as that is cheap."""

    def __init__(self, first_page: int, shown: int) -> None:
        """:param shown: how many items an interrupted build has published; fewer are never published."""
        self._first_page = first_page
        self._next = 0.0
        self._shown = shown

    def is_due(self, count: int) -> bool:
        """Return whether this many items should be published now."""
        return count >= self._first_page and count > self._shown and time.monotonic() >= self._next

    @contextmanager
    def publishing(self, count: int) -> Iterator[None]:
        """Time a publication, and put the next one off until a twentieth of the time goes into publishing."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._shown = count
        self._next = ended + max(PARTIAL_EVERY, PARTIAL_COST * (ended - began))
