"""``flask warmcache rebuild`` and ``watch``."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click
from flask.cli import with_appcontext

from ..errors import RebuildBusyError
from ..status.condition import ListStatus
from .common import BUSY, FAILED, POLL, Background, leave, opened_list, opened_state, pace, show_while

if TYPE_CHECKING:
    from ..rebuild.tools import Outcome

WATCH_EVERY = 1.0  # seconds


@click.command("rebuild")
@click.argument("name")
@click.option("--all", "enrich_all", is_flag=True, help="Enrich every item again, while the old list is shown.")
@click.option("--wait", is_flag=True, help="If another process is rebuilding the list, follow that to its end.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome, or an error, as JSON.")
@with_appcontext
def rebuild_command(name: str, enrich_all: bool, wait: bool, as_json: bool) -> None:
    """Rebuild the list NAME in this process.

    A terminal shows a progress bar. The exit code is 1 when the rebuild fails, and 3 when another process is
    rebuilding the list (see --wait).
    """
    status, rebuilder = opened_list(name), opened_state().rebuilder
    while True:
        rebuild = Background(lambda: rebuilder.rebuild_now(name, enrich_all=enrich_all))
        rebuild.start()
        _show_progress(status, rebuild.is_running)
        if not isinstance(rebuild.error, RebuildBusyError):
            break
        if not wait:
            _fail(name, f"{rebuild.error} Use --wait to follow it.", BUSY, as_json)
        _follow(status)
        if not enrich_all:
            break  # the other rebuild counts as this one
    if rebuild.error is not None and not isinstance(rebuild.error, RebuildBusyError):
        reason = f"{type(rebuild.error).__name__}: {rebuild.error}"
        _fail(name, f"The rebuild of {name!r} failed: {reason}", FAILED, as_json)
    done = _published_outcome(status) if rebuild.result is None else _own_outcome(name, rebuild.result)
    if done is None:
        reason = "the log of the process that ran it says why."
        _fail(name, f"The rebuild of {name!r} failed; {reason}", FAILED, as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"{name}: {done['count']} items, {done['enriched']} enriched, {done['reused']} reused, "
        f"{done['failed']} failed, in {done['duration']:.2f} s"
    )


def _fail(name: str, error: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"name": name, "error": error}))
    leave(error, code)


def _own_outcome(name: str, outcome: Outcome) -> dict[str, Any]:
    facts = asdict(outcome)
    return {"name": name, **facts, "generation": f"{outcome.generation:x}", "duration": round(outcome.duration, 3)}


def _published_outcome(status: ListStatus) -> dict[str, Any] | None:
    """Return what another process did, read from its snapshot, or None when it failed."""
    snapshot = status.condition().snapshot
    if snapshot is None or status.report is None or status.report.phase != "finished":
        return None
    header = snapshot.header
    return {
        "name": status.name,
        "generation": snapshot.shown_generation,
        "count": snapshot.count,
        "reused": header["reused"],
        "enriched": header["enriched"],
        "failed": header["failed_items"],
        "dropped": header.get("dropped"),
        "duration": header["duration"],
    }


def _follow(status: ListStatus) -> None:
    """Show another process's rebuild until its lock is free."""

    def is_running() -> bool:
        time.sleep(POLL)
        status.reread()
        return status.store.is_locked(status.name)

    _show_progress(status, is_running)
    status.reread()


def _show_progress(status: ListStatus, is_running: Callable[[], bool]) -> None:
    def progress() -> tuple[str, int, int | None] | None:
        report = status.report if status.progress is None else status.progress.report
        if report is None or not report.running:
            return None
        # In the other phases the total is shown only once something is done.
        total = report.total if report.done or report.phase == "enrich" else None
        # Without a rate, the seconds show that something goes on: a source may return its items at its end only.
        words = pace(report.rate, report.eta) or [f"{max(0.0, time.time() - report.started):.0f} s"]
        return ", ".join([report.phase, *words]), report.done, total

    show_while(status.name, is_running, progress)


@click.command("watch")
@with_appcontext
def watch_command() -> None:
    """Rebuild lists when they are due, until SIGTERM or SIGINT. Use it with WARMCACHE_RUNNER=external."""
    state = opened_state()
    keeper, stopped = state.keeper, threading.Event()
    for status in state.statuses.values():
        status.staleness.serve()  # a snapshot that older code built is rebuilt
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def work() -> None:
        while not stopped.wait(WATCH_EVERY):
            keeper.rebuild_due()

    # The signal interrupts the rebuild that a daemon thread is running; the next rebuild resumes it.
    threading.Thread(target=work, name="warmcache-watch", daemon=True).start()
    while not stopped.wait(WATCH_EVERY):
        keeper.beat()
