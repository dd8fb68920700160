"""Run all of the doctor's checks, one after the other; one that fails does not hide the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..host.serving import folders_of_servers
from ..state import AppState
from ..status.condition import ListStatus
from ..store.files import FileStore
from . import environment, folder, imports, rebuilds
from .report import FAULT, INFO, WARNING, Report

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
    _try(report, "environment", environment.check_environment, os.environ, WARNING if running else FAULT)
    # Only after the check of the environment: gunicorn reads a variable when it is imported, and may fail.
    from . import server

    effective = None if running is None else _try(report, "gunicorn", server.check_server, running)
    settings = effective["settings"] if effective is not None else {}
    values = {name: setting["value"] for name, setting in settings.items()}
    store = _try(report, "folder", _store_of_server, state, running) or state.store
    if running is None or running.user == os.geteuid():
        _try(report, "folder", folder.check_folder, store)
    _try(report, "routes", _check_routes, state)
    problem = _try(report, "runner", rebuilds.check_child, state, effective)
    for status in state.statuses.values():
        if store is not state.store:
            status = ListStatus(status.declaration, store, status.ttl, status.problem, status.code_started)
        _try(report, "lists", rebuilds.check_list, status, state.settings, problem, values)
    _try(report, "imports", _check_imports, state, running, effective)
    if running is not None:
        from .processes import check_memory

        _try(report, "memory", check_memory, running, bool(values.get("preload_app")))
    return report


def _store_of_server(report: Report, state: AppState, running: Server | None) -> FileStore:
    """Return the store that the running server uses; report if it is not that of this environment."""
    own = os.path.realpath(state.store.folder)
    processes = [] if running is None else [running.pid, *running.workers]
    served = folders_of_servers(state.statuses, processes)
    if not served or own in served:
        return state.store
    there = next(iter(served))
    report.warning(
        "folder.not_the_servers",
        f"The server keeps its lists in {there}, and a command with this environment in {own}.",
        "Such a command changes lists that this server does not serve. The doctor examines the server's folder.",
        "Run commands with the server's environment, such as the same WARMCACHE_DIR.",
    )
    return FileStore(Path(there))


def _find_server(report: Report, pid: int | None) -> Server | None:
    try:
        from .processes import NoServer, find_server
    except ImportError:  # psutil is in an extra
        check, what = "server.no_psutil", "The running gunicorn cannot be found without psutil."
        do = "Install it: pip install 'flask-warmcache[doctor]'."
    else:
        try:
            return find_server(pid)
        except NoServer as error:
            check, what = "server.not_found", str(error)
        do = "Run the doctor where the server runs, with the server's account; name its master with --pid."
    level = INFO if pid is None else FAULT
    report.add(check, level, what, "Its settings and its memory are not checked.", do)
    return None


def _check_routes(report: Report, state: AppState) -> None:
    for path, answering, shadowed in state.shadowed_routes():
        report.warning(
            "routes.shadowed",
            f"{path} is answered by {answering!r}, and never by {shadowed!r}.",
            "Who asks for that path gets an answer of another kind: the poller, a probe, or a client of the app.",
            "Rename the app's route, or set WARMCACHE_API_PREFIX.",
        )


def _check_imports(
    report: Report, state: AppState, running: Server | None, effective: dict[str, Any] | None
) -> None:
    location = rebuilds.location_of(state, effective)
    environ = running.environ if running is not None and running.environ else os.environ
    seconds = imports.check_imports(report, state.app, location, environ)
    if seconds is None or effective is None or not effective["version"].startswith(BOOT_IS_TIMED):
        return
    timeout = effective["settings"]["timeout"]["value"]
    if timeout and seconds > timeout / 2:
        report.fault(
            "imports.timeout",
            f"Importing the app takes {seconds:.0f} s of the {timeout} s that this gunicorn allows a worker.",
            "On a busy machine the import takes longer; gunicorn then ends and restarts workers for ever.",
            "Use gunicorn 22 or newer, defer slow imports, or raise timeout.",
        )


def _try(report: Report, topic: str, check: Callable[..., T], *facts: Any) -> T | None:
    """Run one check; return its answer, or None when it fails, which is reported."""
    try:
        return check(report, *facts)
    except Exception as error:
        report.warning(
            f"{topic}.not_checked",
            f"The check of {topic} failed: {type(error).__name__}: {error}",
            "Problems that this check would find may be present.",
            "Please report this as a bug, with this line.",
        )
        return None
