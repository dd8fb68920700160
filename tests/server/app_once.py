"""The app under test: one-time tasks that the tests steer by environment variables and files.

Run by gunicorn and ``flask`` as ``app_once:app`` from this folder.
"""

from __future__ import annotations

import logging
import os
import sys
import time

from flask import Flask, Response, current_app, jsonify, request

from flask_warmcache import WarmCache
from tests.support.reporting import Measured, note

GATE = os.environ.get("TEST_GATE")  # while this file is missing, the task stops in its middle
FAILING = os.environ.get("TEST_FAILING")  # while this file exists, the task fails

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
app = Flask(__name__)
app.config["WARMCACHE_DIR"] = os.environ["WARMCACHE_DIR"]
app.config["WARMCACHE_RELEASE"] = os.environ.get("TEST_RELEASE")
app.config["WARMCACHE_RETRY_MIN"] = float(os.environ.get("TEST_RETRY_MIN", "0.2"))
app.config["WARMCACHE_RETRY_MAX"] = float(os.environ.get("TEST_RETRY_MAX", "300"))
warmcache = WarmCache(app)


@warmcache.once("fetch-models", timeout=float(os.environ.get("TEST_TIMEOUT", "20")))
def fetch_models() -> None:
    assert current_app.import_name == __name__, "no app context"
    note("begun")
    if FAILING is not None and os.path.exists(FAILING):
        if "TEST_EXITS" in os.environ:
            sys.exit("no models")
        raise OSError("no models")
    end = time.monotonic() + 240
    while GATE is not None and not os.path.exists(GATE) and time.monotonic() < end:
        if "TEST_COMPUTES" not in os.environ:
            time.sleep(0.005)
    note("done")


@app.get("/models")
def models() -> Response:
    """A view that cannot do without the task."""
    warmcache.ensure("fetch-models", wait=float(request.args.get("wait", "5")))
    return jsonify(ready=True)


@app.get("/plain")
def plain() -> str:
    return "plain"


app.wsgi_app = Measured(app.wsgi_app)  # type: ignore[method-assign]
note("loaded")
