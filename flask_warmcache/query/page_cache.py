"""A worker's own layer: the finished bytes and search results it made last, bounded in bytes."""

from __future__ import annotations

import threading
from typing import Any

from cachetools import LRUCache

# What an entry costs besides its bytes, roughly: key, tuple, linked list, object headers.
ENTRY_OVERHEAD = 600
ASKED_MAX = 256


class PageCache:
    """Finished bytes and search results of one process, the least recently used dropped first."""

    def __init__(self, size: int) -> None:
        """:param size: the most it may hold, in bytes; 0 for nothing."""
        self._size = size
        self.after_fork()

    def after_fork(self) -> None:
        """A child starts empty, with a lock that nobody holds."""
        self._guard = threading.Lock()  # guards _entries, held for a look-up and never while computing
        self._asked: set[int] = set()  # hashes of what was asked for; a race costs one more building
        self._entries: LRUCache[Any, tuple[Any, int]] = LRUCache(self._size, getsizeof=lambda entry: entry[1])

    def get(self, key: Any) -> Any:
        """What was put under the key, or None."""
        with self._guard:
            entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def ask(self, key: Any) -> tuple[Any, bool]:
        """What was put under the key, or None; and whether it was asked for lately.

        Most pages are asked for once: what is made for a first question is not worth keeping.
        """
        asked = self._asked
        mark = hash(key)
        if mark in asked:
            return self.get(key), True
        if len(asked) >= ASKED_MAX:
            asked.clear()
        asked.add(mark)
        return None, False

    def put(self, key: Any, value: Any, size: int) -> None:
        """Keep a value of so many bytes, unless it is larger than the whole cache."""
        size += ENTRY_OVERHEAD
        if size <= self._size:
            with self._guard:
                self._entries[key] = (value, size)
