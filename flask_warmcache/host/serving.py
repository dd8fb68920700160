"""In which folders running servers keep their lists: every worker has the lists mapped that it serves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
SERVERS = (b"gunicorn", b"uwsgi", b"pyuwsgi")  # how a command line or a title begins, with or without a folder


def folders_of_servers(names: Iterable[str], processes: Iterable[int] | None = None) -> dict[str, int]:
    """Return the cache folders that servers serve lists from, each with the number of a process that does.

    It is empty where the system does not tell, such as about processes of another account.

    :param names: of the lists.
    :param processes: the processes of the server; by default those of each server in our working folder.
    """
    named = b"|".join(re.escape(name.encode()) for name in names)
    files = re.compile(rb"(?:\S+ +){5}(/.*)/(?:%b)\.(?:index|changes)" % named)
    folders: dict[str, int] = {}
    for process in _servers_here() if processes is None else processes:
        with suppress(OSError):
            for line in (PROC / str(process) / "maps").read_bytes().splitlines():
                found = files.fullmatch(line)
                if found is not None:
                    folders.setdefault(os.fsdecode(found[1]), process)
    return folders


def _servers_here() -> list[int]:
    """Return the processes of the servers that run in our working folder."""
    found = []
    with suppress(OSError):
        for process in os.listdir(PROC):
            with suppress(OSError, ValueError):
                if os.readlink(PROC / process / "cwd") == os.getcwd():
                    words = (PROC / process / "cmdline").read_bytes().split(b"\0")
                    if any(os.path.basename(word).startswith(SERVERS) for word in words[:4]):
                        found.append(int(process))
    return sorted(found)
