"""``flask warmcache``: the group; its commands are loaded when one is looked for, since no worker needs them."""

from __future__ import annotations

import click
from flask.cli import AppGroup


class Commands(AppGroup):
    """What ``commands.py`` adds to it."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from . import commands  # noqa: F401

        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        from . import commands  # noqa: F401

        return super().list_commands(ctx)


group = Commands("warmcache", help="Warm lists: see how they are, rebuild, invalidate or clear them; run tasks.")
