"""How long to leave alone what has failed."""

from __future__ import annotations

import random
import time

LONGEST_PAUSE = 3600.0


def pause_after(failures: int, least: float, most: float) -> float:
    """Seconds until the next attempt.

    :param failures: in a row, at least 1; each doubles the pause.
    :param least: the first pause, in seconds, but for the jitter.
    :param most: the longest, likewise.
    """
    pause = min(most, least * 2.0 ** min(failures - 1, 30))
    # Jitter, so that what failed together is not tried again together.
    return pause * random.uniform(0.75, 1.25)


def pause_left(next_attempt_at: float | None) -> float:
    """Seconds that a pause still lasts, else 0.

    :param next_attempt_at: its end, on the wall clock; None without one.
    """
    left = 0.0 if next_attempt_at is None else next_attempt_at - time.time()
    # An end far ahead is from before the clock was set back; it would never come.
    return left if 0 < left < LONGEST_PAUSE else 0.0
