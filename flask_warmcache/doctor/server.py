"""Which gunicorn settings are in force in the running server, where each came from, and which have no effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..host.gunicorn_settings import DROPS_CONNECTIONS, PREFIX, SHOWN, TMPFS
from ..host.gunicorn_sources import CMD_ARGS, COMMAND_LINE, FILE
from ..keeper.children import SAFE, child_environment
from .folder import kind_of
from .report import Report

if TYPE_CHECKING:
    from .processes import Server

READING = 30.0  # seconds
ROUNDING = 2.0  # seconds; the start of a process is known to about one second
SHORTEST, LONGEST = 10, 120  # of timeout, in seconds
OUR_CONF = "python:flask_warmcache.gunicorn_conf"


def check_server(report: Report, server: Server) -> dict[str, Any] | None:
    """Report what is in force; return what ``effective`` prints, or None when the settings cannot be read."""
    report.facts["server"] = {"pid": server.pid, "workers": server.workers, "folder": server.folder}
    if server.user != os.geteuid():
        report.warning(
            "server.other_account",
            f"The workers run as account {server.user}, and the doctor as {os.geteuid()}.",
            "The doctor does not check the cache folder, because it would make the folder its own.",
            "Run the doctor as the workers' account.",
        )
    effective = _read(report, server)
    if effective is None:
        return None
    settings = effective["settings"]
    report.facts["server"] |= {
        "gunicorn": effective["version"],
        "app": effective["app"],
        "configuration": effective["conf"],
        "settings": {name: settings[name] for name in SHOWN if name in settings},
    }
    shown = ("timeout", "worker_class", "workers", "threads", "max_requests")
    force = ", ".join(f"{name} {settings[name]['value']} ({settings[name]['source']})" for name in shown)
    report.ok("gunicorn.in_force", f"gunicorn {effective['version']}, process {server.pid}: {force}.")
    _check_ignored(report, effective)
    _check_conf(report, server, effective)
    _check_values(report, {name: setting["value"] for name, setting in settings.items()})
    return effective


def _read(report: Report, server: Server) -> dict[str, Any] | None:
    """Read the configuration again, as the server did."""
    if server.arguments is None:
        report.warning(
            "gunicorn.unreadable",
            f"Process {server.pid} shows a title in place of its command line and environment (setproctitle).",
            "Its settings cannot be read from outside.",
            f"Start gunicorn with -c {OUR_CONF}, which logs the settings in force at the start. Or uninstall "
            "setproctitle, restart the server, and run the doctor again.",
        )
        return None
    folder = server.folder
    if any(word.startswith("--chdir") for word in server.arguments):
        started_in = server.environ.get("PWD", "")
        folder = started_in if os.path.isdir(started_in) else folder
    environ = child_environment(server.environ)
    try:
        ran = subprocess.run(
            [sys.executable, SAFE, "-m", "flask_warmcache.doctor.effective", *server.arguments],
            cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=READING,
            errors="backslashreplace",
        )  # fmt: skip
        effective: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return effective
    except (subprocess.TimeoutExpired, OSError) as error:
        problem = str(error)
    except (IndexError, ValueError):
        problem = (ran.stderr.strip().splitlines() or ["gunicorn prints nothing"])[-1]
    report.fault(
        "gunicorn.unreadable",
        f"The configuration of process {server.pid} cannot be read again: {problem}",
        "The server would not start with it.",
        "Correct it, and test it with gunicorn --check-config.",
    )
    return None


def _check_ignored(report: Report, effective: dict[str, Any]) -> None:
    for overruled in effective["overruled"]:
        variable, setting, source = overruled["variable"], overruled["setting"], overruled["source"]
        is_read = effective["hooks"] != "none" or not variable.startswith(PREFIX)
        why = "Somebody set the variable and expects it to have an effect."
        start = f"start gunicorn with -c {OUR_CONF}, or end your file with compose(globals()): both read it"
        if is_read:
            do = f"Remove {setting} from the {source}, or the variable from the environment."
        elif source in (COMMAND_LINE, CMD_ARGS, FILE):
            do = f"Remove the variable from the environment. Or remove {setting} from the {source}, and {start}."
        else:
            do = f"{start[0].upper()}{start[1:]}. Or set {setting} where gunicorn looks: in GUNICORN_CMD_ARGS."
        if not is_read:
            why += " gunicorn itself reads no variable of that name."
        report.warning("gunicorn.variable_ignored", f"{overruled['message']}.", why, do)
    for variable, intended in effective["misspelt"]:
        report.warning(
            "gunicorn.variable_unknown",
            f"{variable} is not a setting of gunicorn; {intended} is.",
            "Somebody set the variable and expects it to have an effect.",
            "Rename it, or remove it from the environment.",
        )


def _check_conf(report: Report, server: Server, effective: dict[str, Any]) -> None:
    if effective["hooks"] == "lost":
        report.warning(
            "gunicorn.hook_lost",
            "Another post_worker_init has replaced ours.",
            "Lists begin to warm up at a worker's first request, and not when the worker starts.",
            "Put compose(globals()) on the last line of the configuration file.",
        )
    elif effective["hooks"] == "none":
        report.info(
            "gunicorn.own_configuration",
            "gunicorn runs without our configuration.",
            "Lists begin to warm up at a worker's first request, and not when the worker starts.",
            f"Start it with -c {OUR_CONF}, or end your file with compose(globals()).",
        )
    conf = effective["conf"]
    if conf and not conf.startswith("python:"):
        path = Path(effective["folder"], conf.removeprefix("file:"))
        if path.exists() and path.stat().st_mtime > server.started + ROUNDING:
            report.warning(
                "gunicorn.file_changed",
                f"{conf} was changed after the server started.",
                "The settings shown here apply after the next start or reload; other settings may apply now.",
                "Reload the server: send HUP to its master.",
            )


def _check_values(report: Report, values: dict[str, Any]) -> None:
    timeout = values["timeout"]
    if timeout == 0 or timeout > LONGEST:
        report.warning(
            "gunicorn.timeout_long",
            f"timeout is {timeout}{'' if timeout else ', which disables it'}.",
            "A worker that hangs counts as alive for that long, and its requests wait.",
            "Set 30 to 60, and move slow work out of requests: into a warm list or a one-time task.",
        )
    elif timeout < SHORTEST:
        report.warning(
            "gunicorn.timeout_short",
            f"timeout is {timeout}.",
            "On a busy machine, or during one long call into C, gunicorn kills a healthy worker.",
            "Set 30 to 60.",
        )
    if values["max_requests"] and values["workers"] > 1 and not values["max_requests_jitter"]:
        report.warning(
            "gunicorn.no_jitter",
            f"max_requests is {values['max_requests']} without max_requests_jitter.",
            "All workers end at nearly the same time, and no worker is left to answer.",
            f"Set max_requests_jitter to about {values['max_requests'] // 4}.",
        )
    if values["max_requests"] and values["worker_class"] == "gthread" and DROPS_CONNECTIONS:
        report.warning(
            "gunicorn.drops_connections",
            "gunicorn before 24 drops about one connection each time a gthread worker ends (measured).",
            f"With max_requests {values['max_requests']} clients meet this regularly.",
            "Use gunicorn 24 or newer, or max_requests 0.",
        )
    folder = values["worker_tmp_dir"] or "/tmp"
    kind = kind_of(folder)
    if kind not in TMPFS and kind is not None:
        report.info(
            "gunicorn.heartbeat_on_disk",
            f"Heartbeat files are on {kind} ({folder}).",
            "On a slow or full disk a worker waits for each heartbeat, and is killed as if it hung.",
            "Set worker_tmp_dir to /dev/shm, if that is in memory.",
        )
