"""When a list is heavy: what is dead in its files, or was written to it singly, outweighs what lives."""

from __future__ import annotations

from .snapshot import Snapshot

# A data file is written anew once more than half of it is dead, but never for less than this.
COMPACT_FROM = 1 << 20
# Each write copies those before it; measured with 10,300 items, 11 ms for the first and 36 behind 10,000 others.
WRITES_FROM = 128 << 10
WRITES_SHARE = 32


def is_mostly_dead(size: int, useful: int) -> bool:
    """Whether a data file of so many bytes, so many of them of use, is to be written anew."""
    return size > 2 * useful + COMPACT_FROM


def is_heavy(snapshot: Snapshot) -> bool:
    """Whether a rebuild is due to make a list light again, however fresh it is."""
    if snapshot.is_cold:
        return False
    live = snapshot.header["live_bytes"]
    _, writes, _ = snapshot.header["sections"].get("writes", (0, 0, 0))
    return is_mostly_dead(snapshot.header["data"]["length"], live) or writes > WRITES_FROM + live // WRITES_SHARE
