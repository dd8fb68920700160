"""Where requests for what is not loaded yet wait, and what they are told.

The look is taken where the app makes its request context, behind every middleware, so that the path is the one
that Flask matches; the answer is made in front of the app.  A request waits a little while for the thread that
loads, and is then told to come again; it imports nothing itself.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.wrappers import Response

from ..host.server import gunicorn_worker
from ..settings import Settings
from .deferred import FAILED, LOADED, LOADING, Entry, covers

if TYPE_CHECKING:
    from .loader import Loader

log = logging.getLogger("flask_warmcache")
# A request may wait for this share of gunicorn's timeout, past which a sync worker is killed.
TIMEOUT_SHARE = 0.25
COME_AGAIN_AFTER = 2.0


class Unavailable(Exception):
    """A request cannot be answered yet; becomes a 503, in front of the app and in front of its error handlers."""

    def __init__(self, message: str, retry_after: float, answer: dict[str, Any]) -> None:
        """:param retry_after: seconds after which the client is to come again."""
        super().__init__(message)
        self._retry_after = max(1, round(retry_after))
        self._answer = answer

    def response(self) -> Response:
        """The answer to the client."""
        headers = {"Retry-After": str(self._retry_after), "Cache-Control": "no-store"}
        return Response(json.dumps(self._answer), 503, headers, mimetype="application/json")


class Gate:
    """Holds requests until what may answer them is loaded, within a short time."""

    def __init__(self, app: Flask, settings: Settings, loader: Loader) -> None:
        self._app = app
        self._settings = settings
        self._loader = loader
        self._limits: tuple[float, float] | None = None
        self._waiting = 0  # guarded by the loader's condition
        make_context, serve = app.request_context, app.wsgi_app

        def request_context(environ: Any) -> Any:
            self._hold(_path(environ, app.url_map.merge_slashes), environ.get("wsgi.multithread", False))
            return make_context(environ)

        def answering(environ: Any, start_response: Any) -> Any:
            try:
                return serve(environ, start_response)
            except Unavailable as unavailable:
                return unavailable.response()(environ, start_response)

        self._request_context = request_context
        app.request_context = request_context  # type: ignore[method-assign]
        app.wsgi_app = answering  # type: ignore[method-assign]

    def after_fork(self) -> None:
        """Nobody waits in the child."""
        self._waiting = 0

    def open(self) -> None:
        """Look at no more requests, since all is loaded."""
        if vars(self._app).get("request_context") is self._request_context:
            del vars(self._app)["request_context"]

    def _hold(self, path: str, is_threaded: bool) -> None:
        """Let a request pass when all that may answer it is loaded.

        Blueprints above and under each other are all waited for, since the one that is loaded might answer what
        is the other's.

        :param is_threaded: whether this worker can answer other requests meanwhile.
        :raises Unavailable: when something is not loaded in time, or cannot be.
        """
        loader = self._loader
        if not loader.prefixes or not path.startswith(loader.prefixes):
            return
        if covers(self._settings.api_prefix, path) or loader.is_loading_here():
            return
        held = [entry for entry in loader.unfinished if covers(entry.declared.url_prefix, path)]
        if loader.is_running():
            self._wait_for(held, is_threaded)
        else:
            for entry in held:  # no server, but a script or a test that makes a request of its own
                loader.load(entry)
        for entry in held:
            if entry.state == FAILED:
                raise self._failed(entry)
        if any(entry.state != LOADED for entry in held):
            raise Unavailable("This part of the app is not loaded yet.", COME_AGAIN_AFTER, {"warming": True})

    def _wait_for(self, held: list[Entry], is_threaded: bool) -> None:
        longest, most_waiting = self._limits = self._limits or self._find_limits()
        with self._loader.changed:
            begin = now = time.monotonic()
            for entry in held:
                if _is_coming(entry):
                    entry.asked_at = entry.asked_at or now
                if not is_threaded and entry.asked_at is not None:
                    # Here all requests behind this one wait, too: so one wait for a blueprint, not one each.
                    begin = min(begin, entry.asked_at)
            self._loader.changed.notify_all()
            if self._waiting >= most_waiting:
                return
            self._waiting += 1
            try:
                self._loader.changed.wait_for(lambda: not any(map(_is_coming, held)), begin + longest - now)
            finally:
                self._waiting -= 1

    def _find_limits(self) -> tuple[float, float]:
        """How long a request may wait, and how many at once."""
        config = getattr(gunicorn_worker(), "cfg", None)
        timeout, threads = getattr(config, "timeout", 0), getattr(config, "threads", 1)
        longest = self._settings.defer_wait
        if timeout and longest > timeout * TIMEOUT_SHARE:
            longest = timeout * TIMEOUT_SHARE
            log.warning(
                "warmcache.defer_wait: requests wait %.2f s, a quarter of gunicorn's timeout, and not "
                "WARMCACHE_DEFER_WAIT",
                longest,
            )
        # Half of the threads are kept for what is loaded.
        return longest, max(1, threads // 2) if threads > 1 else float("inf")

    def _failed(self, entry: Entry) -> Unavailable:
        answer: dict[str, Any] = {
            "warming": False,
            "error": f"This part of the app failed to load: {entry.error}.",
        }
        if self._app.debug:
            answer["traceback"] = entry.traceback
        pause = min(entry.next_attempt - time.monotonic(), self._settings.retry_max)
        return Unavailable(f"The deferred blueprint {entry.declared.target} failed to load.", pause, answer)


def _is_coming(entry: Entry) -> bool:
    """Whether it is worth waiting for: it is being loaded, or will be at once."""
    return entry.state == LOADING or entry.is_due(time.monotonic())


def _path(environ: Any, merge_slashes: bool) -> str:
    """The path as Werkzeug's routing reads it."""
    path = "/" + environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace").lstrip("/")
    return re.sub("/{2,}", "/", path) if merge_slashes and "//" in path else path
