"""Bears, by fork, processes that have the app of ``app_files`` loaded and do one thing each; so a fault costs
milliseconds, not the start of an interpreter.

A line of JSON on stdin makes one: it prepares itself and waits for SIGUSR1 (somebody may want to trace it
first), acts, and exits with 0, or with 1 when what it did failed.  The line ``wait`` waits for its end.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import app_files  # type: ignore[import-not-found, unused-ignore]
from flask.cli import ScriptInfo

from flask_warmcache.store.reader import Reader

READY = {signal.SIGUSR1}
PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)


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
    """``Thread.start`` as it is where no more threads are to be had, for the keeper; its looks between the
    rebuild's would make each run another.
    """

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


def publish_and_look(times: int, seed: int) -> int:
    """Rebuild without a pause, looking now and then whether a reader sees the newest; prints the counts."""
    chance = random.Random(seed)
    reader = Reader(Path(os.environ["WARMCACHE_DIR"]), "files")
    looks, missed, next_look = 0, 0, 1
    with app_files.app.app_context():
        for nth in range(1, times + 1):
            generation = app_files.files.rebuild_now().generation
            if nth == next_look:
                snapshot = reader.current()
                looks += 1
                missed += snapshot is None or snapshot.generation != generation
                # Two publications between looks are the worst: ext4 then gives the same inode again.
                next_look += chance.choice((1, 2, 2, 2, 3, 7))
    print(json.dumps({"published": times, "looks": looks, "missed": missed}), flush=True)
    return 0


def live(order: dict[str, Any]) -> int:
    """One child's life."""
    # Some kernels let a process be traced by its ancestors only, unless it says otherwise.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
    for number, name in ((1, "out"), (2, "err")):
        path = os.path.join(order["folder"], name)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), number)
    os.umask(order.get("umask", 0o022))
    if order["do"] == "rebuild":
        flask("warmcache", "status", "--json")  # everything is imported and opened before the faults begin
        os.ftruncate(1, 0)
    os.write(order_pipe[1], b"r")
    signal.sigwait(READY)
    if order["do"] == "rebuild":
        return rebuild(order.get("times", 1))
    if order["do"] == "look":
        return publish_and_look(order["times"], order["seed"])
    return flask(*order["arguments"])


order_pipe = os.pipe()


def main() -> None:
    setattr(threading.Thread, "start", without_keeper(threading.Thread.start))  # noqa: B010
    signal.pthread_sigmask(signal.SIG_BLOCK, READY)
    print("ready", flush=True)
    pid = 0
    for line in sys.stdin:
        if line == "wait\n":
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = live(json.loads(line))
            finally:
                os._exit(code)
        os.read(order_pipe[0], 1)  # until the child is ready
        print(pid, flush=True)


main()
