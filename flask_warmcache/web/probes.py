"""``livez``, ``readyz`` and ``startupz``: what a machine asks that starts, stops and sends requests.

They are answered in front of the app, so that no login, no hook and no database of the app's own decides whether
its process is restarted.  Liveness touches nothing.  Readiness means that requests are answered, even if a list is
still cold: that is what the lists are for.  Where it shall mean more (``WARMCACHE_READY_STRICT``), it is given
once and for all, and at a deadline in any case: a source that is down must not take the app down with it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, Response

if TYPE_CHECKING:
    from ..state import AppState

log = logging.getLogger("flask_warmcache")
RETRY_AFTER = "2"
ALIVE = b'{"status": "ok"}\n'


class Probes:
    """The probes of one app, in one process."""

    def __init__(self, state: Callable[[], AppState]) -> None:
        """:param state: gives the app's state, in whose place a test may put another."""
        self._current = state
        self._made = time.monotonic()
        self._was_ready = False
        # Work of the start, by name: how much of it is done, of how much. What loads and runs it puts itself here.
        self.startup: dict[str, Callable[[], tuple[int, int]]] = {}
        self._answers: dict[str, Callable[[], tuple[int, bytes]]] = {}

    def register(self, app: Flask, prefix: str) -> None:
        """Answer under this prefix; the routes are for ``url_for`` and for other methods than GET."""
        named = {"livez": self._live, "readyz": self._ready, "startupz": self._started}
        for name, answer in named.items():
            path = f"{prefix}/{name}"
            self._answers[path] = answer
            app.add_url_rule(path, f"warmcache.{name}", _view(answer))

    def answer(self, environ: Any, start_response: Any) -> Iterable[bytes] | None:
        """The answer to a probe, or None for any other request."""
        answer = self._answers.get(environ.get("PATH_INFO", ""))
        if answer is None or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return None
        code, body = answer()
        start_response(f"{code} {HTTPStatus(code).phrase}", list(_headers(code, body).items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    @property
    def _state(self) -> AppState:
        return self._current()

    def _live(self) -> tuple[int, bytes]:
        return 200, ALIVE

    def _ready(self) -> tuple[int, bytes]:
        is_open = self._open()
        waiting = [f"list {name}" for name in self._cold()] if self._is_strict() else []
        if not waiting:
            self._was_ready = True
        return self._verdict(is_open, waiting, self._counts())

    def _started(self) -> tuple[int, bytes]:
        is_open = self._open()  # what is declared is known then
        counts = self._counts()
        waiting = [f"{name}: {done} of {total}" for name, (done, total) in counts.items() if done < total]
        return self._verdict(is_open, waiting, counts)

    def _counts(self) -> dict[str, tuple[int, int]]:
        return {name: count() for name, count in self.startup.items()}

    def _verdict(self, is_open: bool, waiting: list[str], counts: dict[str, tuple[int, int]]) -> tuple[int, bytes]:
        """The answer, given what is still waited for; past the deadline nothing is."""
        is_late = self._age() > self._state.settings.ready_deadline
        is_ready = is_late or not waiting
        status = "waiting" if not is_ready else "degraded" if waiting or not is_open else "ready"
        detail = {
            "status": status,
            "lists": {name: one.condition().state for name, one in self._state.statuses.items()},
            "startup": {name: {"done": done, "total": total} for name, (done, total) in counts.items()},
            "waiting_for": waiting,
        }
        return 200 if is_ready else 503, json.dumps(detail).encode() + b"\n"

    def _open(self) -> bool:
        """Start what a request starts; whether that went well."""
        try:
            self._state.start()
        except Exception:
            log.exception("warmcache.not_started: the lists of %r cannot be used", self._state.app.name)
            return False
        return True

    def _is_strict(self) -> bool:
        settings = self._state.settings
        return settings.ready_strict and settings.enabled and not self._was_ready

    def _cold(self) -> list[str]:
        """The lists that have nothing whole to show yet and may have it one day."""
        cold = []
        for name, status in self._state.statuses.items():
            snapshot = status.condition().snapshot
            if status.problem is None and (snapshot is None or not snapshot.complete):
                cold.append(name)
        return cold

    def _age(self) -> float:
        """Seconds since the server started, for a worker that was replaced is no new start; else since our own."""
        began = [one.code_started for one in self._state.statuses.values() if one.code_started]
        since = time.time() - began[0] / 1e9 if began else 0.0
        return max(since, time.monotonic() - self._made)


def _headers(code: int, body: bytes) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
    }
    return headers if code == 200 else {**headers, "Retry-After": RETRY_AFTER}


def _view(answer: Callable[[], tuple[int, bytes]]) -> Callable[[], Response]:
    def view() -> Response:
        code, body = answer()
        return Response(body, code, _headers(code, body))

    return view
