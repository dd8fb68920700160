"""What the commands have in common: the app's opened state, a list by name, and the exit codes.

A command exits with 0 when it is done, with 1 when what was asked failed or a list is cold or failed, with 2 after
wrong usage such as an unknown list, and with 3 when another process is working on the list or task.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click
from flask import current_app

from ..settings import KEY
from ..state import AppState
from ..status.condition import ListStatus

FAILED, BUSY = 1, 3


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
    statuses = opened_state().statuses
    if name not in statuses:
        raise click.UsageError(f"No warm list named {name!r}. Declared: {', '.join(statuses) or 'none'}.")
    return statuses[name]
