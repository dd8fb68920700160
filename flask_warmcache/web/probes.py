"""The probes ``livez``, ``readyz`` and ``startupz``, for whatever starts, stops and routes to the app's processes.

The gate answers them in front of the app, so that no login, hook or database of the app decides whether its
process is restarted.  Liveness reads nothing.  Readiness means that requests are answered, even if a list is still
cold, because answering from a cold list is what the lists are for.  With ``WARMCACHE_READY_STRICT`` an app becomes
ready once its lists are warm, and stays ready.  It becomes ready at a deadline in any case, because a source that
is down must not take the app down with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from flask import Response

from .. import events
from ..settings import KEY
from ..state import AppState

NOT_STARTED = "the lists of %(app)r cannot be used"
RETRY_AFTER = "2"
ALIVE = b'{"status": "ok"}\n'


class Probes:
    """The probes of one app, in one process."""

    def __init__(self, state: AppState, prefix: str) -> None:
        """Answer under this prefix.

        The routes made here serve ``url_for``, and refuse other methods than GET.
        """
        self._declared = state
        self._made = time.monotonic()
        self._was_ready = False
        self._answers: dict[str, Callable[[], tuple[int, bytes]]] = {}
        for name, answer in {"livez": self._live, "readyz": self._ready, "startupz": self._started}.items():
            self._answers[f"{prefix}/{name}"] = answer
            state.app.add_url_rule(f"{prefix}/{name}", f"warmcache.{name}", _view(answer))

    def answer(self, environ: Any, start_response: Any) -> Iterable[bytes] | None:
        """Answer a probe; return None for any other request."""
        answer = self._answers.get(environ.get("PATH_INFO", ""))
        if answer is None or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return None
        code, body = answer()
        start_response(f"{code} {HTTPStatus(code).phrase}", list(_headers(code, body).items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    @property
    def _state(self) -> AppState:
        """The app's state: the one we were made with, unless a test has replaced it."""
        state: AppState = self._declared.app.extensions[KEY]
        return state

    def _live(self) -> tuple[int, bytes]:
        return 200, ALIVE

    def _ready(self) -> tuple[int, bytes]:
        is_open = self._open()
        missing = [f"list {name}" for name in self._cold()] if self._is_strict() else []
        if not missing:
            self._was_ready = True
        return self._verdict(is_open, missing, self._declared.startup_progress())

    def _started(self) -> tuple[int, bytes]:
        is_open = self._open()  # this closes the declarations, so that all are known
        counts = self._declared.startup_progress()
        missing = [f"{name}: {done} of {total}" for name, (done, total) in counts.items() if done < total]
        return self._verdict(is_open, missing, counts)

    def _verdict(self, is_open: bool, missing: list[str], counts: dict[str, tuple[int, int]]) -> tuple[int, bytes]:
        """Return the answer, which is 503 while something is missing and the deadline has not passed."""
        is_late = self._age() > self._state.settings.ready_deadline
        is_ready = is_late or not missing
        status = "waiting" if not is_ready else "degraded" if missing or not is_open else "ready"
        detail = {
            "status": status,
            "lists": {name: listed.condition().state for name, listed in self._state.statuses.items()},
            "startup": {name: {"done": done, "total": total} for name, (done, total) in counts.items()},
            "waiting_for": missing,
        }
        return 200 if is_ready else 503, json.dumps(detail).encode() + b"\n"

    def _open(self) -> bool:
        """Start what a request starts; return whether that succeeded."""
        try:
            self._declared.start_serving()
        except Exception:
            events.error("warmcache.not_started", NOT_STARTED, error=True, app=self._state.app.name)
            return False
        return True

    def _is_strict(self) -> bool:
        settings = self._state.settings
        return settings.ready_strict and settings.enabled and not self._was_ready

    def _cold(self) -> list[str]:
        """Return the lists that have no complete snapshot yet and may have one some day."""
        cold = []
        for name, status in self._state.statuses.items():
            snapshot = status.condition().snapshot
            if status.problem is None and (snapshot is None or not snapshot.complete):
                cold.append(name)
        return cold

    def _age(self) -> float:
        """Return the seconds since the server started, or since this process started if that is unknown.

        Replacing a worker does not reset the server's age.
        """
        started = [status.code_started for status in self._state.statuses.values() if status.code_started]
        server_age = time.time() - started[0] / 1e9 if started else 0.0
        return max(server_age, time.monotonic() - self._made)


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
