"""How many items one call of a batched ``enrich`` gets, so that progress is seen to move."""

from __future__ import annotations

# A call should take about this many seconds.
CALL_SECONDS = 1.0
# The first call's size, and how many times larger the next call may be.
FIRST, GROWTH = 16, 8
# Where each call costs much whatever its size, it takes this many times as long as that cost.
FIXED_TIMES = 4
# Two calls tell the fixed cost from that of an item if their sizes differ by this factor.
DIFFERENT = 1.5


class BatchSize:
    """The size of the next call, which follows how long the last calls took."""

    def __init__(self, most: int) -> None:
        """:param most: the ``batch`` that the app has declared."""
        self._most = most
        self._last: tuple[int, float] | None = None
        self._other: tuple[int, float] | None = None  # the newest call of another size than the last
        self.size = min(most, FIRST)

    def note(self, count: int, seconds: float) -> None:
        """Note how long a call took; threads may call this at the same time."""
        last, other = self._last, self._other
        if last is not None and not 1 / DIFFERENT < count / last[0] < DIFFERENT:
            self._other = other = last
        self._last = (count, seconds)
        if seconds < CALL_SECONDS / 2:
            fitting = count * max(2.0, CALL_SECONDS / 2 / max(seconds, 1e-6))
        elif other is None or other[0] == count:  # one size tells nothing about the fixed cost, so try another
            fitting = count * 2 if seconds <= CALL_SECONDS else count / 2
        else:
            each = max(1e-9, (seconds - other[1]) / (count - other[0]))
            fixed = max(0.0, seconds - each * count)
            fitting = (max(CALL_SECONDS, FIXED_TIMES * fixed) - fixed) / each
        self.size = max(1, int(min(fitting, GROWTH * count, self._most)))
