"""The app's own sections of the stats: how often its functions are called, and what is shown meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import current_app

log = logging.getLogger("flask_warmcache")
# A section is the app's own function, often a query; many pollers must not multiply it.
SECTION_EVERY = 1.0
# The section of a function that another request called first, and that has never ended yet.
COMPUTING: Mapping[str, Any] = {"cache_rebuilding": True}


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
