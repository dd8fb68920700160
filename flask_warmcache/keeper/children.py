"""The child processes that rebuild: starting one, hearing from it, ending one that takes too long.

A child holds its list's lock by a descriptor that it inherits, so the lock is never free on the way, and stays
held when the worker dies.  The pipe to the child carries its orders and later "go", the pipe back its answer;
the end of either says that the other process is gone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import site
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..declaration import Declaration
from ..errors import ChildError
from ..host import resources
from ..host.priority import NICE
from ..host.server import SERVER_STARTED
from ..settings import Settings
from ..status.condition import Findings
from ..store.locks import HeldLock, no_fork
from .location import Location, NoLocation
from .time_limits import KILL_AFTER_DEADLINE

if TYPE_CHECKING:
    import subprocess

log = logging.getLogger("flask_warmcache")
PACKAGE_FOLDER = os.fspath(Path(__file__).parents[2])
# What would make the child take itself for a server, or for one that systemd or a reloader has started.
DROPPED = re.compile(r"SERVER_SOFTWARE|WERKZEUG_.*|LISTEN_.*|NOTIFY_SOCKET|GUNICORN_(FD|PID)")
INTERPRETER = re.compile(r"(python|pypy)")  # under uWSGI sys.executable is uWSGI
ANSWER_MAX = 4096
# As this process runs: without assertions the same text is other code.
OPTIMIZED = ["-" + sys.flags.optimize * "O"] if sys.flags.optimize else []


class Child:
    """One child process, which has inherited locks."""

    def __init__(self, process: subprocess.Popen[bytes], answers: int, timeout: float) -> None:
        """:param answers: the descriptor that its answer comes from."""
        self._process = process
        self._guard = threading.Lock()  # guards _answers and _heard: a builder asks, the keeper reaps
        self._answers = answers
        self._heard = b""
        self._end = time.monotonic() + timeout
        os.set_blocking(answers, False)

    def heard(self) -> str | None:
        """What it has answered: None yet, "ready", "refused: " and why, or "gone" when it died before that."""
        with self._guard:
            if self._answers >= 0:
                try:
                    said = os.read(self._answers, ANSWER_MAX)
                except BlockingIOError:
                    return None
                self._heard += said
                if said and not self._heard.endswith(b"\n"):
                    return None
            return self._heard.decode(errors="replace").strip() or "gone"

    def go(self) -> None:
        """Tell it that the list is its own now; the end of this process would say the same."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(b"go\n")
        except (OSError, ValueError):
            pass  # it has died; whoever sees the report it left says so
        pipe.close()

    def kill(self) -> None:
        """End it; its locks are free at once."""
        self._process.kill()

    def is_over(self) -> bool:
        """Whether it has ended; ends one that is long past its deadline."""
        if self._process.poll() is None:
            if time.monotonic() > self._end + KILL_AFTER_DEADLINE:
                self.kill()
            return False
        return True

    def forget(self) -> None:
        """Leave it to itself: it may outlive this process."""
        self.heard()  # its last words
        with self._guard:
            if self._answers >= 0:
                os.close(self._answers)
                self._answers = -1
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # else its object complains when it goes

    def drop(self) -> None:
        """Close what a fork has copied; the child is the parent's, whose locks may be held for ever here."""
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0  # else its object complains when it goes

    @property
    def how_it_ended(self) -> str:
        """For the log: its exit status, as far as that is known."""
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


class Children:
    """The rebuilding children of one app: whether there can be any, and those that live."""

    def __init__(
        self, locate: Callable[[], Location], settings: Settings, folder: Path, code_started: int
    ) -> None:
        self._locate = locate
        self._settings = settings
        self._folder = folder
        self._code_started = code_started
        self.after_fork()

    def after_fork(self) -> None:
        """The parent's children are not this process's, and what it found out may not hold here."""
        self._location: Location | str | None = None
        for _, child in self.__dict__.get("_alive", ()):
            child.drop()
        self._alive: list[tuple[str, Child]] = []

    def problem(self) -> str | None:
        """Why no child can be had at this moment, or None."""
        if self._location is None:
            try:
                self._location = self._locate()
            except NoLocation as error:
                self._location = str(error)
        if isinstance(self._location, str):
            return self._location
        if not INTERPRETER.match(os.path.basename(sys.executable or "")):
            return "no Python interpreter to start"
        free = resources.free()
        if free is not None and free < resources.resident():
            return "no memory for a second copy of the app"
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
        wanted: bool,
        wait: bool,
    ) -> Child:
        """Start a child that is to rebuild a list; it inherits the locks, and holds them with this process.

        :param declaration: the list's, by which the child knows the right app, and whether it has the same code.
        :param findings: by list, what this process has found out about its snapshots.
        :param wanted: whether the list it is made of is rebuilt even if it is not due.
        :param wait: whether the child, when it is ready, waits for ``go``.
        :raises ChildError: when there can be none.
        :raises OSError: when the system does not give one.
        """
        name = declaration.name
        problem = self.problem()
        location = self._location
        if problem is not None or not isinstance(location, Location):
            raise ChildError(f"The list {name!r} cannot be rebuilt in a child: {problem}.")
        with no_fork:  # see rebuilder.py
            import subprocess
        # From its first moment, since an interpreter that starts computes, too. But on one core, beside the thread
        # that it is to relieve, a nice import would last for ever.  Not by this process, which a strict system
        # (SystemCallFilter=~@resources, say) would end for it.
        nice = None if wait else shutil.which("nice")
        answers, answering = os.pipe()
        # Copies, since gevent starts a process by a fork of its own, in which hooks close our locks.
        held = {one: os.dup(lock.descriptor) for one, lock in locks.items()}
        try:
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
                "wanted": wanted,
                "wait": wait,
                "nice": nice is not None,
                "timeout": self._settings.build_timeout,
                "retry": [self._settings.retry_min, self._settings.retry_max],
            }
            process = subprocess.Popen(
                [
                    *([] if nice is None else [nice, "-n", str(NICE)]),
                    *[sys.executable, *OPTIMIZED, "-m", "flask_warmcache.child"],
                ],
                stdin=subprocess.PIPE,
                pass_fds=(*held.values(), answering),
                cwd=location.folder,
                env=self._environment(location.folder),
                bufsize=0,
            )
        except BaseException:
            os.close(answers)
            raise
        finally:
            for descriptor in (answering, *held.values()):
                os.close(descriptor)
        child = Child(process, answers, self._settings.build_timeout)
        self._alive.append((name, child))
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(orders).encode() + b"\n")
        except OSError:
            pass  # it has died already; its answer says so
        return child

    def _environment(self, folder: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not DROPPED.fullmatch(key)}
        kept[SERVER_STARTED] = str(self._code_started)
        paths = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
        # The child must find this package before it knows the paths of its app.
        if PACKAGE_FOLDER not in (*paths, *site.getsitepackages(), site.getusersitepackages(), folder):
            kept["PYTHONPATH"] = os.pathsep.join([*paths, PACKAGE_FOLDER])
        return kept

    def watch(self) -> None:
        """Reap what has ended, and end what is past its deadline."""
        for one in list(self._alive):
            name, child = one
            if child.is_over():
                self._alive.remove(one)
                child.forget()
                log.debug("warmcache.child_ended: the child for %r, %s", name, child.how_it_ended)

    def forget(self) -> None:
        """Leave those that live to themselves."""
        while self._alive:
            self._alive.pop()[1].forget()
