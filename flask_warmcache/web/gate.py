"""What every request passes before it reaches the app: the probes, and a check that the keeper runs."""

from __future__ import annotations

from typing import Any

from .. import events
from ..state import AppState
from .probes import NOT_STARTED, Probes


class Gate:
    """A WSGI application in front of an app.

    This is not a ``before_request`` function because Flask checks twice whether such a function is a coroutine.
    Measured, that costs every request of the app 3 us.
    """

    def __init__(self, state: AppState, prefix: str) -> None:
        """Put the gate in front of the state's app.

        :param prefix: the path that the probes are under.
        """
        self._state = state
        self._probes = Probes(state, prefix)
        self._serve = state.app.wsgi_app
        state.app.wsgi_app = self  # type: ignore[method-assign]

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer a probe, or start what the app needs and let the app answer."""
        probed = self._probes.answer(environ, start_response)
        if probed is not None:
            return probed
        try:
            self._state.start_serving()
        except Exception:
            # A view that reads a list meets the same error inside Flask. The other views work without the lists.
            events.error("warmcache.not_started", NOT_STARTED, error=True, app=self._state.app.name)
        return self._serve(environ, start_response)
