"""Requests, workers and memory while a child rebuilds, and while a thread does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.support.answers import Answer, check_whole
from tests.support.needs import need_module
from tests.support.places import FAKED
from tests.support.servers import Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make

COMPUTE = 2  # processor seconds of a build
RATE = 20  # requests a second
TIMEOUT = 4  # seconds


def at_a_rate(server: Server, rate: float, enough: Callable[[int], bool]) -> list[Answer]:
    """Answers to requests sent at that rate, however long one takes, until there are enough."""
    answers: list[Answer] = []
    began = time.monotonic()
    while not enough(len(answers)):
        due = began + len(answers) / rate
        until(lambda: time.monotonic() >= due, "the time of the next request")  # noqa: B023
        answers.append(server.get())
    return answers


@pytest.mark.parametrize("runner", ["process", "thread"])
def test_requests_during_a_computing_build_are_answered(make_place: Make, runner: str) -> None:
    """How fast they are is measured by ``tests/benchmarks/run rebuilds``."""
    place = make_place(items=400, compute=COMPUTE, runner=runner)
    with gunicorn_server(place, workers=1) as server:
        server.warm_up()
        builds = len(place.calls("source"))
        server.get("/invalidate", "POST")
        place.until_built(builds + 1)
        enriched = len(place.calls("enrich"))
        during = at_a_rate(server, RATE, lambda count: len(place.calls("enrich")) >= enriched + 380)
        assert len(during) >= RATE, "the requests waited for the build"
        assert (place.calls("source")[-1].pid in server.pids) == (runner == "thread")
        for answer in during:
            check_whole(answer)


CLASSES = ["sync", "gthread", "gevent"]


@pytest.mark.parametrize(
    ("worker_class", "builds"),
    [("sync", 1), *(pytest.param(one, 8, marks=pytest.mark.long) for one in CLASSES)],
)
def test_no_worker_is_taken_for_dead_although_its_timeout_is_shorter_than_a_build(
    make_place: Make, worker_class: str, builds: int
) -> None:
    if worker_class == "gevent":
        need_module("gevent")
    place = make_place(items=200, sleep=TIMEOUT, compute=2, runner="thread")
    with gunicorn_server(place, "-k", worker_class, "--timeout", str(TIMEOUT), workers=2) as server:
        workers = server.pids
        for nth in range(1, builds + 1):
            server.get()
            began, polls = place.until_built(nth), 0
            while server.get().json["cache_rebuilding"]:
                polls += 1
            assert polls > 20 and time.monotonic() - began.at > TIMEOUT
            server.get("/invalidate", "POST")
        assert server.pids == workers, "a worker was killed"
        assert "WORKER TIMEOUT" not in server.log and "SIGKILL" not in server.log


def test_a_child_that_finds_no_memory_has_failed_and_the_old_list_is_served(make_place: Make) -> None:
    place = make_place(runner="process", retry_min=0.3, retry_max=1)
    greedy = place.folder / "greedy"
    place.env |= {"TEST_GREEDY": os.fspath(greedy)}
    place.add_path(FAKED)
    with gunicorn_server(place, workers=1) as server:
        old = server.warm_up()
        worker = server.pids
        greedy.touch()
        server.get("/invalidate", "POST")
        until(lambda: server.get().state == "failed", "failed")
        until(lambda: server.log.count("MemoryError") >= 3, "three builds without memory")
        for _ in range(20):
            answer = server.get()
            check_whole(answer)
            assert answer.generation == old.generation
        greedy.unlink()
        assert server.until_newer(old.generation)
        assert server.pids == worker
        print(f"\n{server.log.count('MemoryError')} times without memory")
