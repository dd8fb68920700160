"""Signals about rebuilds, to which an app may connect.

The sender is the app, and each signal has the list's ``name``.  It is sent in the process in which the rebuild
runs, which need not be one that serves, and inside an app context.  If a receiver raises, that is only logged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from blinker import Namespace
from flask import Flask, current_app, has_app_context

from . import events

_signals = Namespace()
#: A rebuild begins; its source list, if it has one, is up to date.
rebuild_started = _signals.signal("rebuild_started")
#: Sent when a phase begins, and at most ten times a second: ``done``, ``total``, ``phase``, ``rate``, ``eta``.
rebuild_progressed = _signals.signal("rebuild_progressed")
#: The new snapshot is published. ``outcome`` is an ``Outcome``.
rebuild_finished = _signals.signal("rebuild_finished")
#: The old snapshot, if any, stays. ``error`` is the exception. If the rebuild could not begin, only this is sent.
rebuild_failed = _signals.signal("rebuild_failed")


def announcer(app: Flask) -> Callable[[str, dict[str, Any]], None]:
    """Return a function that sends an app's signals, for code that knows neither Flask nor blinker."""

    def announce(event: str, facts: dict[str, Any]) -> None:
        signal = _signals[event]
        if not signal.receivers or signal.is_muted:
            return
        for receiver in signal.receivers_for(app):
            # signal.send() would skip the receivers after one that raises.
            try:
                _call(app, receiver, facts)
            except Exception:
                message = "a receiver of %(signal)s; the rebuild of %(list)r continues"
                events.error("warmcache.receiver_failed", message, error=True, signal=event, list=facts["name"])

    return announce


def _call(app: Flask, receiver: Callable[..., Any], facts: dict[str, Any]) -> None:
    # Between two items there is a context. A second one would, at its end, close the session of the next item.
    is_inside = has_app_context() and current_app._get_current_object() is app  # type: ignore[attr-defined]
    with nullcontext() if is_inside else app.app_context():
        app.ensure_sync(receiver)(app, **facts)
