"""What happens to the lists, as signals that an app may connect to.

Each is sent with the app as its sender, and with ``name``, the list's; where the rebuild runs, be it another
process than the one that serves; inside an app context. What a receiver raises is logged and goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from blinker import NamedSignal, Namespace
from flask import Flask, current_app, has_app_context

log = logging.getLogger("flask_warmcache")

_signals = Namespace()
#: A rebuild begins; the list that it is made of is up to date.
rebuild_started = _signals.signal("rebuild_started")
#: At each phase's beginning, and at most ten times a second: ``done``, ``total``, ``phase``, ``rate``, ``eta``.
rebuild_progressed = _signals.signal("rebuild_progressed")
#: The new snapshot is published: ``outcome``, an ``Outcome``.
rebuild_finished = _signals.signal("rebuild_finished")
#: The old snapshot stays: ``error``, the exception. Comes without ``rebuild_started`` when it could not begin.
rebuild_failed = _signals.signal("rebuild_failed")

_BY_EVENT: dict[str, NamedSignal] = {
    signal.name: signal for signal in (rebuild_started, rebuild_progressed, rebuild_finished, rebuild_failed)
}


def announcer(app: Flask) -> Callable[[str, dict[str, Any]], None]:
    """What sends an app's signals, for code that knows neither Flask nor blinker."""

    def announce(event: str, facts: dict[str, Any]) -> None:
        signal = _BY_EVENT[event]
        if not signal.receivers or signal.is_muted:
            return
        for receiver in signal.receivers_for(app):
            # Each on its own: signal.send() would leave out those behind the one that raises.
            try:
                _call(app, receiver, facts)
            except Exception:
                log.exception(
                    "warmcache.receiver_failed: a receiver of %s; the rebuild of %r goes on",
                    event,
                    facts["name"],
                    extra={"warmcache_list": facts["name"]},
                )

    return announce


def _call(app: Flask, receiver: Callable[..., Any], facts: dict[str, Any]) -> None:
    if has_app_context() and current_app._get_current_object() is app:  # type: ignore[attr-defined]
        # Between two items. A context of its own would, at its end, close the session that the next one uses.
        app.ensure_sync(receiver)(app, **facts)
    else:
        with app.app_context():
            app.ensure_sync(receiver)(app, **facts)
