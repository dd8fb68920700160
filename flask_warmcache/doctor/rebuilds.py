"""Where rebuilds run, whether a child process finds the app, and whether each list's rebuilds fit the server."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from ..errors import ChildError
from ..keeper.children import NO_MEMORY, Children, Location, locate
from ..keeper.hand_over import COMPUTING, LONG
from ..settings import Settings
from ..state import AppState
from ..status.condition import ListStatus
from ..store.locks import holder_of
from .report import FAULT, INFO, WARNING, Report

LONGEST_IMPORT = 120.0
POLL = 0.02
BUSY_WORKER = 100.0  # requests per second that one worker may reach


def location_of(state: AppState, effective: dict[str, Any] | None) -> Location | str:
    """Return how a child of the server would import the app, or why that is unknown."""
    if state.settings.app is None and effective is not None and effective["app"]:
        return Location(effective["app"], effective["folder"])
    return locate(state.app, state.settings.app)


def check_child(report: Report, state: AppState, effective: dict[str, Any] | None) -> str | None:
    """Report where rebuilds run; return why no child process can run one, if there is a reason."""
    mode = state.settings.runner
    facts = report.facts["runner"] = {"mode": mode, "child": None, "import_seconds": None}
    if mode == "thread":
        report.ok("runner.mode", "Rebuilds run in a thread of a worker.")
        return None
    if mode == "external":
        report.info(
            "runner.mode",
            "Rebuilds run outside of the server: workers only read.",
            "Lists become old when nothing rebuilds them.",
            "Make sure that flask warmcache watch is running, or a cron job.",
        )
        return None
    if not state.statuses:
        return None
    location = location_of(state, effective)
    if isinstance(location, str):
        _add_problem(report, location, INFO if effective is None else WARNING)
        return None if effective is None else location
    began = time.monotonic()
    problem = _try_child(state, location)
    seconds = time.monotonic() - began
    if problem is None:
        facts |= {"child": "available", "import_seconds": round(seconds, 2)}
        report.ok("runner.child", f"A child process imports the app in {seconds:.1f} s (runner {mode}).")
    else:
        _add_problem(report, problem, WARNING)
    return problem


def _add_problem(report: Report, problem: str, level: str) -> None:
    report.facts["runner"]["child"] = f"unavailable: {problem}"
    report.add(
        "runner.no_child",
        level,
        f"No child process can rebuild: {problem}.",
        "A rebuild that computes stays in a thread of a worker, and slows its requests down.",
        "Run fewer workers, give the app more memory, or set WARMCACHE_RUNNER=thread."
        if problem == NO_MEMORY
        else "Set WARMCACHE_APP to how the app is imported, as 'module:app' or \"module:create_app('x')\"."
        if level == WARNING
        else "Name the running gunicorn with --pid: this tells how to import the app. Or set WARMCACHE_APP.",
    )


def _try_child(state: AppState, location: Location) -> str | None:
    """Start a child, wait until it has imported the app, and end it; return what went wrong."""
    children = Children(lambda: location, state.settings, state.store.folder, 0)
    if (problem := children.problem()) is not None:
        return problem
    status = next(iter(state.statuses.values()))
    try:
        # The child gets no lock and waits for a "go" that never comes: it imports the app, answers, and is killed.
        child = children.start(status.declaration, {}, {}, only_if_due=True, wait=True)
    except (ChildError, OSError) as error:
        return str(error)
    try:
        end = time.monotonic() + LONGEST_IMPORT
        while (answer := child.answer()) is None:
            if time.monotonic() > end:
                return f"it has not imported the app within {LONGEST_IMPORT:.0f} s"
            time.sleep(POLL)
    finally:
        child.kill()
        while not child.has_ended():
            time.sleep(POLL)
        children.abandon()
    return None if answer == "ready" else answer.removeprefix("refused: ")


def check_list(
    report: Report,
    status: ListStatus,
    settings: Settings,
    child_problem: str | None,
    server: Mapping[str, Any],
) -> None:
    """Report whether the last rebuild of one list fits.

    :param child_problem: why no child process can rebuild it, if there is a reason.
    :param server: the settings in force in the running server by name; empty if there is none.
    """
    status.reread()
    condition, name = status.condition(), status.name
    snapshot = condition.snapshot
    ttl = None if status.ttl == math.inf else status.ttl  # JSON has no infinity
    facts = report.facts.setdefault("lists", {})[name] = {"state": condition.state, "ttl": ttl}
    if condition.state == "failed":
        error = status.problem or (status.report.error if status.report is not None else None)
        report.fault(
            "lists.failed",
            f"{name} cannot be rebuilt: {error}.",
            "Its pages show old items." if snapshot is not None else "Its pages show nothing.",
            f"Look for warmcache.rebuild_failed in the log, and try flask warmcache rebuild {name}.",
        )
    if status.is_silent() and status.store.is_locked(name):
        report.fault(
            "lists.lock_held",
            f"The lock of {name} is held by {holder_of(status.store.lock_path(name))}, which reports no rebuild.",
            "As long as that process holds it, the list is not rebuilt.",
            "End that process. It may be a stopped builder, or one that a dead builder had started.",
        )
    if snapshot is None or not snapshot.complete:
        if condition.state != "failed":
            report.info(
                "lists.cold",
                f"{name} has not been built yet, so nothing is known about its rebuilds.",
                "Whether ttl and runner fit depends on how long a build takes, and how much of that it computes.",
                f"Run the doctor again after the server or flask warmcache rebuild {name} has built it.",
            )
        return
    duration, share = snapshot.header["duration"], snapshot.header.get("cpu_share") or 0.0
    facts |= {"duration": duration, "cpu_share": share}
    if condition.state != "failed":
        report.ok(
            "lists.built",
            f"{name}: {condition.state}, built in {duration:.1f} s, {share:.0%} of it computing.",
        )
    for what, (count, key, message) in snapshot.view_faults.items():
        report.warning(
            "lists.view_failed",
            f"{name}: {what} on {count} of {snapshot.count} items"
            + ("." if key is None else f", first on {key}: {message}."),
            "These items are missing in the filter, or come last in the sort.",
            "Make the function accept every item as JSON gives it back.",
        )
    in_thread = settings.runner == "thread" or (
        settings.runner in ("auto", "process") and child_problem is not None
    )
    if in_thread and duration > LONG and share > COMPUTING:
        report.warning(
            "lists.computes_beside_requests",
            f"Rebuilding {name} computes for {duration * share:.1f} s in a thread of a worker.",
            "The worker's requests have to share the interpreter with the rebuild.",
            "Set WARMCACHE_RUNNER=auto." if settings.runner == "thread" else "See runner.no_child.",
        )
    if duration >= status.ttl / 2:
        report.add(
            "lists.ttl",
            FAULT if duration >= status.ttl else WARNING,
            f"{name} is stale after {status.ttl:.0f} s, and takes {duration:.0f} s to build.",
            "It is rebuilt nearly all the time, and hardly ever fresh.",
            f"Set ttl= to at least {max(1, round(duration * 5))}, or make the builder faster: with key= and "
            "enrich unchanged items are reused.",
        )
    if duration > settings.build_timeout / 2:
        report.warning(
            "lists.build_timeout",
            f"{name} takes {duration:.0f} s of the {settings.build_timeout:.0f} s that a rebuild may take.",
            "When the list grows, its rebuilds are ended before they finish.",
            "Raise WARMCACHE_BUILD_TIMEOUT.",
        )
    max_requests = server.get("max_requests", 0)
    if in_thread and max_requests and duration > LONG and max_requests / duration < BUSY_WORKER:
        report.warning(
            "lists.max_requests",
            f"max_requests is {max_requests}, and {name} takes {duration:.0f} s to build: a worker with more than "
            f"{max_requests / duration:.0f} requests per second ends before that.",
            "The next worker resumes the rebuild, but the list is late, and a builder starts from scratch.",
            "Raise max_requests, or let rebuilds run in a child: see runner.no_child.",
        )
