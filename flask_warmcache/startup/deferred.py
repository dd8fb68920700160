"""Deferred blueprints: the declaration of one, its state, and which of an app's are not loaded yet."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from ..errors import DeclarationError
from .later import Target

PENDING, LOADING, LOADED, FAILED = "pending", "loading", "loaded", "failed"


@dataclass(frozen=True)
class Deferred:
    """The arguments of ``defer_blueprint``, checked as far as possible without an app."""

    target: Target
    url_prefix: str
    priority: float
    name: str | None
    endpoints: Mapping[str, str]

    def __post_init__(self) -> None:
        self._require(_is_prefix(self.url_prefix), "url_prefix", "a path like '/reports', without variable parts")
        number = isinstance(self.priority, (int, float)) and not isinstance(self.priority, bool)
        self._require(number and self.priority == self.priority, "priority", "a number")
        is_valid = self.name is None or (isinstance(self.name, str) and self.name != "" and "." not in self.name)
        self._require(is_valid, "name", "the name of a blueprint: text without a dot")
        is_valid = isinstance(self.endpoints, Mapping) and all(
            isinstance(endpoint, str) and endpoint and isinstance(rule, str) and (not rule or rule[0] == "/")
            for endpoint, rule in self.endpoints.items()
        )
        self._require(is_valid, "endpoints", "rules by endpoint, like {'index': '/'}")
        if self.endpoints and self.name is None:
            raise DeclarationError(
                f"endpoints= of the deferred blueprint {self.target} needs name=, since url_for knows them as "
                "'name.endpoint'."
            )

    def _require(self, is_valid: bool, parameter: str, meaning: str) -> None:
        if not is_valid:
            raise DeclarationError(
                f"{parameter}= of the deferred blueprint {self.target} must be {meaning}, "
                f"not {getattr(self, parameter)!r}."
            )

    def check_beside(self, others: list[Deferred]) -> None:
        """Refuse a blueprint that another one conflicts with.

        :raises DeclarationError: when another one has the same name, or the same target without a name.
        """
        for other in others:
            if self.name == other.name and (self.name is not None or self.target == other.target):
                what = f"named {self.name!r}" if self.name else f"from {self.target}"
                raise DeclarationError(
                    f"There is a deferred blueprint {what} already; give this one another name=."
                )

    def check_for(self, app: Flask, api_prefix: str) -> None:
        """Refuse a blueprint that cannot be deferred in this app.

        :raises DeclarationError: when it conflicts with the app's blueprints, prefix or host matching.
        """
        if covers(api_prefix, self.url_prefix):
            raise DeclarationError(
                f"url_prefix= of the deferred blueprint {self.target} is under {api_prefix!r}, which is "
                "flask-warmcache's own and never waits."
            )
        if self.name in app.blueprints:
            raise DeclarationError(f"The app has a blueprint named {self.name!r} already; choose another name=.")
        if self.endpoints and (app.url_map.host_matching or app.subdomain_matching):
            raise DeclarationError(
                f"endpoints= of the deferred blueprint {self.target} cannot be used in an app with host_matching "
                "or subdomain_matching: the host of its addresses is not known before it is loaded."
            )

    def stand_ins(self, app: Flask) -> list[Rule]:
        """Add rules that ``url_for`` finds and no request matches to an app that does not serve yet; return them.

        :raises DeclarationError: when one of them is not a valid rule.
        """
        rules = []
        for endpoint, rule in self.endpoints.items():
            rules.append(Rule(self.url_prefix + rule, endpoint=f"{self.name}.{endpoint}", build_only=True))
            try:
                app.url_map.add(rules[-1])
            except (ValueError, LookupError, TypeError) as error:
                raise DeclarationError(
                    f"Endpoint {endpoint!r} of the deferred blueprint {self.target} has no valid rule: {error}."
                ) from error
        return rules


@dataclass(eq=False)
class Entry:
    """One deferred blueprint in one app of this process; times are on the monotonic clock, in seconds."""

    declared: Deferred
    stand_ins: list[Rule]
    name: str | None
    state: str = PENDING
    asked_at: float | None = None  # when the first request that needs it arrived
    next_attempt: float = 0.0  # infinite if there will be none
    failures: int = 0
    error: str | None = None  # the class name of the exception
    traceback: str | None = None
    seconds: float | None = None  # duration of the last attempt

    def is_due(self, now: float) -> bool:
        """Return whether it should be loaded now."""
        return self.state == PENDING or (self.state == FAILED and now >= self.next_attempt)

    def section(self) -> dict[str, Any]:
        """Return its entry in the stats."""
        wait = self.next_attempt - time.monotonic() if self.state == FAILED else math.inf
        return {
            "url_prefix": self.declared.url_prefix,
            "name": self.name,
            "state": self.state,
            "error": self.error,
            "import_seconds": None if self.seconds is None else round(self.seconds, 3),
            "next_attempt_in_seconds": None if wait == math.inf else max(0.0, round(wait, 1)),
        }


class Pending:
    """One app's blueprints in this process, as the thread that loads them and the gate share them."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []  # in the order of declaration
        self.unfinished: tuple[Entry, ...] = ()  # by priority
        self.prefixes: tuple[str, ...] = ()  # of the unfinished, for a quick check of a path
        self.after_fork()

    def after_fork(self) -> None:
        """Reset what belongs to the parent's threads."""
        self.changed = threading.Condition()  # guards the entries and the thread; notified of every change
        self.thread: threading.Thread | None = None  # loads blueprints in the background
        self.importing: int | None = None  # identifies the thread that is importing one
        for entry in self.unfinished:
            if entry.state == LOADING:
                entry.state = PENDING

    def note_unfinished(self) -> None:
        """Compute again what is not loaded yet; the caller holds ``changed`` once the app serves."""
        unfinished = [entry for entry in self.entries if entry.state != LOADED]
        unfinished.sort(key=lambda entry: -entry.declared.priority)
        self.unfinished = tuple(unfinished)
        self.prefixes = tuple(entry.declared.url_prefix for entry in unfinished)

    def is_running(self) -> bool:
        """Whether the background thread lives."""
        return self.thread is not None and self.thread.is_alive()

    def is_loading_here(self) -> bool:
        """Whether the calling thread is importing a blueprint at this moment."""
        return self.importing == threading.get_ident()


def covers(prefix: str, path: str) -> bool:
    """Return whether the path is the prefix or lies under it."""
    return path == prefix or path.startswith(prefix + "/")


def _is_prefix(prefix: object) -> bool:
    if not isinstance(prefix, str) or not prefix.startswith("/") or prefix.endswith("/"):
        return False
    return "//" not in prefix and prefix.isprintable() and not set(prefix) & set("<>?#%\\|")
