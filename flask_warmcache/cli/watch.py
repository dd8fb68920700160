"""``flask warmcache watch``."""

from __future__ import annotations

import signal
import threading

import click
from flask.cli import with_appcontext

from .opened import opened_state

WATCH_EVERY = 1.0


@click.command("watch")
@with_appcontext
def watch_command() -> None:
    """Rebuild lists when they are due, until SIGTERM or SIGINT. Use it with WARMCACHE_RUNNER=external."""
    state = opened_state()
    keeper, stopped = state.keeper, threading.Event()
    for status in state.statuses.values():
        status.staleness.serve()  # a snapshot that older code built is rebuilt
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def work() -> None:
        while not stopped.wait(WATCH_EVERY):
            keeper.rebuild_due()

    # The signal interrupts the rebuild that a daemon thread is running; the next rebuild resumes it.
    threading.Thread(target=work, name="warmcache-watch", daemon=True).start()
    while not stopped.wait(WATCH_EVERY):
        keeper.beat()
