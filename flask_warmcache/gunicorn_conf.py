"""Settings for ``gunicorn -c python:flask_warmcache.gunicorn_conf``, and the hooks that start keepers.

They fit the machine or container.  The command line, GUNICORN_CMD_ARGS and every GUNICORN_<SETTING> win over what
stands here.  With a configuration file of your own, end it with ``compose(globals())``.  Imports no Flask, so the
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

_chosen: dict[str, Choice] = {}  # what we set in the configuration that was read last


def compose(namespace: MutableMapping[str, Any]) -> None:
    """Complete a configuration file of your own; its last line is ``compose(globals())``.

    What the file sets stays, unless a GUNICORN_<SETTING> says otherwise; what it leaves open is set to fit the
    machine; its hooks are kept and run together with ours.

    :raises ValueError: for a variable of the environment with a wrong value, by name.
    """
    _compose(namespace, gunicorn_settings.defaults())


def _compose(namespace: MutableMapping[str, Any], defaults: dict[str, Choice]) -> None:
    chosen = gunicorn_settings.fill(namespace, defaults)
    _chosen.clear()
    _chosen.update(chosen)
    # Ours first where others rely on the note of the start; theirs first where ours closes, and starts threads.
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
    """The server starts."""
    _note_start()
    _settle(server)


def on_reload(server: Any) -> None:
    """HUP: the workers that follow may run other code."""
    _note_start()
    _settle(server)


def when_ready(server: Any) -> None:
    """The workers are about to be forked."""
    if server.cfg.preload_app:
        # What is loaded stays shared: else each worker's first collection writes to, and so copies, all of it.
        gc.collect()
        gc.freeze()


def post_worker_init(worker: Any) -> None:
    """A worker has loaded the app: its keepers start now and not at its first request."""
    from flask_warmcache.host.server import note_worker
    from flask_warmcache.state import start_keepers

    note_worker(worker)
    try:
        start_keepers()
    except Exception:
        # Whatever is wrong shows again, logged, at the first request; a worker that fails here ends the server.
        worker.log.exception("flask-warmcache: the keeper does not start with the worker")


_hooks: list[Callable[[Any], None]] = [on_starting, on_reload, when_ready, post_worker_init]


def _note_start() -> None:
    # Workers inherit it: what was published before this moment is served as stale and rebuilt.
    os.environ["WARMCACHE_SERVER_STARTED"] = str(time.time_ns())


def _settle(server: Any) -> None:
    """Let our companions follow what the command line has changed, and say in one line what is in force."""
    if server is None:
        return
    cfg = server.cfg
    outside = gunicorn_sources.given_outside(server.app)
    gunicorn_sources.follow(cfg, outside, _chosen)
    server.worker_class = cfg.worker_class  # the server has looked at the threads already
    found = gunicorn_sources.sources(cfg, outside, _chosen)
    shown = [f"{name}={_text(cfg, name)} ({found[name]})" for name in SHOWN if name in found]
    server.log.info("Settings in force: %s", ", ".join(shown))
    for vain in gunicorn_sources.overruled(cfg, found):
        server.log.warning("%s", vain)
    for variable, meant in gunicorn_sources.misspelt(cfg.env_orig):
        server.log.warning("%s is no setting of gunicorn's; %s is", variable, meant)


def _text(cfg: Any, name: str) -> str:
    if name == "worker_class":
        return str(cfg.worker_class_str)
    value = cfg.settings[name].get()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_compose(globals(), gunicorn_settings.defaults())
