"""Where requests wait for a deferred blueprint, and the answer they get when it is not loaded in time.

The gate checks a request where the app creates its request context, after every middleware, so that it sees the
path that Flask matches.  The 503 is made in front of the app.  A request waits a short time for the thread that
loads blueprints; it imports nothing itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from flask import Flask

from .. import events
from ..host.server import gunicorn_worker
from ..settings import Settings
from .deferred import FAILED, LOADED, LOADING, Entry, Pending, covers
from .later import NotReadyError

# A request may wait for this share of gunicorn's timeout, after which gunicorn kills a sync worker.
TIMEOUT_SHARE = 0.25
RETRY_AFTER = 2


class Unavailable(NotReadyError):
    """A request cannot be answered yet; it becomes a 503 in front of the app and of its error handlers."""


class Gate:
    """Holds requests for a short time, until the blueprints that may answer them are loaded."""

    def __init__(self, app: Flask, settings: Settings, pending: Pending, load: Callable[[Entry], None]) -> None:
        """:param load: loads a blueprint in the calling thread; called where no background thread runs."""
        self._app = app
        self._settings = settings
        self._pending = pending
        self._load = load
        self._limits: tuple[float, float] | None = None
        self._waiting = 0  # requests; guarded by the condition of what is pending
        make_context, serve = app.request_context, app.wsgi_app

        def request_context(environ: Any) -> Any:
            self._hold(_path(environ, app.url_map.merge_slashes), environ.get("wsgi.multithread", False))
            return make_context(environ)

        def answering(environ: Any, start_response: Any) -> Any:
            try:
                return serve(environ, start_response)
            except Unavailable as unavailable:
                return unavailable(environ, start_response)

        self._request_context = request_context
        app.request_context = request_context  # type: ignore[method-assign]
        app.wsgi_app = answering  # type: ignore[method-assign]

    def after_fork(self) -> None:
        """Reset the count of waiting requests: none of the parent's exist in the child of a fork."""
        self._waiting = 0

    def open(self) -> None:
        """Remove the check from requests, because everything is loaded."""
        if vars(self._app).get("request_context") is self._request_context:
            del vars(self._app)["request_context"]

    def _hold(self, path: str, is_threaded: bool) -> None:
        """Return once every blueprint that may answer this path is loaded.

        If the URL prefix of one blueprint lies under that of another, a request waits for both, because the one
        that is loaded might answer a path of the other.

        :param is_threaded: whether this worker can answer other requests meanwhile.
        :raises Unavailable: when a blueprint is not loaded in time, or cannot be loaded.
        """
        pending = self._pending
        if not pending.prefixes or not path.startswith(pending.prefixes):
            return
        if covers(self._settings.api_prefix, path) or pending.is_loading_here():
            return
        held = [entry for entry in pending.unfinished if covers(entry.declared.url_prefix, path)]
        if pending.is_running():
            self._wait_for(held, is_threaded)
        else:
            for entry in held:  # not a server, but a script or a test that makes a request
                self._load(entry)
        for entry in held:
            if entry.state == FAILED:
                raise self._failed(entry)
        if any(entry.state != LOADED for entry in held):
            raise Unavailable("This part of the app is not loaded yet.", RETRY_AFTER, {"warming": True})

    def _wait_for(self, held: list[Entry], is_threaded: bool) -> None:
        longest, most_waiting = self._limits = self._limits or self._find_limits()
        with self._pending.changed:
            begin = now = time.monotonic()
            for entry in held:
                if _is_coming(entry):
                    entry.asked_at = entry.asked_at or now
                if not is_threaded and entry.asked_at is not None:
                    # In a worker of one thread all later requests wait as well, so the budget is for each
                    # blueprint and not for each request.
                    begin = min(begin, entry.asked_at)
            self._pending.changed.notify_all()
            if self._waiting >= most_waiting:
                return
            self._waiting += 1
            try:
                self._pending.changed.wait_for(lambda: not any(map(_is_coming, held)), begin + longest - now)
            finally:
                self._waiting -= 1

    def _find_limits(self) -> tuple[float, float]:
        """Return how many seconds a request may wait, and how many requests may wait at once."""
        config = getattr(gunicorn_worker(), "cfg", None)
        timeout, threads = getattr(config, "timeout", 0), getattr(config, "threads", 1)
        longest = self._settings.defer_wait
        if timeout and longest > timeout * TIMEOUT_SHARE:
            longest = timeout * TIMEOUT_SHARE
            events.warning(
                "warmcache.defer_wait",
                "requests wait %(longest).2f s, a quarter of gunicorn's timeout, and not WARMCACHE_DEFER_WAIT",
                longest=longest,
            )
        # Half of the threads stay free for requests that need not wait.
        return longest, max(1, threads // 2) if threads > 1 else float("inf")

    def _failed(self, entry: Entry) -> Unavailable:
        answer: dict[str, Any] = {
            "warming": False,
            "error": f"This part of the app failed to load: {entry.error}.",
        }
        if self._app.debug:
            answer["traceback"] = entry.traceback
        pause = max(1, round(min(entry.next_attempt - time.monotonic(), self._settings.retry_max)))
        return Unavailable(f"The deferred blueprint {entry.declared.target} failed to load.", pause, answer)


def _is_coming(entry: Entry) -> bool:
    """Return whether waiting makes sense: the blueprint is being loaded, or is next."""
    return entry.state == LOADING or entry.is_due(time.monotonic())


def _path(environ: Any, merge_slashes: bool) -> str:
    """Return the path as Werkzeug's routing reads it."""
    path = "/" + environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace").lstrip("/")
    return re.sub("/{2,}", "/", path) if merge_slashes and "//" in path else path
