"""Real servers for the tests: started on a free port, asked over HTTP, and always ended."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gunicorn
import psutil

from tests.support.ports import free_port
from tests.support.waiting import until

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
OUR_CONF = ("-c", "python:flask_warmcache.gunicorn_conf")
STARTING = 30.0  # seconds that four workers may need to import the app on a busy machine


@dataclass(frozen=True)
class Call:
    """One line that the app wrote: a call of source or enrich, a worker that has loaded the app."""

    what: str
    pid: int
    at: float  # on the machine's monotonic clock


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, with what the app said of itself."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pid(self) -> int:
        return int(self.headers["X-Pid"])

    @property
    def begin(self) -> float:
        return int(self.headers["X-Begin"]) / 1e9

    @property
    def end(self) -> float:
        return int(self.headers["X-End"]) / 1e9

    @property
    def app_time(self) -> float:
        return float(self.headers["X-App-Time"])

    @property
    def own_time(self) -> float:
        """As ``app_time``, without the time in which other processes had the processors."""
        return max(0.0, self.app_time - float(self.headers["X-Queued"]))

    @property
    def generation(self) -> int:
        return int(self._said("gen"), 16)

    @property
    def state(self) -> str:
        return self._said("state")

    def _said(self, what: str) -> str:
        return dict(part.strip().partition("=")[::2] for part in self.headers["X-Warmcache"].split(";"))[what]


class Place:
    """The files of one test: the cache folder, what steers the builds, and the log of what the app did."""

    def __init__(self, folder: Path, **options: object) -> None:
        """:param options: the app's ``TEST_*`` variables, in lower case."""
        self.folder = folder
        self.app = "app_files"  # the module of the app
        self.cache = folder / "cache"
        self.gate = folder / "gate"
        self.failing = folder / "failing"
        self._calls = folder / "calls"
        self._calls.touch()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WARMCACHE_")},
            "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{HERE}",
            "PYTHONWARNINGS": "always",
            "PYTHONUNBUFFERED": "1",
            "WARMCACHE_DIR": os.fspath(self.cache),
            "TEST_CALLS": os.fspath(self._calls),
            **{f"TEST_{name.upper()}": str(value) for name, value in options.items()},
        }
        self.env.pop("GUNICORN_CMD_ARGS", None)

    def with_gate(self) -> Place:
        """From now on builds stop in their middle until ``gate`` exists."""
        self.env["TEST_GATE"] = os.fspath(self.gate)
        return self

    def with_failing(self) -> Place:
        """From now on builds fail while ``failing`` exists."""
        self.env["TEST_FAILING"] = os.fspath(self.failing)
        return self

    def calls(self, what: str) -> list[Call]:
        """What the app noted under this word, in order."""
        lines = self._calls.read_text().splitlines()
        wanted = [line.split() for line in lines if line.startswith(f"{what} ")]
        return [Call(what, int(pid), int(at) / 1e9) for _, pid, at in wanted]

    def builder_at_gate(self, nth: int = 1) -> Call:
        """Wait until the nth build that came to the gate is there."""
        return until(lambda: self.calls("waiting")[nth - 1 : nth], f"build {nth} at the gate")[0]

    def until_built(self, number: int) -> Call:
        """Wait until so many builds have begun; returns the last one's call of source."""
        until(lambda: len(self.calls("source")) >= number, lambda: f"{number} builds: {self.calls('source')}")
        return self.calls("source")[number - 1]

    def flask(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``flask --app ...`` to its end."""
        return subprocess.run(
            self.flask_command(*arguments), cwd=HERE, env=self.env, text=True, capture_output=True, timeout=timeout
        )

    def flask_command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flask", "--app", self.app, *arguments]


class Server:
    """A server process with its children; ended, whatever happens, by the context that started it."""

    def __init__(self, place: Place, command: Sequence[str], port: int, workers: int, preload: bool) -> None:
        self.place = place
        self.port = port
        self.workers = workers
        self._log_path = place.folder / f"server-{port}.log"
        loaded = len(place.calls("loaded"))
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=place.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        awaited = loaded + (1 if preload else workers)
        try:
            until(lambda: self._is_up(awaited), lambda: f"a server that is up:\n{self.log}", STARTING)
        except BaseException:
            self.end()
            raise

    def _is_up(self, awaited: int) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
        if len(self.place.calls("loaded")) < awaited:
            return False
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
        return {child.pid for child in children if _is_alive(child)}

    def get(self, path: str = "/api/files", method: str = "GET", linger: float = 0.0) -> Answer:
        """Ask once, on a connection of its own that is closed at once."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers={"Connection": "close", "X-Linger": f"{linger}"})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

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
            self.process.wait(20)
        # Its number may be another's by now, and a rebuilding child has a group of its own; what the server left
        # behind is known by its environment.
        for left in psutil.process_iter():
            try:
                if left.environ().get("TEST_CALLS") == self.place.env["TEST_CALLS"]:
                    left.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                pass


def _is_alive(process: psutil.Process) -> bool:
    """Whether it runs; it may end between two questions."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def gunicorn_server(place: Place, *arguments: str, workers: int = 4, preload: bool = False) -> Iterator[Server]:
    """A gunicorn server with its workers loaded and no request answered yet."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", f"{workers}"]
    if gunicorn.version_info >= (25, 1):
        command.append("--no-control-socket")
    command += [*arguments, *(["--preload"] if preload else []), f"{place.app}:app"]
    with running(Server(place, command, port, workers, preload)) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
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


class Readers:
    """Clients that ask as fast as they can until they are told to stop, and keep every answer."""

    def __init__(self, server: Server, clients: int = 4, path: str = "/api/files") -> None:
        self._server = server
        self._path = path
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self.errors: list[Exception] = []  # connections cut by a kill
        self._threads = [threading.Thread(target=self._read) for _ in range(clients)]

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._server.get(self._path))
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(error)

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def wait_for(self, more: int, seconds: float = 20.0) -> None:
        """Go on until so many more answers came."""
        awaited = len(self.answers) + more
        until(lambda: len(self.answers) >= awaited, lambda: f"{awaited} answers: {self.errors[:3]}", seconds)


def check_whole(answer: Answer) -> int:
    """The answer is a list of one generation, whole; returns its length."""
    assert answer.status == 200, (answer.status, answer.body[:300])
    page = answer.json
    check_items(page["files"])
    assert len(page["files"]) == page["total_files"], "the count is another generation's"
    assert page["odd_count"] == sum(item["number"] % 2 for item in page["files"])
    return len(page["files"])


def check_items(items: Sequence[dict[str, Any]]) -> None:
    """All items are of one build, and all of that build's items are there, in order."""
    versions = {item["version"] for item in items}
    assert len(versions) == 1, f"items of {len(versions)} builds in one list of {len(items)}"
    assert [item["path"] for item in items] == [f"f{number:05}" for number in range(items[0]["of"])]
    assert all(item["text"].startswith(f"{item['version']}-") for item in items)


def backwards(answers: Iterable[Answer]) -> list[tuple[Answer, Answer]]:
    """Pairs of answers of which the second began after the first was finished, yet is of an older generation."""
    newest: list[tuple[float, Answer]] = []  # by the end of the answer: the newest generation finished by then
    for answer in sorted(answers, key=lambda one: one.end):
        if not newest or answer.generation > newest[-1][1].generation:
            newest.append((answer.end, answer))
    ends = [end for end, _ in newest]
    pairs = []
    for answer in answers:
        before = bisect_right(ends, answer.begin) - 1
        if before >= 0 and newest[before][1].generation > answer.generation:
            pairs.append((newest[before][1], answer))
    return pairs
