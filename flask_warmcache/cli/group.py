"""The command group ``flask warmcache``."""

from __future__ import annotations

from importlib import import_module

import click

from ..settings import KEY

# Each command is imported when it is looked up, because a worker needs none of them.
COMMANDS = {
    "status": "status:status_command",
    "rebuild": "rebuild:rebuild_command",
    "refresh": "change:refresh_command",
    "discard": "change:discard_command",
    "invalidate": "change:invalidate_command",
    "clear": "change:clear_command",
    "watch": "watch:watch_command",
    "once": "once:once_command",
    "doctor": "doctor:doctor_command",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports one when it is looked up."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"{__package__}.{module}"), name)
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})


group = LazyGroup(KEY, help="Show, rebuild and change warm lists, run one-time tasks, and check the server.")
