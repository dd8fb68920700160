"""What the commands have in common: the opened state, a list by name, exit codes, and a progress bar.

A command exits with 0 when it is done, with 1 when what was asked failed or a list is cold or failed, with 2 after
wrong usage such as an unknown list, and with 3 when another process is working on the list or task.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

import click
from flask import current_app

from ..host.serving import folders_of_servers
from ..settings import KEY
from ..state import AppState
from ..status.condition import ListStatus

Result = TypeVar("Result")
FAILED, BUSY = 1, 3
POLL = 0.1  # seconds between two updates of the bar


def leave(message: str, code: int = FAILED) -> NoReturn:
    """Print why the command could not do what it was asked, and end it."""
    click.echo(message, err=True)
    sys.exit(code)


def opened_state() -> AppState:
    """Return the app's state, opened but without a keeper: a command does only what it was asked to do."""
    state: AppState = current_app.extensions[KEY]
    state.open()
    state.is_started = True
    return state


def opened_list(name: str) -> ListStatus:
    """Return the status of one list.

    :raises UsageError: when there is no list of that name.
    """
    state = opened_state()
    statuses = state.statuses
    if name not in statuses:
        raise click.UsageError(f"No warm list named {name!r}. Declared: {', '.join(statuses) or 'none'}.")
    warn_of_another_folder(state)
    return statuses[name]


def warn_of_another_folder(state: AppState) -> None:
    """Say so if the server that runs here keeps its lists in another folder than this command."""
    served, own = folders_of_servers(state.statuses), os.path.realpath(state.store.folder)
    if served and own not in served:
        folder, process = next(iter(served.items()))
        click.echo(
            f"The server here (process {process}) keeps its lists in {folder}, and this command in {own}. "
            "For the server's lists, run it with the server's environment, such as the same WARMCACHE_DIR.",
            err=True,
        )


class Background(threading.Thread, Generic[Result]):
    """Work in a daemon thread. Ctrl-C ends the command and the thread with it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Result | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error

    def is_running(self) -> bool:
        """Wait a moment, and return whether the work is still going on."""
        self.join(POLL)
        return self.is_alive()


def show_while(
    name: str, is_running: Callable[[], bool], progress: Callable[[], tuple[str, int, int | None] | None]
) -> None:
    """Show progress as long as something is running.

    :param name: what is running.
    :param is_running: waits a moment, and returns whether it still is.
    :param progress: returns what it is doing, how much of that is done, and how much there is in total, if known;
        or None as long as there is nothing to show.
    """
    if not sys.stderr.isatty():
        while is_running():
            pass
        return
    with click.progressbar(length=1, label=name, file=sys.stderr, show_eta=False, show_pos=True, width=0) as bar:
        while is_running():
            shown = progress()
            if shown is not None:
                doing, bar.pos, bar.length = shown
                bar.label = f"{name}: {doing}"
                bar.render_progress()


def pace(rate: float | None, eta: float | None) -> list[str]:
    """Return how many items are done per second and how much time is left, as far as these are known."""
    words = []
    if rate:
        words.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
    if eta is not None:
        words.append(f"{_duration(eta)} left")
    return words


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
