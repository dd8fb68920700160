"""The command group ``flask warmcache``."""

from __future__ import annotations

from importlib import import_module

import click

from ..settings import KEY

# Each command is imported from its file when it is looked up, because a worker needs none of them.
FILES = {
    "status": "show",
    "rebuild": "rebuild",
    "refresh": "change",
    "discard": "change",
    "invalidate": "change",
    "clear": "change",
    "watch": "rebuild",
    "once": "once",
    "doctor": "show",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports one when it is looked up."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in FILES:
            return super().get_command(ctx, cmd_name)
        file = import_module(f"{__package__}.{FILES[cmd_name]}")
        command: click.Command = getattr(file, f"{cmd_name}_command")
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*FILES, *super().list_commands(ctx)})


group = LazyGroup(KEY, help="Show, rebuild and change warm lists, run one-time tasks, and check the server.")
