"""The wall clock is set forwards and back by an hour under a running server."""

from __future__ import annotations

import os
import time

import pytest

from tests.support.answers import check_whole
from tests.support.places import FAKED, Place
from tests.support.servers import Readers, Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make
from .faked import sitecustomize

HOUR = 3600


class Clock:
    """The wall clock of a place's processes."""

    def __init__(self, place: Place) -> None:
        self._path = place.folder / "clock"
        self._path.touch()
        self.set(0)
        place.env["TEST_CLOCK"] = os.fspath(self._path)
        place.add_path(FAKED)

    def set(self, offset: int) -> None:
        at = (sitecustomize.NORMAL + offset) * 10**9
        os.utime(self._path, ns=(at, at))


def ages(server: Server) -> list[float]:
    return [stats["age_seconds"] for stats in server.stats().values() if stats["age_seconds"] is not None]


# Ahead beyond the ttl; behind beyond what passes for "the same moment"; and there and back.
JUMPS = [HOUR, 0, -HOUR, 0, HOUR, -HOUR]


@pytest.mark.parametrize(
    "jumps", [[HOUR, 0, -HOUR], pytest.param(JUMPS * 3, marks=pytest.mark.long)], ids=["3", "18"]
)
def test_a_clock_that_jumps_costs_one_build_a_jump_and_hides_no_new_list(
    make_place: Make, jumps: list[int]
) -> None:
    place = make_place(ttl=1800)
    clock = Clock(place)
    extra: list[int] = []
    with gunicorn_server(place) as server:
        server.warm_up()
        server.next_of_each_worker()
        with Readers(server, clients=2) as readers:
            for jump in jumps:
                before = len(place.calls("source"))
                clock.set(jump)
                deadline = time.monotonic() + 1.5  # seven looks of each keeper
                while time.monotonic() < deadline:
                    readers.wait_for(20)
                    assert all(age >= 0 for age in ages(server))
                server.warm_up()
                extra.append(len(place.calls("source")) - before)
                # A new list is seen whatever the clock said of the old one.
                seen = {answer.generation for answer in server.next_of_each_worker().values()}
                ran = place.flask("warmcache", "rebuild", "files")
                assert ran.returncode == 0, ran.stderr
                new = server.next_of_each_worker()
                assert len({answer.generation for answer in new.values()}) == 1
                assert min(answer.generation for answer in new.values()) > max(seen)
                for answer in new.values():
                    check_whole(answer)
        print(f"\n{len(jumps)} jumps, extra builds after each: {extra}, {len(readers.answers)} reads")
        assert max(extra) <= 1, "a storm of rebuilds"
        assert readers.errors == []
        assert {answer.status for answer in readers.answers} == {200}
        assert all(int(answer.headers["Age"]) >= 0 for answer in readers.answers if "Age" in answer.headers)
        assert "Traceback" not in server.log


def test_a_pause_after_a_failure_does_not_last_until_the_clock_has_caught_up(make_place: Make) -> None:
    place = make_place(retry_min=1, retry_max=2).with_failing()
    clock = Clock(place)
    place.failing.touch()
    with gunicorn_server(place, workers=1) as server:
        server.get()
        until(lambda: server.get().state == "failed", "failed")
        clock.set(-2 * HOUR)
        tries = len(place.calls("source"))
        until(lambda: len(place.calls("source")) > tries, "another attempt")
        place.failing.unlink()
        until(lambda: server.get().json["files"], "a list")


def test_generations_rise_although_the_clock_goes_back(make_place: Make) -> None:
    place = make_place()
    clock = Clock(place)
    generations = []
    with gunicorn_server(place, workers=1) as server:
        server.warm_up()
        for offset in (0, -HOUR, -2 * HOUR, HOUR, 0):
            clock.set(offset)
            assert place.flask("warmcache", "rebuild", "files").returncode == 0
            generations.append(server.get().generation)
    assert generations == sorted(set(generations))
