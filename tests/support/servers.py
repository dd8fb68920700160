"""How does a test start a server, ask it and end it? On a free port, over HTTP, and whatever happens."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import gunicorn
import psutil

from .answers import Answer, ask
from .orphans import marked
from .places import Place
from .ports import free_port
from .processes import is_running
from .threads import Repeated
from .waiting import until

OUR_CONF = ("-c", "python:flask_warmcache.gunicorn_conf")
OWNER = "TEST_SERVER"  # a variable that all processes of one server have inherited


class ServerProcess:
    """A server process with its children; ended, whatever happens, by the context that started it."""

    def __init__(self, command: Sequence[str], port: int, log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.port = port
        self._log_path = log
        self._owner = f"{port}-{time.time_ns()}"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env={**env, OWNER: self._owner}, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            until(self._is_up, lambda: f"a server that is up:\n{self.log}", 120)
        except BaseException:
            self.end()
            raise

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
        return self.is_ready()

    def is_ready(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def pids(self) -> set[int]:
        """The workers that live now."""
        children = psutil.Process(self.process.pid).children()
        return {child.pid for child in children if is_running(child.pid)}

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self, number: int = signal.SIGTERM, within: float = 20.0) -> float:
        """Ask the server to stop and return how long that took."""
        began = time.monotonic()
        self.send(number)
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there {within} s after signal {number}:\n{self.log}") from None
        return time.monotonic() - began

    def end(self) -> None:
        """End the server and everything it started; nothing is left when this returns."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self.process.poll() is None:
            # A process that is measured saves what it has counted when it ends by itself.
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(120)
        # A rebuilding child has a group of its own.
        for left in marked(self._owner, OWNER):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


AnyServer = TypeVar("AnyServer", bound=ServerProcess)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """End the server whatever happens; a failure tells its log."""
    try:
        yield server
        ours = re.search(r"flask_warmcache/\S+: \w*Warning.*", server.log)
        assert ours is None, f"a warning of our own: {ours}"
    except BaseException as error:
        error.args = (f"{error}\n--- log of the server ---\n{server.log[-6000:]}",)
        raise
    finally:
        server.end()


def gunicorn_command(
    app: str, port: int, workers: int, *arguments: str, python: str = sys.executable, control_socket: bool = False
) -> list[str]:
    command = [python, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", f"{workers}"]
    if gunicorn.version_info >= (25, 1) and not control_socket:
        command.append("--no-control-socket")
    return [*command, *arguments, app]


class Server(ServerProcess):
    """A server of an app under test, with its workers loaded and no request answered yet."""

    def __init__(self, place: Place, command: Sequence[str], port: int, workers: int, loads: int) -> None:
        """:param loads: how often the app is loaded until all workers have it."""
        self.place = place
        self.workers = workers
        self._loads = len(place.calls("loaded")) + loads
        super().__init__(command, port, place.folder / f"server-{port}.log", place.env, place.folder)

    def is_ready(self) -> bool:
        return len(self.place.calls("loaded")) >= self._loads and super().is_ready()

    def get(self, path: str = "/api/files", method: str = "GET", linger: float = 0.0) -> Answer:
        """Ask once, on a connection of its own that is closed at once."""
        return ask(self.port, path, method, linger)

    def ask_at_once(self, path: str, times: int, linger: float = 0.0) -> list[Answer]:
        """Ask so many times at the same moment, in the order in which the app began to answer."""
        line = threading.Barrier(times)

        def ask(_: int) -> Answer:
            line.wait(30)
            return self.get(path, linger=linger)

        with ThreadPoolExecutor(times) as pool:
            return sorted(pool.map(ask, range(times)), key=lambda answer: answer.begin)

    def next_of_each_worker(self, path: str = "/api/files") -> dict[int, Answer]:
        """The next answer of every worker."""
        first: dict[int, Answer] = {}

        def all_answered() -> bool:
            # The worker lingers over each answer, so that the requests go to all.
            for answer in self.ask_at_once(path, 3 * self.workers, linger=0.05):
                first.setdefault(answer.pid, answer)
            return len(first.keys() & self.pids) >= self.workers

        until(all_answered, lambda: f"an answer of each worker, only of {sorted(first)}:\n{self.log}")
        return {pid: answer for pid, answer in first.items() if pid in self.pids}

    def stats(self) -> dict[int, dict[str, Any]]:
        """What every worker's ``/api/cache/stats`` says of the list."""
        answers = self.next_of_each_worker("/api/cache/stats")
        return {pid: answer.json["files"] for pid, answer in answers.items()}

    def warm_up(self) -> Answer:
        """Ask until the list is fresh."""
        answers: list[Answer] = []

        def is_fresh() -> bool:
            answers.append(self.get())
            return answers[-1].state == "fresh" and not answers[-1].json["cache_rebuilding"]

        until(is_fresh, lambda: f"a fresh list, only {answers[-1].headers}:\n{self.log}")
        return answers[-1]

    def until_newer(self, generation: int) -> Answer:
        """Ask until the list is fresh and newer than that."""
        return until(lambda: [one for one in [self.warm_up()] if one.generation > generation], "a newer list")[0]

    def until_gone(self, pid: int) -> None:
        """Wait until that worker is gone and another is there."""
        until(lambda: pid not in self.pids and len(self.pids) >= self.workers, f"a worker in place of {pid}")


@contextmanager
def gunicorn_server(
    place: Place,
    *arguments: str,
    app: str | None = None,
    workers: int = 4,
    preload: bool = False,
    control_socket: bool = False,
    prefix: Sequence[str] = (),
) -> Iterator[Server]:
    """A gunicorn server with its workers loaded and no request answered yet.

    :param app: as gunicorn wants it, if it is not the place's.
    :param prefix: of the command.
    """
    port = free_port()
    options = [*arguments, *(["--preload"] if preload else [])]
    command = gunicorn_command(app or f"{place.app}:app", port, workers, *options, control_socket=control_socket)
    server = Server(place, [*prefix, *command], port, workers, loads=1 if "--preload" in options else workers)
    with running(server):
        yield server


class Readers(Repeated):
    """Clients that ask as fast as they can until the block ends, and keep every answer."""

    def __init__(self, server: Server, clients: int = 4, path: str = "/api/files") -> None:
        super().__init__(clients)
        self._server = server
        self._path = path
        self.answers: list[Answer] = []
        self.errors: list[Exception] = []  # connections cut by a kill

    def turn(self) -> None:
        try:
            self.answers.append(self._server.get(self._path))
        except (OSError, http.client.HTTPException) as error:
            self.errors.append(error)

    def wait_for(self, more: int, seconds: float = 60.0) -> None:
        """Go on until so many more answers came."""
        awaited = len(self.answers) + more
        until(lambda: len(self.answers) >= awaited, lambda: f"{awaited} answers: {self.errors[:3]}", seconds)
