"""Sections of the stats beside the lists: how often their functions are called, and what strangers see of them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import current_app
from werkzeug.exceptions import HTTPException

from .. import events
from ..encoding import encoder
from ..registry import Registry
from .permissions import Permissions

# A section is a function of the app, often with a query. Many pollers must not multiply its calls.
SECTION_EVERY = 1.0
# The section of a function that another request is calling and that has never returned yet.
COMPUTING: Mapping[str, Any] = {"cache_rebuilding": True}
# A path, an address or a message is none of these.
SHORT_WORDS = re.compile(r"([\w.,:+%-]+( [\w.,:+%-]+)*)?")
LONGEST_WORDS = 40  # characters


class Sections:
    """The sections, each computed at most once a second in a process, and never twice at once.

    Strangers may see only numbers and short words of a section that the app declared, since nobody knows what else
    its function returns. Those whom the app allows "details" see everything.
    """

    def __init__(self, registry: Registry, permissions: Permissions) -> None:
        self._registry = registry
        self._permissions = permissions
        self._guard = threading.Lock()  # guards _known and _running; never held while a function runs
        self._known: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._running: set[str] = set()

    def all(self) -> dict[str, Mapping[str, Any]]:
        """Return every section by name, as the caller of this request may see it."""
        return {name: self.one(name) for name in self._registry.sections}

    def one(self, name: str) -> Mapping[str, Any]:
        """Return one section, as the caller of this request may see it.

        :raises KeyError: when there is no section of that name.
        """
        section = self._newest(name)
        if name in self._registry.own_sections:
            return section
        public = {key: value for key, value in section.items() if _is_public(key) and _is_public(value)}
        return section if len(public) == len(section) or self._shows_details() else public

    def _shows_details(self) -> bool:
        try:
            return self._permissions.allow("details", None)
        except HTTPException:  # the app's function has called abort()
            return False

    def _newest(self, name: str) -> Mapping[str, Any]:
        """Compute a section, or return the last one at once while another request computes it."""
        function = self._registry.sections[name]
        with self._guard:
            known = self._known.get(name)
            if known is not None and time.monotonic() - known[0] < SECTION_EVERY:
                return known[1]
            if name in self._running:
                return COMPUTING if known is None else known[1]
            self._running.add(name)
        try:
            section = _compute(name, function)
            with self._guard:
                # The time when it ended: otherwise a function that takes longer than a second would never pause.
                self._known[name] = (time.monotonic(), section)
        finally:
            with self._guard:
                self._running.discard(name)
        return section


def _compute(name: str, function: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Call a function; an error is logged, and the section shows its class."""
    encode = encoder(current_app)
    try:
        # What cannot be JSON must fail here, and not take the other sections of an answer with it.
        section = dict(current_app.ensure_sync(function)())
        return {str(key): json.loads(encode(value)) for key, value in section.items()}
    except Exception as error:
        events.error("warmcache.section_failed", "the stats section %(section)r", error=True, section=name)
        return {"error": type(error).__name__}


def _is_public(value: Any) -> bool:
    """Return whether a value from JSON consists of numbers and short words."""
    if isinstance(value, str):
        return len(value) <= LONGEST_WORDS and SHORT_WORDS.fullmatch(value) is not None
    if isinstance(value, dict):
        return all(_is_public(key) and _is_public(inner) for key, inner in value.items())
    return all(map(_is_public, value)) if isinstance(value, list) else True
