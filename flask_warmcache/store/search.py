"""Finding items by words in a snapshot's folded search text, within a time budget."""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right

from .format import ALL, SOURCE_ORDER, fold
from .snapshot import Snapshot

# Searched in some microseconds, so that the budget is kept closely; and malloc reuses pieces of this size.
SLICE = 1 << 16
READ_CLOCK_EVERY = 64  # candidates
# The searches that run in this process now.  Only one thread at a time computes, so they share the budget:
# otherwise each of sixteen threads would wait for the fifteen others, and end long after its time.
_running: set[object] = set()
os.register_at_fork(after_in_child=_running.clear)


def search(snapshot: Snapshot, query: str, budget: float) -> tuple[list[int], bool]:
    """Return the slots, in rising order, of the items that contain every word of the query.

    :param budget: seconds after which the search ends with what it has found so far; others that run share them.
    :returns: the slots, and whether the whole list was searched.
    """
    this = object()
    _running.add(this)
    try:
        return _search(snapshot, query, budget)
    finally:
        _running.discard(this)


def _search(snapshot: Snapshot, query: str, budget: float) -> tuple[list[int], bool]:
    began = time.monotonic()
    words = sorted(fold(query).split(), key=len, reverse=True)
    if not words:
        return sorted(snapshot.order(ALL, SOURCE_ORDER)), True
    # A long word is rare, so the longest finds the candidates; the others are looked up in each candidate.
    first, *others = [word.encode("utf-8", "surrogatepass") for word in words]
    text, starts = snapshot.search_text()
    found: list[int] = []
    candidates = 0
    size = len(text)
    begin = 0
    while begin < size:
        # A slice ends at the end of an item, so that no match crosses two slices.
        end = starts[bisect_left(starts, min(begin + SLICE, size))]
        chunk = bytes(text[begin:end])
        at = chunk.find(first)
        while at >= 0:
            slot = bisect_right(starts, begin + at) - 1
            line_end = starts[slot + 1] - begin
            line_begin = starts[slot] - begin
            if all(chunk.find(word, line_begin, line_end) >= 0 for word in others):
                found.append(slot)
            candidates += 1
            if candidates % READ_CLOCK_EVERY == 0 and time.monotonic() - began > budget / len(_running):
                return found, False
            at = chunk.find(first, line_end)
        begin = end
        if begin < size and time.monotonic() - began > budget / len(_running):
            return found, False
    return found, True
