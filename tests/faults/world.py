"""What the fault tests share: processes that rebuild and are hurt, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_warmcache.errors import SnapshotError
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.store.verify import Verifier
from tests.support.answers import check_items
from tests.support.places import Place

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Done:
    """How a child ended and what it said."""

    code: int  # negative: killed by that signal
    out: str
    err: str
    trace: str = ""


class Mother:
    """The process of ``mother.py``: one child at a time."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", HERE / "mother.py"], cwd=HERE, env=place.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._answer() == "ready"

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def bear(self, **order: Any) -> int:
        """A child that is ready to act; returns its pid."""
        return int(self._say(json.dumps({"folder": os.fspath(self.place.folder), **order})))

    def wait(self, trace: str = "") -> Done:
        """Wait for the child's end."""
        code = int(self._say("wait"))
        out, err = (self.place.folder.joinpath(name).read_text(errors="replace") for name in ("out", "err"))
        return Done(code, out, err, trace)

    def run(self, **order: Any) -> Done:
        """A child's whole life, without a fault."""
        os.kill(self.bear(**order), signal.SIGUSR1)
        return self.wait()

    def rebuild(self, **order: Any) -> Done:
        return self.run(do="rebuild", **order)

    def flask(self, *arguments: str, **order: Any) -> Done:
        return self.run(do="flask", arguments=arguments, **order)

    def status(self) -> dict[str, Any]:
        """What a command says of the list."""
        done = self.flask("warmcache", "status", "--json")
        return json.loads(done.out)["files"]  # type: ignore[no-any-return]

    def traced(self, *options: str, **order: Any) -> Done:
        """A child's life under strace, from its first act on."""
        pid = self.bear(**order)
        path = self.place.folder / "trace"
        with subprocess.Popen(
            ["strace", "-f", "-y", "-s", "0", "-o", path, *options, "-p", f"{pid}"],
            text=True, stderr=subprocess.PIPE,
        ) as tracer:  # fmt: skip
            assert tracer.stderr is not None
            try:
                said = tracer.stderr.readline()
                assert "attached" in said, f"strace: {said}"
                os.kill(pid, signal.SIGUSR1)
                done = self.wait()
                tracer.wait(20)
            finally:
                tracer.kill()
        return Done(done.code, done.out, done.err, path.read_text(errors="replace"))

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=20)


@contextmanager
def mother_of(place: Place) -> Iterator[Mother]:
    one = Mother(place)
    try:
        yield one
    finally:
        one.end()


# What must hold after any fault


def published(folder: Path) -> int | None:
    """The generation under the list's name, which must be whole; None when nothing is published.

    :raises Exception: when what is published is torn.
    """
    try:
        snapshot = Snapshot(folder, "files")
    except FileNotFoundError:
        return None
    check_items(json.loads(b"[%b]" % snapshot.items_json(snapshot.view("all", ""))))
    return snapshot.generation


def is_damaged(folder: Path) -> bool:
    """Return whether a keeper would find that what is published is not what was written."""
    try:
        return Verifier(folder, "files").is_damaged(Snapshot(folder, "files"))
    except SnapshotError:
        return True


DATA = re.compile(r"files\.\d+\.data")
DRAFT = re.compile(r"files\.index\.\d+-[0-9a-f]+\.tmp")
# A draft so young may be one that its maker is about to lock, so it is left to a later build.
YOUNG = 1.0
LASTING = {
    "files.index",
    "files.lock",
    "files.publish.lock",
    "files.progress",
    "files.invalidated",
    "files.changes",
}


def litter(folder: Path) -> list[str]:
    """Files that no reader and no later build needs; of the data files, all but one."""
    names = sorted(path.name for path in folder.glob("*"))
    data = [name for name in names if DATA.fullmatch(name)]
    return data[1:] + [name for name in names if name not in LASTING and name not in data]
