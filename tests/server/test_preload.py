"""``--preload``: the app is loaded before the workers are forked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import OUR_CONF, gunicorn_server
from tests.support.waiting import until

from .conftest import Make


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def one_keeper_in(pid: int) -> None:
    """Wait for the main thread and the keeper and no other; a rebuild's thread ends with it."""
    until(lambda: threads_of(pid) == 2, f"one keeper in worker {pid}")


@pytest.mark.parametrize("conf", [(), OUR_CONF], ids=["plain", "our conf"])
def test_every_preloaded_worker_answers_and_the_arbiter_does_nothing(
    make_place: Make, conf: tuple[str, ...]
) -> None:
    place = make_place(runner="thread").with_gate()
    seen: set[int] = set()
    # Workers without threads of their own, so that the keeper is the only one.
    with gunicorn_server(place, *conf, "-k", "sync", preload=True) as server:

        def replace_one() -> int:
            before = server.pids
            os.kill(min(before), signal.SIGKILL)
            until(lambda: len(server.pids - before) == 1, "a new worker")
            return (server.pids - before).pop()

        for _ in range(3):  # the first workers, then after each a newcomer
            for pid, answer in server.next_of_each_worker().items():
                assert answer.json["cache_rebuilding"] is True  # the build cannot end before the gate opens
                seen.add(pid)
            assert threads_of(server.process.pid) == 1, "a thread runs in the arbiter"
            replace_one()
        assert len(seen) >= 6
        place.gate.touch()
        check_whole(server.warm_up())
        builds = len(place.calls("source"))
        newcomer = replace_one()
        for pid, answer in server.next_of_each_worker().items():
            check_whole(answer)
            assert answer.state == "fresh"
            one_keeper_in(pid)
            seen.add(pid)
        assert newcomer in seen and threads_of(server.process.pid) == 1
        assert server.process.pid not in {call.pid for call in place.calls("source")}
        assert len(place.calls("source")) == builds, "a new worker is no reason to rebuild"
        assert "Warning" not in server.log


def test_a_worker_killed_while_it_builds_is_replaced_by_one_that_builds(gated: Place) -> None:
    with gunicorn_server(gated, *OUR_CONF, workers=1, preload=True) as server:
        first = gated.builder_at_gate()  # without any request
        os.kill(first.pid, signal.SIGKILL)
        second = gated.builder_at_gate(2)
        assert second.pid != first.pid
        gated.gate.touch()
        check_whole(server.warm_up())


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_our_conf_warms_the_list_without_any_request(place: Place, preload: bool) -> None:
    with gunicorn_server(place, *OUR_CONF, preload=preload) as server:
        until(lambda: (place.cache / "files.index").exists(), lambda: f"a list:\n{server.log}")
        answer = server.get()
        check_whole(answer)
        assert answer.state == "fresh"
        assert not answer.json["cache_rebuilding"]
        assert len(place.calls("source")) == 1, "several workers built at the start"


def test_an_app_that_reads_its_list_while_it_is_loaded_works_after_the_fork(gated: Place) -> None:
    gated.env["TEST_READ_AT_IMPORT"] = "1"
    with gunicorn_server(gated, preload=True) as server:
        # By reading, the app itself has started a keeper in the arbiter; at the fork it builds.
        assert gated.builder_at_gate().pid == server.process.pid
        for answer in server.next_of_each_worker().values():
            assert answer.state == "cold" and answer.json["cache_rebuilding"] is True
        gated.gate.touch()
        check_whole(server.warm_up())
        for nth in range(2, 5):
            server.get("/invalidate", "POST")
            gated.until_built(nth)
            check_whole(server.warm_up())
        assert {answer.state for answer in server.next_of_each_worker().values()} == {"fresh"}


def test_plain_gunicorn_does_no_work_until_the_first_request(place: Place) -> None:
    with gunicorn_server(place, workers=2) as server:
        assert {threads_of(pid) for pid in server.pids} == {1}
        assert not place.cache.exists()
