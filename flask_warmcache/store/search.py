"""Finding items by words in a snapshot's folded search text, within a time budget."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right

from .format import ALL, SOURCE_ORDER, fold
from .snapshot import Snapshot

# Searched in some microseconds, so that the budget is kept closely; and malloc reuses pieces of this size.
SLICE = 1 << 16
READ_CLOCK_EVERY = 64  # candidates


def search(snapshot: Snapshot, query: str, budget: float) -> tuple[list[int], bool]:
    """Return the slots, in rising order, of the items that contain every word of the query.

    :param budget: seconds after which the search ends with what it has found so far.
    :returns: the slots, and whether the whole list was searched.
    """
    words = sorted(fold(query).split(), key=len, reverse=True)
    if not words:
        return sorted(snapshot.order(ALL, SOURCE_ORDER)), True
    # A long word is rare, so the longest finds the candidates; the others are looked up in each candidate.
    first, *others = [word.encode("utf-8", "surrogatepass") for word in words]
    text, starts = snapshot.search_text()
    deadline = time.monotonic() + budget
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
            if candidates % READ_CLOCK_EVERY == 0 and time.monotonic() > deadline:
                return found, False
            at = chunk.find(first, line_end)
        begin = end
        if begin < size and time.monotonic() > deadline:
            return found, False
    return found, True
