"""Bears processes that always want to rebuild the list of ``app_files``; one for each line on stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import app_files  # type: ignore[import-not-found, unused-ignore]

from flask_warmcache import RebuildBusyError

# A worker loads this at its first build.  Here it is loaded before the forks: each newborn would else do it under
# its first lock, and most of the time that a takeover takes would be that.
from flask_warmcache.rebuild import job as _job  # noqa: F401

PAUSE = 0.002  # seconds; without it, eight would mostly keep one another from the processor
EVENTS = os.open(os.environ["TEST_EVENTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def event(what: str, **more: Any) -> None:
    line = {"what": what, "pid": os.getpid(), "at": time.monotonic_ns(), **more}
    os.write(EVENTS, json.dumps(line).encode() + b"\n")


def live() -> None:
    """Rebuild, again and again, until SIGTERM."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    state = app_files.app.extensions["warmcache"]
    state.open()  # without a keeper
    while not stopped:
        began = len(BEGUN)
        try:
            generation = state.rebuilder.rebuild_now("files").generation
        except RebuildBusyError:
            generation = 0
            time.sleep(PAUSE)
        except Exception as error:
            event("error", error=repr(error))
            generation = 0
        if len(BEGUN) > began:
            event("end", generation=generation)


BEGUN: list[int] = []


def begin(*_: object) -> None:
    BEGUN.append(1)
    event("begin")


def main() -> None:
    # The build's first act of its own under the lock is to call source.
    app_files.note = lambda what: begin() if what == "source" else None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                live()
            finally:
                os._exit(0)
        print(pid, flush=True)


main()
