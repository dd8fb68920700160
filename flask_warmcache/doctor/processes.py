"""The running gunicorn: its master, its workers, how it was started, and how much memory they use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from ..host import resources
from .report import Report

# The beginning of a process's title after setproctitle has overwritten its command line and environment.
RENAMED = "gunicorn: "
MODULES = ("gunicorn", "gunicorn.app.wsgiapp")
ATTRIBUTES = ("cmdline", "cwd", "ppid")
MIB = 1 << 20
NEARLY = 0.85  # of the limit


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
    infos = [(pid, process.info) for pid, process in found.items()]
    return {pid: found[pid] for pid, info in infos if info["ppid"] not in found and info["cwd"]}


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


def check_memory(report: Report, server: Server, preload: bool) -> None:
    """Report the memory of each process. USS is its own, and PSS adds its part of what it shares."""
    sizes = {pid: size for pid in (server.pid, *server.workers) if (size := _size(pid)) is not None}
    report.facts["processes"] = [
        {"pid": pid, "is_master": pid == server.pid, "pss_bytes": pss, "uss_bytes": uss}
        for pid, (pss, uss) in sizes.items()
    ]
    workers = [sizes[pid] for pid in server.workers if pid in sizes]
    if not workers:
        report.warning(
            "memory.unreadable",
            "The memory of the server's processes cannot be read.",
            "It is not known whether there is enough memory for all workers.",
            "Run the doctor as the server's account.",
        )
        return
    total = sum(pss for pss, _ in sizes.values())
    limit = resources.memory()
    largest = max(uss for _, uss in workers)
    of = "" if limit is None else f" of the {limit // MIB} MiB that they may use"
    report.ok(
        "memory.workers",
        f"{len(workers)} {'worker' if len(workers) == 1 else 'workers'} with {min(workers)[0] // MIB} to "
        f"{max(workers)[0] // MIB} MiB each (PSS), of which up to {largest // MIB} MiB are not shared (USS); all "
        f"processes together use {total // MIB} MiB{of}.",
    )
    if limit is None:
        return
    advice = "Run fewer workers (WEB_CONCURRENCY)" + ("." if preload else ", or load the app once: preload_app.")
    if total > NEARLY * limit:
        report.warning(
            "memory.nearly_full",
            f"The server uses {total * 100 // limit} % of the memory that it may use.",
            'When no memory is left, the kernel kills a worker; gunicorn then logs "Perhaps out of memory?".',
            advice,
        )
    elif total + largest > limit:
        report.warning(
            "memory.no_room_for_child",
            "There is not enough memory for another copy of the app.",
            "A rebuild that computes stays in a thread of a worker, and slows its requests down.",
            advice,
        )


def _size(pid: int) -> tuple[int, int] | None:
    """Return PSS and USS in bytes, or None when they cannot be read."""
    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return None
    return getattr(memory, "pss", memory.uss), memory.uss  # only Linux knows PSS
