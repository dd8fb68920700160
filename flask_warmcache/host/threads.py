"""This process's threads: how they share the interpreter with requests, and whether they are greenlets."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
# Measured: with the interpreter's default interval of 5 ms, a request waits 77 ms (p50) beside a computing thread.
# With 0.5 ms and a yield each 0.5 ms it waits 5.7 ms under gthread, and with 0.2 ms 4.5 ms. With 0.1 ms it waits
# no less, but the tail is longer. A yield after each item would make the rebuild take seven times as long.
SWITCH_INTERVAL = 0.0002
POLITE_INTERVAL = 0.0005

in_child = False  # this process is a rebuilding child: it starts no keeper, no task and no child of its own
_local = threading.local()  # is_apart: under gevent, this is a real thread of the system
_guard = threading.Lock()  # guards _polite_threads and _impolite_interval
_polite_threads = 0
_impolite_interval = 0.005


def after_fork() -> None:
    """Undo, in a forked child, what the parent's threads have set: they do not exist here."""
    global _guard, _polite_threads
    _guard = threading.Lock()
    if _polite_threads:
        sys.setswitchinterval(_impolite_interval)
    _polite_threads = 0


@contextmanager
def polite(checkpoint: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
    """Give other threads the interpreter more often while a rebuild runs; yield a function to call in its loops.

    :param checkpoint: called about every half millisecond; it may end the rebuild by an exception.
    """
    global _polite_threads, _impolite_interval
    with _guard:
        if _polite_threads == 0:
            _impolite_interval = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_INTERVAL)
        _polite_threads += 1
    last = time.perf_counter()
    sleep = _real_sleep()

    def breathe() -> None:
        nonlocal last
        if time.perf_counter() - last > POLITE_INTERVAL:
            sleep(0)
            last = time.perf_counter()
            checkpoint()

    try:
        yield breathe
    finally:
        with _guard:
            _polite_threads -= 1
            if _polite_threads == 0:
                sys.setswitchinterval(_impolite_interval)


def run_in_thread(work: Callable[[], None], name: str) -> None:
    """Run a rebuild beside the requests.

    The thread is a daemon: any other keeps a stopping worker alive for its whole graceful period (measured).  It
    may be ended at any instruction, since only a finished rename changes what readers see.
    """
    threading.Thread(target=work, name=f"warmcache-rebuild-{name}", daemon=True).start()


def is_green() -> bool:
    """Whether this process's threads are gevent's greenlets."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def apart(work: Callable[[], T]) -> T:
    """Run something that may take long, and wait for it; under gevent in a real thread, beside the requests."""
    if not is_green():
        return work()
    gevent: Any = sys.modules["gevent"]

    def work_here() -> T:
        _local.is_apart = True
        try:
            return work()
        finally:
            _local.is_apart = False

    outcome: T = gevent.get_hub().threadpool.apply(work_here)
    return outcome


def _real_sleep() -> Callable[[float], None]:
    """Return ``time.sleep``, in a real thread under gevent the original: gevent's would start a loop there."""
    if not getattr(_local, "is_apart", False):
        return time.sleep
    sleep: Callable[[float], None] = sys.modules["gevent.monkey"].get_original("time", "sleep")
    return sleep


class Stopwatch:
    """Measures how much of its time the calling thread computes.

    Time in which it could not compute is left out: this process's threads waited for a processor, or others than
    this one computed and so had the interpreter.  With that time, a rebuild that computes on a busy machine would
    look like one that waits for its disk.
    """

    def __init__(self) -> None:
        self._began = self._readings()

    def elapsed(self) -> tuple[float, float]:
        """Return the seconds that the thread computed, and the seconds in which it could have computed."""
        pairs = zip(self._readings(), self._began, strict=True)
        wall, computed, others, waited = (now - before for now, before in pairs)
        return computed, max(computed, wall - others - max(0.0, waited))

    def _readings(self) -> tuple[float, float, float, float]:
        computed = time.thread_time()
        return time.perf_counter(), computed, time.process_time() - computed, _waited_for_processor()


def _waited_for_processor() -> float:
    """Return how long this process's threads have waited for a processor, or 0 if the system does not tell."""
    waited = 0
    with suppress(OSError, ValueError, IndexError):
        for task in os.listdir("/proc/self/task"):
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                waited += int(Path(f"/proc/self/task/{task}/schedstat").read_bytes().split()[1])
    return waited / 1e9


def uwsgi_problem() -> str | None:
    """Return why threads do not run on in this process, or None: uWSGI stops them by default."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None:
        return None
    options = {key if isinstance(key, str) else key.decode(): value for key, value in uwsgi.opt.items()}
    if "enable-threads" in options or "threads" in options:
        return None
    return (
        "uWSGI runs without enable-threads, so threads stand still between requests and rebuilds with them; set "
        "enable-threads = true"
    )
