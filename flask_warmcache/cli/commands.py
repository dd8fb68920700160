"""The commands of ``flask warmcache``: how the lists are, and what can be done about it, from a shell or a script.

Exit codes: 0 done; 1 a list is cold or failed, or what was asked failed; 2 wrong usage, such as an unknown
list; 3 another process is at the list.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click
from flask import current_app

from ..errors import RebuildBusyError, StoreError
from ..lists.warm_list import WarmList
from ..state import AppState
from ..status.condition import ListStatus
from ..status.stats import list_section
from .bar import Bar, pace
from .doctor import doctor_command
from .group import group
from .once import once_command

if TYPE_CHECKING:
    from ..rebuild.outcome import Outcome

FAILED, BUSY = 1, 3
WATCH_EVERY = 1.0
POLL = 0.1

group.add_command(once_command)
group.add_command(doctor_command)


def _state() -> AppState:
    state: AppState = current_app.extensions["warmcache"]
    state.open()
    state.is_started = True  # without a keeper: a command does what it is told and nothing else
    return state


def _status(name: str) -> ListStatus:
    statuses = _state().statuses
    if name not in statuses:
        raise click.UsageError(f"No warm list named {name!r}. Declared: {', '.join(statuses) or 'none'}.")
    return statuses[name]


@group.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print what GET /api/cache/stats answers for the lists.")
def status_command(as_json: bool) -> None:
    """Show every list; exit code 1 when one is cold or failed."""
    state = _state()
    for status in state.statuses.values():
        state.keeper.note_stale(status)
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
    age, took = section["age_seconds"], section["last_duration_seconds"]
    note = ""
    if section["progress"]:
        progress = section["progress"]
        of = f" of {progress['total']}" if progress["total"] else ""
        how_far = [progress["phase"], f"{progress['done']}{of}", *pace(progress["rate"], progress["eta_seconds"])]
        note = f"rebuilding: {', '.join(how_far)}"
    elif section["last_error"]:
        note = f"last error: {section['last_error']}"
    return (
        f"{section['state']:8}{count:>10}  {'-' if age is None else f'{age:.0f} s':>8}  "
        f"{'-' if took is None else f'{took:.2f} s':>10}  {note}"
    )


@group.command("rebuild")
@click.argument("name")
@click.option("--wait", is_flag=True, help="When another process is rebuilding the list, follow it to its end.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done, or an error, as JSON.")
def rebuild_command(name: str, wait: bool, as_json: bool) -> None:
    """Rebuild the list NAME here and now, with a progress bar on a terminal.

    Exit code 1 when it fails, 3 when another process is rebuilding the list (see --wait).
    """
    status = _status(name)
    keeper = _state().keeper
    outcome: list[Outcome] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(keeper.rebuild_now(name))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    _show_progress(status, thread.is_alive)
    thread.join()
    if failure and isinstance(failure[0], RebuildBusyError):
        if not wait:
            _give_up(name, f"{failure[0]} Use --wait to follow it.", BUSY, as_json)
        _follow(status)
    elif failure:
        why = f"{type(failure[0]).__name__}: {failure[0]}"
        _give_up(name, f"The rebuild of {name!r} failed: {why}", FAILED, as_json)
    done = _own_outcome(name, outcome[0]) if outcome else _published_outcome(status)
    if done is None:
        why = "the log of the process that ran it says why."
        _give_up(name, f"The rebuild of {name!r} failed; {why}", FAILED, as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"{name}: {done['count']} items, {done['enriched']} enriched, {done['reused']} reused, "
        f"{done['failed']} failed, in {done['duration']:.2f} s"
    )


def _give_up(name: str, error: str, code: int, as_json: bool) -> NoReturn:
    click.echo(error, err=True)
    if as_json:
        click.echo(json.dumps({"name": name, "error": error}))
    sys.exit(code)


def _own_outcome(name: str, outcome: Outcome) -> dict[str, Any]:
    facts = asdict(outcome)
    return {"name": name, **facts, "generation": f"{outcome.generation:x}", "duration": round(outcome.duration, 3)}


def _published_outcome(status: ListStatus) -> dict[str, Any] | None:
    """What another process did, as its snapshot tells, or None when it failed."""
    snapshot = status.condition().snapshot
    if snapshot is None or status.report is None or status.report.phase != "finished":
        return None
    header = snapshot.header
    return {
        "name": status.name,
        "generation": snapshot.token,
        "count": snapshot.count,
        "reused": header["reused"],
        "enriched": header["enriched"],
        "failed": header["failed_items"],
        "dropped": header.get("dropped"),
        "duration": header["duration"],
    }


def _follow(status: ListStatus) -> None:
    """Show another process's rebuild until its lock is free."""

    def goes_on() -> bool:
        status.reread()
        return status.store.is_locked(status.name)

    _show_progress(status, goes_on)
    status.reread()


