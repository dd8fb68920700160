"""Probes under a real server, without a request before them."""

from __future__ import annotations

import os

from tests.support.places import Place
from tests.support.servers import OUR_CONF, gunicorn_server
from tests.support.waiting import until


def test_a_server_that_builds_is_alive_and_ready_and_a_strict_one_becomes_ready(gated: Place) -> None:
    gated.env["TEST_READY_STRICT"] = "1"
    with gunicorn_server(gated, *OUR_CONF, workers=2) as server:
        gated.builder_at_gate()
        for _ in range(6):  # of both workers
            assert server.get("/api/cache/livez").status == 200
            assert server.get("/api/cache/startupz").status == 200
            waiting = server.get("/api/cache/readyz")
            assert (waiting.status, waiting.headers["Retry-After"]) == (503, "2")
        gated.gate.touch()
        until(lambda: server.get("/api/cache/readyz").status == 200, "a server that is ready")
        ready = [server.get("/api/cache/readyz") for _ in range(10)]
        assert {answer.json["status"] for answer in ready if answer.status == 200} == {"ready"}


def test_a_server_is_ready_while_it_builds_its_first_list(gated: Place) -> None:
    with gunicorn_server(gated, workers=1) as server:
        answer = server.get("/api/cache/readyz")
        assert (answer.status, answer.json["status"], answer.json["lists"]["files"]) == (200, "ready", "cold")
        gated.builder_at_gate()  # the probe has started what a request starts
        assert str(os.getpid()) not in answer.body.decode()
