"""Settings for ``gunicorn -c python:flask_warmcache.gunicorn_conf``: keepers start with their workers.

The command line and GUNICORN_CMD_ARGS win over what stands here.  Imports no Flask, so the server's own
process stays small.
"""

from __future__ import annotations

import os
import time
from typing import Any


def _note_start() -> None:
    # Workers inherit it: what was published before this moment is served as stale and rebuilt.
    os.environ["WARMCACHE_SERVER_STARTED"] = str(time.time_ns())


def on_starting(server: Any) -> None:
    """The server starts."""
    _note_start()


def on_reload(server: Any) -> None:
    """HUP: the workers that follow may run other code."""
    _note_start()


def post_worker_init(worker: Any) -> None:
    """A worker has loaded the app: its keepers start now and not at its first request."""
    from flask_warmcache.rebuild.location import note_worker
    from flask_warmcache.state import start_keepers

    note_worker(worker)
    try:
        start_keepers()
    except Exception:
        # Whatever is wrong shows again, logged, at the first request; a worker that fails here ends the server.
        worker.log.exception("flask-warmcache: the keeper does not start with the worker")
