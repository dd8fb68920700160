"""An app whose rebuilds compute, hang, hold the interpreter or stop at a gate; made by a factory.

``create_app`` is what the tests serve, as it is, by an attribute of a module of theirs, or wrapped.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response

from flask_warmcache import WarmCache
from flask_warmcache.host import threads
from tests.support.reporting import note, wait_at_gate

ITEMS = int(os.environ.get("TEST_ITEMS", "60"))
COMPUTE = float(os.environ.get("TEST_COMPUTE", "0"))  # processor seconds of a build, over all its items
HOG = int(os.environ.get("TEST_HOG", "0"))  # length of what a regular expression gets lost in, in the first item
GATE = os.environ.get("TEST_GATE")  # while this file is missing, a build stops in its middle
IMPORT_GATE = os.environ.get("TEST_IMPORT_GATE")  # while this file is missing, no child gets beyond its import
HANGS = "TEST_HANGS" in os.environ  # the first item never ends


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
            # One C call that keeps the interpreter for itself; each further "a" doubles its time.
            note("hogging")
            re.match(r"(a+)+$", "a" * HOG + "b")
            note("hogged")
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
