"""The running gunicorn: its master, its workers, and how it was started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

# The beginning of a process's title after setproctitle has overwritten its command line and environment.
RENAMED = "gunicorn: "
MODULES = ("gunicorn", "gunicorn.app.wsgiapp")
ATTRIBUTES = ("cmdline", "cwd", "ppid")


class NoServer(Exception):
    """No gunicorn was found, or more than one; the message says which."""


@dataclass(frozen=True)
class Server:
    """One gunicorn master and its workers."""

    pid: int
    workers: list[int]
    folder: str  # its working folder
    user: int  # the effective account of its workers
    started: float  # wall clock
    arguments: list[str] | None  # of gunicorn; None when a title hides them
    environ: dict[str, str] = field(repr=False)


def find_server(pid: int | None) -> Server:
    """Return the gunicorn that this process belongs to, or else the one that runs in our working folder.

    :param pid: of a master or a worker.
    :raises NoServer: when there is none, or when there are several in our folder.
    """
    masters = _masters()
    try:
        if pid is not None:
            for candidate in (pid, psutil.Process(pid).ppid()):
                if candidate in masters:
                    return _server(masters[candidate])
            raise NoServer(f"Process {pid} is not a gunicorn, or this account may not examine it.")
        here = [master for master in masters.values() if master.info["cwd"] == os.getcwd()]
        if len(here) == 1:
            return _server(here[0])
    except psutil.NoSuchProcess as error:
        raise NoServer(f"Process {error.pid} does not exist.") from None
    if here:
        raise NoServer(f"Several gunicorns run in this folder: {_listed(here)}.")
    if masters:
        raise NoServer(f"No gunicorn runs in this folder; others: {_listed(masters.values())}.")
    raise NoServer("No gunicorn runs on this machine, or this account may not examine it.")


def _listed(masters: Iterable[psutil.Process]) -> str:
    return ", ".join(f"{master.pid} in {master.info['cwd']}" for master in masters)


def gunicorn_arguments(command: Sequence[str]) -> list[str] | None:
    """Return what follows gunicorn's name in a command line, or None when the command is not gunicorn's."""
    for at, word in enumerate(command[:8]):
        name = os.path.basename(word)
        if at and not os.path.basename(command[0]).startswith(("python", "pypy")):
            return None
        is_script = name == "gunicorn" and command[at - 1 : at] != ["-m"]
        is_module = at > 1 and command[at - 1] == "-m" and word in MODULES
        if is_script or is_module or word.endswith("/gunicorn/__main__.py"):
            return list(command[at + 1 :])
        if at and not word.startswith("-") and command[at - 1] not in ("-X", "-W"):
            return None  # another script or module
    return None


def _masters() -> dict[int, psutil.Process]:
    """Return the masters that this account may examine, by process id."""
    found = {}
    for process in psutil.process_iter(ATTRIBUTES):
        words = process.info["cmdline"] or []  # None when access is refused
        if gunicorn_arguments(words) is not None or " ".join(words).startswith(RENAMED):
            found[process.pid] = process
    return {
        pid: process for pid, process in found.items() if process.info["ppid"] not in found and process.info["cwd"]
    }


def _server(master: psutil.Process) -> Server:
    workers = sorted(master.children(), key=lambda worker: worker.pid)
    try:
        environ = master.environ()
    except psutil.AccessDenied:
        environ = {}
    return Server(
        master.pid,
        [worker.pid for worker in workers],
        master.info["cwd"],
        # The setting user= applies to the workers only.
        (workers[0] if workers else master).uids().effective,
        master.create_time(),
        gunicorn_arguments(master.info["cmdline"]),
        environ,
    )
