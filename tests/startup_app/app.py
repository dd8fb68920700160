"""The app itself, whose blueprints ``parts`` writes to a folder on the path.

``STARTUP_MODE`` says how the app loads the 62 late blueprints. ``deferred``: flask-warmcache loads them later.
``critical``: not at all. ``imported``: at start. ``eager``: at start with the one-time work; no flask-warmcache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from flask import Flask, Response

from .parts import CRITICAL, LATE

MODE = os.environ["STARTUP_MODE"]
TASK_SECONDS = float(os.environ.get("STARTUP_TASK_SECONDS", "30"))

app = Flask(__name__)


@app.after_request
def say_who(response: Response) -> Response:
    """Name the worker that answers."""
    response.headers["X-Pid"] = str(os.getpid())
    return response


def fetch_models() -> None:
    """Do the one-time work of a deployment, and record each run."""
    with open(os.environ.get("STARTUP_RUNS", os.devnull), "a", encoding="ascii") as runs:
        runs.write(f"{os.getpid()}\n")
    time.sleep(TASK_SECONDS)


for _name in CRITICAL:
    app.register_blueprint(import_module(f"{_name}_part").bp, url_prefix=f"/{_name}")
if MODE == "eager":
    fetch_models()  # as many apps do: in each worker, at its start
if MODE in ("eager", "imported"):
    for _name in LATE:
        app.register_blueprint(import_module(f"{_name}_part").bp, url_prefix=f"/{_name}")
if MODE != "eager":
    from flask_warmcache import WarmCache

    app.config["WARMCACHE_DIR"] = os.environ["STARTUP_CACHE"]
    warmcache = WarmCache(app)
    if MODE == "deferred":
        for _name in LATE:
            warmcache.defer_blueprint(f"{_name}_part:bp", url_prefix=f"/{_name}")
        warmcache.once("fetch-models", timeout=TASK_SECONDS * 2)(fetch_models)

    products = warmcache.warm_list("products", key="id", unit="product")

    @products.source
    def scan() -> Iterator[dict[str, Any]]:
        """Yield items for a list that every start builds, because its cache is cold."""
        for number in range(200):
            yield {"id": number}

    @products.enrich
    def complete(product: dict[str, Any]) -> dict[str, Any]:
        """Take as long as reading a file on a network share."""
        time.sleep(0.01)
        return product | {"name": f"product {product['id']}"}

    app.add_url_rule("/api/products", "products", products.response)
