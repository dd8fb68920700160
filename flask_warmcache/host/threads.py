"""This process's threads: sharing the interpreter with requests, greenlets, uWSGI, and what a fork resets."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
# Measured: with the interpreter's own interval of 5 ms a request waits 77 ms (p50) beside a computing thread; with
# 0.5 ms and a yield each 0.5 ms 5.7 ms under gthread, with 0.2 ms 4.5 ms, and with 0.1 ms no less but a longer
# tail. A yield after each item would make the rebuild seven times longer.
SWITCH_INTERVAL = 0.0002
POLITE_INTERVAL = 0.0005

in_child = False  # this process is a rebuilding child: it starts no keeper, no task and no child of its own
_where = threading.local()  # apart: this thread is one of the system's, though gevent is about
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
def polite(look: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
    """Give other threads the interpreter more often while a rebuild runs; yields what to call in its loops.

    :param look: called now and then, and may raise HandOver.
    """
    global _polite_threads, _impolite_interval
    with _guard:
        if _polite_threads == 0:
            _impolite_interval = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_INTERVAL)
        _polite_threads += 1
    last = time.perf_counter()
    sleep = _native_sleep() or time.sleep

    def breathe() -> None:
        nonlocal last
        if time.perf_counter() - last > POLITE_INTERVAL:
            sleep(0)
            last = time.perf_counter()
            look()

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


def is_green() -> bool:
    """Whether this process's threads are gevent's greenlets."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def apart(work: Callable[[], T]) -> T:
    """Run what may take long, and wait; under gevent in a thread of the system, so that others can go on."""
    if not is_green():
        return work()
    gevent: Any = sys.modules["gevent"]

    def work_here() -> T:
        _where.apart = True
        try:
            return work()
        finally:
            _where.apart = False

    outcome: T = gevent.get_hub().threadpool.apply(work_here)
    return outcome


def _native_sleep() -> Callable[[float], None] | None:
    """What lets other threads run in a thread of the system, where gevent's own sleep would make another loop."""
    if not getattr(_where, "apart", False):
        return None
    sleep: Callable[[float], None] = sys.modules["gevent.monkey"].get_original("time", "sleep")
    return sleep


def uwsgi_problem() -> str | None:
    """Why threads do not run on in this process, or None: uWSGI stops them unless it is told not to."""
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
