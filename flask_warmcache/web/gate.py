"""What every request passes before it reaches the app: the probes, and a check that the keeper runs.

The probes ``livez``, ``readyz`` and ``startupz`` are for whatever starts, stops and routes to the app's processes.
They are answered in front of the app, so that no login, hook or database of the app decides whether its process is
restarted.  Liveness reads nothing.  Readiness means that requests are answered, even if a list is still cold,
because answering from a cold list is what the lists are for.  With ``WARMCACHE_READY_STRICT`` an app becomes ready
once its lists are warm, and stays ready.  It becomes ready at a deadline in any case, because a source that is
down must not take the app down with it.
"""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Response

from .. import events
from ..errors import StoreError
from ..settings import KEY
from ..state import AppState
from .hosts import ANY_HOST, know_hosts

RETRY_AFTER = "2"


class Gate:
    """A WSGI application in front of an app.

    This is not a ``before_request`` function because Flask checks twice whether such a function is a coroutine.
    Measured, that costs every request of the app 3 us.
    """

    def __init__(self, state: AppState, prefix: str) -> None:
        """Put the gate in front of the state's app, and the probes under this path."""
        app = state.app
        self._declared = state
        self._made = time.monotonic()
        self._was_ready = False
        self._probes = {
            f"{prefix}/livez": self._live, f"{prefix}/readyz": self._ready, f"{prefix}/startupz": self._started
        }  # fmt: skip
        know_hosts(app)
        for path, probe in self._probes.items():
            # The route serves url_for, and refuses other methods than GET.
            app.add_url_rule(path, f"warmcache.{path.rpartition('/')[2]}", probe, host=ANY_HOST)
        self._serve = app.wsgi_app
        app.wsgi_app = self  # type: ignore[method-assign]

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer a probe, or start what the app needs and let the app answer."""
        probe = self._probes.get(environ.get("PATH_INFO", ""))
        if probe is not None and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return probe()(environ, start_response)
        self._start()
        return self._serve(environ, start_response)

    def _start(self) -> bool:
        """Start what a request starts; return whether that succeeded."""
        try:
            self._declared.start_serving()
        except Exception:
            # A view that reads a list meets the same error inside Flask. The other views work without the lists.
            message = "the lists of %(app)r cannot be used"
            events.error("warmcache.not_started", message, error=True, app=self._declared.app.name)
            return False
        return True

    @property
    def _state(self) -> AppState:
        """The app's state: the one we were made with, unless a test has replaced it."""
        state: AppState = self._declared.app.extensions[KEY]
        return state

    def _is_usable(self) -> bool:
        """Start what a request starts; return whether that succeeded, and the cache folder can be used."""
        if not self._start():
            return False
        try:
            self._state.store.prepare()
        except StoreError:
            return False  # the keeper logs it, as the reason of a failed rebuild
        return True

    # The probes

    def _live(self) -> Response:
        return _answer(200, {"status": "ok"})

    def _ready(self) -> Response:
        is_usable = self._is_usable()
        settings = self._state.settings
        must_wait = settings.ready_strict and settings.enabled and not self._was_ready
        missing = [f"list {name}" for name in self._cold()] if must_wait else []
        if not missing:
            self._was_ready = True
        return self._verdict(is_usable, missing, self._declared.startup_progress())

    def _started(self) -> Response:
        is_usable = self._is_usable()  # this closes the declarations, so that all are known
        counts = self._declared.startup_progress()
        missing = [f"{name}: {done} of {total}" for name, (done, total) in counts.items() if done < total]
        return self._verdict(is_usable, missing, counts)

    def _verdict(self, is_usable: bool, missing: list[str], counts: dict[str, tuple[int, int]]) -> Response:
        """Return the answer, which is 503 while something is missing and the deadline has not passed."""
        is_late = self._age() > self._state.settings.ready_deadline
        is_ready = is_late or not missing
        status = "waiting" if not is_ready else "degraded" if missing or not is_usable else "ready"
        detail = {
            "status": status,
            "lists": {name: listed.condition().state for name, listed in self._state.statuses.items()},
            "startup": {name: {"done": done, "total": total} for name, (done, total) in counts.items()},
            "waiting_for": missing,
        }
        return _answer(200 if is_ready else 503, detail)

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


def _answer(code: int, detail: dict[str, Any]) -> Response:
    headers = {"Cache-Control": "no-store"} | ({} if code == 200 else {"Retry-After": RETRY_AFTER})
    return Response(json.dumps(detail) + "\n", code, headers, mimetype="application/json")
