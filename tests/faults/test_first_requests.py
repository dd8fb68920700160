"""The first requests of a cold server with more workers and more clients than usual, and while a build is long."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import gunicorn_server

WORKERS, CLIENTS, TIMES = 8, 100, 8
ASKED = 300


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


def test_no_request_waits_for_the_first_build(make_place: Callable[..., Place]) -> None:
    place = make_place(items=1000).with_gate()
    with gunicorn_server(place, workers=2) as server:
        server.get("/plain")
        place.builder_at_gate()
        answers = [server.get() for _ in range(ASKED)]
        assert {(answer.status, answer.json["cache_rebuilding"]) for answer in answers} == {(200, True)}
        assert len(place.calls("source")) == 1
        assert os.path.exists(place.cache / "files.lock")
