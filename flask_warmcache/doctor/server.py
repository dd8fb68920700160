"""Which gunicorn settings are in force in the running server, where each came from, and which say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..host.gunicorn_settings import DROPS_CONNECTIONS, PREFIX, SHOWN, TMPFS
from ..host.gunicorn_sources import CMD_ARGS, COMMAND_LINE, FILE
from ..keeper.children import PACKAGE_FOLDER
from . import control, mounts
from .finding import FAULT, INFO, OK, WARNING, Report
from .processes import Server

READING = 30.0
ROUNDING = 2.0  # seconds; when a process started is known to about one
SHORTEST, LONGEST = 10, 120  # of timeout, in seconds
OUR_CONF = "python:flask_warmcache.gunicorn_conf"


def check_server(report: Report, server: Server) -> dict[str, Any] | None:
    """Note what is in force; returns it as ``effective`` prints it, or None when it cannot be read."""
    report.facts["server"] = {"pid": server.pid, "workers": server.workers, "folder": server.folder}
    if server.user != os.geteuid():
        report.add(
            "server.other_account",
            WARNING,
            f"The workers run as account {server.user}, the doctor as {os.geteuid()}.",
            "So it does not look at the cache folder, which it might make its own.",
            "Run the doctor as the workers' account.",
        )
    told = _told_by_title(report, server) if server.arguments is None else _told(report, server, server.arguments)
    if told is None:
        return None
    settings = told["settings"]
    report.facts["server"] |= {
        "gunicorn": told["version"],
        "app": told["app"],
        "configuration": told["conf"],
        "settings": {name: settings[name] for name in SHOWN if name in settings},
    }
    shown = ("timeout", "worker_class", "workers", "threads", "max_requests")
    force = ", ".join(f"{name} {settings[name]['value']} ({settings[name]['source']})" for name in shown)
    report.add("gunicorn.in_force", OK, f"gunicorn {told['version']}, process {server.pid}: {force}.")
    _check_ignored(report, told)
    _check_conf(report, server, told)
    _check_values(report, {name: setting["value"] for name, setting in settings.items()})
    return told


def _told(report: Report, server: Server, arguments: list[str]) -> dict[str, Any] | None:
    told, problem = _read(server, arguments)
    if told is None:
        report.add(
            "gunicorn.unreadable",
            FAULT,
            f"The configuration of process {server.pid} cannot be read again: {problem}",
            "The server would not start with it.",
            "Mend it, and try with gunicorn --check-config.",
        )
    return told


def _told_by_title(report: Report, server: Server) -> dict[str, Any] | None:
    """Of a server that setproctitle has renamed, which destroys its command line and its environment."""
    what = f"Process {server.pid} shows a title in place of its command line and environment (setproctitle)."
    told = control.ask(server)
    if told is not None:
        report.add(
            "gunicorn.title",
            INFO,
            what,
            "What is in force is known from its control socket, but not where each value came from.",
            f"With -c {OUR_CONF} the first lines of its log say that, too.",
        )
    else:
        report.add(
            "gunicorn.unreadable",
            WARNING,
            what,
            "Its settings cannot be told from outside, and no control socket of gunicorn's answers for it.",
            f"Start gunicorn with -c {OUR_CONF}, whose first lines in the log say what is in force; or uninstall "
            "setproctitle, or use gunicorn 25.1 or newer with its control socket, and run the doctor again.",
        )
    return told


def _read(server: Server, arguments: list[str]) -> tuple[dict[str, Any] | None, str]:
    folder = server.folder
    if any(word.startswith("--chdir") for word in arguments) and os.path.isdir(server.environ.get("PWD", "")):
        folder = server.environ["PWD"]  # where it was started, before it went elsewhere
    environ = {**server.environ}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), PACKAGE_FOLDER]))
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "flask_warmcache.doctor.effective", *arguments],
            cwd=folder, env=environ, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=READING,
        )  # fmt: skip
        return json.loads(ran.stdout.splitlines()[-1]), ""
    except (subprocess.TimeoutExpired, OSError) as error:
        return None, str(error)
    except (IndexError, ValueError):
        return None, (ran.stderr.strip().splitlines() or ["it says nothing"])[-1]


def _check_ignored(report: Report, told: dict[str, Any]) -> None:
    for vain in told["overruled"]:
        variable, setting, source = vain["variable"], vain["setting"], vain["source"]
        is_read = told["hooks"] not in ("none", "unknown") or not variable.startswith(PREFIX)
        why = "Whoever set the variable believes that it counts."
        start = f"start gunicorn with -c {OUR_CONF}, or end your file with compose(globals()): both read it"
        if is_read:
            do = f"Take {setting} out of the {source}, or the variable out of the environment."
        elif source in (COMMAND_LINE, CMD_ARGS, FILE):
            do = f"Take the variable out of the environment. Or take {setting} out of the {source}, and {start}."
        else:
            do = f"{start[0].upper()}{start[1:]}. Or set {setting} where gunicorn looks: in GUNICORN_CMD_ARGS."
        if not is_read:
            why += " gunicorn itself reads no variable of that name."
        report.add("gunicorn.variable_ignored", WARNING, f"{vain['said']}.", why, do)
    for variable, meant in told["misspelt"]:
        report.add(
            "gunicorn.variable_unknown",
            WARNING,
            f"{variable} is no setting of gunicorn's; {meant} is.",
            "Whoever set the variable believes that it counts.",
            "Rename it, or take it out of the environment.",
        )


def _check_conf(report: Report, server: Server, told: dict[str, Any]) -> None:
    if told["hooks"] == "lost":
        report.add(
            "gunicorn.hook_lost",
            WARNING,
            "Another post_worker_init has taken the place of ours.",
            "Lists begin to warm up at a worker's first request, and not with the worker.",
            "Put compose(globals()) on the last line of the configuration file.",
        )
    elif told["hooks"] == "none":
        report.add(
            "gunicorn.own_configuration",
            INFO,
            "gunicorn runs without our configuration.",
            "Lists begin to warm up at a worker's first request, and not with the worker.",
            f"Start it with -c {OUR_CONF}, or end your file with compose(globals()).",
        )
    conf = told["conf"]
    if conf and not conf.startswith("python:"):
        path = Path(told["folder"], conf.removeprefix("file:"))
        try:
            is_newer = path.stat().st_mtime > server.started + ROUNDING
        except OSError:
            is_newer = False
        if is_newer:
            report.add(
                "gunicorn.file_changed",
                WARNING,
                f"{conf} was changed after the server started.",
                "What is shown here is in force after the next start or reload; now it may be something else.",
                "Reload the server: send HUP to its master.",
            )


def _check_values(report: Report, values: dict[str, Any]) -> None:
    timeout = values["timeout"]
    if timeout == 0 or timeout > LONGEST:
        report.add(
            "gunicorn.timeout_long",
            WARNING,
            f"timeout is {timeout}{'' if timeout else ', which switches it off'}.",
            "A worker that hangs counts as alive for so long, and its requests wait.",
            "Set 30 to 60, and take what is slow out of the request: a warm list, a one-time task.",
        )
    elif timeout < SHORTEST:
        report.add(
            "gunicorn.timeout_short",
            WARNING,
            f"timeout is {timeout}.",
            "A busy machine or one long call into C is enough for a healthy worker to be killed.",
            "Set 30 to 60.",
        )
    if values["max_requests"] and values["workers"] > 1 and not values["max_requests_jitter"]:
        report.add(
            "gunicorn.no_jitter",
            WARNING,
            f"max_requests is {values['max_requests']} without max_requests_jitter.",
            "All workers end at nearly the same moment, and nobody answers.",
            f"Set max_requests_jitter to about {values['max_requests'] // 4}.",
        )
    if values["max_requests"] and values["worker_class"] == "gthread" and DROPS_CONNECTIONS:
        report.add(
            "gunicorn.drops_connections",
            WARNING,
            "gunicorn before 24 loses about one connection each time that a gthread worker ends (measured).",
            f"With max_requests {values['max_requests']} clients meet that again and again.",
            "Use gunicorn 24 or newer, or max_requests 0.",
        )
    if "worker_tmp_dir" not in values:
        return
    folder = values["worker_tmp_dir"] or "/tmp"
    kind = mounts.kind_of(folder)
    if kind not in TMPFS and kind is not None:
        report.add(
            "gunicorn.heartbeat_on_disk",
            INFO,
            f"Heartbeat files lie on {kind} ({folder}).",
            "On a slow or full disk a worker waits for each beat, and is killed as if it hung.",
            "Set worker_tmp_dir to /dev/shm, if that is in memory.",
        )
