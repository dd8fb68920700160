"""Load every deferred blueprint before a ``flask`` command, because some commands need all routes or models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from flask import Flask, appcontext_pushed
from flask.cli import FlaskGroup, ScriptInfo, run_command


def load_for_commands(app: Flask, load_all: Callable[[], None], excluded: str) -> Callable[[], None]:
    """Call ``load_all`` before a command of ``flask`` runs, or is looked up in the app; return what ends that.

    ``flask run`` is excluded because it is a server.

    :param excluded: the name of a group of the app whose commands need no blueprint.
    """

    def pushed(sender: Flask, **_: Any) -> None:
        """Load everything if the app context that was just entered belongs to a command."""
        context = click.get_current_context(silent=True)
        if context is None or isinstance(context.command, FlaskGroup):
            return  # there is no command, or it is not known yet; it is then looked up in the app
        info = context.find_object(ScriptInfo)
        if info is None or getattr(info, "_loaded_app", None) is not app:
            return  # the app is still being made, and a blueprint may need it complete
        while context is not None:
            if context.command in (run_command, app.cli.commands.get(excluded)):
                return
            context = context.parent
        load_all()

    get_command, list_commands = app.cli.get_command, app.cli.list_commands

    def get_any_command(context: click.Context, name: str) -> click.Command | None:
        if name != excluded:
            load_all()
        return get_command(context, name)

    def list_all_commands(context: click.Context) -> list[str]:
        load_all()
        return list_commands(context)

    app.cli.get_command = get_any_command  # type: ignore[method-assign, assignment]
    app.cli.list_commands = list_all_commands  # type: ignore[method-assign, assignment]
    appcontext_pushed.connect(pushed, app)
    return lambda: appcontext_pushed.disconnect(pushed, app)