def _show_progress(status: ListStatus, goes_on: Any) -> None:
    bar = Bar(status.name, sys.stderr)
    try:
        while goes_on():
            progress = status.progress
            report = progress.report if progress is not None else status.report
            if report is not None and report.running:
                bar.show(report)
            time.sleep(POLL)
    finally:
        bar.clear()


def _with_keys(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments of a command that changes items: the list, their keys, and what these are."""
    for argument in (
        click.option("--int", "as_int", is_flag=True, help="The keys are whole numbers; otherwise they are text."),
        click.argument("keys", nargs=-1, required=True, metavar="KEY..."),
        click.argument("name"),
    ):
        command = argument(command)
    return command


@group.command("refresh")
@_with_keys
def refresh_command(name: str, keys: tuple[str, ...], as_int: bool) -> None:
    """Look up the items KEY... of the list NAME again, enrich and publish them; the rest stays as it is.

    Exit code 1 when it fails, 3 when it could not be published now: then the list is invalidated.
    """
    _change("refresh", name, keys, as_int)


@group.command("discard")
@_with_keys
def discard_command(name: str, keys: tuple[str, ...], as_int: bool) -> None:
    """Take the items KEY... out of the list NAME.

    Exit code 1 when it fails, 3 when it could not be published now: then the list is invalidated.
    """
    _change("discard", name, keys, as_int)


def _change(verb: str, name: str, texts: tuple[str, ...], as_int: bool) -> None:
    status = _status(name)
    if status.declaration.kind == "value" or status.declaration.key is None:
        raise click.UsageError(f"{name!r} has no items with a key, so there is nothing to {verb}.")
    try:
        keys: list[str | int] = [int(text) for text in texts] if as_int else list(texts)
    except ValueError as error:
        raise click.UsageError(f"With --int each KEY is a whole number: {error}.") from None
    # A handle like the app's own: what may be asked of a list hangs on its name.
    listed = WarmList(status.declaration, lambda: True)
    try:
        is_published: bool = getattr(listed, verb)(*keys)
    except Exception as error:
        click.echo(f"{name} is as it was: {type(error).__name__}: {error}", err=True)
        sys.exit(FAILED)
    if not is_published:
        click.echo(
            f"{name} could not be written now; it is invalidated, so the next rebuild will see it.", err=True
        )
        sys.exit(BUSY)
    click.echo(f"{name}: {len(keys)} {'key' if len(keys) == 1 else 'keys'} {verb.rstrip('e')}ed.")


@group.command("invalidate")
@click.argument("name")
def invalidate_command(name: str) -> None:
    """Say that the list NAME is out of date: a running worker rebuilds it, else the next one that starts."""
    status = _status(name)
    try:
        status.store.invalidate(name)
    except StoreError as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)
    click.echo(f"{name} is invalidated.")


@group.command("clear")
@click.argument("name")
def clear_command(name: str) -> None:
    """Drop the list NAME: every worker answers as cold until it has been rebuilt from nothing.

    Exit code 3 when a rebuild is running.
    """
    status = _status(name)
    try:
        lock = status.store.try_lock(name)
        if lock is None:
            click.echo(f"{name} is being rebuilt; try again when that has ended.", err=True)
            sys.exit(BUSY)
        try:
            status.store.publish_cold(name)
        finally:
            lock.close()
    except (StoreError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)
    click.echo(f"{name} is cleared.")


@group.command("watch")
def watch_command() -> None:
    """Rebuild what is due, looking once a second, until SIGTERM or SIGINT; for WARMCACHE_RUNNER=external."""
    state = _state()
    keeper, stopped = state.keeper, threading.Event()
    for status in state.statuses.values():
        status.serve()  # what other code than ours has built is rebuilt
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def work() -> None:
        while not stopped.wait(WATCH_EVERY):
            keeper.rebuild_due()

    # A daemon: what it is at when the signal comes is cut off, and the next rebuild goes on from there.
    threading.Thread(target=work, name="warmcache-watch", daemon=True).start()
    while not stopped.wait(WATCH_EVERY):
        keeper.beat()
