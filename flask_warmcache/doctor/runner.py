"""Where rebuilds run, and whether a child process finds the app, which is tested by starting one."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask

from ..errors import ChildError
from ..host import resources
from ..keeper.app_location import Location, NoLocation, locate
from ..keeper.children import Children
from ..state import AppState
from .finding import INFO, OK, WARNING, Report

LONGEST_IMPORT = 120.0
POLL = 0.02
NO_MEMORY = "no memory for a second copy of the app"


def location_of(app: Flask, setting: str | None, effective: dict[str, Any] | None) -> Location:
    """Return how a child of the server would import the app.

    :param effective: what is known of the server.
    :raises NoLocation: when that is unknown.
    """
    if setting is None and effective is not None and effective["app"]:
        return Location(effective["app"], effective["folder"])
    return locate(app, setting)


def check_child(report: Report, state: AppState, effective: dict[str, Any] | None) -> str | None:
    """Report where rebuilds run; return why no child process can run one, if there is a reason."""
    mode = state.settings.runner
    facts = report.facts["runner"] = {"mode": mode, "child": None, "import_seconds": None}
    if mode == "thread":
        report.add("runner.mode", OK, "Rebuilds run in a thread of a worker.")
        return None
    if mode == "external":
        report.add(
            "runner.mode",
            INFO,
            "Rebuilds run outside of the server: workers only read.",
            "Lists become old when nothing rebuilds them.",
            "Make sure that flask warmcache watch is running, or a cron job.",
        )
        return None
    if not state.statuses:
        return None
    try:
        location = location_of(state.app, state.settings.app, effective)
    except NoLocation as error:
        _add_problem(report, str(error), INFO if effective is None else WARNING)
        return None if effective is None else str(error)
    began = time.monotonic()
    problem = _try_child(state, location)
    seconds = time.monotonic() - began
    if problem is None:
        facts |= {"child": "available", "import_seconds": round(seconds, 2)}
        report.add("runner.child", OK, f"A child process imports the app in {seconds:.1f} s (runner {mode}).")
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
    free = resources.free()
    if free is not None and free < resources.resident():
        return NO_MEMORY
    children = Children(lambda: location, state.settings, state.store.folder, 0)
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
