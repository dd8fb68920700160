"""The first requests of a cold server with more workers and more clients than usual, and while a build is long."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import gunicorn_server

WORKERS, CLIENTS, TIMES = 8, 100, 8
ASKED = 300
PROMISED = 0.01  # seconds inside the app, other processes' turns apart


def test_eight_hundred_first_requests_at_eight_workers_cause_one_build(make_place: Callable[..., Place]) -> None:
    place = make_place().with_gate()
    with gunicorn_server(place, workers=WORKERS) as server:
        answers = [answer for _ in range(TIMES) for answer in server.ask_at_once("/api/files", CLIENTS)]
        place.builder_at_gate()
        workers = {answer.pid for answer in answers}
        print(f"\n{len(answers)} first requests at {len(workers)} workers: {len(place.calls('source'))} build")
        assert len(answers) == WORKERS * CLIENTS and len(workers) >= WORKERS - 2
        for answer in answers:
            assert answer.status == 200
            assert answer.json["files"] == [] and answer.json["cache_rebuilding"] is True
        assert len(place.calls("source")) == 1
        place.gate.touch()
        check_whole(server.warm_up())
        assert {answer.state for answer in server.next_of_each_worker().values()} == {"fresh"}
        assert len(place.calls("source")) == 1


def test_no_request_waits_however_long_the_first_build_takes(make_place: Callable[..., Place]) -> None:
    place = make_place(items=1000, sleep=10)
    with gunicorn_server(place, workers=2) as server:
        server.get("/plain")
        answers = [server.get() for _ in range(ASKED)]
        assert place.calls("source"), "no build was begun"
        assert all(answer.json["cache_rebuilding"] for answer in answers)
        own = sorted(answer.own_time for answer in answers)
        first = {answer.pid: answer.own_time for answer in reversed(answers)}
        median, p99 = statistics.median(own), own[len(own) * 99 // 100]
        print(
            f"\n{len(own)} requests while a build of 10 s runs: own time median {median * 1e3:.2f} ms, p99 "
            f"{p99 * 1e3:.2f}, each worker's first at most {max(first.values()) * 1e3:.2f}"
        )
        assert p99 < PROMISED
        assert len(place.calls("source")) == 1
        assert len(place.calls("enrich")) < 1000, "the build was over, so nothing was shown"
        assert os.path.exists(place.cache / "files.lock")
