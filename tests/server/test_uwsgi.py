"""A server that forks without gunicorn, and stops Python's threads between requests unless it is told not to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.ports import free_port
from tests.support.servers import Server, running
from tests.support.waiting import until

WORKERS = 2
UWSGI = Path(sys.executable).with_name("uwsgi")


@contextmanager
def uwsgi_server(place: Place, *options: str) -> Iterator[Server]:
    """uWSGI as its users run it: the app is loaded by the master, then the workers are forked."""
    port = free_port()
    command = [os.fspath(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", f"{WORKERS}"]
    command += [
        "--die-on-term",
        "--need-app",
        "--virtualenv",
        sys.prefix,
        "--module",
        f"{place.app}:app",
        *options,
    ]
    with running(Server(place, command, port, WORKERS, loads=1)) as server:
        yield server


def test_under_uwsgi_with_threads_one_process_builds_and_all_serve(place: Place) -> None:
    with uwsgi_server(place, "--enable-threads") as server:
        first = server.get()
        assert first.status == 200 and first.json["cache_rebuilding"] is True
        check_whole(server.warm_up())
        answers = server.next_of_each_worker().values()
        assert len({answer.pid for answer in answers}) == WORKERS
        for answer in answers:
            check_whole(answer)
        assert len(place.calls("source")) == 1
        assert all("problem" not in said["runner"] for said in server.stats().values())
        assert "warmcache.no_threads" not in server.log


def test_under_uwsgi_without_threads_every_process_reports_it_and_answers(place: Place) -> None:
    with uwsgi_server(place) as server:
        for answer in server.next_of_each_worker().values():
            assert answer.status == 200
        for said in server.stats().values():
            assert "set enable-threads = true" in said["runner"]["problem"]
        until(
            lambda: server.log.count("warmcache.no_threads: uWSGI runs without enable-threads") == WORKERS, "a log"
        )
