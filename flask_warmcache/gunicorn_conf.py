"""Settings for ``gunicorn -c python:flask_warmcache.gunicorn_conf``, and the hooks that start keepers.

They fit the machine or container.  The command line, GUNICORN_CMD_ARGS and every GUNICORN_<SETTING> win over them.
If you have a configuration file, end it with ``compose(globals())``.  This module imports no Flask, so that the
server's own process stays small.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from .host import gunicorn_settings, gunicorn_sources
from .host.gunicorn_settings import SHOWN, Choice
from .host.server import SERVER_STARTED, note_worker

_chosen: dict[str, Choice] = {}  # what we set in the last configuration that was read


def compose(namespace: MutableMapping[str, Any]) -> None:
    """Complete your configuration file, whose last line is ``compose(globals())``.

    Its settings stay, unless a GUNICORN_<SETTING> overrules them; the others are set to fit the machine.  Its
    hooks are kept and run together with ours.

    :raises ValueError: for a variable of the environment with a wrong value, by name.
    """
    _compose(namespace, gunicorn_settings.defaults())


def _compose(namespace: MutableMapping[str, Any], defaults: dict[str, Choice]) -> None:
    chosen = gunicorn_settings.fill(namespace, defaults)
    _chosen.clear()
    _chosen.update(chosen)
    # Ours run first where theirs may rely on the noted start, and last where ours freeze memory or start threads.
    for ours, is_first in ((on_starting, True), (on_reload, True), (when_ready, False), (post_worker_init, False)):
        theirs = namespace.get(ours.__name__)
        if theirs is None or theirs in _hooks:
            namespace[ours.__name__] = theirs or ours
        else:
            namespace[ours.__name__] = _both(ours, theirs) if is_first else _both(theirs, ours)


def _both(first: Callable[[Any], None], second: Callable[[Any], None]) -> Callable[[Any], None]:
    def both(subject: Any) -> None:
        first(subject)
        second(subject)

    _hooks.append(both)
    return both


# Hooks


def on_starting(server: Any) -> None:
    """Note that the server starts: snapshots from before this moment are served as stale and rebuilt."""
    os.environ[SERVER_STARTED] = str(time.time_ns())  # the workers inherit it
    _settle(server)


def on_reload(server: Any) -> None:
    """Note a start when the server reloads (HUP), because its new workers may run other code."""
    on_starting(server)


def when_ready(server: Any) -> None:
    """Freeze what a preloaded app has allocated, before the workers are forked."""
    if server.cfg.preload_app:
        # Otherwise each worker's first collection writes to all of it, and thereby copies it.
        gc.collect()
        gc.freeze()


def post_worker_init(worker: Any) -> None:
    """Start the keepers of a worker that has loaded the app, and do not wait for its first request."""
    from flask_warmcache.state import start_keepers

    note_worker(worker)
    try:
        start_keepers()
    except Exception:
        # The first request logs the error again.  An exception here would end the server.
        worker.log.exception("flask-warmcache: the keeper does not start with the worker")


_hooks: list[Callable[[Any], None]] = [on_starting, on_reload, when_ready, post_worker_init]


def _settle(server: Any) -> None:
    """Adjust our settings to what the command line has changed, and log in one line what is in force."""
    if server is None:
        return
    cfg = server.cfg
    outside = gunicorn_sources.outside_settings(server.app)
    gunicorn_sources.follow(cfg, outside, _chosen)
    server.worker_class = cfg.worker_class  # the server has chosen it already, by the threads before
    found = gunicorn_sources.sources(cfg, outside, _chosen)
    shown = [f"{name}={_text(cfg, name)} ({found[name]})" for name in SHOWN if name in found]
    server.log.info("Settings in force: %s", ", ".join(shown))
    for overruled in gunicorn_sources.overruled(cfg, found):
        server.log.warning("%s", overruled)
    for variable, similar in gunicorn_sources.misspelt(cfg.env_orig):
        server.log.warning("%s is no setting of gunicorn's; %s is", variable, similar)


def _text(cfg: Any, name: str) -> str:
    if name == "worker_class":
        return str(cfg.worker_class_str)
    value = cfg.settings[name].get()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_compose(globals(), gunicorn_settings.defaults())
