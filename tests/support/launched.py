"""What a child of ``launcher.py`` does that has the app of ``app_files`` loaded by its parent.

When it is prepared, it waits for SIGUSR1, so that a test can trace it first. It exits with 1 if it failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import app_files  # type: ignore[import-not-found, unused-ignore]
from flask.cli import ScriptInfo

from flask_warmcache import RebuildBusyError
from flask_warmcache.keeper.attempt import Attempt

# A worker loads this at its first build. Here it is loaded before the forks: otherwise each child would load it
# while it holds its first lock, and a takeover would mostly take the time of that.
from flask_warmcache.rebuild import job as _job  # noqa: F401
from flask_warmcache.rebuild import publish
from flask_warmcache.status import progress
from flask_warmcache.status.condition import ListStatus
from flask_warmcache.store.reader import Reader

GO = {signal.SIGUSR1}
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)
PAUSE = 0.002  # seconds; without it, eight builders would mostly keep one another from the processor


def flask(*arguments: str) -> int:
    """Run ``flask`` with these arguments."""
    try:
        app_files.app.cli.main(
            args=list(arguments), prog_name="flask", obj=ScriptInfo(create_app=lambda: app_files.app)
        )
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
    return 0


def without_keeper(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Let no keeper start, as if there were no more threads: its turns would make each run different."""

    def starting(thread: threading.Thread) -> None:
        if thread.name == "warmcache-keeper":
            raise RuntimeError("can't start new thread")
        start(thread)

    return starting


def rebuild(times: int) -> int:
    """Rebuild the list through its own method, and print each generation."""
    with app_files.app.app_context():
        for _ in range(times):
            try:
                print(app_files.files.rebuild_now().generation, flush=True)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                return 1
    return 0


def rebuild_until_term(events: str) -> int:
    """Rebuild again and again until SIGTERM; note in a file when each build begins and ends."""
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    stopped: list[int] = []

    def event(what: str, **more: Any) -> None:
        line = {"what": what, "pid": os.getpid(), "at": time.monotonic_ns(), **more}
        os.write(descriptor, json.dumps(line).encode() + b"\n")

    def note(what: str) -> None:
        if what == "source":  # the first thing that a build does under the lock
            event("begin")

    def release(attempt: Attempt, status: ListStatus) -> None:
        event("end")  # the last thing under the lock: afterwards another process may begin
        released(attempt, status)

    released = Attempt.release
    setattr(Attempt, "release", release)  # noqa: B010
    app_files.note = note
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    state = app_files.app.extensions["warmcache"]
    state.open()
    while not stopped:
        try:
            event("published", generation=state.rebuilder.rebuild_now("files").generation)
        except RebuildBusyError:
            time.sleep(PAUSE)
        except Exception as error:
            event("refused", error=repr(error))
    return 0


def publish_and_read(times: int, seed: int) -> int:
    """Rebuild without a pause, and read now and then; print how often a reader did not see the newest."""
    chance = random.Random(seed)
    reader = Reader(Path(os.environ["WARMCACHE_DIR"]), "files")
    reads, missed, next_read = 0, 0, 1
    with app_files.app.app_context():
        for nth in range(1, times + 1):
            generation = app_files.files.rebuild_now().generation
            if nth == next_read:
                snapshot = reader.current()
                reads += 1
                missed += snapshot is None or snapshot.generation != generation
                # Two publications between reads are the worst: ext4 then gives the same inode again.
                next_read += chance.choice((1, 2, 2, 2, 3, 7))
    print(json.dumps({"published": times, "reads": reads, "missed": missed}), flush=True)
    return 0


def prepare(order: dict[str, Any]) -> None:
    """Prepare a child for a tracer, and for writing what it prints to files."""
    if order["do"] == "rebuild until SIGTERM":
        return
    # Some kernels let a process be traced by its ancestors only, unless it says otherwise.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)
    for number, name in ((1, "out"), (2, "err")):
        path = os.path.join(order["folder"], name)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), number)
    os.umask(order.get("umask", 0o022))
    if order.get("by_clock") is False:
        # Progress and parts of a first list, which are written by the clock, would make each run different.
        progress.WRITE_EVERY = progress.HEARTBEAT = publish.PARTIAL_EVERY = 3600.0
    if order["do"] == "rebuild":
        flask("warmcache", "status", "--json")  # everything is imported and opened before the faults begin
        os.ftruncate(1, 0)


def act(order: dict[str, Any]) -> int:
    """Do what the order says, most of it after the signal."""
    if order["do"] == "rebuild until SIGTERM":
        return rebuild_until_term(order["events"])
    signal.sigwait(GO)
    if order["do"] == "rebuild":
        return rebuild(order.get("times", 1))
    if order["do"] == "publish and read":
        return publish_and_read(order["times"], order["seed"])
    return flask(*order["arguments"])


setattr(threading.Thread, "start", without_keeper(threading.Thread.start))  # noqa: B010
signal.pthread_sigmask(signal.SIG_BLOCK, GO)
