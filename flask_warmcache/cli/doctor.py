"""``flask warmcache doctor``."""

from __future__ import annotations

import sys

import click
from flask import current_app
from flask.cli import with_appcontext


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings and figures as JSON.")
@click.option(
    "--pid", type=click.IntRange(1), metavar="MASTER", help="The gunicorn to look at, by its process id."
)
@with_appcontext
def doctor_command(as_json: bool, pid: int | None) -> None:
    """Look at how the app is run: settings in force, imports, lists, cache folder, memory, database pools.

    Exit code 0 when nothing is to be done, 1 with warnings, 2 with faults.
    """
    from ..doctor import show  # only now: no worker needs what the doctor needs
    from ..doctor.examine import examine

    report = examine(current_app.extensions["warmcache"], pid)
    if as_json:
        click.echo(show.as_json(report))
    else:
        show.show(report)
    sys.exit(report.exit_code)
