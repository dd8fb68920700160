"""All of the doctor's checks, one after the other; one that fails does not hide the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from ..keeper.location import Location, NoLocation
from ..state import AppState
from . import environment, folder, imports, lists, memory, pools
from . import runner as child
from .finding import FAULT, INFO, WARNING, Report
from .processes import NoServer, Server, find_server

T = TypeVar("T")
BOOT_IS_TIMED = "21."  # gunicorn's last major version that ends a worker for importing too long


def examine(state: AppState, pid: int | None) -> Report:
    """Run all checks."""
    report = Report()
    running = _find(report, pid)
    _try(
        report,
        "environment",
        lambda: environment.check_environment(report, os.environ, WARNING if running else FAULT),
    )
    from . import server  # only now: gunicorn reads a variable when it is imported, and may fail

    told = None
    if running is not None:
        told = _try(report, "gunicorn", lambda: server.check_server(report, running))
    values = None if told is None else {name: one["value"] for name, one in told["settings"].items()}
    if running is None or running.user == os.geteuid():
        _try(report, "folder", lambda: folder.check_folder(report, state.store))
    problem = _try(report, "runner", lambda: child.check_child(report, state, told))
    for status in state.statuses.values():
        _try(report, "lists", lambda one=status: lists.check_list(report, one, state.settings, problem, values))  # type: ignore[misc]
    _try(report, "imports", lambda: _check_imports(report, state, running, told))
    if running is not None:
        _try(
            report, "memory", lambda: memory.check_memory(report, running, bool(values and values["preload_app"]))
        )
    workers, threads = (values["workers"], values["threads"]) if values is not None else (1, 1)
    _try(report, "pools", lambda: pools.check_pools(report, workers, threads))
    return report


def _find(report: Report, pid: int | None) -> Server | None:
    try:
        return find_server(pid)
    except NoServer as error:
        report.add(
            "server.not_found",
            INFO if pid is None else FAULT,
            str(error),
            "Its settings and memory are not looked at.",
            "Run the doctor where the server runs, as its account; name its master with --pid.",
        )
        return None


def _check_imports(report: Report, state: AppState, running: Server | None, told: dict[str, Any] | None) -> None:
    location: Location | None
    try:
        location = child.location_of(state.app, state.settings.app, told)
    except NoLocation:
        location = None
    environ = running.environ if running is not None and running.environ else dict(os.environ)
    took = imports.check_imports(report, state.app, location, environ)
    if took is None or told is None or not told["version"].startswith(BOOT_IS_TIMED):
        return
    timeout = told["settings"]["timeout"]["value"]
    if timeout and took > timeout / 2:
        report.add(
            "imports.timeout",
            FAULT,
            f"Importing the app takes {took:.0f} s of the {timeout} that this gunicorn gives a worker.",
            "On a busy machine it takes longer; then workers are ended and started again for ever.",
            "Use gunicorn 22 or newer, defer what is slow, or raise timeout.",
        )


def _try(report: Report, topic: str, check: Callable[[], T]) -> T | None:
    try:
        return check()
    except Exception as error:
        report.add(
            f"{topic}.not_checked",
            WARNING,
            f"The check of {topic} failed: {type(error).__name__}: {error}",
            "What it would have found is not known.",
            "Please report it, with this line.",
        )
        return None
