"""Deferred blueprints on real servers: nothing wrong, nobody killed, nothing before the fork."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import AbstractContextManager

import pytest

from tests.startup_app.parts import CRITICAL, LATE, write
from tests.support.places import Place
from tests.support.ports import free_port
from tests.support.servers import OUR_CONF, Server, gunicorn_server, running
from tests.support.threads import Repeated
from tests.support.waiting import until

from .conftest import Make
from .test_preload import threads_of


@pytest.fixture
def make_site(place: Place) -> Make:
    """The app's modules, of which each late one takes so many seconds to import."""

    def make(late_seconds: float, slow: float | None = None) -> Place:
        parts = place.folder / "parts"
        write(parts, late_seconds)
        if slow is not None:
            module = parts / f"{LATE[0]}_part.py"
            module.write_text(f"import time\ntime.sleep({slow})\n" + module.read_text())
        place.app = "app_deferred"
        place.env |= {"STARTUP_MODE": "deferred", "STARTUP_CACHE": str(place.cache)}
        place.add_path(parts)
        return place

    return make


def serving(place: Place, *arguments: str, workers: int = 2) -> AbstractContextManager[Server]:
    return gunicorn_server(place, *arguments, workers=workers)


def loaded(server: Server) -> dict[str, int]:
    """How many blueprints the worker that answers has loaded, by its pid."""
    answer = server.get("/api/cache/stats/blueprints")
    return {answer.headers["X-Pid"]: answer.json["loaded"]}


def until_all_loaded(server: Server, seconds: float = 120) -> None:
    known: dict[str, int] = {}

    def all_loaded() -> bool:
        known.update(loaded(server))
        return sum(known.get(str(pid), 0) == len(LATE) for pid in server.pids) == server.workers

    until(all_loaded, lambda: f"all loaded: {known}\n{server.log}", seconds)


class Clients(Repeated):
    """Ask for anything, as fast as they can, on connections that are kept; and check each answer."""

    def __init__(self, server: Server, number: int = 6) -> None:
        super().__init__(number)
        self._server = server
        self.seen: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.slowest_login = 0.0

    def turn(self) -> None:
        """Use one connection until the end, or until something goes wrong."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120)
        try:
            while not self.stopped.is_set():
                status, fault = self._ask(connection)
                self.seen[status] += 1
                if fault is not None:
                    self.wrong.append(fault)
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            self.stopped.wait(0.01)
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, str | None]:
        name, number = random.choice(LATE), random.randrange(1000)
        method, path, status, text = random.choice(
            [
                ("GET", "/login/", 200, "login"),
                ("GET", f"/me/{number}/x", 200, f"me {number} x /me/"),
                ("GET", f"/{name}/", 200, name),
                ("GET", f"/{name}/{number}/a%20b", 200, f"{name} {number} a b /{name}/"),
                ("POST", f"/{name}/form", 200, f"posted to {name}"),
                ("GET", f"/{name}/form", 405, None),
                ("GET", f"/{name}/none/at/all", 404, None),
                ("GET", f"/{name}x/", 404, None),
            ]
        )
        began = time.monotonic()
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read().decode()
        if path == "/login/":
            self.slowest_login = max(self.slowest_login, time.monotonic() - began)
        if answer.status == 503 and path.startswith(f"/{name}/"):
            fits = json.loads(body) == {"warming": True} and int(answer.headers["Retry-After"]) >= 1
        else:
            fits = answer.status == status and (text is None or body == text)
        return answer.status, None if fits else f"{method} {path}: {answer.status} {body[:200]!r}"


@pytest.mark.parametrize("conf", [(), OUR_CONF], ids=["plain", "our conf"])
def test_no_request_to_gunicorn_gets_a_wrong_answer_while_62_blueprints_are_loaded(
    make_site: Make, conf: tuple[str, ...]
) -> None:
    site = make_site(0.05)
    # Clients as quick as these come to our max_requests before a busy machine has loaded everything.
    kind = ("-k", "gthread", "--threads", "4", "--timeout", "10", "--keep-alive", "5", "--max-requests", "0")
    arguments = (*conf, *kind)
    with serving(site, *arguments) as server:
        before = server.pids
        assert server.get("/login/").status == 200
        assert sum(loaded(server).values()) < len(LATE), "nothing was left to load beside the requests"
        with Clients(server) as clients:
            until_all_loaded(server)
            until(lambda: clients.seen[200] > 200, lambda: f"enough answers: {clients.seen}")
        assert clients.wrong == []
        assert server.pids == before, "a worker was replaced"
        assert "Traceback" not in server.log
        for name in LATE:
            assert server.get(f"/{name}/").body == name.encode()
        print(dict(clients.seen), f"slowest login {clients.slowest_login * 1e3:.0f} ms")


def test_an_import_longer_than_the_timeout_kills_no_sync_worker(make_site: Make) -> None:
    site = make_site(0.01, slow=6)
    with serving(site, "-k", "sync", "--timeout", "4", workers=1) as server:
        before = server.pids
        assert server.get("/login/").status == 200
        asked = 0

        def there() -> bool:
            nonlocal asked
            asked += 1
            answer = server.get(f"/{LATE[0]}/")
            assert answer.status in (200, 503), answer
            assert server.get("/login/").status == 200
            return answer.status == 200

        until(there, "the slow blueprint")
        assert asked > 2, "the import was not slow"
        until_all_loaded(server)
        assert server.pids == before
        assert "TIMEOUT" not in server.log


@pytest.mark.parametrize("conf", [(), OUR_CONF], ids=["plain", "our conf"])
def test_preload_loads_nothing_in_the_arbiter_and_everything_in_each_worker(
    make_site: Make, conf: tuple[str, ...]
) -> None:
    with serving(make_site(0.01), *conf, "-k", "gthread", "--threads", "4", "--preload") as server:
        assert threads_of(server.process.pid) == 1, "a thread runs in the arbiter"
        until_all_loaded(server)
        victim = min(server.pids)
        os.kill(victim, signal.SIGKILL)
        server.until_gone(victim)
        until_all_loaded(server)
        assert threads_of(server.process.pid) == 1
        assert "Warning" not in server.log


def test_under_gevent_requests_are_answered_between_two_imports(make_site: Make) -> None:
    pytest.importorskip("gevent")
    with serving(make_site(0.05), *OUR_CONF, "-k", "gevent", "--timeout", "5") as server:
        before = server.pids
        with Clients(server) as clients:
            until_all_loaded(server)
        assert clients.wrong == []
        assert clients.seen[200] > 100
        assert server.pids == before


def test_without_our_conf_nothing_is_imported_before_the_first_request(make_site: Make) -> None:
    with serving(make_site(0.01), workers=1) as server:
        (pid,) = server.pids
        assert threads_of(pid) == 1
        assert server.get(f"/{CRITICAL[0]}/").status == 200
        until_all_loaded(server)


def test_flask_run_serves_at_once_and_loads_beside(make_site: Make) -> None:
    site = make_site(0.1)
    port = free_port()
    command = site.flask_command("run", "--port", f"{port}")
    with running(Server(site, command, port, workers=1, loads=1)) as server:
        first = server.get("/login/")
        assert first.status == 200
        assert sum(loaded(server).values()) < len(LATE), "flask run has loaded everything before it served"
        assert server.get(f"/{LATE[-1]}/").body == LATE[-1].encode()
        until(lambda: list(loaded(server).values()) == [len(LATE)], lambda: f"all loaded:\n{server.log}")
