"""``flask warmcache once``: one-time tasks run at deploy time, before there is a server."""

from __future__ import annotations

import json
import sys
import threading
import time

import click
from flask import current_app
from flask.cli import with_appcontext

from ..errors import DeclarationError
from ..startup.task_status import TaskStatus
from ..startup.tasks import Tasks

FAILED, BUSY = 1, 3
POLL = 0.1


@click.command("once")
@click.argument("name", required=False)
@click.option("--wait", is_flag=True, help="When another process is running a task, wait for it.")
@click.option("--again", is_flag=True, help="Run what is done, too: for a database that was made anew.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, one line for each task.")
@with_appcontext
def once_command(name: str | None, wait: bool, again: bool, as_json: bool) -> None:
    """Run the one-time task NAME, or all in the order of their declaration, unless this deployment has done so.

    Stops at the first that is not done. Exit code 1 when it fails, 3 when another process is running it (see
    --wait).
    """
    state = current_app.extensions["warmcache"]
    state.open()
    state.is_started = True  # without a keeper: a command does what it is told and nothing else
    tasks: Tasks = state.tasks
    names = tasks.names if name is None else [name]
    if not names:
        click.echo("No one-time tasks are declared.", err=True)
    for one in names:
        try:
            status = tasks.status(one)
        except DeclarationError as error:
            raise click.UsageError(str(error)) from None
        code = _run(tasks, status, wait, again, as_json)
        if code:
            sys.exit(code)


def _run(tasks: Tasks, status: TaskStatus, wait: bool, again: bool, as_json: bool) -> int:
    """Run one task and say how that went; returns the exit code."""
    name = status.name
    ended: list[bool | BaseException | None] = []

    def work() -> None:
        try:
            ended.append(tasks.run_now(name, again=again))
            while wait and ended[-1] is None:
                time.sleep(POLL)
                ended.append(tasks.run_now(name))
        except BaseException as error:
            ended.append(error)

    # A daemon: Ctrl-C ends the command, and the next process takes the task over.
    thread = threading.Thread(target=work, name=f"warmcache-task-{name}", daemon=True)
    thread.start()
    _show(status, thread)
    last = ended[-1]
    facts = {"task": name, "ran": last not in (False, None), **status.section()}
    if as_json:
        click.echo(json.dumps(facts))
    elif last is True:
        click.echo(f"{name}: done in {facts['duration_seconds']:.2f} s")
    elif last is False:
        click.echo(f"{name}: already done in this deployment")
    if isinstance(last, bool):
        return 0
    if last is None:
        click.echo(f"{name} is being run by another process. Use --wait to wait for it.", err=True)
        return BUSY
    click.echo(f"{name} failed: {type(last).__name__}: {last}", err=True)
    return FAILED


def _show(status: TaskStatus, thread: threading.Thread) -> None:
    """On a terminal, how long it has been running; elsewhere, when it gets late."""
    began, is_terminal, shown, is_told = time.monotonic(), sys.stderr.isatty(), 0, False
    while thread.is_alive():
        thread.join(POLL)
        seconds = time.monotonic() - began
        if is_terminal and int(seconds) > shown:
            shown = int(seconds)
            click.echo(f"\r{status.name}: {shown} s of {status.task.timeout:g} s", nl=False, err=True)
        elif not is_terminal and seconds > status.task.timeout and not is_told:
            is_told = True
            click.echo(f"{status.name} takes longer than {status.task.timeout:g} s; it goes on.", err=True)
    if shown:
        click.echo("\r\033[K", nl=False, err=True)
