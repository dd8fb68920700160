"""How does a test start many processes with an app quickly? By fork: a fault costs milliseconds, not an import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .places import APPS, Place
from .processes import Forker, forker

Event = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """How a child ended and what it printed."""

    code: int  # negative: killed by that signal
    out: str
    err: str
    trace: str = ""


class Launcher:
    """A process that forks children which do what ``launched.py`` says."""

    def __init__(self, place: Place, forker: Forker) -> None:
        self.place = place
        self._forker = forker
        self._events = place.folder / "events"

    def start_child(self, **order: Any) -> int:
        """Start a child that waits for SIGUSR1 before it acts; return its pid."""
        return self._forker.fork({"folder": os.fspath(self.place.folder), **order})

    def wait(self, pid: int) -> Done:
        """Wait for the child's end."""
        code = self._forker.wait(pid)
        out, err = (self.place.folder.joinpath(name).read_text(errors="replace") for name in ("out", "err"))
        return Done(code, out, err)

    def run(self, **order: Any) -> Done:
        """Let a child act to its end, without a fault."""
        pid = self.start_child(**order)
        os.kill(pid, signal.SIGUSR1)
        return self.wait(pid)

    def rebuild(self, **order: Any) -> Done:
        return self.run(do="rebuild", **order)

    def flask(self, *arguments: str, **order: Any) -> Done:
        return self.run(do="flask", arguments=arguments, **order)

    def status(self) -> dict[str, Any]:
        """Return what a command says about the list."""
        status: dict[str, Any] = json.loads(self.flask("warmcache", "status", "--json").out)["files"]
        return status

    def traced(self, *options: str, **order: Any) -> Done:
        """Let a child act under strace."""
        pid = self.start_child(**order)
        path = self.place.folder / "trace"
        command = ["strace", "-f", "-y", "-s", "0", "-o", os.fspath(path), *options, "-p", f"{pid}"]
        with self.place.started(command, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            told = tracer.stderr.readline()
            assert "attached" in told, f"strace: {told}"
            os.kill(pid, signal.SIGUSR1)
            done = self.wait(pid)
            tracer.wait(120)
        return Done(done.code, done.out, done.err, path.read_text(errors="replace"))

    def start_builder(self) -> int:
        """Start a child that rebuilds the list again and again until SIGTERM; return its pid."""
        return self.start_child(do="rebuild until SIGTERM", events=os.fspath(self._events))

    def events(self) -> list[Event]:
        """Return when the builds of all builders began and ended."""
        return [json.loads(line) for line in self._events.read_text().splitlines()]


@contextmanager
def launcher_for(place: Place) -> Iterator[Launcher]:
    """Run a launcher; end it and all its children with the block."""
    with forker("from tests.support.launched import act, prepare", env=place.env, cwd=APPS) as started:
        yield Launcher(place, started)
