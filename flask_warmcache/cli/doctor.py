"""``flask warmcache doctor``."""

from __future__ import annotations

import sys

import click
from flask.cli import with_appcontext

from ..doctor.examine import examine
from ..doctor.report import encoded, show
from .opened import opened_state


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings and figures as JSON.")
@click.option("--pid", type=click.IntRange(1), metavar="MASTER", help="The process id of the gunicorn to examine.")
@with_appcontext
def doctor_command(as_json: bool, pid: int | None) -> None:
    """Check how the app is run.

    The checks are about settings in force, imports, lists, the cache folder and memory.

    The exit code is 0 when there is nothing to do, 1 with warnings, and 2 with faults.
    """
    report = examine(opened_state(), pid)
    if as_json:
        click.echo(encoded(report))
    else:
        show(report)
    sys.exit(report.exit_code)
