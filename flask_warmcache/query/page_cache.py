"""A worker's own cache: finished bytes and search results that it made recently, bounded in bytes."""

from __future__ import annotations

import threading
from typing import Any

from cachetools import LRUCache

# Roughly what an entry costs besides its bytes: key, tuple, linked list, object headers.
ENTRY_OVERHEAD = 600
ASKED_MAX = 256


class PageCache:
    """Finished bytes and search results of one process; the least recently used are removed first."""

    def __init__(self, size: int) -> None:
        """:param size: the most it may hold, in bytes; 0 for nothing."""
        self._size = size
        self.after_fork()

    def after_fork(self) -> None:
        """Start a child empty, with a lock that no other thread holds."""
        self._guard = threading.Lock()  # guards _entries, held for a look-up and never while computing
        self._asked: set[int] = set()  # hashes of recent keys; a race only means that one more answer is made
        self._entries: LRUCache[Any, tuple[Any, int]] = LRUCache(self._size, getsizeof=lambda entry: entry[1])

    def get(self, key: Any) -> Any:
        """Return the value of a key, or None."""
        with self._guard:
            entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def ask(self, key: Any) -> tuple[Any, bool]:
        """Return the value of a key, or None, and whether the key was asked for recently.

        Most pages are asked for once, so an answer is worth keeping only the second time.
        """
        asked = self._asked
        key_hash = hash(key)
        if key_hash in asked:
            return self.get(key), True
        if len(asked) >= ASKED_MAX:
            asked.clear()
        asked.add(key_hash)
        return None, False

    def put(self, key: Any, value: Any, size: int) -> None:
        """Keep a value of this many bytes, unless it is larger than the whole cache."""
        size += ENTRY_OVERHEAD
        if size <= self._size:
            with self._guard:
                self._entries[key] = (value, size)
