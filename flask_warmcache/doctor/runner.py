"""Where rebuilds run, and whether a child process finds the app: by starting one."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask

from ..errors import ChildError
from ..host import resources
from ..keeper.children import Children
from ..keeper.location import Location, NoLocation, locate
from ..state import AppState
from .finding import INFO, OK, WARNING, Report

LONGEST_IMPORT = 120.0
POLL = 0.02
NO_MEMORY = "no memory for a second copy of the app"


def location_of(app: Flask, setting: str | None, told: dict[str, Any] | None) -> Location:
    """How a child of the server would import the app.

    :param told: what is known of the server.
    :raises NoLocation: when that cannot be said.
    """
    if setting is None and told is not None and told["app"]:
        return Location(told["app"], told["folder"])
    return locate(app, setting)


def check_child(report: Report, state: AppState, told: dict[str, Any] | None) -> str | None:
    """Note where rebuilds run; returns why no child can do it, if so."""
    mode = state.settings.runner
    facts = report.facts["runner"] = {"mode": mode, "child": None, "import_seconds": None}
    if mode in ("thread", "external"):
        report.add(
            "runner.mode",
            OK if mode == "thread" else INFO,
            f"Rebuilds run {'in a thread of a worker' if mode == 'thread' else 'elsewhere: workers only read'}.",
            "" if mode == "thread" else "Without it the lists grow old.",
            "" if mode == "thread" else "See that flask warmcache watch runs, or cron.",
        )
        return None
    if not state.statuses:
        return None
    try:
        location = location_of(state.app, state.settings.app, told)
    except NoLocation as error:
        _add_problem(report, str(error), WARNING if told is not None else INFO)
        return None if told is None else str(error)
    began = time.monotonic()
    problem = _try(state, location)
    took = time.monotonic() - began
    if problem is None:
        facts |= {"child": "available", "import_seconds": round(took, 2)}
        report.add("runner.child", OK, f"A child process finds the app, within {took:.1f} s (runner {mode}).")
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
        else "Under gunicorn its app name tells: name the running server with --pid. Or set WARMCACHE_APP.",
    )


def _try(state: AppState, location: Location) -> str | None:
    """Start a child, let it import the app, and end it; returns what went wrong."""
    free = resources.free()
    if free is not None and free < resources.resident():
        return NO_MEMORY
    children = Children(lambda: location, state.settings, state.store.folder, 0)
    status = next(iter(state.statuses.values()))
    try:
        # Without a lock, and waiting for a "go" that never comes: it imports the app, answers, and is ended.
        child = children.start(status.declaration, {}, {}, wanted=False, wait=True)
    except (ChildError, OSError) as error:
        return str(error)
    try:
        end = time.monotonic() + LONGEST_IMPORT
        while (answer := child.heard()) is None:
            if time.monotonic() > end:
                return f"it has not imported the app within {LONGEST_IMPORT:.0f} s"
            time.sleep(POLL)
    finally:
        child.kill()
        while not child.is_over():
            time.sleep(POLL)
        children.forget()
    return None if answer == "ready" else answer.removeprefix("refused: ")
