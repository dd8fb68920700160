"""Where do the app under test, its cache and what it notes lie? And how do its commands run there?"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import CHECKOUT, environment, run, started
from .waiting import until

FAKED = CHECKOUT / "tests" / "faults" / "faked"  # its sitecustomize.py fakes the clock, and more
APPS = CHECKOUT / "tests" / "server"  # its modules app_*.py are the apps under test


@dataclass(frozen=True)
class Call:
    """One line that the app noted: a call of source or enrich, a worker that has loaded the app."""

    what: str
    pid: int
    at: float  # on the machine's monotonic clock


class Place:
    """The files of one test: the cache folder, what steers the builds, and the log of what the app did.

    Servers and commands run in the test's own folder: the doctor examines the gunicorn that runs in its working
    folder, and must not find that of another test.
    """

    def __init__(self, folder: Path, **options: object) -> None:
        """:param options: the app's ``TEST_*`` variables, in lower case."""
        self.folder = folder
        self.app = "app_files"  # the module of the app
        self.cache = folder / "cache"
        self.gate = folder / "gate"
        self.failing = folder / "failing"
        self._calls = folder / "calls"
        self._calls.touch()
        self.env = environment(
            PYTHONPATH=f"{CHECKOUT}{os.pathsep}{APPS}",
            PYTHONWARNINGS="always",
            PYTHONUNBUFFERED="1",
            WARMCACHE_DIR=self.cache,
            TEST_CALLS=self._calls,
            **{f"TEST_{name.upper()}": value for name, value in options.items()},
        )

    def with_gate(self) -> Place:
        """From now on builds stop in their middle until ``gate`` exists."""
        self.env["TEST_GATE"] = os.fspath(self.gate)
        return self

    def with_failing(self) -> Place:
        """From now on builds fail while ``failing`` exists."""
        self.env["TEST_FAILING"] = os.fspath(self.failing)
        return self

    def add_path(self, folder: Path) -> None:
        """Have the app's processes import from this folder, too."""
        self.env["PYTHONPATH"] += f"{os.pathsep}{folder}"

    def calls(self, what: str) -> list[Call]:
        """Return what the app noted under this word, in order."""
        lines = self._calls.read_text().splitlines()
        wanted = [line.split() for line in lines if line.startswith(f"{what} ")]
        return [Call(what, int(pid), int(at) / 1e9) for _, pid, at in wanted]

    def builder_at_gate(self, nth: int = 1) -> Call:
        """Wait until the nth build that came to the gate is there."""
        return until(lambda: self.calls("waiting")[nth - 1 : nth], f"build {nth} at the gate")[0]

    def until_built(self, number: int) -> Call:
        """Wait until so many builds have begun; return the last one's call of source."""
        until(lambda: len(self.calls("source")) >= number, lambda: f"{number} builds: {self.calls('source')}")
        return self.calls("source")[number - 1]

    def flask_command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flask", "--app", self.app, *arguments]

    def flask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``flask --app ...`` to its end."""
        return self.run(self.flask_command(*arguments))

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the app's environment to its end."""
        return run(command, self.env, **{"cwd": self.folder, **options})

    def started(self, command: list[str], **options: Any) -> AbstractContextManager[subprocess.Popen[str]]:
        """Run a command in the app's environment beside the block."""
        return started(command, self.env, **{"cwd": self.folder, **options})
