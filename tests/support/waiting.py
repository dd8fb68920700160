"""How does a test wait? On a condition, with a deadline; never for a time that somebody guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def until(
    condition: Callable[[], Answer],
    reason: str | Callable[[], object] = "",
    seconds: float = 60.0,
    pause: Callable[[float], object] = time.sleep,
) -> Answer:
    """Ask until the condition holds and return its answer; fail after so many seconds.

    :param reason: what is missing, for the failure; a function is called at the deadline.
    :param pause: waits between two questions; a browser's page delivers its events only in a wait of its own.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {reason() if callable(reason) else reason}")
        pause(0.005)
    return answer


def stays_false(condition: Callable[[], object], seconds: float) -> None:
    """Fail if the condition holds within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = condition()
        assert not answer, f"after {seconds - (end - time.monotonic()):.3f} s: {answer!r}"
        time.sleep(0.005)
