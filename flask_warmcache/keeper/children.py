"""The child processes that rebuild: whether one can be had, how it is started, and which of them live.

A child holds its list's lock by a descriptor that it inherits.  So the lock is never free in between, and it stays
held if the worker dies.  A pipe to the child carries its orders and later "go"; a pipe back carries its answer.
If either pipe ends, the other process is gone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import events
from ..declaration import Declaration
from ..errors import ChildError
from ..host import resources
from ..host.child_priority import NICE
from ..host.server import SERVER_STARTED, gunicorn_worker, logging_settings
from ..settings import Settings
from ..status.staleness import Findings
from ..store.locks import HeldLock, no_fork
from .process import Child

PACKAGE_FOLDER = os.fspath(Path(__file__).parents[2])
# With these a child would take itself for a server, or for a process that systemd or a reloader has started.
DROPPED = re.compile(r"SERVER_SOFTWARE|WERKZEUG_.*|LISTEN_.*|NOTIFY_SOCKET|GUNICORN_(FD|PID)")
INTERPRETER = re.compile(r"(python|pypy)")  # under uWSGI sys.executable is uWSGI
# The working folder is no place to import from until the standard library is loaded: an app may have a logging.py,
# which its server never takes for the standard one.
SAFE = "-P"
# A child runs with the optimization of this process: without assertions the same text is other code.
OPTIMIZED = ["-" + sys.flags.optimize * "O"] if sys.flags.optimize else []
NO_MEMORY = "no memory for a second copy of the app"


@dataclass(frozen=True)
class Location:
    """How to import an app."""

    uri: str  # as gunicorn takes it: module:attribute or module:factory(arguments)
    folder: str  # the working folder to import it in
    served: bool = False  # whether importing the URI gives this very app, and not one that wraps it


def locate(app: Any, setting: str | None) -> Location | str:
    """Return where an app is: by its setting, else by gunicorn, else by the module attribute that holds it.

    If none of these is known, return why, briefly and without a path.
    """
    try:
        here = os.getcwd()
    except OSError:
        return "the working folder is gone"
    if setting is not None:
        return Location(setting, here)
    worker = gunicorn_worker()
    uri = getattr(getattr(worker, "app", None), "app_uri", None)
    if isinstance(uri, str) and worker.cfg.paste is None:
        return Location(uri, worker.cfg.chdir, served=getattr(worker, "wsgi", None) is app)
    found = _attribute_of(app)
    if found is None:
        return "no module attribute holds the app; set WARMCACHE_APP"
    return Location(found, here, served=True)


def _attribute_of(app: Any) -> str | None:
    """Find this very object in a module, its own one first; return ``module:attribute``."""
    own = getattr(app, "import_name", "")
    for name, module in sorted(list(sys.modules.items()), key=lambda item: item[0] != own):
        if name == "__main__":
            spec = getattr(module, "__spec__", None)
            if spec is None:
                continue  # a script: no other process can import it
            name = spec.name
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and attribute.isidentifier():
                return f"{name}:{attribute}"
    return None


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a child finds this package before it knows the paths of its app."""
    kept = {key: value for key, value in environ.items() if not DROPPED.fullmatch(key)}
    paths = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    if PACKAGE_FOLDER not in (*paths, *site.getsitepackages(), site.getusersitepackages()):
        kept["PYTHONPATH"] = os.pathsep.join([*paths, PACKAGE_FOLDER])
    return kept


