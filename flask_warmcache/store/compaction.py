"""When a list is heavy: dead items, or items written one at a time, outweigh the rest of its files."""

from __future__ import annotations

from .snapshot import Snapshot

# A data file is rewritten when more than half of it is dead, but never for fewer dead bytes than this.
COMPACT_FROM = 1 << 20
# Each write copies the ones before it.  Measured with 10,300 items: 11 ms for the first, 36 ms after 10,000.
WRITES_FROM = 128 << 10
WRITES_SHARE = 32


def is_mostly_dead(size: int, useful: int) -> bool:
    """Return whether a data file of this size, with this many useful bytes, is to be rewritten."""
    return size > 2 * useful + COMPACT_FROM


def is_heavy(snapshot: Snapshot) -> bool:
    """Return whether a rebuild is due to make the list light again, however fresh it is."""
    if snapshot.is_cold:
        return False
    live = snapshot.header["live_bytes"]
    _, writes, _ = snapshot.header["sections"].get("writes", (0, 0, 0))
    return is_mostly_dead(snapshot.header["data"]["length"], live) or writes > WRITES_FROM + live // WRITES_SHARE
