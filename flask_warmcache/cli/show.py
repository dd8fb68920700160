"""``flask warmcache status`` and ``doctor``: how the lists are, and how the app is run."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from flask.cli import with_appcontext

from ..doctor.examine import examine
from ..doctor.report import encoded, show
from ..status.stats import list_section
from .common import FAILED, opened_state, pace, warn_of_another_folder


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print what GET /api/cache/stats answers for the lists.")
@with_appcontext
def status_command(as_json: bool) -> None:
    """Show every list. The exit code is 1 when a list is cold or failed."""
    state = opened_state()
    warn_of_another_folder(state)
    for status in state.statuses.values():
        state.keeper.due.note_stale(status)
    sections = {name: list_section(status) for name, status in state.statuses.items()}
    if as_json:
        click.echo(json.dumps(sections, indent=2))
    else:
        width = max([len(name) for name in sections] + [4])
        click.echo(f"{'LIST':{width}}  {'STATE':8}{'ITEMS':>10}  {'AGE':>8}  {'LAST BUILD':>10}  NOTE")
        for name, section in sections.items():
            click.echo(f"{name:{width}}  {_row(section)}")
    if any(section["state"] in ("cold", "failed") for section in sections.values()):
        sys.exit(FAILED)


def _row(section: dict[str, Any]) -> str:
    count = next((value for key, value in section.items() if key.endswith("_count")), 1)
    age, duration = section["age_seconds"], section["last_duration_seconds"]
    note = ""
    if section["progress"]:
        progress = section["progress"]
        of = f" of {progress['total']}" if progress["total"] else ""
        parts = [progress["phase"], f"{progress['done']}{of}", *pace(progress["rate"], progress["eta_seconds"])]
        note = f"rebuilding: {', '.join(parts)}"
    elif section["last_error"]:
        note = f"last error: {section['last_error']}"
    return (
        f"{section['state']:8}{count:>10}  {'-' if age is None else f'{age:.0f} s':>8}  "
        f"{'-' if duration is None else f'{duration:.2f} s':>10}  {note}"
    )


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