class Children:
    """The rebuilding children of one app: whether there can be any, and those that live."""

    def __init__(
        self, locate: Callable[[], Location | str], settings: Settings, folder: Path, code_started: int
    ) -> None:
        self._locate = locate
        self._settings = settings
        self._folder = folder
        self._code_started = code_started
        self._location: Location | str | None = None  # or why there is none
        self._alive: list[Child] = []

    def after_fork(self) -> None:
        """Close what belongs to the parent's children; what the parent found out may not hold here."""
        self._location = None
        while self._alive:
            self._alive.pop().close()

    def problem(self) -> str | None:
        """Return why no child can be had at this moment, or None."""
        if self._location is None:
            self._location = self._locate()
        if isinstance(self._location, str):
            return self._location
        if not INTERPRETER.match(os.path.basename(sys.executable or "")):
            return "no Python interpreter to start"
        free = resources.free()
        if free is not None and free < resources.resident():
            return NO_MEMORY
        return None

    def refuse(self, why: str) -> None:
        """Remember that a child did not find the app; this process starts no other."""
        self._location = why

    def start(
        self,
        declaration: Declaration,
        locks: Mapping[str, HeldLock],
        findings: Mapping[str, Findings],
        *,
        only_if_due: bool,
        wait: bool,
    ) -> Child:
        """Start a child that rebuilds a list; it inherits the locks, and holds them together with this process.

        :param declaration: by it the child knows the right app, and whether it has the same code.
        :param findings: by list, what this process has found out about its snapshots.
        :param only_if_due: otherwise the child rebuilds the list and its source list even if they are fresh.
        :param wait: whether the child, when it is ready, waits for ``go``.
        :raises ChildError: if no child can be had.
        :raises OSError: if the system cannot start a process.
        """
        name = declaration.name
        problem = self.problem()
        location = self._location
        if problem is not None or not isinstance(location, Location):
            raise ChildError(f"The list {name!r} cannot be rebuilt in a child: {problem}.")
        with no_fork:  # as in rebuilder.py
            import subprocess
        # A child is nice from its first moment, since an interpreter that starts computes, too. But on one core a
        # nice import would last for ever beside the thread that the child is to relieve, so that one starts as it
        # is. The program nice(1) does it: a strict system (SystemCallFilter=~@resources, say) would end this
        # process for the call.
        nice = None if wait else shutil.which("nice")
        niceness = [] if nice is None else [nice, "-n", str(NICE)]
        with ExitStack() as passed_on, ExitStack() as opened:  # whatever fails, no descriptor stays open
            answers, answering = os.pipe()
            opened.callback(os.close, answers)
            passed_on.callback(os.close, answering)
            held: dict[str, int] = {}
            for list_name, lock in locks.items():
                # A copy, since gevent starts a process by its own fork, in which hooks close our locks.
                held[list_name] = os.dup(lock.descriptor)
                passed_on.callback(os.close, held[list_name])
            orders = {
                "paths": [path or os.curdir for path in sys.path if isinstance(path, str)],
                "folder": location.folder,
                "app": location.uri,
                "served": location.served,
                "name": name,
                "code": declaration.code,
                "cache": os.path.realpath(self._folder),
                "locks": held,
                "answering": answering,
                "findings": findings,
                "only_if_due": only_if_due,
                "wait": wait,
                "nice": nice is not None,
                "timeout": self._settings.build_timeout,
                "retry": [self._settings.retry_min, self._settings.retry_max],
                "logging": logging_settings(),
                "log_level": events.level(),
            }
            process = subprocess.Popen(
                [*niceness, sys.executable, SAFE, *OPTIMIZED, "-m", "flask_warmcache.child"],
                stdin=subprocess.PIPE,
                pass_fds=(*held.values(), answering),
                cwd=location.folder,
                env=child_environment(os.environ) | {SERVER_STARTED: str(self._code_started)},
                bufsize=0,
            )
            opened.pop_all()
        child = Child(name, process, answers, self._settings.build_timeout)
        self._alive.append(child)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(orders).encode() + b"\n")
        except OSError:
            pass  # it has died already, and its answer will be "gone"
        return child

    def is_rebuilding(self, name: str) -> bool:
        """Whether a child of this process lives that rebuilds the list."""
        return any(child.list_name == name and not child.has_ended() for child in list(self._alive))

    def watch(self) -> None:
        """Reap the children that have ended, and kill those that are long past their deadline."""
        for child in list(self._alive):
            if child.has_ended():
                self._alive.remove(child)
                child.abandon()
                message = "the child for %(list)r, %(end)s"
                events.debug("warmcache.child_ended", message, list=child.list_name, end=child.how_it_ended)

    def abandon(self) -> None:
        """Let those that live outlive this process."""
        while self._alive:
            self._alive.pop().abandon()
