"""Servers that are reloaded and stopped at any moment of a build."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.waiting import until

from .cache_files import published
from .conftest import Make

BUILD = 1.0  # seconds


def left_behind(place: Place) -> list[int]:
    """Processes of this test that still run."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_CALLS") == place.env["TEST_CALLS"]:
                left.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            pass
    return left


def until_building(place: Place, server: Server) -> None:
    begun = len(place.calls("source"))
    server.get("/invalidate", "POST")
    place.until_built(begun + 1)


@pytest.mark.parametrize("rounds", [1, pytest.param(15, marks=pytest.mark.long)])
def test_a_stop_at_any_moment_of_a_build_leaves_the_old_list_or_the_new_and_no_process(
    make_place: Make, chance: random.Random, rounds: int
) -> None:
    place = make_place(items=50, sleep=BUILD)
    midway = 0
    with gunicorn_server(place, workers=2) as server:
        old = server.warm_up().generation
    for number, latest in [(signal.SIGTERM, BUILD / 2), (signal.SIGQUIT, BUILD)] * rounds:
        with gunicorn_server(place, *OUR_CONF, workers=2) as server:
            until(lambda: place.calls("source"), "a build")
            server.warm_up()
            until_building(place, server)
            time.sleep(chance.uniform(0, latest))  # the random moment
            finished = published(place.cache)
            server.stop(number)
            until(lambda: not left_behind(place), lambda: f"the end of {left_behind(place)}")
            now = published(place.cache)
            assert now is not None and now >= old
            midway += now == finished
            old = now
    print(f"{2 * rounds} stops in a build, {midway} of them midway")
    assert midway >= rounds


def test_reloads_at_random_moments_of_builds_lose_no_list(make_place: Make, chance: random.Random) -> None:
    place = make_place(items=50, sleep=BUILD)
    reloads = 0
    with gunicorn_server(place, workers=2) as server:
        generation = server.warm_up().generation
        for _ in range(3):
            workers = server.pids
            until_building(place, server)
            time.sleep(chance.uniform(0, BUILD))  # the random moment
            server.send(signal.SIGHUP)
            until(lambda: len(server.pids) == 2 and not server.pids & workers, "new workers")  # noqa: B023
            reloads += 1
            now = published(place.cache)
            assert now is not None and now >= generation
            answer = server.warm_up()
            check_whole(answer)
            assert answer.generation >= now
            generation = answer.generation
        builds = len(place.calls("source"))
        assert "SIGKILL" not in server.log and "Fatal Python error" not in server.log
    until(lambda: not left_behind(place), lambda: f"the end of {left_behind(place)}")
    print(f"{reloads} reloads in a build, {builds} builds begun")
    assert reloads == 3
    assert builds <= 1 + 2 * reloads + 1
    assert os.path.exists(place.cache / "files.index")
