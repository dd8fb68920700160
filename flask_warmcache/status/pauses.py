"""How long to wait after a failure before the next attempt."""

from __future__ import annotations

import random
import time

LONGEST_PAUSE = 3600.0


def pause_after(failures: int, least: float, most: float) -> float:
    """Return the seconds until the next attempt: each failure in a row doubles them from ``least`` to ``most``."""
    pause = min(most, least * 2.0 ** min(failures - 1, 30))
    # With jitter, attempts that failed at the same moment are not repeated at the same moment.
    return pause * random.uniform(0.75, 1.25)


def pause_left(next_attempt_at: float | None) -> float:
    """Return how many seconds a pause still lasts, or 0.

    :param next_attempt_at: its end on the wall clock, or None without a pause.
    """
    left = 0.0 if next_attempt_at is None else next_attempt_at - time.time()
    # If the clock has been set back since, the end is far ahead and would not come.
    return left if 0 < left < LONGEST_PAUSE else 0.0
