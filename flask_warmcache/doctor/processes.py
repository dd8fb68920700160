"""The running gunicorn: its master, its workers, and how it was started, as /proc tells."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
# What a process's title looks like once setproctitle has written over its command line and environment.
RENAMED = "gunicorn: "
MODULES = ("gunicorn", "gunicorn.app.wsgiapp")


class NoServer(Exception):
    """There is no gunicorn to look at, or more than one; the message says so."""


@dataclass(frozen=True)
class Server:
    """One gunicorn master and its workers."""

    pid: int
    workers: list[int]
    folder: str  # its working folder
    user: int  # of its workers
    started: float  # wall clock
    arguments: list[str] | None  # of gunicorn; None when its title hides them
    environ: dict[str, str] = field(repr=False)


def find_server(pid: int | None) -> Server:
    """The gunicorn of that process, a master or one of its workers; else the one that runs in our folder.

    :raises NoServer: when there is none, or which one is meant cannot be said.
    """
    if not PROC.is_dir():
        raise NoServer("This system has no /proc, which tells of running processes.")
    masters = dict(_masters())
    if pid is not None:
        for one in (pid, _parent(pid)):
            if one in masters:
                return _server(one, masters[one])
        raise NoServer(f"Process {pid} is no gunicorn, or one that this account may not look at.")
    here = os.getcwd()
    found = [one for one in masters if _link(one, "cwd") == here]
    if len(found) == 1:
        return _server(found[0], masters[found[0]])
    if found:
        raise NoServer(f"Several gunicorns run in this folder: {_listed(found)}.")
    if masters:
        raise NoServer(f"No gunicorn runs in this folder; elsewhere: {_listed(masters)}.")
    raise NoServer("No gunicorn runs on this machine, or none that this account may look at.")


def _listed(pids: Iterable[int]) -> str:
    return ", ".join(f"{pid} in {_link(pid, 'cwd')}" for pid in pids)


def gunicorn_arguments(command: Sequence[str]) -> list[str] | None:
    """What stands behind gunicorn's name in a command line, or None when it is not gunicorn's."""
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


def _masters() -> Iterator[tuple[int, list[str] | None]]:
    """The masters that this account may look at, with their arguments."""
    known = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            words = _words(int(folder.name), "cmdline")
            title = " ".join(words)
            arguments = gunicorn_arguments(words)
            if arguments is not None or title.startswith(RENAMED):
                known[int(folder.name)] = arguments
    for pid, arguments in known.items():
        if _parent(pid) not in known and _link(pid, "cwd"):
            yield pid, arguments


def _server(pid: int, arguments: list[str] | None) -> Server:
    pairs = (word.partition("=") for word in _words(pid, "environ"))
    children = [
        int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit() and _parent(int(folder.name)) == pid
    ]
    return Server(
        pid,
        sorted(children),
        _link(pid, "cwd"),
        # gunicorn's user= is the workers', while the master keeps its own.
        os.stat(PROC / str(min(children, default=pid))).st_uid,
        _started(pid),
        arguments,
        {name: value for name, _, value in pairs if name},
    )


def _words(pid: int, name: str) -> list[str]:
    try:
        raw = (PROC / str(pid) / name).read_bytes()
    except OSError:
        return []
    return [word.decode(errors="surrogateescape") for word in raw.rstrip(b"\0").split(b"\0")]


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(PROC / str(pid) / name)
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of its stat behind the command, of which the first is its state."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _started(pid: int) -> float:
    ticks = int(_stat(pid)[19])
    boot = next(line for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
