"""Imported by every interpreter that has this folder on its path: a wall clock set by a file, a count of forks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

OFFSET = os.environ.get("TEST_CLOCK")  # a file whose mtime says by how many seconds the clock is off, from NORMAL
FORKS = os.environ.get("TEST_FORKS_SEEN")
NORMAL = 10**9

if OFFSET is not None:
    _path = OFFSET

    def _off() -> int:
        try:
            return os.stat(_path).st_mtime_ns - NORMAL * 10**9
        except OSError:
            return 0

    def _shifted(clock: Callable[[], int]) -> Callable[[], int]:
        return lambda: clock() + _off()

    _time = time.time
    time.time_ns = _shifted(time.time_ns)
    time.time = lambda: _time() + _off() / 1e9

if FORKS is not None:
    _seen = os.open(FORKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _note(event: str, _: tuple[Any, ...]) -> None:
        if event in ("os.fork", "os.forkpty"):
            os.write(_seen, f"{os.getpid()}\n".encode())

    sys.addaudithook(_note)

GREEDY = os.environ.get(
    "TEST_GREEDY"
)  # while this file exists, a rebuilding child has little memory and wants much

if GREEDY is not None and "flask_warmcache.child" in sys.orig_argv and os.path.exists(GREEDY):
    import resource

    def _want_much(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".data.tmp") and arguments[2] & os.O_CREAT:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
            bytearray(2 << 30)

    sys.addaudithook(_want_much)
