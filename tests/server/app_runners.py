"""An app whose rebuilds compute, hang, hold the interpreter or stop at a gate; made by a factory.

``create_app`` is what the tests serve, as it is, by an attribute of a module of theirs, or wrapped.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response

from flask_warmcache import WarmCache
from flask_warmcache.host import threads
from tests.support.reporting import note, wait_at_gate

ITEMS = int(os.environ.get("TEST_ITEMS", "60"))
COMPUTE = float(os.environ.get("TEST_COMPUTE", "0"))  # processor seconds of a build, over all its items
HOG = float(os.environ.get("TEST_HOG", "0"))  # seconds that the first item holds the interpreter, in one C call
GATE = os.environ.get("TEST_GATE")  # while this file is missing, a build stops in its middle
IMPORT_GATE = os.environ.get("TEST_IMPORT_GATE")  # while this file is missing, no child gets beyond its import
AWAITS_CHILD = "TEST_AWAITS_CHILD" in os.environ  # a worker computes until a child has loaded the app
HANGS = "TEST_HANGS" in os.environ  # the first item never ends


def is_loaded_elsewhere() -> bool:
    """Return whether another process has loaded the app."""
    with open(os.environ["TEST_CALLS"]) as calls:
        return any(line.startswith("loaded") and int(line.split()[1]) != os.getpid() for line in calls)


def create_app(name: str = "files", folder: str = "cache") -> Flask:
    """An app with one list of that name, in a folder of that name."""
    app = Flask("app_runners")
    app.config.from_prefixed_env("TESTED")
    app.config["WARMCACHE_DIR"] = os.path.join(os.path.dirname(os.environ["WARMCACHE_DIR"]), folder)
    app.config["WARMCACHE_PER_PAGE"] = 500
    listed = WarmCache(app).warm_list(name, key="path", unit="file", ttl=3600)

    @listed.source
    def scan() -> Iterator[dict[str, Any]]:
        note("source")
        for number in range(ITEMS):
            yield {"path": f"f{number:05}", "number": number}

    @listed.enrich
    def complete(file: dict[str, Any]) -> dict[str, Any]:
        note("enrich")
        if file["number"] == ITEMS // 2:
            wait_at_gate(GATE)
        if HANGS and file["number"] == 0:
            time.sleep(600)
        if HOG and file["number"] == 0:
            note("hogging")
            hold_the_interpreter(HOG)
            note("hogged")
        while AWAITS_CHILD and not threads.in_child and file["number"] == ITEMS // 2 and not is_loaded_elsewhere():
            sum(range(100_000))
        end = time.thread_time() + COMPUTE / ITEMS
        while time.thread_time() < end:
            sum(range(100))
        return file | {"pid": os.getpid(), "app": name}

    @app.get("/api/files")
    def list_files() -> Response:
        return listed.response()

    @app.post("/invalidate")
    def invalidate() -> str:
        listed.invalidate()
        return "invalidated"

    @app.get("/plain")
    def plain() -> str:
        return "plain"

    if threads.in_child:
        wait_at_gate(IMPORT_GATE)
    note("loaded")
    return app


def hold_the_interpreter(seconds: float) -> None:
    """Wait in one C call that no signal ends, and that lets no other thread run Python meanwhile."""

    class Time(ctypes.Structure):
        _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_timedlock(mutex, ctypes.byref(Time(int(time.time() + seconds) + 1, 0)))
