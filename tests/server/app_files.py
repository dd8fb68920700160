"""The app under test: one list whose builds the tests steer by environment variables and files.

Run by gunicorn and ``flask run`` as ``app_files:app`` from this folder.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify

from flask_warmcache import WarmCache
from tests.support.reporting import Measured, count, note, wait_at_gate

ITEMS = int(os.environ.get("TEST_ITEMS", "60"))
SLEEP = float(os.environ.get("TEST_SLEEP", "0"))  # seconds that a build sleeps, over all its items
COMPUTE = float(os.environ.get("TEST_COMPUTE", "0"))  # seconds that a build computes, over all its items
# While this file is missing, a build stops in its middle; without the variable it never does.
GATE = os.environ.get("TEST_GATE")
FAILING = os.environ.get("TEST_FAILING")  # while this file exists, source raises
TEXT = int(os.environ.get("TEST_TEXT", "10"))  # how often an item's text says the version
STABLE = "TEST_STABLE" in os.environ  # whether every build is of the same items
STEPS = "TEST_STEPS" in os.environ  # whether each item waits for a request of its own
FORKS = "TEST_FORKS" in os.environ  # whether enrich starts a process by fork that outlives the build


app = Flask(__name__)
app.config["WARMCACHE_DIR"] = os.environ["WARMCACHE_DIR"]
for _name, _convert in (("REFRESH_INTERVAL", float), ("RETRY_MIN", float), ("RETRY_MAX", float), ("RUNNER", str)):
    if f"TEST_{_name}" in os.environ:
        app.config[f"WARMCACHE_{_name}"] = _convert(os.environ[f"TEST_{_name}"])
app.config["WARMCACHE_READY_STRICT"] = "TEST_READY_STRICT" in os.environ
app.config["WARMCACHE_PER_PAGE"] = 500
warmcache = WarmCache(app)
files = warmcache.warm_list(
    "files",
    key="path",
    unit="file",
    ttl=float(os.environ.get("TEST_TTL", "3600")),
    filters={"odd": lambda file: file["number"] % 2 == 1},
    sorts={"last": lambda file: -file["number"]},
    search=("path",),
    counts=("odd",),
)


if "TEST_REBUILD" in os.environ:
    warmcache.authorize(lambda action, list_name: action == "rebuild")


@files.source
def scan() -> Iterator[dict[str, Any]]:
    """Every build has a version of its own, which each of its items carries, and a length of its own."""
    note("source")
    if FAILING is not None and os.path.exists(FAILING):
        raise OSError("the share is not mounted")
    version = 1 if STABLE else time.time_ns()
    of = ITEMS if STABLE else ITEMS + version // 1000 % 7
    for number in range(of):
        yield {"path": f"f{number:05}", "number": number, "version": version, "of": of}


@files.enrich
def complete(file: dict[str, Any]) -> dict[str, Any]:
    """Takes its part of the build's time."""
    note("enrich")
    while STEPS and count("request") <= file["number"]:
        time.sleep(0.002)
    if SLEEP:
        time.sleep(SLEEP / file["of"])
    end = time.thread_time() + COMPUTE / file["of"]
    while time.thread_time() < end:
        sum(range(100))
    if file["number"] == file["of"] // 2:
        wait_at_gate(GATE)
    if FORKS and file["number"] == 0:
        fork_a_child()
    return file | {"text": f"{file['version']}-" * TEXT}


def fork_a_child() -> None:
    """As a pool of processes does that an app makes at its first use and keeps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process has threads
        child = os.fork()
    if child == 0:
        note("child")
        time.sleep(600)
        os._exit(0)


@app.get("/api/files")
def list_files() -> Response:
    if STEPS:
        note("request")
    return files.response()


@app.get("/who")
def who() -> Response:
    return jsonify(pid=os.getpid(), process_time=time.process_time())


@app.get("/plain")
def plain() -> str:
    return "plain"


@app.post("/refresh/<path>/<int:number>")
def refresh(path: str, number: int) -> Response:
    return jsonify(done=files.refresh({"path": path, "number": number, "version": 0, "of": ITEMS}))


@app.post("/discard/<path>")
def discard(path: str) -> Response:
    return jsonify(done=files.discard(path))


@app.post("/invalidate")
def invalidate() -> str:
    files.invalidate()
    return "invalidated"


if "TEST_READ_AT_IMPORT" in os.environ:
    with app.app_context():
        len(files.get())
app.wsgi_app = Measured(app.wsgi_app)  # type: ignore[method-assign]
note("loaded")
