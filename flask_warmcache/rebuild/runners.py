"""Where a rebuild runs: in a thread of the worker that won the lock, politely."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Measured: with the default interval of 5 ms a request waits 77 ms (p50) beside a computing thread, with
# 0.5 ms and a yield each 0.5 ms about 3 ms; a yield after each item would make the rebuild seven times longer.
POLITE_INTERVAL = 0.0005

_guard = threading.Lock()  # guards _polite_threads and _impolite_interval
_polite_threads = 0
_impolite_interval = 0.005


def after_fork() -> None:
    """The child of a fork has none of its parent's threads."""
    global _guard, _polite_threads
    _guard = threading.Lock()
    if _polite_threads:
        sys.setswitchinterval(_impolite_interval)
    _polite_threads = 0


@contextmanager
def polite() -> Iterator[Callable[[], None]]:
    """Give other threads the interpreter more often while a rebuild runs; yields what to call in its loops."""
    global _polite_threads, _impolite_interval
    with _guard:
        if _polite_threads == 0:
            _impolite_interval = sys.getswitchinterval()
            sys.setswitchinterval(POLITE_INTERVAL)
        _polite_threads += 1
    last = time.perf_counter()

    def breathe() -> None:
        nonlocal last
        if time.perf_counter() - last > POLITE_INTERVAL:
            time.sleep(0)
            last = time.perf_counter()

    try:
        yield breathe
    finally:
        with _guard:
            _polite_threads -= 1
            if _polite_threads == 0:
                sys.setswitchinterval(_impolite_interval)


def run_in_thread(work: Callable[[], None], name: str) -> None:
    """Run a rebuild beside the requests.

    A daemon thread: measured, any other keeps a stopping worker alive for its whole graceful period.  Being
    cut off at any instruction is harmless, since only a finished rename changes what readers see.
    """
    threading.Thread(target=work, name=f"warmcache-rebuild-{name}", daemon=True).start()
