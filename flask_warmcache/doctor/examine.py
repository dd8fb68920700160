"""Run all of the doctor's checks, one after the other; one that fails does not hide the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..keeper.app_location import Location, NoLocation
from ..state import AppState
from . import environment, folder, imports, lists, runner
from .finding import FAULT, INFO, WARNING, Report

if TYPE_CHECKING:
    from .processes import Server

T = TypeVar("T")
BOOT_IS_TIMED = "21."  # the last major version of gunicorn that ends a worker whose import takes too long


def examine(state: AppState, pid: int | None) -> Report:
    """Run all checks.

    :param state: the app's, opened.
    :param pid: of gunicorn's master or of a worker; None for the gunicorn that runs in our working folder.
    """
    report = Report()
    running = _find_server(report, pid)
    _try(
        report,
        "environment",
        lambda: environment.check_environment(report, os.environ, WARNING if running else FAULT),
    )
    # Only after the check of the environment: gunicorn reads a variable when it is imported, and may fail.
    from . import server

    effective = None
    if running is not None:
        effective = _try(report, "gunicorn", lambda: server.check_server(report, running))
    values = None
    if effective is not None:
        values = {name: setting["value"] for name, setting in effective["settings"].items()}
    if running is None or running.user == os.geteuid():
        _try(report, "folder", lambda: folder.check_folder(report, state.store))
    problem = _try(report, "runner", lambda: runner.check_child(report, state, effective))
    for status in state.statuses.values():
        _try(report, "lists", lambda of=status: lists.check_list(report, of, state.settings, problem, values))  # type: ignore[misc]
    _try(report, "imports", lambda: _check_imports(report, state, running, effective))
    if running is not None:
        from . import memory

        preload = bool(values and values["preload_app"])
        _try(report, "memory", lambda: memory.check_memory(report, running, preload))
    return report


def _find_server(report: Report, pid: int | None) -> Server | None:
    level = INFO if pid is None else FAULT
    why = "Its settings and its memory are not checked."
    try:
        from .processes import NoServer, find_server
    except ImportError:  # psutil is in an extra
        report.add(
            "server.no_psutil",
            level,
            "The running gunicorn cannot be found without psutil.",
            why,
            "Install it: pip install 'flask-warmcache[doctor]'.",
        )
        return None
    try:
        return find_server(pid)
    except NoServer as error:
        report.add(
            "server.not_found",
            level,
            str(error),
            why,
            "Run the doctor where the server runs, with the server's account; name its master with --pid.",
        )
        return None


def _check_imports(
    report: Report, state: AppState, running: Server | None, effective: dict[str, Any] | None
) -> None:
    location: Location | None
    try:
        location = runner.location_of(state.app, state.settings.app, effective)
    except NoLocation:
        location = None
    environ = running.environ if running is not None and running.environ else dict(os.environ)
    seconds = imports.check_imports(report, state.app, location, environ)
    if seconds is None or effective is None or not effective["version"].startswith(BOOT_IS_TIMED):
        return
    timeout = effective["settings"]["timeout"]["value"]
    if timeout and seconds > timeout / 2:
        report.add(
            "imports.timeout",
            FAULT,
            f"Importing the app takes {seconds:.0f} s of the {timeout} s that this gunicorn allows a worker.",
            "On a busy machine the import takes longer; gunicorn then ends and restarts workers for ever.",
            "Use gunicorn 22 or newer, defer slow imports, or raise timeout.",
        )


def _try(report: Report, topic: str, check: Callable[[], T]) -> T | None:
    try:
        return check()
    except Exception as error:
        report.add(
            f"{topic}.not_checked",
            WARNING,
            f"The check of {topic} failed: {type(error).__name__}: {error}",
            "Problems that this check would find may be present.",
            "Please report this as a bug, with this line.",
        )
        return None
