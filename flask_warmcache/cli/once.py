"""``flask warmcache once``: run one-time tasks at deploy time, before there is a server."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import click
from flask.cli import with_appcontext

from ..errors import DeclarationError
from ..startup.task import TaskStatus
from ..startup.tasks import Tasks
from .common import BUSY, FAILED, POLL, Background, opened_state, show_while


@click.command("once")
@click.argument("name", required=False)
@click.option("--wait", is_flag=True, help="If another process is running a task, wait until it has finished.")
@click.option("--again", is_flag=True, help="Also run tasks that are already done, for a new database.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, one line for each task.")
@with_appcontext
def once_command(name: str | None, wait: bool, again: bool, as_json: bool) -> None:
    """Run the one-time task NAME, or all tasks.

    A task that this deployment has run is not run again. The order is that of the declarations. The command stops
    at the first task that is not done. The exit code is 1 when it fails, and 3 when another process is running it
    (see --wait).
    """
    tasks = opened_state().tasks
    names = tasks.names if name is None else [name]
    if not names:
        click.echo("No one-time tasks are declared.", err=True)
    for task_name in names:
        try:
            status = tasks.status(task_name)
        except DeclarationError as error:
            raise click.UsageError(str(error)) from None
        code = _run(tasks, status, wait, again, as_json)
        if code:
            sys.exit(code)


def _run(tasks: Tasks, status: TaskStatus, wait: bool, again: bool, as_json: bool) -> int:
    """Run one task, report how that ended, and return the exit code."""
    name = status.name

    def work() -> bool | None:
        has_run = tasks.run_now(name, again=again)
        while wait and has_run is None:
            time.sleep(POLL)
            has_run = tasks.run_now(name)
        return has_run

    task = Background(work)
    task.start()
    _show(status, task.is_running)
    has_run = task.result
    facts = {"task": name, "ran": bool(has_run) or task.error is not None, **status.section()}
    if as_json:
        click.echo(json.dumps(facts))
    elif has_run is True:
        click.echo(f"{name}: done in {facts['duration_seconds']:.2f} s")
    elif has_run is False:
        click.echo(f"{name}: already done in this deployment")
    if task.error is not None:
        click.echo(f"{name} failed: {type(task.error).__name__}: {task.error}", err=True)
        return FAILED
    if has_run is None:
        click.echo(f"{name} is being run by another process. Use --wait to wait for it.", err=True)
        return BUSY
    return 0


def _show(status: TaskStatus, is_running: Callable[[], bool]) -> None:
    """Show on a terminal how long the task has been running; elsewhere report once that it is late."""
    began, budget, is_reported = time.monotonic(), status.task.timeout, sys.stderr.isatty()

    def is_still_running() -> bool:
        nonlocal is_reported
        if not is_reported and time.monotonic() - began > budget:
            is_reported = True
            click.echo(f"{status.name} takes longer than {budget:g} s; it continues.", err=True)
        return is_running()

    show_while(
        status.name, is_still_running, lambda: ("seconds", int(time.monotonic() - began), math.ceil(budget))
    )
