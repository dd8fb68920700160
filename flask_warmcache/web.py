"""The blueprint: how the caches are, for programs, and the bundled poller."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, send_from_directory

from .lists import current_state
from .stats import list_section

log = logging.getLogger("flask_warmcache")
# A section is the app's own function, often a query; many pollers must not multiply it.
SECTION_EVERY = 1.0
# The section of a function that another request called first, and that has never ended yet.
COMPUTING: Mapping[str, Any] = {"cache_rebuilding": True}
SCRIPT = "warmcache.js"


def static_folder() -> Path:
    """Where the poller lies: inside the package when installed, beside it in a checkout.

    An editable install does not map the top-level folder into the package, hence the second place.

    :raises RuntimeError: when neither has it.
    """
    package = Path(__file__).parent
    for folder in (package / "static", package.parent / "static"):
        if (folder / SCRIPT).is_file():
            return folder
    raise RuntimeError(f"{SCRIPT} is missing from this installation of flask-warmcache; install it again.")


class Sections:
    """The app's own stats sections, each computed at most once a second in a process, and never twice at once."""

    def __init__(self, functions: Mapping[str, Callable[[], Mapping[str, Any]]]) -> None:
        self._functions = functions
        self._guard = threading.Lock()  # guards _known and _running; never held while a function runs
        self._known: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._running: set[str] = set()

    def all(self) -> dict[str, Mapping[str, Any]]:
        """Every section by name."""
        return {name: self.one(name) for name in self._functions}

    def one(self, name: str) -> Mapping[str, Any]:
        """One section; while another request computes it, the last one known, at once.

        A function that fails is logged, and its section names the error's class.

        :raises KeyError: when there is none of that name.
        """
        function = self._functions[name]
        with self._guard:
            known = self._known.get(name)
            if known is not None and time.monotonic() - known[0] < SECTION_EVERY:
                return known[1]
            if name in self._running:
                return COMPUTING if known is None else known[1]
            self._running.add(name)
        try:
            section = self._compute(name, function)
            with self._guard:
                # By when it ended: a function that takes longer than a second would else never rest.
                self._known[name] = (time.monotonic(), section)
        finally:
            with self._guard:
                self._running.discard(name)
        return section

    def _compute(self, name: str, function: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        try:
            section = dict(function())
            current_app.json.dumps(section)  # what JSON cannot hold must not take the other sections with it
        except Exception as error:
            log.exception("warmcache.section_failed: the stats section %r", name)
            return {"error": type(error).__name__}
        return section


def blueprint(functions: Mapping[str, Callable[[], Mapping[str, Any]]]) -> Blueprint:
    """The routes under ``/api/cache``, for one app.

    :param functions: the sections declared with ``stats_section``, which may still grow.
    """
    routes = Blueprint("warmcache", __name__)
    sections = Sections(functions)

    @routes.get("/stats")
    def stats() -> Response:
        """Every list and section, and whether any list is being rebuilt."""
        state = current_state()
        answer: dict[str, Any] = {name: list_section(status) for name, status in state.statuses.items()}
        rebuilding = any(section["cache_rebuilding"] for section in answer.values())
        answer |= {**sections.all(), "cache_rebuilding": rebuilding, "degraded": state.tasks.is_degraded}
        return _status_answer(answer)

    @routes.get("/stats/<name>")
    def stats_of(name: str) -> Response:
        """One section; what the poller asks."""
        state = current_state()
        if name in state.statuses:
            return _status_answer(list_section(state.statuses[name]))
        if name in functions:
            return _status_answer(sections.one(name))
        known = [*state.statuses, *functions]
        response = _status_answer({"error": f"No warm list or section named {name[:64]!r}.", "allowed": known})
        response.status_code = 404
        return response

    @routes.get(f"/static/{SCRIPT}", endpoint="script")
    def script() -> Response:
        """The bundled poller."""
        return send_from_directory(static_folder(), SCRIPT, mimetype="text/javascript", max_age=0)

    return routes


def _status_answer(answer: Mapping[str, Any]) -> Response:
    response = current_app.make_response(dict(answer))
    # No validator: a status that a 304 keeps alive would freeze the page that waits for it.
    response.headers["Cache-Control"] = "no-cache, private"
    return response
